//! What every command is given: the client, and how it was called.

use std::path::PathBuf;

use crate::client::Client;

/// What every command is given besides its own arguments.
pub struct Context {
    /// The way to the daemon. Nothing is connected before the first request.
    pub client: Client,
    /// The command as typed, such as `hull container run`: for messages that point to its help.
    pub command: String,
    /// The folder of the client's configuration (`--config`, DOCKER_CONFIG, ~/.docker).
    pub config_dir: PathBuf,
    /// `--debug`: more words on standard error.
    pub debug: bool,
}

impl Context {
    /// A setting of the client's `config.json` (`detachKeys`, `psFormat`, ...); none where the file has it not.
    pub fn config_value(&self, name: &str) -> Option<serde_json::Value> {
        let text = std::fs::read(self.config_dir.join("config.json")).ok()?;
        let config: serde_json::Value = serde_json::from_slice(&text).ok()?;
        config.get(name).cloned()
    }
}
