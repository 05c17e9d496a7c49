//! A server of git's, version 2 of the protocol: what its references are, and one commit of it as a pack.

use std::path::Path;

use base64::Engine as _;
use hull_engine::Kind;
use hull_image::registry::{Call, Payload};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName};
use hyper::{Method, StatusCode, Uri};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Fetcher;
use super::address::{Address, Scheme};
use super::object::Oid;
use super::room::Room;
use super::wire::{self, Lines, PATIENCE, Source, command, line};
use crate::failure::{Failure, Result};

/// The port of git://.
const PORT: u16 = 9418;

/// A server that was greeted.
pub(super) struct Remote<'a> {
    fetcher: &'a Fetcher<'a>,
    address: &'a Address,
    /// Where it is, behind its redirects.
    base: String,
    authorization: Option<String>,
}

impl<'a> Remote<'a> {
    /// Greets the server of a repository.
    ///
    /// # Errors
    /// It does not answer, or does not speak version 2.
    pub(super) async fn open(fetcher: &'a Fetcher<'a>, address: &'a Address) -> Result<Remote<'a>> {
        let authorization = authorization(fetcher, address);
        let mut remote = Remote { fetcher, address, base: address.url(), authorization };
        if address.scheme != Scheme::Git {
            remote.greet().await?;
        }
        Ok(remote)
    }

    fn call(&self, method: Method, path: &str) -> Result<Call> {
        let url: Uri =
            format!("{}{path}", self.base).parse().map_err(|_| self.address.failed("it is no address"))?;
        let call = Call::new(method, url).header(HeaderName::from_static("git-protocol"), "version=2");
        Ok(match &self.authorization {
            Some(value) => call.header(AUTHORIZATION, value),
            None => call,
        })
    }

    async fn greet(&mut self) -> Result<()> {
        const SERVICE: &str = "/info/refs?service=git-upload-pack";
        let call = self.call(Method::GET, SERVICE)?.header(ACCEPT, "*/*");
        let sent = self.fetcher.registries.send(call, false).await;
        let reply = sent.map_err(|failure| self.address.failed(failure))?;
        self.check(reply.status)?;
        // Redirected, all further commands go there; who asks is told to nobody else.
        let came_from = reply.url.to_string();
        if let Some(base) = came_from.strip_suffix(SERVICE).filter(|base| *base != self.base) {
            let same_host =
                reply.url.authority().map(|host| host.as_str()) == Some(self.address.host.as_str());
            self.authorization =
                self.authorization.take().filter(|_| same_host && came_from.starts_with("https://"));
            self.base = base.to_owned();
        }
        let mut lines = Lines::of(Source::Http(Box::new(reply)));
        let mut first = lines.text().await.map_err(|failure| self.address.failed(failure))?;
        if first.as_deref().is_some_and(|first| first.starts_with("# service=")) {
            lines.text().await.map_err(|failure| self.address.failed(failure))?;
            first = lines.text().await.map_err(|failure| self.address.failed(failure))?;
        }
        self.speaks(first, lines).await.map(drop)
    }

    /// Reads what a server can, from its first line on.
    async fn speaks(&self, first: Option<String>, mut lines: Lines) -> Result<Lines> {
        wire::abilities(first, &mut lines).await.map_err(|failure| self.address.failed(failure))?;
        Ok(lines)
    }

    fn check(&self, status: StatusCode) -> Result<()> {
        let why = match status.as_u16() {
            200..300 => return Ok(()),
            401 | 403 => {
                "the server wants to know who asks: give a token with --secret id=GIT_AUTH_TOKEN,src=FILE"
                    .to_owned()
            }
            404 => "there is no such repository".to_owned(),
            _ => format!("the server answered {status}"),
        };
        let mut failure = self.address.failed(why);
        failure.kind = if status == StatusCode::NOT_FOUND { Kind::NotFound } else { failure.kind };
        Err(failure)
    }

    /// Sends a command; its answer's lines.
    async fn command(&self, bytes: Vec<u8>) -> Result<Lines> {
        if self.address.scheme == Scheme::Git {
            return self.command_by_tcp(&bytes).await;
        }
        let call = self
            .call(Method::POST, "/git-upload-pack")?
            .header(CONTENT_TYPE, "application/x-git-upload-pack-request")
            .header(ACCEPT, "application/x-git-upload-pack-result")
            .payload(Payload::Bytes(bytes.into()));
        let sent = self.fetcher.registries.send(call, false).await;
        let reply = sent.map_err(|failure| self.address.failed(failure))?;
        self.check(reply.status)?;
        Ok(Lines::of(Source::Http(Box::new(reply))))
    }

    async fn command_by_tcp(&self, bytes: &[u8]) -> Result<Lines> {
        let host = &self.address.host;
        let failed = |error: std::io::Error| self.address.failed(error);
        let connecting = async {
            match host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
                true => TcpStream::connect(host.as_str()).await,
                false => TcpStream::connect((host.trim_matches(['[', ']']), PORT)).await,
            }
        };
        let connected = tokio::time::timeout(PATIENCE, connecting).await;
        let mut stream =
            connected.map_err(|_| self.address.failed("the server does not answer"))?.map_err(failed)?;
        let mut greeting = Vec::new();
        line(&format!("git-upload-pack {}\0host={host}\0\0version=2\0", self.address.path), &mut greeting);
        stream.write_all(&greeting).await.map_err(failed)?;
        let mut lines = Lines::of(Source::Tcp(stream));
        let first = lines.text().await.map_err(|failure| self.address.failed(failure))?;
        let Source::Tcp(mut stream) = self.speaks(first, lines).await?.into_source() else {
            return Err(self.address.failed("the line was lost"));
        };
        stream.write_all(bytes).await.map_err(failed)?;
        Ok(Lines::of(Source::Tcp(stream)))
    }

