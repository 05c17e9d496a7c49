//! Programs that keep credentials: `docker-credential-NAME get|store|erase|list`.
//!
//! What is asked goes over standard input and what is answered comes over standard output, so that no secret stands in
//! a list of processes. On a failure the program's standard output is its error.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::AuthConfig;
use crate::commands::shared::upload::plain;
use crate::error::Error;

/// What a helper says when it has nothing for a server.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The name of a user whose secret is an identity token.
const TOKEN: &str = "<token>";

/// One of the programs, by what stands behind `docker-credential-`.
pub struct Helper(String);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kept {
    #[serde(rename = "ServerURL", default)]
    server: String,
    username: String,
    secret: String,
}

impl Helper {
    /// The helper of that name.
    ///
    /// # Errors
    /// It names a path: a program of anywhere is not meant.
    pub fn named(name: &str) -> Result<Self, Error> {
        if name.contains(['/', '\0']) {
            return Err(Error::new(format!("invalid credential helper {name:?}: it is a name, and no path")));
        }
        Ok(Self(format!("docker-credential-{name}")))
    }

    /// What it has for a server.
    ///
    /// # Errors
    /// It cannot be executed, or fails; having nothing is no failure.
    pub fn get(&self, server: &str) -> Result<Option<AuthConfig>, Error> {
        let answer = match self.ask("get", server.as_bytes()) {
            Ok(answer) => answer,
            Err(failure) if failure.said == NOT_FOUND => return Ok(None),
            Err(failure) => return Err(self.error("getting", &failure)),
        };
        // The parser's own words could quote the secret.
        let kept: Kept = serde_json::from_slice(&answer).map_err(|_| self.no_json("get"))?;
        let mut found = AuthConfig { server_address: server.to_owned(), ..AuthConfig::default() };
        if kept.username == TOKEN {
            found.identity_token = kept.secret;
        } else {
            found.username = kept.username;
            found.password = kept.secret;
        }
        Ok(Some(found))
    }

    /// Gives it credentials to keep.
    ///
    /// # Errors
    /// It cannot be executed, or fails.
    pub fn store(&self, auth: &AuthConfig) -> Result<(), Error> {
        let (username, secret) = if auth.identity_token.is_empty() {
            (auth.username.clone(), auth.password.clone())
        } else {
            (TOKEN.to_owned(), auth.identity_token.clone())
        };
        let kept = Kept { server: auth.server_address.clone(), username, secret };
        let question = serde_json::to_vec(&kept)?;
        self.ask("store", &question).map(|_| ()).map_err(|mut failure| {
            // Some print what they were given when they do not understand it.
            failure.said = failure.said.replace(&kept.secret, "***");
            self.error("storing", &failure)
        })
    }

    /// Makes it forget a server.
    ///
    /// # Errors
    /// It cannot be executed, or fails.
    pub fn erase(&self, server: &str) -> Result<(), Error> {
        self.ask("erase", server.as_bytes()).map(|_| ()).map_err(|failure| self.error("erasing", &failure))
    }

    /// The servers that it has something for.
    ///
    /// # Errors
    /// It cannot be executed, or fails.
    pub fn list(&self) -> Result<Vec<String>, Error> {
        let answer = self.ask("list", b"unused").map_err(|failure| self.error("listing", &failure))?;
        let users: BTreeMap<String, String> =
            serde_json::from_slice(&answer).map_err(|_| self.no_json("list"))?;
        Ok(users.into_keys().collect())
    }

    fn ask(&self, action: &str, question: &[u8]) -> Result<Vec<u8>, Failure> {
        let cannot = |error: io::Error| Failure { why: plain(&error), said: String::new() };
        let mut child =
            Command::new(&self.0).arg(action).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(
                |error| match error.kind() {
                    io::ErrorKind::NotFound => Failure {
                        why: format!("exec: {:?}: executable file not found in $PATH", self.0),
                        said: String::new(),
                    },
                    _ => cannot(error),
                },
            )?;
        if let Some(mut input) = child.stdin.take() {
            match input.write_all(question) {
                // One that does not read what it is asked says why by its status.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(cannot(error));
                }
                _ => {}
            }
        }
        let output = child.wait_with_output().map_err(cannot)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Err(Failure { why: output.status.to_string().replacen("exit status: ", "exit status ", 1), said })
    }

    fn error(&self, doing: &str, failure: &Failure) -> Error {
        Error::new(format!(
            "error {doing} credentials - err: {}, out: `{}` ({})",
            failure.why, failure.said, self.0
        ))
    }

    fn no_json(&self, action: &str) -> Error {
        Error::new(format!("{} {action}: its answer is not the JSON that it should be", self.0))
    }
}

/// How an action of a helper failed.
struct Failure {
    why: String,
    said: String,
}
