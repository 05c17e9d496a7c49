//! `.gitmodules`: which repository a submodule is.

use std::collections::BTreeMap;

/// The addresses of submodules by their paths.
pub(super) fn parse(text: &str) -> BTreeMap<String, String> {
    let mut modules = BTreeMap::new();
    let (mut path, mut url) = (None, None);
    // An empty heading at the end closes the last one.
    for line in text.lines().chain(["[]"]) {
        let line = line.trim();
        if line.starts_with('[') {
            if let (Some(path), Some(url)) = (path.take(), url.take()) {
                modules.insert(path, url);
            }
            (path, url) = (None, None);
        } else if let Some((name, value)) = line.split_once('=') {
            let value = value.trim().trim_matches('"').to_owned();
            match name.trim() {
                "path" => path = Some(value),
                "url" => url = Some(value),
                _ => {}
            }
        }
    }
    modules
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
}
