//! The sockets with a policy: from the daemon's flags, and those that come and go while it runs. What was added stays:
//! it is in `<data-root>/sockets.json`, and is listened on again by the next daemon.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use hull_buildkit::BuildKit;
use hull_engine::{Engine, Error, Result};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};

use crate::http::{self, Request, Response};
use crate::policy::{Guard, Judge, Judged};
use crate::server::{self, Service};

/// The sockets with a policy.
pub(crate) struct Sockets {
    me: Weak<Sockets>,
    open: Mutex<Vec<Open>>,
    engine: Arc<Engine>,
    builder: Arc<BuildKit>,
    /// Where those are written down that the next daemon listens on, too.
    file: PathBuf,
    /// The group that may use them.
    group: Option<u32>,
}

/// A socket that is listened on. Dropped, it is not any more, and its connections end.
struct Open {
    guard: Arc<Guard>,
    /// Added while the daemon ran, and kept.
    kept: bool,
    _end: watch::Sender<()>,
    listening: tokio::task::JoinHandle<()>,
}

impl Open {
    /// Returns when it is not listened on any more, and its file is gone: dropping alone does not wait for that.
    async fn end(mut self) {
        self.listening.abort();
        // What comes of the task is that it was ended.
        let _ = (&mut self.listening).await;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// A socket as it is written down, and as it is added.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
struct Written {
    path: String,
    policy: Vec<String>,
}

impl Written {
    fn guard(&self) -> Result<Guard> {
        Guard::new(&self.path, self.policy.iter().map(String::as_str))
    }
}

impl Judged for Written {
    /// Who has a policy never comes so far.
    fn judge(&mut self, _: &Judge<'_>) -> Result<()> {
        Ok(())
    }
}

impl Sockets {
    /// Listens on those of the daemon's flags, and on those that were added before.
    ///
    /// One that cannot be listened on is logged: its folder may be gone, and a container that has the folder may have put
    /// something in its place, which is not to keep the daemon from its work.
    ///
    /// # Errors
    /// What was added before cannot be read.
    pub(crate) async fn open(
        engine: Arc<Engine>,
        builder: Arc<BuildKit>,
        file: PathBuf,
        group: Option<u32>,
        of_flags: Vec<Guard>,
    ) -> Result<Arc<Sockets>> {
        let sockets = Arc::new_cyclic(|me| Sockets {
            me: me.clone(),
            open: Mutex::default(),
            engine,
            builder,
            file,
            group,
        });
        let mut open = sockets.open.lock().await;
        for guard in of_flags {
            let path = guard.path.clone();
            if let Err(error) = sockets.listen(&mut open, guard, false) {
                tracing::error!(path = %path.display(), %error, "a socket of the flags cannot be listened on");
            }
        }
        for written in sockets.read()? {
            let path = written.path.clone();
            if let Err(error) = written.guard().and_then(|guard| sockets.listen(&mut open, guard, true)) {
                tracing::error!(path, %error, "a socket that was added cannot be listened on");
            }
        }
        drop(open);
        Ok(sockets)
    }

    fn read(&self) -> Result<Vec<Written>> {
        let failed = |error: &dyn std::fmt::Display| {
            Error::system(format_args!("read the sockets' file {}", self.file.display()), error)
        };
        match std::fs::read(&self.file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(&error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Writes down what is to be listened on by the next daemon.
    async fn write<'a>(&self, kept: impl Iterator<Item = &'a Guard>) -> Result<()> {
        let written: Vec<Written> = kept
            .map(|guard| Written { path: guard.path.display().to_string(), policy: guard.policy.words() })
            .collect();
        let file = self.file.clone();
        // A disk may take its time.
        let work = move || {
            let failed = |error: &dyn std::fmt::Display| {
                Error::system(format_args!("write the sockets' file {}", file.display()), error)
            };
            let text = serde_json::to_vec_pretty(&written).map_err(|error| failed(&error))?;
            let new = file.with_extension("json.new");
            std::fs::write(&new, text)
                .and_then(|()| std::fs::File::open(&new)?.sync_all())
                .and_then(|()| std::fs::rename(&new, &file))
                .map_err(|error| failed(&error))
        };
        let failed = |error| Error::system("write the sockets' file", error);
        tokio::task::spawn_blocking(work).await.map_err(failed)?
    }

    fn listen(&self, open: &mut Vec<Open>, guard: Guard, kept: bool) -> Result<()> {
        if open.iter().any(|other| other.guard.path == guard.path) {
            return Err(Error::conflict(format!(
                "the socket {} is there already: remove it first, with `hull system socket rm {0}`",
                guard.path.display()
            )));
        }
        let listener = server::listen_unix(&guard.path, self.group)?;
        let guard = Arc::new(guard);
        let (end, ended) = watch::channel(());
        let sockets = self.me.upgrade().ok_or_else(|| Error::system("listen", "the daemon ends"))?;
        let service = Service::guarded(
            Arc::clone(&self.engine),
            Arc::clone(&self.builder),
            sockets,
            Arc::clone(&guard),
            ended,
        );
        tracing::info!(path = %guard.path.display(), policy = %guard.policy, "listening");
        open.push(Open { guard, kept, _end: end, listening: tokio::spawn(listener.serve(service)) });
        Ok(())
    }

    async fn add(&self, guard: Guard) -> Result<Value> {
        let mut open = self.open.lock().await;
        self.listen(&mut open, guard, true)?;
        if let Err(error) = self.write(kept(&open)).await {
            open.pop();
            return Err(error);
        }
        Ok(open.last().map(shown).unwrap_or_default())
    }

    async fn remove(&self, path: &Path) -> Result<()> {
        let mut open = self.open.lock().await;
        let index = open.iter().position(|socket| socket.guard.path == path);
        let index = index
            .ok_or_else(|| Error::not_found(format!("No such socket with a policy: {}", path.display())))?;
        if !open[index].kept {
            return Err(Error::conflict(format!(
                "the socket {} is one of the daemon's flags or configuration file, and would be there again with its next \
                 start: take it out there",
                path.display()
            )));
        }
        self.write(kept(&open).filter(|guard| guard.path != path)).await?;
        open.remove(index).end().await;
        Ok(())
    }

    /// Listens on none any more; what was added is for the next daemon.
    pub(crate) async fn close(&self) {
        for socket in self.open.lock().await.drain(..) {
            socket.end().await;
        }
    }
}

/// What is listened on and what is written down stay the same, also when the client goes away between the two.
async fn see_through<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(Error::system("change the sockets", error)))
}

fn kept(open: &[Open]) -> impl Iterator<Item = &Guard> {
    open.iter().filter(|socket| socket.kept).map(|socket| &*socket.guard)
}

fn shown(socket: &Open) -> Value {
    json!({
        "Path": socket.guard.path.display().to_string(),
        "Policy": socket.guard.policy.words(),
        "Kept": socket.kept,
    })
}

/// `GET /hull/sockets`.
pub(crate) async fn list(request: Request) -> Result<Response> {
    let open = request.sockets.open.lock().await;
    http::ok(&open.iter().map(shown).collect::<Vec<_>>())
}

/// `POST /hull/sockets`, with `{"Path": …, "Policy": [RULE…]}`.
pub(crate) async fn add(mut request: Request) -> Result<Response> {
    let asked: Written = request.json().await?;
    let guard = asked.guard()?;
    let sockets = Arc::clone(&request.sockets);
    let added = see_through(async move { sockets.add(guard).await }).await?;
    http::json(StatusCode::CREATED, &added)
}

/// `DELETE /hull/sockets?path=PATH`.
pub(crate) async fn remove(request: Request) -> Result<Response> {
    let path: PathBuf = Path::new(request.query.text("path").unwrap_or_default()).components().collect();
    let sockets = Arc::clone(&request.sockets);
    see_through(async move { sockets.remove(&path).await }).await?;
    http::empty(StatusCode::NO_CONTENT)
}
