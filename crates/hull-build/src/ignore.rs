//! `.dockerignore`: which files of a folder belong to a build, told without entering what is left out.

use regex::bytes::Regex;

/// The patterns of a file.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug)]
struct Pattern {
    negated: bool,
    expression: Regex,
    /// The same pattern, by its elements: whether something beneath a folder may match.
    elements: Vec<Element>,
}

#[derive(Clone, Debug)]
enum Element {
    /// `**`: any number of them.
    Any,
    One(Regex),
}

/// What the patterns say of a folder, for what is in it.
#[derive(Clone, Debug, Default)]
pub struct State {
    matched: Vec<bool>,
    excluded: bool,
}

impl State {
    /// Whether it is left out.
    pub fn is_excluded(&self) -> bool {
        self.excluded
    }
}

impl Ignore {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// A pattern is malformed.
    pub fn parse(text: &str) -> Result<Ignore, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Ignore::of(text.lines().filter(|line| !line.starts_with('#')))
    }

    /// Of patterns as they stand in one.
    ///
    /// # Errors
    /// A pattern is malformed.
    pub fn of<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Ignore, String> {
        let mut ignore = Ignore::default();
        for line in patterns {
            let line = line.trim();
            let (negated, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            if line.is_empty() {
                continue;
            }
            if pattern.is_empty() {
                return Err("illegal exclusion pattern: \"!\"".to_owned());
            }
            let cleaned = cleaned(pattern);
            if cleaned.is_empty() {
                // `.` and `/` are the folder itself, which is never left out.
                continue;
            }
            ignore
                .patterns
                .push(Pattern::new(negated, &cleaned).map_err(|()| format!("invalid pattern: {pattern:?}"))?);
        }
        Ok(ignore)
    }

    /// Whether nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The folder itself.
    pub fn root(&self) -> State {
        State { matched: vec![false; self.patterns.len()], excluded: false }
    }

    /// What is said of a path, `parent` being what is said of the folder that it is in. The path is relative, its
    /// elements divided by slashes.
    pub fn enter(&self, parent: &State, path: &[u8]) -> State {
        let mut state = State { matched: Vec::with_capacity(self.patterns.len()), excluded: false };
        for (index, pattern) in self.patterns.iter().enumerate() {
            let matched =
                parent.matched.get(index).copied().unwrap_or(false) || pattern.expression.is_match(path);
            state.matched.push(matched);
            if matched {
                state.excluded = !pattern.negated;
            }
        }
        state
    }

    /// Whether something in a folder that is left out may belong to the build all the same.
    pub fn may_include_beneath(&self, path: &[u8]) -> bool {
        let elements: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        self.patterns
            .iter()
            .filter(|pattern| pattern.negated)
            .any(|pattern| pattern.may_match_beneath(&elements))
    }

    /// Whether a path is left out, by itself or with a folder above it.
    pub fn excludes(&self, path: &[u8]) -> bool {
        let mut state = self.root();
        let mut ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        loop {
            let end = ends.next().unwrap_or(path.len());
            state = self.enter(&state, &path[..end]);
            if end == path.len() {
                return state.is_excluded();
            }
        }
    }
}

impl Pattern {
    fn new(negated: bool, pattern: &str) -> Result<Pattern, ()> {
        let expression = compiled(&whole(pattern)?)?;
        let elements = pattern.split('/').map(|element| match element {
            "**" => Ok(Element::Any),
            // Two stars in a name stand for slashes as well.
            element if element.contains("**") => Ok(Element::Any),
            element => Ok(Element::One(compiled(&whole(element)?)?)),
        });
        Ok(Pattern { negated, expression, elements: elements.collect::<Result<_, ()>>()? })
    }

    /// Whether it may match a path that begins with these elements and goes on.
    fn may_match_beneath(&self, folder: &[&[u8]]) -> bool {
        for (index, name) in folder.iter().enumerate() {
            match self.elements.get(index) {
                Some(Element::Any) => return true,
                Some(Element::One(element)) if element.is_match(name) => {}
                // Shorter than the folder: it was asked of a folder above, and holds for what is in that.
                Some(Element::One(_)) | None => return false,
            }
        }
        self.elements.len() > folder.len()
    }
}

fn compiled(expression: &str) -> Result<Regex, ()> {
    regex::bytes::RegexBuilder::new(expression).unicode(false).build().map_err(|_| ())
}

