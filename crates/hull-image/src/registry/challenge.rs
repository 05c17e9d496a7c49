//! What a registry wants to know: its `WWW-Authenticate` headers.

use hyper::header::{HeaderMap, WWW_AUTHENTICATE};

/// How a registry wants to be told who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// Not at all.
    None,
    /// Name and password with each request.
    Basic,
    /// A token from a token server.
    Bearer {
        /// The token server's address.
        realm: String,
        /// What the registry is called there.
        service: String,
        /// What the token must be good for, where the registry says it.
        scope: String,
    },
}

/// The challenges of one header, each with its parameters.
type Parsed = Vec<(String, Vec<(String, String)>)>;

impl Challenge {
    /// The best that an answer offers; tokens before passwords.
    pub fn of(headers: &HeaderMap) -> Challenge {
        let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let all: Parsed = texts.flat_map(parse).collect();
        let bearer = all.iter().find(|(scheme, _)| scheme == "bearer").map(|(_, parameters)| {
            let value = |name: &str| {
                let found = parameters.iter().find(|(key, _)| key == name);
                found.map(|(_, value)| value.clone()).unwrap_or_default()
            };
            Challenge::Bearer { realm: value("realm"), service: value("service"), scope: value("scope") }
        });
        let basic = || all.iter().any(|(scheme, _)| scheme == "basic").then_some(Challenge::Basic);
        bearer.or_else(basic).unwrap_or(Challenge::None)
    }
}

/// What a registry says against a token (RFC 6750, section 3): `insufficient_scope`, and its words for it.
pub(super) fn objection(headers: &HeaderMap) -> Option<(String, String)> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let (_, parameters) = texts.flat_map(parse).find(|(scheme, _)| scheme == "bearer")?;
    let value = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    Some((value("error")?, value("error_description").unwrap_or_default()))
}

/// `Scheme name=value, name="quoted", Scheme2 …` (RFC 9110, section 11.6.1). What is malformed ends the list.
fn parse(text: &str) -> Parsed {
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    let mut all: Parsed = Vec::new();
    while !rest.is_empty() {
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        if end == 0 {
            break;
        }
        let (word, after) = rest.split_at(end);
        let trimmed = after.trim_start_matches([' ', '\t']);
        if let Some(value) = trimmed.strip_prefix('=') {
            let Some((value, after)) = value_of(value.trim_start_matches([' ', '\t'])) else { break };
            let Some((_, parameters)) = all.last_mut() else { break };
            parameters.push((word.to_ascii_lowercase(), value));
            rest = after;
        } else {
            all.push((word.to_ascii_lowercase(), Vec::new()));
            rest = trimmed;
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    all
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// A token or a quoted string, and what follows.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Challenge {
        let mut headers = HeaderMap::new();
        for text in texts {
            headers.append(WWW_AUTHENTICATE, text.parse().unwrap());
        }
        Challenge::of(&headers)
    }

    #[test]
    fn challenges_are_read() {
        assert_eq!(of(&[r#"Basic realm="Registry Realm""#]), Challenge::Basic);
        let bearer = Challenge::Bearer {
            realm: "https://auth.example/token".into(),
            service: "r, with a \"comma\"".into(),
            scope: "repository:a/b:pull,push".into(),
        };
        let text = r#"Bearer realm="https://auth.example/token",service="r, with a \"comma\"", scope="repository:a/b:pull,push""#;
        assert_eq!(of(&[text]), bearer);
        assert_eq!(of(&[&format!("Basic realm=x, {text}")]), bearer);
        assert_eq!(of(&["Basic realm=x", text]), bearer);
        assert_eq!(of(&["Negotiate", "basic"]), Challenge::Basic);
    }

    #[test]
    fn objections_are_read() {
        let of = |text: &str| objection(&HeaderMap::from_iter([(WWW_AUTHENTICATE, text.parse().unwrap())]));
        let text =
            r#"Bearer realm="https://a/t",service="s",scope="repository:a:pull",error="insufficient_scope""#;
        assert_eq!(of(text), Some(("insufficient_scope".into(), String::new())));
        assert_eq!(of("Bearer realm=x"), None);
        assert_eq!(of("Basic error=insufficient_scope"), None);
    }

    #[test]
    fn what_is_malformed_is_nothing() {
        for text in ["", "\"", "=", ",,,", "Bearer realm=\"no end", "realm=x", "Digest a=b"] {
            assert!(!matches!(of(&[text]), Challenge::Basic), "{text}");
        }
    }
}
