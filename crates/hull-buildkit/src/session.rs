//! Sessions: a client opens one beside its build, and is the server on it. What a build needs of the client (its files,
//! its secrets, its credentials) is asked for there.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard_buildkit_proto::health::{HealthCheckRequest, HealthCheckResponse};
use bollard_buildkit_proto::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use bollard_buildkit_proto::moby::filesync::v1::{CredentialsRequest, CredentialsResponse};
use hull_image::registry::Credentials;
use hyper::client::conn::http2;
use hyper::header::HeaderMap;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use crate::grpc::client::{Call, Caller, Metadata};
use crate::grpc::{Code, Result, Status};
use crate::patience::{Places, Share};

/// How long a build waits for the session that it names: clients open both at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// What every client's session answers.
pub(crate) const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// How much may be on its way on a stream and on all of a connection, in bytes: contexts come fast.
const WINDOW: u32 = 4 << 20;

/// What names a session: its id, and the socket with a policy that it came by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) id: String,
    /// None: the socket has no policy.
    pub(crate) socket: Option<PathBuf>,
}

/// What a client says of its session.
#[derive(Clone, Debug, Default)]
pub struct Greeting {
    id: String,
    name: String,
    shared_key: String,
    methods: HashSet<String>,
}

/// A session that is open.
pub(crate) struct Session {
    greeting: Greeting,
    caller: Caller,
    /// Places for the threads that work with it.
    pub(crate) places: Share,
}

/// The sessions that are open.
#[derive(Default)]
pub(crate) struct Sessions {
    open: Mutex<HashMap<Key, Arc<Session>>>,
    opened: Notify,
    places: Places,
}

impl Greeting {
    /// Reads the headers of a request for a session; none: it names none.
    pub fn of(headers: &HeaderMap) -> Option<Greeting> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let id = text("x-docker-expose-session-uuid");
        let methods = headers.get_all("x-docker-expose-session-grpc-method").iter();
        let methods = methods.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        (!id.is_empty()).then(|| Greeting {
            id: id.to_owned(),
            name: text("x-docker-expose-session-name").to_owned(),
            shared_key: text("x-docker-expose-session-sharedkey").to_owned(),
            methods: methods.map(|method| method.trim().to_ascii_lowercase()).collect(),
        })
    }
}

