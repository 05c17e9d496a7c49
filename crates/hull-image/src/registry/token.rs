//! Tokens: how a token server is asked for one.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, StatusCode, Uri};
use serde::Deserialize;

use super::Registries;
use super::connect::basic;
use super::credentials::Credentials;
use super::failure::{Answer, Failure};
use super::wire::{Call, Payload};

/// The longest answer of a token server.
const ANSWER: usize = 1 << 20;
/// The longest token that is taken: more than fits into the head of a request is of no use.
const TOKEN: usize = 48 << 10;
/// How long a token holds where its server does not say, and the shortest time that is believed.
const HOLDS: u64 = 60;
/// What hull is called to token servers.
const CLIENT: &str = "hull";

/// What a token server gave.
#[derive(Clone)]
pub struct Token {
    /// What is sent to the registry.
    pub bearer: String,
    /// What gets further ones, where the server gave that too.
    pub refresh: Option<String>,
    /// From then on it does not hold.
    pub(super) until: Instant,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

#[derive(Deserialize)]
struct Given {
    // Any may be null.
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// What is asked of a token server.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// Its address.
    pub realm: &'a str,
    /// What the registry is called there.
    pub service: &'a str,
    /// What the token is to be good for: `repository:a/b:pull`.
    pub scopes: &'a [String],
    /// Whether a refresh token is wanted too (`login`).
    pub offline: bool,
}

impl Registries {
    /// Asks a token server. `plain` says that the registry itself is spoken to without TLS, or need not prove who it is.
    ///
    /// # Errors
    /// The address is none that credentials may go to, or the server refuses or gives no token.
    pub async fn token(&self, ask: &Ask<'_>, who: &Credentials, plain: bool) -> Answer<Token> {
        let realm: Uri = ask.realm.parse().map_err(|_| no_server(ask.realm))?;
        match realm.scheme_str() {
            Some("https") => {}
            Some("http") if plain || who.is_empty() => {}
            Some("http") => {
                return Err(Failure::Wrong(format!(
                    "the registry wants its credentials sent unencrypted to {}, which is refused",
                    super::failure::shown(ask.realm, 200)
                )));
            }
            _ => return Err(no_server(ask.realm)),
        }
        let insecure = plain && self.settings().is_insecure(realm.authority().map_or("", |a| a.as_str()));
        let reply = match who.identitytoken.is_empty() {
            true => self.send(by_password(ask, &realm, who)?, insecure).await?,
            false => self.send(by_refresh_token(ask, &realm, who), insecure).await?,
        };
        if reply.status != StatusCode::OK {
            return Err(reply.refusal().await);
        }
        let answer = reply.bytes(ANSWER, "the token server's answer").await?;
        read(&answer)
    }
}

fn no_server(realm: &str) -> Failure {
    let realm = super::failure::shown(realm, 200);
    Failure::Wrong(format!("the registry names {realm:?} as its token server, which is no http(s) address"))
}

/// The token specification's way: a GET, with the password as Basic.
fn by_password(ask: &Ask<'_>, realm: &Uri, who: &Credentials) -> Answer<Call> {
    let mut url = realm.to_string();
    let mut add = |name: &str, value: &str| {
        url.push(if url.contains('?') { '&' } else { '?' });
        url.push_str(&format!("{name}={}", encode(value)));
    };
    if !ask.service.is_empty() {
        add("service", ask.service);
    }
    ask.scopes.iter().for_each(|scope| add("scope", scope));
    if !who.username.is_empty() {
        add("account", &who.username);
    }
    if ask.offline {
        add("offline_token", "true");
        add("client_id", CLIENT);
    }
    let url = url.parse().map_err(|_| no_server(ask.realm))?;
    let call = Call::new(Method::GET, url).header(ACCEPT, "application/json");
    Ok(match who.username.is_empty() {
        true => call,
        false => call.header(AUTHORIZATION, &basic(&who.username, &who.password)),
    })
}

/// OAuth's way: a POST with the refresh token.
fn by_refresh_token(ask: &Ask<'_>, realm: &Uri, who: &Credentials) -> Call {
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", &who.identitytoken),
        ("service", ask.service),
        ("scope", &ask.scopes.join(" ")),
        ("client_id", CLIENT),
    ];
    let form: Vec<String> = form.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    Call::new(Method::POST, realm.clone())
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(ACCEPT, "application/json")
        .payload(Payload::Bytes(Bytes::from(form.join("&"))))
}

fn read(answer: &[u8]) -> Answer<Token> {
    let given: Given = serde_json::from_slice(answer)
        .map_err(|_| Failure::Wrong("the token server's answer is no JSON with a token".to_owned()))?;
    let (token, refresh) = (given.token.unwrap_or_default(), given.refresh_token.unwrap_or_default());
    let bearer = if token.is_empty() { given.access_token.unwrap_or_default() } else { token };
    let fits = |token: &str| token.len() <= TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic());
    if bearer.is_empty() {
        return Err(Failure::Wrong(
            "authorization server did not include a token in the response".to_owned(),
        ));
    }
    if !fits(&bearer) || !fits(&refresh) {
        return Err(Failure::Wrong("the token server's token fits into no header".to_owned()));
    }
    // Up to a year: more would not be representable everywhere, and nothing runs so long.
    let holds = given.expires_in.unwrap_or(HOLDS).clamp(HOLDS, 365 * 24 * 3600);
    Ok(Token {
        bearer,
        refresh: (!refresh.is_empty()).then_some(refresh),
        // Sooner than it says: a request takes a while, and clocks differ.
        until: Instant::now() + Duration::from_secs(holds * 9 / 10),
    })
}

/// A value in a query or a form.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b',' => {
                encoded.push(byte as char);
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_or_refused() {
        assert_eq!(read(br#"{"token":"a.b-c"}"#).unwrap().bearer, "a.b-c");
        let both = read(br#"{"access_token":"x","refresh_token":"y","expires_in":99999999999}"#).unwrap();
        assert_eq!((both.bearer.as_str(), both.refresh.as_deref()), ("x", Some("y")));
        assert_eq!(read(br#"{"token":"a","refresh_token":null}"#).unwrap().refresh, None);
        for lie in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"token":""}"#,
            r#"{"token":"a\r\nX-Evil: 1"}"#,
            r#"{"token":"a b"}"#,
            r#"{"token":7}"#,
            &format!(r#"{{"token":"{}"}}"#, "x".repeat(TOKEN + 1)),
        ] {
            assert!(read(lie.as_bytes()).is_err(), "{lie:.40}");
        }
    }

    #[test]
    fn queries_are_encoded() {
        let ask = Ask {
            realm: "http://t/x?y=1",
            service: "a b&c",
            scopes: &["repository:a/b:pull".into()],
            offline: false,
        };
        let who = Credentials { username: "ä".into(), password: "p".into(), ..Credentials::default() };
        let call = by_password(&ask, &ask.realm.parse().unwrap(), &who).unwrap();
        assert_eq!(
            call.url.to_string(),
            "http://t/x?y=1&service=a%20b%26c&scope=repository:a/b:pull&account=%C3%A4"
        );
        assert!(call.headers[AUTHORIZATION].is_sensitive());
    }
}
