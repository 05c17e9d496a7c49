//! Credentials of registries, as Docker's client keeps them: `auths` of `config.json`, or a helper that `credHelpers`
//! names for a registry, or `credsStore` for all.
//!
//! The daemon keeps none. It is handed them with each request that needs them, in a header.

mod file;
mod helper;
pub mod server;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::errln;
use crate::error::Error;

use file::{ConfigFile, Content};
use helper::Helper;

/// Who one is to a registry. It has no `Debug`, so that it is in no message by mistake.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub struct AuthConfig {
    /// The user's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// The password, or an access token in its place.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub password: String,
    /// A refresh token, which the registry's token server gave in exchange for a password.
    #[serde(rename = "identitytoken", skip_serializing_if = "String::is_empty")]
    pub identity_token: String,
    /// A bearer token to be sent as it is.
    #[serde(rename = "registrytoken", skip_serializing_if = "String::is_empty")]
    pub registry_token: String,
    /// Which registry it is for.
    #[serde(rename = "serveraddress", skip_serializing_if = "String::is_empty")]
    pub server_address: String,
}

impl AuthConfig {
    /// An entry of `auths`.
    fn from_entry(server: &str, entry: &Value) -> Result<Self, Error> {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let mut auth = Self {
            username: text("username"),
            password: text("password"),
            identity_token: text("identitytoken"),
            registry_token: text("registrytoken"),
            server_address: server.to_owned(),
        };
        let encoded = entry["auth"].as_str().unwrap_or_default();
        if !encoded.is_empty() {
            let wrong =
                || Error::new(format!("the entry \"auth\" of {server} is no base64 of user:password"));
            let decoded = STANDARD.decode(encoded).map_err(|_| wrong())?;
            let decoded = String::from_utf8(decoded).map_err(|_| wrong())?;
            let (username, password) = decoded.split_once(':').ok_or_else(wrong)?;
            auth.username = username.to_owned();
            auth.password = password.trim_matches('\0').to_owned();
        }
        Ok(auth)
    }

    /// Writes it into an entry of `auths`; what else is there stays.
    fn write_to(&self, entry: &mut Map<String, Value>) {
        forget(entry);
        if !(self.username.is_empty() && self.password.is_empty()) {
            let pair = STANDARD.encode(format!("{}:{}", self.username, self.password));
            entry.insert("auth".to_owned(), Value::from(pair));
        }
        for (key, value) in [("identitytoken", &self.identity_token), ("registrytoken", &self.registry_token)]
        {
            if !value.is_empty() {
                entry.insert(key.to_owned(), Value::from(value.as_str()));
            }
        }
    }

    /// The value of `X-Registry-Auth`.
    pub fn header(&self) -> String {
        URL_SAFE.encode(json!(self).to_string())
    }
}

/// Takes all that is secret out of an entry of `auths`.
fn forget(entry: &mut Map<String, Value>) {
    for key in ["auth", "username", "password", "identitytoken", "registrytoken"] {
        entry.shift_remove(key);
    }
}

/// The credentials that this user has.
pub struct Credentials(ConfigFile);

impl Credentials {
    /// Those of a folder of configuration.
    pub fn of(folder: &Path) -> Self {
        Self(ConfigFile::of(folder))
    }

    /// What there is for a registry, by its key (see [`server`]).
    ///
    /// # Errors
    /// The file or the helper does not say.
    pub fn get(&self, key: &str) -> Result<Option<AuthConfig>, Error> {
        let content = self.0.read()?;
        match keeper(&content, key)? {
            Some(helper) => helper.get(key),
            None => of_file(&content, key),
        }
    }

    /// Keeps them: with the helper that is for the registry, or in the file, which is warned of.
    ///
    /// # Errors
    /// The helper does not take them, or the file cannot be written.
    pub fn store(&self, auth: &AuthConfig) -> Result<(), Error> {
        let key = &auth.server_address;
        let helper = keeper(&self.0.read()?, key)?;
        if let Some(helper) = &helper {
            helper.store(auth)?;
        }
        self.0.change(|content| {
            let entry = entry(content, key)?;
            // What a helper keeps has an entry without secrets, which shows that there is something.
            if helper.is_some() {
                forget(entry)
            } else {
                auth.write_to(entry)
            }
            Ok(())
        })?;
        if helper.is_none() {
            self.warn_of_plain_text();
        }
        Ok(())
    }