impl Sessions {
    /// Serves a session until its client ends it.
    pub(crate) async fn serve<I>(
        &self,
        greeting: Greeting,
        socket: Option<PathBuf>,
        io: I,
    ) -> hyper::Result<()>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut protocol = http2::Builder::new(TokioExecutor::new());
        protocol.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (caller, connection) = protocol.handshake(TokioIo::new(io)).await?;
        tokio::pin!(connection);
        let places = self.places.of(socket.as_ref());
        let key = Key { id: greeting.id.clone(), socket };
        let session = Arc::new(Session { greeting, caller: Caller::new(caller), places });
        // Once it answers it has begun to serve: clients whose build is over before that wait for ever.
        let greeting = HealthCheckRequest::default();
        tokio::select! {
            ended = &mut connection => return ended,
            _ = session.caller.unary::<HealthCheckResponse>(HEALTH, &greeting) => {}
        }
        self.sessions().insert(key.clone(), Arc::clone(&session));
        self.opened.notify_waiters();
        let _closed = Closed { sessions: self, key, session };
        connection.await
    }

    /// The session of that name; one that is about to be opened is waited for.
    pub(crate) async fn get(&self, key: &Key) -> Result<Arc<Session>> {
        let found = async {
            loop {
                let opened = self.opened.notified();
                tokio::pin!(opened);
                // Registered before it is looked at, so that one that opens in between is not missed.
                opened.as_mut().enable();
                if let Some(session) = self.sessions().get(key) {
                    return Arc::clone(session);
                }
                opened.await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.map_err(|_| {
            Status::new(
                Code::NotFound,
                format!("no active session for {}: context deadline exceeded", key.id),
            )
        })
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Session>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a session off the list when it ends.
struct Closed<'a> {
    sessions: &'a Sessions,
    key: Key,
    session: Arc<Session>,
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        let mut sessions = self.sessions.sessions();
        // Another of the same name may have come since.
        if sessions.get(&self.key).is_some_and(|open| Arc::ptr_eq(open, &self.session)) {
            sessions.remove(&self.key);
        }
    }
}

impl Session {
    /// Whether the client answers a method.
    pub(crate) fn has(&self, method: &str) -> bool {
        self.greeting.methods.contains(&method.to_ascii_lowercase())
    }

    /// By what the files of its client are known from one session to the next, as far as it says so.
    pub(crate) fn client(&self) -> [&str; 2] {
        [&self.greeting.shared_key, &self.greeting.name]
    }

    /// Begins a call of a method that the client has.
    pub(crate) fn call(&self, method: &str, metadata: Metadata) -> Result<Call> {
        if !self.has(method) {
            return Err(Status::new(Code::Unimplemented, format!("the client's session has no {method}")));
        }
        self.caller.call(method, metadata)
    }

    /// A call with one message in either direction.
    pub(crate) async fn unary<T: prost::Message + Default>(
        &self,
        method: &str,
        request: &impl prost::Message,
    ) -> Result<T> {
        self.caller.unary(method, request).await
    }

    /// A secret; none: the client has none of that name.
    pub(crate) async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>> {
        const METHOD: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
        if !self.has(METHOD) {
            return Ok(None);
        }
        let request = GetSecretRequest { id: id.to_owned(), ..GetSecretRequest::default() };
        match self.caller.unary::<GetSecretResponse>(METHOD, &request).await {
            Ok(response) => Ok(Some(response.data)),
            Err(status) if status.code == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// What the client says of itself to a registry.
    pub(crate) async fn credentials(&self, registry: &str) -> Result<Option<Credentials>> {
        const METHOD: &str = "/moby.filesync.v1.Auth/Credentials";
        if !self.has(METHOD) {
            return Ok(None);
        }
        // The name that clients know Docker's own registry by.
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let request = CredentialsRequest { host: host.to_owned() };
        let answer: CredentialsResponse = self.caller.unary(METHOD, &request).await?;
        if answer.secret.is_empty() {
            return Ok(None);
        }
        let mut credentials = Credentials { serveraddress: registry.to_owned(), ..Credentials::default() };
        // A secret without a name is a token that gets others.
        match answer.username.is_empty() {
            true => credentials.identitytoken = answer.secret,
            false => (credentials.username, credentials.password) = (answer.username, answer.secret),
        }
        Ok(Some(credentials))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A session whose client takes calls of these methods and never answers one.
    pub(crate) async fn silent(methods: &[&str]) -> Arc<Session> {
        let (here, there) = tokio::io::duplex(1 << 16);
        tokio::spawn(crate::grpc::server::serve(there, |_| std::future::pending()));
        let handshake = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(here)).await;
        let (caller, connection) = handshake.unwrap();
        tokio::spawn(connection);
        let methods = methods.iter().map(|method| method.to_ascii_lowercase()).collect();
        let greeting = Greeting { methods, ..Greeting::default() };
        let places = Places::default().of(Some(&PathBuf::from("/s")));
        Arc::new(Session { greeting, caller: Caller::new(caller), places })
    }

    #[test]
    fn a_greeting_is_read() {
        let mut headers = HeaderMap::new();
        assert!(Greeting::of(&headers).is_none());
        headers.insert("x-docker-expose-session-uuid", "u".parse().unwrap());
        headers.append("x-docker-expose-session-grpc-method", "/a.B/C".parse().unwrap());
        headers.append("x-docker-expose-session-grpc-method", "/d.E/diffcopy".parse().unwrap());
        let greeting = Greeting::of(&headers).unwrap();
        assert!(greeting.methods.contains("/a.b/c") && greeting.methods.contains("/d.e/diffcopy"));
        assert_eq!(greeting.id, "u");
    }
}
