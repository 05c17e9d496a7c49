//! `--ssh`: agents of the user's, and keys in files, which the daemon reaches over a session that stays open during the build.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;

use hull_api::{Agents, Holder};

use super::keys::KeyFiles;
use crate::context::Context;
use crate::error::{Error, words};

/// The session. Dropped, it ends.
pub(super) struct Session {
    id: String,
    serving: tokio::task::JoinHandle<()>,
}

/// What the flags say: `default`, `ID`, `ID=SOCKET`, `ID=KEY[,KEY…]`.
///
/// # Errors
/// There is no agent, or what is named is none.
pub(super) fn of(texts: &[String]) -> Result<Agents, Error> {
    let mut agents = BTreeMap::new();
    for text in texts {
        let wrong = |why: String| Error::flag(format!("--ssh {text}: {why}"));
        let (id, holder) = match text.split_once('=') {
            Some((id, paths)) => (id, holder(paths).map_err(wrong)?),
            None => {
                let path = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
                let path = path.ok_or_else(|| {
                    wrong(
                        "SSH_AUTH_SOCK is not set: start an agent, eval $(ssh-agent), and ssh-add the key"
                            .to_owned(),
                    )
                })?;
                let path = path.to_str().ok_or_else(|| wrong("SSH_AUTH_SOCK is no text".to_owned()))?;
                (text.as_str(), holder(path).map_err(wrong)?)
            }
        };
        if id.is_empty() {
            return Err(wrong("it has no id".to_owned()));
        }
        if agents.insert(id.to_owned(), holder).is_some() {
            return Err(wrong("the id is given twice".to_owned()));
        }
    }
    Ok(Agents::new(agents))
}

/// Who holds the keys: the agent whose socket that is, or the client, where it is the files of keys, with commas between them.
fn holder(paths: &str) -> Result<Holder, String> {
    let paths: Vec<&Path> = paths.split(',').map(Path::new).collect();
    for path in &paths {
        let metadata =
            std::fs::metadata(path).map_err(|error| format!("{}: {}", path.display(), words(&error)))?;
        if metadata.file_type().is_socket() {
            return match paths.len() {
                1 => Ok(Holder::Agent(path.to_path_buf())),
                _ => Err(format!("{} is an agent's socket, which goes by itself", path.display())),
            };
        }
    }
    Ok(Holder::Client(Arc::new(KeyFiles::read(&paths)?)))
}

impl Session {
    /// Opens one, where there are agents.
    ///
    /// # Errors
    /// The daemon does not take it.
    pub(super) async fn open(context: &Context, agents: &Agents) -> Result<Option<Session>, Error> {
        if agents.ids().is_empty() {
            return Ok(None);
        }
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| Error::new(format!("draw a random name: {error}")))?;
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let taken = context.client.take_over("/session", "h2c", &Agents::headers(&id), None).await?;
        let agents = agents.clone();
        let serving = tokio::spawn(async move {
            // The build tells what fails on it.
            let _ = agents.serve(taken.io).await;
        });
        Ok(Some(Session { id, serving }))
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_agents_and_files_are_keys() {
        let folder = tempfile::tempdir().unwrap();
        let of = |text: String| of(&[text]).map(|agents| agents.ids().len());
        let socket = folder.path().join("s");
        let _listens = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let key = folder.path().join("key");
        std::fs::write(&key, "").unwrap();
        assert_eq!(of(format!("a={}", socket.display())).unwrap(), 1);
        assert!(
            of(format!("a={}", key.display()))
                .unwrap_err()
                .message()
                .contains("neither an agent's socket nor")
        );
        assert!(
            of(format!("a={},{}", key.display(), socket.display()))
                .unwrap_err()
                .message()
                .contains("by itself")
        );
        assert!(of("a=/no/such".to_owned()).is_err() && of(format!("={}", socket.display())).is_err());
    }
}
