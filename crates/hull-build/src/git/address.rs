//! Where a repository is, and what of it is meant: `https://host/repo.git#reference:folder`.

use hull_engine::Kind;
use percent_encoding::percent_decode_str;

use crate::failure::{Failure, Result};

/// A repository, and what of it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// How it is reached.
    pub(super) scheme: Scheme,
    /// `host[:port]`.
    pub(super) host: String,
    /// Beginning with a slash.
    pub(super) path: String,
    /// `user:password`, of the address itself.
    pub(super) user: Option<String>,
    /// A branch, a tag or a commit; empty: what the server has as its HEAD.
    pub(crate) reference: String,
    /// The folder that is meant; empty: all.
    pub(crate) subdir: String,
    /// The commit that it must be.
    pub(crate) checksum: Option<String>,
    /// `.git` is kept.
    pub(crate) keep_git_dir: bool,
    /// Its submodules are fetched too.
    pub(super) submodules: bool,
    /// It is at the server that the build's author named: the secrets that are for no server by name are this one's. What a
    /// `.gitmodules` names elsewhere is its writer's choice.
    pub(super) is_asked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
    Git,
}

/// Whether a text names a git repository, as Docker tells.
pub(crate) fn is_git(text: &str) -> bool {
    if ["git://", "git@", "ssh://", "github.com/"].iter().any(|start| text.starts_with(start)) {
        return true;
    }
    let path = text.split(['?', '#']).next().unwrap_or_default();
    (text.starts_with("http://") || text.starts_with("https://"))
        && path.trim_end_matches('/').ends_with(".git")
}

impl Address {
    /// Reads one.
    ///
    /// # Errors
    /// It is malformed, or of a kind that cannot be fetched.
    pub(crate) fn parse(text: &str) -> Result<Address> {
        let wrong = |why: &str| Failure::invalid(format!("the git repository {}: {why}", without_user(text)));
        if text.starts_with("git@") || text.starts_with("ssh://") {
            return Err(Failure::new(
                Kind::NotImplemented,
                format!(
                    "the git repository {text} is reached by ssh, which hull does not speak: name it by https:// (with the secret \
                     GIT_AUTH_TOKEN where it is private), or clone it and build the folder"
                ),
            ));
        }
        if text.contains(|c: char| c.is_control() || c == ' ') {
            return Err(wrong("an address has no blanks"));
        }
        let (place, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (place, query) = place.split_once('?').unwrap_or((place, ""));
        let place = match place.strip_prefix("github.com/") {
            Some(rest) => format!("https://github.com/{rest}"),
            None => place.to_owned(),
        };
        let (scheme, rest) = place.split_once("://").ok_or_else(|| wrong("it is no address"))?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "git" => Scheme::Git,
            other => return Err(wrong(&format!("{other}:// is not fetched"))),
        };
        let (authority, path) = rest.split_once('/').ok_or_else(|| wrong("it names no repository"))?;
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user.to_owned()), host),
            None => (None, authority),
        };
        if host.is_empty() || path.is_empty() {
            return Err(wrong("it names no repository"));
        }
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut address = Address {
            scheme,
            host: host.to_owned(),
            path: format!("/{}", path.trim_end_matches('/')),
            user,
            reference: reference.to_owned(),
            subdir: subdir.to_owned(),
            checksum: None,
            keep_git_dir: false,
            submodules: true,
            is_asked: true,
        };
        for field in query.split('&').filter(|field| !field.is_empty()) {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            let value = percent_decode_str(value).decode_utf8();
            let value = value.map_err(|_| wrong(&format!("{name} is no text")))?.into_owned();
            let on = || match value.as_str() {
                "" | "1" | "true" => Ok(true),
                "0" | "false" => Ok(false),
                other => Err(wrong(&format!("{name} is true or false, not {other:?}"))),
            };
            match name {
                "ref" => address.reference = value,
                "branch" => address.reference = format!("refs/heads/{value}"),
                "tag" => address.reference = format!("refs/tags/{value}"),
                "subdir" => address.subdir = value,
                "commit" | "checksum" => address.checksum = Some(value),
                "keep-git-dir" => address.keep_git_dir = on()?,
                "submodules" => address.submodules = on()?,
                other => return Err(wrong(&format!("unexpected query {other:?}"))),
            }
        }
        if let (true, Some(commit)) = (address.reference.is_empty(), &address.checksum)
            && commit.len() == 40
        {
            address.reference = commit.clone();
        }
        if address.subdir.split('/').any(|part| part == "..") {
            return Err(wrong(&format!("the folder {:?} leads out of it", address.subdir)));
        }
        Ok(address)
    }

    /// `https://host/path`, without who asks.
    pub(super) fn url(&self) -> String {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Git => "git",
        };
        format!("{scheme}://{}{}", self.host, self.path)
    }

    /// A failure that has to do with it.
    pub(super) fn failed(&self, why: impl std::fmt::Display) -> Failure {
        Failure::new(Kind::System, format!("failed to fetch the git repository {}: {why}", self.url()))
    }

    /// A submodule's repository: an address, or a path from this one's.
    pub(super) fn relative(&self, url: &str) -> Result<Address> {
        if !url.starts_with("./") && !url.starts_with("../") {
            let named = Address::parse(url.split('#').next().unwrap_or(url))?;
            let is_asked = self.is_asked && (named.scheme, &named.host) == (self.scheme, &self.host);
            return Ok(Address { is_asked, ..named });
        }
        let mut path: Vec<&str> = self.path.split('/').filter(|part| !part.is_empty()).collect();
        for part in url.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(path.pop()),
                part => path.push(part),
            }
        }
        let path = format!("/{}", path.join("/"));
        let (reference, subdir) = (String::new(), String::new());
        Ok(Address {
            path,
            reference,
            subdir,
            checksum: None,
            keep_git_dir: false,
            submodules: true,
            ..self.clone()
        })
    }
}

