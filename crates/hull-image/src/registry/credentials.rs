//! Who asks a registry: a name with its password, or tokens. Never printed.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What a client says of itself to one registry, in the fields of Docker's `AuthConfig`.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Credentials {
    /// The name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// The password.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub password: String,
    /// Both at once, as configuration files have them: base64 of `name:password`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth: String,
    /// The registry that they are for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serveraddress: String,
    /// A refresh token: it gets others from the registry's token server.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub identitytoken: String,
    /// A bearer token, to be sent as it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub registrytoken: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "Credentials(none)" } else { "Credentials(…)" })
    }
}

/// Clients pad or do not, and take either of the two alphabets.
fn decode(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let of = |alphabet| GeneralPurpose::new(alphabet, config).decode(text).ok();
    of(&alphabet::URL_SAFE).or_else(|| of(&alphabet::STANDARD))
}

/// The members of a JSON object.
type Members = serde_json::Map<String, serde_json::Value>;

impl Credentials {
    /// Reads JSON, the names in any case, as Go takes them: docker-py writes what a credential helper told as `Username`.
    ///
    /// # Errors
    /// It is no JSON of credentials. The sentence may quote what was read.
    pub fn from_json(json: &[u8]) -> serde_json::Result<Credentials> {
        let members: Option<Members> = serde_json::from_slice(json)?;
        Credentials::from_members(members.unwrap_or_default())
    }

    fn from_members(members: Members) -> serde_json::Result<Credentials> {
        let folded = members.into_iter().filter(|(_, value)| !value.is_null());
        let folded: Members = folded.map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        let who: Credentials = serde_json::from_value(folded.into())?;
        Ok(who.split())
    }

    /// Reads the header `X-Registry-Auth`: base64 of JSON. One that cannot be read stands for nobody, as in Docker.
    pub fn from_header(text: &str) -> Credentials {
        decode(text.trim()).and_then(|json| Credentials::from_json(&json).ok()).unwrap_or_default()
    }

    /// Reads the header `X-Registry-Config`: base64 of a map of these, by the addresses of registries. One that cannot be
    /// read stands for nobody.
    pub fn from_config_header(text: &str) -> std::collections::BTreeMap<String, Credentials> {
        let json = decode(text.trim());
        let parsed: Option<std::collections::BTreeMap<String, Members>> =
            json.and_then(|json| serde_json::from_slice(&json).ok());
        let read = |(registry, members)| Some((registry, Credentials::from_members(members).ok()?));
        parsed.unwrap_or_default().into_iter().filter_map(read).collect()
    }

    /// The value of that header.
    pub fn to_header(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        base64::engine::general_purpose::URL_SAFE.encode(json)
    }

    /// Takes `auth` apart into name and password.
    pub fn split(mut self) -> Credentials {
        let pair = decode(&self.auth).and_then(|bytes| String::from_utf8(bytes).ok());
        if let Some((name, password)) = pair.as_deref().and_then(|pair| pair.split_once(':'))
            && self.username.is_empty()
        {
            (self.username, self.password) = (name.to_owned(), password.trim_end_matches('\0').to_owned());
        }
        self.auth.clear();
        self
    }

    /// Whether they say nothing.
    pub fn is_empty(&self) -> bool {
        self.username.is_empty() && self.identitytoken.is_empty() && self.registrytoken.is_empty()
    }

    /// Whether they are for Docker's own registry, by its names.
    pub(super) fn is_dockers(&self) -> bool {
        let address =
            self.serveraddress.split_once("://").map_or(self.serveraddress.as_str(), |(_, rest)| rest);
        let host = address.split('/').next().unwrap_or_default();
        matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io" | "hub.docker.com")
    }

    /// Checks what is to be put into headers.
    ///
    /// # Errors
    /// A name with a colon, or something with a line's end in it.
    pub fn check(&self) -> Result<()> {
        let all = [&self.username, &self.password, &self.identitytoken, &self.registrytoken];
        if all.iter().any(|text| text.contains(['\r', '\n', '\0'])) {
            return Err(Error::invalid("the credentials have a line's end in them: no header can carry it"));
        }
        match self.username.contains(':') {
            true => Err(Error::invalid("a registry's user cannot have a colon in its name")),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_however_they_are_padded() {
        let json = r#"{"username":"someone","password":"s?>cret","serveraddress":"r:5000"}"#;
        use base64::engine::general_purpose as base;
        for text in [
            base::URL_SAFE.encode(json),
            base::URL_SAFE_NO_PAD.encode(json),
            base::STANDARD.encode(json),
            base::STANDARD_NO_PAD.encode(json),
        ] {
            let read = Credentials::from_header(&text);
            assert_eq!((read.username.as_str(), read.password.as_str()), ("someone", "s?>cret"), "{text}");
        }
        let helped = base::STANDARD.encode(r#"{"Username":"a","Password":"b","Email":null}"#);
        let read = Credentials::from_header(&helped);
        assert_eq!((read.username.as_str(), read.password.as_str()), ("a", "b"));
        for nobody in ["", "e30=", "e30", "!!", "bnVsbA=="] {
            assert!(Credentials::from_header(nobody).is_empty(), "{nobody}");
        }
        let one = Credentials { auth: base::STANDARD.encode("a:b:c"), ..Credentials::default() }.split();
        assert_eq!((one.username.as_str(), one.password.as_str()), ("a", "b:c"));
        assert_eq!(Credentials::from_header(&one.to_header()), one);
    }

    #[test]
    fn dockers_own_are_known() {
        let at = |address: &str| {
            Credentials { serveraddress: address.into(), ..Credentials::default() }.is_dockers()
        };
        assert!(at("https://index.docker.io/v1/") && at("docker.io") && at("registry-1.docker.io"));
        assert!(
            !at("") && !at("r.example") && !at("https://r.example/docker.io") && !at("docker.io.example")
        );
    }

    #[test]
    fn secrets_are_not_printed() {
        let one = Credentials { username: "u".into(), password: "secret".into(), ..Credentials::default() };
        assert!(!format!("{one:?}").contains("secret"));
        assert!(one.check().is_ok());
        assert!(Credentials { username: "a:b".into(), ..Credentials::default() }.check().is_err());
    }
}
