//! `.gitmodules`: which repository a submodule is. The file is one of git's configuration (git-config(1), "Syntax").

use std::collections::BTreeMap;

/// The addresses of submodules by their paths.
pub(super) fn parse(text: &str) -> BTreeMap<String, String> {
    let mut modules = BTreeMap::new();
    let (mut path, mut url) = (None, None);
    // An empty heading at the end closes the last one.
    for line in text.lines().chain(["[]"]) {
        let mut line = line.trim();
        if line.starts_with('[') {
            if let (Some(path), Some(url)) = (path.take(), url.take()) {
                modules.insert(path, url);
            }
            (path, url) = (None, None);
            line = behind_heading(line);
        }
        let Some((name, text)) = line.split_once('=') else { continue };
        match name.trim().to_ascii_lowercase().as_str() {
            "path" => path = Some(value(text).trim_end_matches('/').to_owned()),
            "url" => url = Some(value(text)),
            _ => {}
        }
    }
    modules
}

/// What stands on the line of a heading such as `[submodule "a]b"]` behind it.
fn behind_heading(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (at, letter) in line.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ']' if !quoted => return line[at + 1..].trim_start(),
            _ => {}
        }
    }
    ""
}

/// A value without its quotes, escapes, comment and the blanks around it.
fn value(text: &str) -> String {
    let mut value = String::new();
    // Blanks at the end belong to it where they are quoted.
    let (mut quoted, mut length) = (false, 0);
    let mut letters = text.trim_start().chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => quoted = !quoted,
            '#' | ';' if !quoted => break,
            '\\' => match letters.next() {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some(letter) => value.push(letter),
                None => break,
            },
            letter => value.push(letter),
        }
        if quoted || !letter.is_whitespace() {
            length = value.len();
        }
    }
    value.truncate(length);
    value
}

#[cfg(test)]
mod tests {
    #[test]
    fn paths_have_addresses() {
        let text = "[submodule \"a\"]\n\tpath = libs/a\n\turl = ../a.git\n# x\n[submodule \"b\"]\n  url=\"https://e/b\"\n  path=b\n[submodule \"c\"]\npath=c";
        let modules = super::parse(text);
        assert_eq!(modules["libs/a"], "../a.git");
        assert_eq!(modules["b"], "https://e/b");
        assert_eq!(modules.len(), 2);
    }

    #[test]
    fn values_are_read_as_git_reads_them() {
        let text = "[submodule \"x]y\"] Path = \"a b\"/ ; where\n URL = ../\\\"q\\\".git # what\n[submodule \"z\"]\npath = \"c \"\nurl = \"d#e\"";
        let modules = super::parse(text);
        assert_eq!(modules["a b"], "../\"q\".git");
        assert_eq!(modules["c "], "d#e");
    }
}