/// An address as it may be shown and written down: without who asks, and without what `?token=` may say of it.
pub(crate) fn without_user(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (path, fragment) = path.split_once('#').map_or((path, None), |(path, rest)| (path, Some(rest)));
    let path = path.split('?').next().unwrap_or(path);
    let fragment = fragment.map(|fragment| format!("#{fragment}")).unwrap_or_default();
    format!("{scheme}://{host}{path}{fragment}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_say_what_is_meant() {
        let address = Address::parse("https://me:pw@e:8443/a/b.git#v1:sub/dir").unwrap();
        assert_eq!(address.url(), "https://e:8443/a/b.git");
        assert_eq!((address.reference.as_str(), address.subdir.as_str()), ("v1", "sub/dir"));
        assert_eq!(address.user.as_deref(), Some("me:pw"));
        let address = Address::parse("git://e/b?branch=x&subdir=s&keep-git-dir=1").unwrap();
        assert_eq!((address.reference.as_str(), address.keep_git_dir), ("refs/heads/x", true));
        assert_eq!(Address::parse("github.com/a/b").unwrap().url(), "https://github.com/a/b");
        let address = Address::parse("https://e/a.git?ref=feature%2Fx&subdir=a%20b&submodules=0").unwrap();
        assert_eq!((address.reference.as_str(), address.subdir.as_str()), ("feature/x", "a b"));
        assert!(!address.submodules);
        for (text, why) in [
            ("https://e/a.git?keep-git-dir=yes", "true or false"),
            ("git@e:a/b", "ssh"),
            ("ssh://git@e/a", "ssh"),
            ("https://e.git", "names no repository"),
            ("https://e/a.git#x:../y", "leads out"),
            ("https://e/a.git?what=1", "unexpected query"),
            ("file:///a.git", "not fetched"),
        ] {
            let message = Address::parse(text).unwrap_err().message;
            assert!(message.contains(why), "{text}: {message}");
        }
        assert!(!Address::parse("https://u:secret@e").unwrap_err().message.contains("secret"));
        for (text, shown) in [
            ("https://u:p@w@e:1/a@b.git?token=x#main:sub", "https://e:1/a@b.git#main:sub"),
            ("https://e?token=x", "https://e"),
            ("./a@b", "./a@b"),
        ] {
            assert_eq!(without_user(text), shown);
        }
    }

    #[test]
    fn repositories_are_told_from_files() {
        for text in ["https://e/a.git", "http://e/a.git#x", "git://e/a", "git@e:a", "github.com/a/b"] {
            assert!(is_git(text), "{text}");
        }
        for text in ["https://e/a.tar.gz", "https://e/a#b.git", "./a.git", "e/a"] {
            assert!(!is_git(text), "{text}");
        }
    }

    #[test]
    fn submodules_are_beside_their_repository() {
        let address = Address::parse("https://e/team/app.git#main:x").unwrap();
        assert_eq!(address.relative("../lib.git").unwrap().url(), "https://e/team/lib.git");
        assert_eq!(address.relative("../../other/lib").unwrap().url(), "https://e/other/lib");
        assert_eq!(address.relative("https://f/lib.git").unwrap().url(), "https://f/lib.git");
        assert!(address.relative("../lib.git").unwrap().reference.is_empty());
        // Whose secrets are whose: not even the way back from elsewhere leads to them.
        let asked = |address: &Address, url: &str| address.relative(url).unwrap().is_asked;
        assert!(asked(&address, "../lib.git") && asked(&address, "https://e/other.git"));
        for elsewhere in ["https://f/lib.git", "http://e/lib.git", "https://e:8443/lib.git"] {
            let inner = address.relative(elsewhere).unwrap();
            assert!(!inner.is_asked && !asked(&inner, "../x.git") && !asked(&inner, "https://e/app.git"));
        }
        assert!(address.relative("git@e:x").is_err() && address.relative("/srv/x").is_err());
    }
}
