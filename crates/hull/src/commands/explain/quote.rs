//! Words of others in a script and on a terminal: what a container is called and runs may be written by an attacker.

use std::fmt::Write as _;

/// Characters that a terminal acts upon, or that make a text look like another one.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// On one line, with what a terminal would act upon written out.
pub(in crate::commands) fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            // Writing to a String cannot fail.
            c if is_unsafe(c) => {
                let _ = write!(shown, "\\u{{{:x}}}", u32::from(c));
            }
            c => shown.push(c),
        }
    }
    shown
}

/// One word for bash: as it is where nothing in it means anything to a shell, and in quotes otherwise.
pub(super) fn word(text: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || "%+,-./:=@_".contains(c);
    // What begins with a word and `=` would be a variable where a command stands.
    if !text.is_empty() && text.chars().all(is_bare) {
        return text.to_owned();
    }
    if !text.chars().any(|c| is_unsafe(c) && !matches!(c, '\n' | '\t')) {
        return format!("'{}'", text.replace('\'', r"'\''"));
    }
    let mut quoted = String::from("$'");
    for c in text.chars() {
        match c {
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\'' => quoted.push_str("\\'"),
            '\\' => quoted.push_str("\\\\"),
            // Three octal digits, so that what follows is not taken for a part of it; by bytes, whatever the locale is.
            c if is_unsafe(c) => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(quoted, "\\{byte:03o}");
                }
            }
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

/// Words for bash, with blanks between.
pub(super) fn words<T: AsRef<str>>(texts: &[T]) -> String {
    texts.iter().map(|text| word(text.as_ref())).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: [&str; 14] = [
        "",
        "sleep",
        "a b",
        "'; touch /tmp/x; '",
        "$(id) `id` \\ \" !",
        "two\nlines\n",
        "\u{1b}]0;title\u{7}",
        "\u{9b}31m'\\",
        "\u{202e}txt",
        "a\tb",
        "EOF\nEOF",
        "# not a comment",
        "~root",
        "\u{1b}1",
    ];

    #[test]
    fn bash_reads_back_what_was_quoted() {
        for locale in ["C", "C.UTF-8"] {
            let script = format!("printf '%s\\0' {}", words(&HOSTILE));
            let output = std::process::Command::new("bash")
                .args(["-c", &script])
                .env("LC_ALL", locale)
                .output()
                .expect("bash");
            let back: Vec<&[u8]> = output.stdout.split(|byte| *byte == 0).collect();
            for (one, other) in HOSTILE.iter().zip(back) {
                assert_eq!(one.as_bytes(), other, "{one:?}");
            }
            assert_eq!(output.stderr, b"");
        }
    }

    #[test]
    fn a_terminal_has_nothing_to_act_upon() {
        for text in HOSTILE {
            assert!(!plain(text).chars().any(is_unsafe), "{text:?}");
            assert!(!word(text).chars().any(|c| is_unsafe(c) && !matches!(c, '\n' | '\t')), "{text:?}");
        }
        assert_eq!(plain("a\nb\u{1b}"), "a\\nb\\u{1b}");
        assert_eq!(words(&["sh", "-c", "it's"]), r"sh -c 'it'\''s'");
    }
}