    /// Forgets a registry, by all the names that it may have been kept under. Whether there was anything.
    ///
    /// # Errors
    /// It was not forgotten under any.
    pub fn erase(&self, names: &[String]) -> Result<bool, Error> {
        let content = self.0.read()?;
        let kept_in_file = |name: &String| content.get("auths").and_then(|auths| auths.get(name)).is_some();
        let mut known = names.iter().any(kept_in_file);
        let mut failures = Vec::new();
        for name in names {
            let erased = keeper(&content, name).and_then(|helper| {
                known |= helper.is_some();
                helper.map_or(Ok(()), |helper| helper.erase(name))
            });
            if let Err(error) = erased {
                failures.push(format!("{name}: {error}"));
            }
        }
        if failures.len() == names.len() {
            return Err(Error::new(format!("could not erase credentials:\n{}", failures.join("\n"))));
        }
        if known {
            self.0.change(|content| {
                if let Some(auths) = content.get_mut("auths").and_then(Value::as_object_mut) {
                    names.iter().for_each(|name| drop(auths.shift_remove(name)));
                }
                Ok(())
            })?;
        }
        Ok(known)
    }

    /// Everything there is, for a request that may lead to any registry.
    fn all(&self) -> Result<Map<String, Value>, Error> {
        let content = self.0.read()?;
        let mut all = Map::new();
        for (key, entry) in content.get("auths").and_then(Value::as_object).into_iter().flatten() {
            all.insert(key.clone(), json!(AuthConfig::from_entry(key, entry)?));
        }
        if let Some(store) = content.get("credsStore").and_then(Value::as_str).filter(|name| !name.is_empty())
        {
            let helper = Helper::named(store)?;
            for key in helper.list()? {
                if let Some(auth) = helper.get(&key)? {
                    all.insert(key, json!(auth));
                }
            }
        }
        for key in content.get("credHelpers").and_then(Value::as_object).into_iter().flat_map(Map::keys) {
            if let Some(auth) = self.get(key)? {
                all.insert(key.clone(), json!(auth));
            }
        }
        Ok(all)
    }

    /// Docker's warning, once a process.
    fn warn_of_plain_text(&self) {
        static TOLD: AtomicBool = AtomicBool::new(false);
        if !TOLD.swap(true, Ordering::Relaxed) {
            errln!(
                "\nWARNING! Your credentials are stored unencrypted in '{}'.\n\
                 Configure a credential helper to remove this warning. See\n\
                 https://docs.docker.com/go/credential-store/\n",
                self.0.path().display()
            );
        }
    }
}

/// The helper that keeps a registry's credentials, if it is not the file.
fn keeper(content: &Content, key: &str) -> Result<Option<Helper>, Error> {
    let own = content.get("credHelpers").and_then(|helpers| helpers.get(key));
    let name = own.or_else(|| content.get("credsStore")).and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() { Ok(None) } else { Helper::named(name).map(Some) }
}

/// What the file has for a registry: under its key, or under an address of the same host.
fn of_file(content: &Content, key: &str) -> Result<Option<AuthConfig>, Error> {
    let Some(auths) = content.get("auths").and_then(Value::as_object) else { return Ok(None) };
    let found = auths.get_key_value(key).or_else(|| auths.iter().find(|(name, _)| server::host(name) == key));
    found.map(|(_, entry)| AuthConfig::from_entry(key, entry)).transpose()
}

/// The entry of a registry in `auths`, made where it is not there.
fn entry<'a>(content: &'a mut Content, key: &str) -> Result<&'a mut Map<String, Value>, Error> {
    object(content, "auths").and_then(|auths| object(auths, key)).ok_or_else(|| {
        Error::new("\"auths\" of config.json is not what it should be, an object of objects; repair it")
    })
}

/// An object within an object, made where it is not there; none where something else is.
fn object<'a>(outer: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    let inner = outer.entry(key).or_insert(Value::Null);
    if inner.is_null() {
        *inner = json!({});
    }
    inner.as_object_mut()
}

/// The value of `X-Registry-Auth` for a registry, by its key. Where the credentials cannot be had, that is told, and
/// the request goes out without any, as Docker's does: what is public needs none.
pub fn registry_auth(context: &Context, key: &str) -> String {
    let found = Credentials::of(&context.config_dir).get(key).unwrap_or_else(|error| {
        errln!("WARNING: no credentials for {key}: {error}");
        None
    });
    found.unwrap_or_default().header()
}

/// The value of `X-Registry-Config`: the credentials of all registries, for a build, which may pull from any.
pub fn registry_config(context: &Context) -> String {
    let all = Credentials::of(&context.config_dir).all().unwrap_or_else(|error| {
        errln!("WARNING: no credentials of registries: {error}");
        Map::new()
    });
    URL_SAFE.encode(Value::Object(all).to_string())
}

#[cfg(test)]
mod tests;