/// A pattern as an expression for a whole path.
fn whole(pattern: &str) -> Result<String, ()> {
    let mut out = String::from("(?s-u)^");
    let letters: Vec<char> = pattern.chars().collect();
    let mut at = 0;
    while at < letters.len() {
        let letter = letters[at];
        at += 1;
        match letter {
            '*' if letters.get(at) == Some(&'*') => {
                at += 1;
                if letters.get(at) == Some(&'/') {
                    at += 1;
                    out.push_str("(?:.*/)?");
                } else {
                    out.push_str(".*");
                }
            }
            '*' => out.push_str("[^/]*"),
            '?' => out.push_str("(?:[\\x00-\\x2e\\x30-\\x7f]|[\\xc2-\\xf4][\\x80-\\xbf]+)"),
            '\\' => {
                let next = letters.get(at).ok_or(())?;
                at += 1;
                literal(&mut out, *next);
            }
            '[' => at = class(&letters, at, &mut out)?,
            letter => literal(&mut out, letter),
        }
    }
    out.push('$');
    Ok(out)
}

fn literal(out: &mut String, letter: char) {
    let mut bytes = [0; 4];
    for byte in letter.encode_utf8(&mut bytes).bytes() {
        match byte.is_ascii_alphanumeric() {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
}

/// `[a-z]`, `[^a]`; returns where the pattern goes on.
fn class(letters: &[char], mut at: usize, out: &mut String) -> Result<usize, ()> {
    out.push('[');
    if matches!(letters.get(at), Some('^' | '!')) {
        out.push('^');
        at += 1;
    }
    let mut first = true;
    loop {
        let letter = *letters.get(at).ok_or(())?;
        at += 1;
        match letter {
            ']' if !first => break,
            '\\' => {
                literal(out, *letters.get(at).ok_or(())?);
                at += 1;
            }
            '-' if !first && letters.get(at).is_some_and(|next| *next != ']') => out.push('-'),
            letter if letter.is_ascii() => literal(out, letter),
            // Bytes are compared here, and a letter of several cannot be one of a class.
            _ => return Err(()),
        }
        first = false;
    }
    out.push(']');
    Ok(at)
}

/// Without `.`, `..`, doubled and leading slashes, as Go's path.Clean.
fn cleaned(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_out(text: &str, path: &str) -> bool {
        Ignore::parse(text).unwrap().excludes(path.as_bytes())
    }

    #[test]
    fn every_pattern() {
        for (patterns, path, want) in [
            ("*/temp*", "somedir/temporary.txt", true),
            ("*/temp*", "temporary.txt", false),
            ("*/temp*", "a/b/temp", false),
            ("*/*/temp*", "a/b/temp", true),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            ("temp?", "tempé", true),
            ("temp?", "temp/", false),
            ("**/*.go", "a.go", true),
            ("**/*.go", "x/y/a.go", true),
            ("a/**", "a/b/c", true),
            ("a/**", "a", false),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("node_modules", "node_modules/x/f", true),
            ("node_modules", "a/node_modules/x", false),
            ("/foo/bar", "foo/bar", true),
            ("./foo/../bar/", "bar/x", true),
            ("*.md\n!README.md", "README.md", false),
            ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
            ("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", false),
            ("*\n!a/b", "a/b/c", false),
            ("*\n!a/b", "a/x", true),
            ("# comment\n#x", "#x", false),
            ("\\#x", "#x", true),
            (" spaces  ", "spaces", true),
            ("a b", "a b", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("a.b", "axb", false),
            ("a+(b)", "a+(b)", true),
            ("**", "anything/at/all", true),
            ("**/x", "xx", false),
            ("dir*/", "dir1/file", true),
            (".", "a", false),
            ("..", "a", false),
            ("x\n!x\nx", "x", true),
            ("é*", "éa", true),
        ] {
            assert_eq!(left_out(patterns, path), want, "{patterns:?} {path}");
        }
        assert!(Ignore::parse("!").is_err());
        assert!(Ignore::parse("[a").is_err());
        assert!(Ignore::parse("a\\").is_err());
        assert!(Ignore::parse("\n\n# x\n").unwrap().is_empty());
    }

    #[test]
    fn what_is_left_out_is_entered_only_where_something_in_it_may_belong() {
        for (patterns, folder, want) in [
            ("*\n!a/b/c", "a", true),
            ("*\n!a/b/c", "a/b", true),
            ("*\n!a/b/c", "b", false),
            ("*\n!a/b/c", "a/x", false),
            ("node_modules", "node_modules", false),
            ("node_modules\n!**/keep", "node_modules", true),
            ("node_modules\n!*/keep", "node_modules", true),
            ("node_modules\n!*/keep", "node_modules/x", false),
            ("node_modules\n!other", "node_modules", false),
        ] {
            let ignore = Ignore::parse(patterns).unwrap();
            assert_eq!(ignore.may_include_beneath(folder.as_bytes()), want, "{patterns:?} {folder}");
        }
    }
}