    /// The commit that a branch, a tag or HEAD means.
    ///
    /// # Errors
    /// There is none of that name.
    pub(super) async fn resolve(&self, name: &str) -> Result<Oid> {
        let candidates = candidates(name);
        let mut arguments = vec!["peel".to_owned()];
        arguments.extend(candidates.iter().map(|name| format!("ref-prefix {name}")));
        let mut lines = self.command(command("ls-refs", &arguments)).await?;
        let found = wire::references(&mut lines, &candidates).await;
        let found = found.map_err(|failure| self.address.failed(failure))?;
        candidates.iter().find_map(|name| found.get(name).copied()).ok_or_else(|| {
            let hex = name.len() >= 7 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            let hint = if hex { " (a commit is named by all of its 40 digits)" } else { "" };
            let what = if name.is_empty() { "HEAD" } else { name };
            let mut failure = self.address.failed(format!("repository does not contain ref {what}{hint}"));
            failure.kind = Kind::NotFound;
            failure
        })
    }

    /// Fetches a commit without those before it, as a pack into a file.
    ///
    /// # Errors
    /// The server does not give it, or the disk is full.
    pub(super) async fn fetch(&self, commit: Oid, file: &Path) -> Result<()> {
        let arguments = ["ofs-delta", "no-progress", "deepen 1"].map(str::to_owned);
        let arguments: Vec<String> =
            arguments.into_iter().chain([format!("want {commit}"), "done".to_owned()]).collect();
        let mut lines = self.command(command("fetch", &arguments)).await?;
        let failed = |failure: Failure| self.address.failed(failure);
        wire::until_pack(&mut lines).await.map_err(failed)?;
        let disk = |error: std::io::Error| self.address.failed(format!("write what comes: {error}"));
        let out = tokio::fs::File::create_new(file).await.map_err(disk)?;
        let mut out = tokio::io::BufWriter::with_capacity(1 << 20, out);
        let mut room = Room::on(self.fetcher.parent).map_err(disk)?;
        while let Some(bytes) = wire::pack_bytes(&mut lines).await.map_err(failed)? {
            crate::build::wanted(&self.fetcher.stop)?;
            room.take(bytes.len()).map_err(disk)?;
            out.write_all(&bytes).await.map_err(disk)?;
        }
        out.flush().await.map_err(disk)
    }
}

/// The references that a name may mean, the first first: git's own order.
fn candidates(name: &str) -> Vec<String> {
    match name {
        "" => vec!["HEAD".to_owned()],
        name if name.starts_with("refs/") || name == "HEAD" => vec![name.to_owned()],
        name => vec![format!("refs/tags/{name}"), format!("refs/heads/{name}"), format!("refs/{name}")],
    }
}

/// What tells the server who asks: the address's own word, or a secret's, which goes over TLS (or the loopback) only.
fn authorization(fetcher: &Fetcher<'_>, address: &Address) -> Option<String> {
    let basic =
        |text: &str| format!("basic {}", base64::engine::general_purpose::STANDARD.encode(text.as_bytes()));
    if let Some(user) = &address.user {
        return Some(basic(&if user.contains(':') { user.clone() } else { format!("{user}:") }));
    }
    let host = address.host.rsplit_once(':').map_or(address.host.as_str(), |(host, _)| host);
    let is_private = address.scheme == Scheme::Https || matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    let secret = |name: &str| {
        let own = fetcher.secrets.get(&format!("{name}.{}", address.host));
        let for_who_was_asked = || fetcher.secrets.get(name).filter(|_| address.is_asked);
        let secret = own.or_else(for_who_was_asked).filter(|_| is_private)?;
        Some(String::from_utf8_lossy(&secret.0).trim().to_owned())
    };
    let header = secret("GIT_AUTH_HEADER");
    header.or_else(|| secret("GIT_AUTH_TOKEN").map(|token| basic(&format!("x-access-token:{token}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_tags_before_branches() {
        assert_eq!(candidates(""), ["HEAD"]);
        assert_eq!(candidates("v1"), ["refs/tags/v1", "refs/heads/v1", "refs/v1"]);
        assert_eq!(candidates("refs/pull/1/head"), ["refs/pull/1/head"]);
    }
}
