//! A blob, however often the line breaks: what is there is not fetched again.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::header::CONTENT_LENGTH;
use tokio::sync::mpsc;

use super::connect::is_loopback;
use super::failure::{Answer, Failure};
use super::manifest::{Descriptor, is_foreign};
use super::repository::{Blob, Repository};
use super::sources::{Current, Sources};
use crate::store::receive::Piece;

/// How often the progress is told.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// A line that brings fewer bytes than this at a time, on average, is not worth going on with.
const WORTH: u64 = 4 << 10;
/// Behind so many lines of which nothing came, the next is asked for the whole.
const WITHOUT_RANGE: usize = 3;
/// So many lines may be worth less.
const FORGIVEN: u64 = 64;

/// A blob that is fetched.
pub(super) struct Fetch<'a> {
    pub(super) sources: &'a Sources,
    pub(super) layer: &'a Descriptor,
    /// How often nothing may come.
    pub(super) attempts: usize,
    /// Told how many bytes are here.
    pub(super) progress: &'a (dyn Fn(u64) + Send + Sync),
}

/// Why a fetch ended early.
pub(super) enum Stopped {
    /// The registry failed.
    Failed(Failure),
    /// Whoever takes the bytes has had enough, and knows why.
    Unwanted,
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Stopped {
        Stopped::Failed(failure)
    }
}

impl Fetch<'_> {
    /// Fetches what is behind the first `at` bytes.
    pub(super) async fn run(&self, mut at: u64, pieces: &mpsc::Sender<Piece>) -> Result<(), Stopped> {
        let mut current = None;
        let (mut idle, mut lines) = (0, 0);
        loop {
            if at == self.layer.size {
                (self.progress)(at);
                return pieces.send(Piece::End).await.map_err(|_| Stopped::Unwanted);
            }
            let place: Current = match current.take() {
                Some(place) => place,
                None => self.sources.current().await?,
            };
            let before = at;
            lines += 1;
            // A registry that answers ranges wrongly may know how to send the whole.
            let from = if idle == WITHOUT_RANGE { 0 } else { at };
            let failure = match self.one_line(&place.repository, from, &mut at, pieces).await {
                Ok(()) => continue,
                Err(Stopped::Unwanted) => return Err(Stopped::Unwanted),
                Err(Stopped::Failed(failure)) => failure,
            };
            idle = if at > before { 0 } else { idle + 1 };
            // A mirror is left at its first failure: there is another place for the same.
            let hopeless = place.repository.session.endpoint.mirror
                || !failure.is_passing()
                || idle >= self.attempts
                || lines > FORGIVEN + at / WORTH;
            if hopeless {
                current = Some(self.sources.after(&place, failure).await?);
                (idle, lines) = (0, 0);
                continue;
            }
            tracing::debug!(digest = %self.layer.digest, at, %failure, "a download goes on");
            if let Some(wait) = pause(&failure, idle) {
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// Reads as much as one line gives.
    async fn one_line(
        &self,
        repository: &Repository,
        from: u64,
        at: &mut u64,
        pieces: &mpsc::Sender<Piece>,
    ) -> Result<(), Stopped> {
        let Blob { mut reply, start } = self.open(repository, from).await?;
        // A registry that knows no ranges sends from the beginning.
        let mut skip = *at - start;
        let mut told = Instant::now();
        while let Some(mut piece) = reply.chunk().await? {
            if skip > 0 {
                let skipped = skip.min(piece.len() as u64);
                // At most the piece's own length.
                drop(piece.split_to(skipped as usize));
                skip -= skipped;
            }
            if piece.is_empty() {
                continue;
            }
            if *at + piece.len() as u64 > self.layer.size {
                return Err(Failure::Wrong(format!(
                    "the layer {} is longer than the {} bytes that its manifest says",
                    self.layer.digest, self.layer.size
                ))
                .into());
            }
            *at += piece.len() as u64;
            pieces.send(Piece::Bytes(piece)).await.map_err(|_| Stopped::Unwanted)?;
            if told.elapsed() >= TICK {
                told = Instant::now();
                (self.progress)(*at);
            }
        }
        if *at < self.layer.size {
            return Err(Failure::Line(format!(
                "the layer {} ended after {at} of {} bytes: unexpected EOF",
                self.layer.digest, self.layer.size
            ))
            .into());
        }
        Ok(())
    }

    /// From the repository, or where a foreign layer says that it is.
    async fn open(&self, repository: &Repository, at: u64) -> Answer<Blob> {
        let failure = match repository.blob(&self.layer.digest, at).await {
            Ok(blob) => return Ok(blob),
            Err(failure) => failure,
        };
        match &failure {
            Failure::Refused(refusal) if refusal.status == StatusCode::RANGE_NOT_SATISFIABLE => {
                // One that knows no ranges should send the whole, and some say this instead.
                let blob = repository.blob(&self.layer.digest, 0).await?;
                let length = blob.reply.header(CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
                return match length.is_none_or(|length| length > at) {
                    true => Ok(blob),
                    false => Err(Failure::Wrong(format!(
                        "the layer {} has no more than {at} of the {} bytes that its manifest says",
                        self.layer.digest, self.layer.size
                    ))),
                };
            }
            Failure::Refused(refusal) if refusal.status == StatusCode::NOT_FOUND => {}
            _ => return Err(failure),
        }
        if !is_foreign(&self.layer.media_type) {
            return Err(failure);
        }
        // The port's colon is the last one.
        let host = &repository.session.endpoint.host;
        let near = is_near(host.rsplit_once(':').map_or(host.as_str(), |(host, _)| host));
        for url in &self.layer.urls {
            let Some(url) = address(url, near) else { continue };
            match repository.blob_at(url, at).await {
                Ok(blob) => return Ok(blob),
                Err(failure) => {
                    tracing::debug!(digest = %self.layer.digest, %failure, "a foreign layer's address")
                }
            }
        }
        Err(failure)
    }
}

/// Where a foreign layer may be fetched: what a registry far away names is far away too, and not this machine, its network
/// or its cloud's own services.
fn address(url: &str, near: bool) -> Option<hyper::Uri> {
    let url: hyper::Uri = url.parse().ok()?;
    let host = url.host()?;
    (matches!(url.scheme_str(), Some("http" | "https")) && (near || !is_near(host))).then_some(url)
}

/// Whether a host is this machine, or by its address one of a network of its own.
fn is_near(host: &str) -> bool {
    let is_private = |address: IpAddr| match address {
        IpAddr::V4(address) => address.is_private() || address.is_link_local() || address.is_unspecified(),
        IpAddr::V6(address) => {
            address.is_unique_local() || address.is_unicast_link_local() || address.is_unspecified()
        }
    };
    let address = host.trim_matches(['[', ']']).parse().map(|address: IpAddr| address.to_canonical());
    is_loopback(host) || address.is_ok_and(|address| address.is_loopback() || is_private(address))
}

/// How long nothing is asked: at once where something came, as long as the registry says, or longer each time.
fn pause(failure: &Failure, idle: usize) -> Option<Duration> {
    let asked = failure.asked_to_wait();
    match (asked, idle) {
        (Some(asked), _) => Some(asked),
        (None, 0) => None,
        (None, idle) => Some(Duration::from_millis(250) * (1 << idle.min(6)) as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::super::failure::{LONGEST_WAIT, Refusal};
    use super::*;

    #[test]
    fn what_came_is_gone_on_with_at_once() {
        let broken = Failure::Line("broken".into());
        assert_eq!(pause(&broken, 0), None);
        assert!(pause(&broken, 1) < pause(&broken, 2));
        let asked = |text: &str| {
            let retry_after = Some(text.to_owned());
            let status = StatusCode::TOO_MANY_REQUESTS;
            pause(
                &Failure::Refused(Refusal {
                    status,
                    code: String::new(),
                    message: String::new(),
                    retry_after,
                    received: None,
                }),
                1,
            )
        };
        assert_eq!(asked("3"), Some(Duration::from_secs(3)));
        assert_eq!(asked("99999999"), Some(LONGEST_WAIT));
        assert_eq!(asked("tomorrow"), Some(Duration::from_millis(500)));
    }

    #[test]
    fn foreign_layers_are_fetched_by_http_only() {
        assert!(address("https://cdn.example/layer", false).is_some());
        for other in ["file:///etc/shadow", "ftp://x/y", "/x", ""] {
            assert!(address(other, true).is_none(), "{other}");
        }
    }

    #[test]
    fn foreign_layers_of_registries_far_away_are_not_near() {
        for near in
            ["http://127.0.0.1:1/x", "http://localhost/x", "http://169.254.169.254/x", "http://10.0.0.1/x"]
                .into_iter()
                .chain([
                    "http://[::1]/x",
                    "http://[fe80::1]/x",
                    "http://[::ffff:127.0.0.1]/x",
                    "http://0.0.0.0/x",
                ])
        {
            assert!(address(near, false).is_none() && address(near, true).is_some(), "{near}");
        }
    }
}
