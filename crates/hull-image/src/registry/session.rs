//! One registry that was greeted, and who asks it.

use hyper::header::{AUTHORIZATION, HeaderValue, WARNING};
use hyper::{Method, StatusCode, Uri};
use tokio::sync::Mutex;

use super::Registries;
use super::challenge::Challenge;
use super::connect::basic;
use super::credentials::Credentials;
use super::failure::{Answer, Failure, shown};
use super::settings::{DEFAULT_REGISTRY, Endpoint};
use super::token::{Ask, Token};
use super::wire::{Call, Reply, same_place, told};

/// A registry that answers.
#[derive(Debug)]
pub struct Session {
    registries: Registries,
    /// Where it is.
    pub endpoint: Endpoint,
    /// `https://host`.
    base: String,
    /// How it wants to be told who asks.
    pub challenge: Challenge,
    who: Credentials,
    scopes: Vec<String>,
    token: Mutex<Option<Token>>,
    /// What it warned of, each once.
    warnings: std::sync::Mutex<Vec<String>>,
}

/// So many warnings of a registry are told.
const WARNINGS: usize = 8;

impl Registries {
    /// Greets a registry (`GET /v2/`), without TLS where it is insecure and has none. `scopes` are what is going to be
    /// asked of it: `repository:a/b:pull`. A mirror is told nothing of who asks.
    ///
    /// # Errors
    /// It does not answer, or is in no state to.
    pub async fn greet(
        &self,
        endpoint: &Endpoint,
        who: &Credentials,
        scopes: Vec<String>,
    ) -> Answer<Session> {
        who.check()?;
        let schemes: &[&str] = match endpoint.scheme {
            Some("http") => &["http"],
            Some(_) if !endpoint.insecure => &["https"],
            _ => &["https", "http"],
        };
        let mut last = None;
        for scheme in schemes {
            let base = format!("{scheme}://{}", endpoint.host);
            let url: Uri = format!("{base}/v2/").parse().map_err(|_| {
                Failure::Wrong(format!("{} is no registry's address", shown(&endpoint.host, 200)))
            })?;
            match self.send(Call::new(Method::GET, url), endpoint.insecure).await {
                Ok(reply)
                    if reply.status.is_server_error() || reply.status == StatusCode::TOO_MANY_REQUESTS =>
                {
                    return Err(reply.refusal().await);
                }
                Ok(reply) => {
                    let challenge = match reply.status {
                        StatusCode::UNAUTHORIZED => Challenge::of(&reply.headers),
                        _ => Challenge::None,
                    };
                    // Another may stand for Docker's own registry by the configuration; its users' passwords are not its.
                    let elsewhere = who.is_dockers() && endpoint.host != DEFAULT_REGISTRY;
                    let who = if endpoint.mirror || elsewhere { Credentials::default() } else { who.clone() };
                    return Ok(Session {
                        registries: self.clone(),
                        endpoint: endpoint.clone(),
                        base,
                        challenge,
                        who,
                        scopes,
                        token: Mutex::default(),
                        warnings: std::sync::Mutex::default(),
                    });
                }
                Err(failure) => {
                    // Whoever puts certificates right need not wait for them to be looked at again.
                    self.forget(&endpoint.host);
                    last = Some(failure);
                }
            }
        }
        Err(last.unwrap_or_else(|| Failure::Line(format!("{} does not answer", endpoint.host))))
    }
}

impl Session {
    /// An address of this registry: `/v2/…`.
    ///
    /// # Errors
    /// It cannot be one.
    pub fn url(&self, path: &str) -> Answer<Uri> {
        let text = format!("{}{path}", self.base);
        text.parse().map_err(|_| Failure::Wrong(format!("{} is no address", shown(&text, 300))))
    }

    /// All registries.
    pub fn registries(&self) -> &Registries {
        &self.registries
    }

    /// Sends a request, with what tells who asks where it goes to this registry; a token that does not hold any more
    /// is replaced once.
    ///
    /// # Errors
    /// No answer came, or one that refuses (anything from 400 on).
    pub async fn call(&self, mut call: Call) -> Answer<Reply> {
        if !same_place(&call.url, &self.url("/")?) {
            return success(self.registries.send(call, self.endpoint.insecure).await?).await;
        }
        let again = call.again();
        let used = self.authorise(&mut call, "").await?;
        let reply = self.send(call).await?;
        if reply.status != StatusCode::UNAUTHORIZED {
            return success(reply).await;
        }
        // What the greeting asked for need not be all: this request may want more, or its token is over.
        let Challenge::Bearer { scope, .. } = Challenge::of(&reply.headers) else {
            return success(reply).await;
        };
        {
            let mut token = self.token.lock().await;
            if token.as_ref().map(|token| &token.bearer) == used.as_ref() {
                *token = None;
            }
        }
        // A body that was streamed is sent again by who has it.
        let Some(mut call) = again else { return success(reply).await };
        self.authorise(&mut call, &scope).await?;
        success(self.send(call).await?).await
    }

    /// Sends a request to this registry, and notes what that warns of.
    async fn send(&self, call: Call) -> Answer<Reply> {
        let reply = self.registries.send(call, self.endpoint.insecure).await?;
        if same_place(&reply.url, &self.url("/")?) {
            let said =
                reply.headers.get_all(WARNING).iter().filter_map(|value| warning(value.to_str().ok()?));
            let mut warnings = self.warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for text in said {
                if warnings.len() < WARNINGS && !warnings.contains(&text) {
                    warnings.push(text);
                }
            }
        }
        Ok(reply)
    }

    /// What the registry warned of since this was asked the last time, in its own words.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Sends a request as it is where it says who asks, else as [`Session::call`] does. It is not asked again.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn tried(&self, call: Call) -> Answer<Reply> {
        match call.headers.contains_key(AUTHORIZATION) {
            true => success(self.registries.send(call, self.endpoint.insecure).await?).await,
            false => self.call(call).await,
        }
    }

    /// Puts into a request what tells who asks. The token that was used is returned.
    async fn authorise(&self, call: &mut Call, further: &str) -> Answer<Option<String>> {
        let value = match &self.challenge {
            Challenge::None => return Ok(None),
            _ if !self.who.registrytoken.is_empty() => format!("Bearer {}", self.who.registrytoken),
            Challenge::Basic if self.who.username.is_empty() => {
                return Err(Failure::Wrong(told(&call.method, &call.url, "no basic auth credentials")));
            }
            Challenge::Basic => basic(&self.who.username, &self.who.password),
            Challenge::Bearer { .. } => format!("Bearer {}", self.bearer(further).await?),
        };
        let bearer = value.strip_prefix("Bearer ").map(str::to_owned);
        if let Ok(mut value) = HeaderValue::from_str(&value) {
            value.set_sensitive(true);
            call.headers.insert(AUTHORIZATION, value);
        }
        Ok(bearer)
    }

    /// The token of this session; whoever comes while it is fetched waits for it.
    async fn bearer(&self, further: &str) -> Answer<String> {
        let mut token = self.token.lock().await;
        if let Some(token) = token.as_ref().filter(|token| token.until > std::time::Instant::now()) {
            return Ok(token.bearer.clone());
        }
        let fetched = self.fetch_token(further).await?;
        Ok(token.insert(fetched).bearer.clone())
    }

    async fn fetch_token(&self, further: &str) -> Answer<Token> {
        let Challenge::Bearer { realm, service, scope } = &self.challenge else {
            return Err(Failure::Wrong("the registry does not want tokens".to_owned()));
        };
        // What the registry names is only taken where nothing was said: a token for what it likes to name would be good
        // for more than was asked for.
        let named = [scope.as_str(), further].into_iter().flat_map(str::split_whitespace);
        let scopes: Vec<String> = match self.scopes.is_empty() {
            true => named.take(8).map(str::to_owned).collect(),
            false => self.scopes.clone(),
        };
        let ask = Ask { realm, service, scopes: &scopes, offline: false };
        let plain = self.base.starts_with("http:") || self.endpoint.insecure;
        self.registries.token(&ask, &self.who, plain).await
    }
}

/// The words of a `Warning` that is for people: `299 - "words"`.
pub(super) fn warning(header: &str) -> Option<String> {
    let text = header.trim().strip_prefix("299 ")?.trim_start().split_once(' ')?.1.trim();
    let text = text.strip_prefix('"')?.strip_suffix('"')?.replace("\\\"", "\"");
    (!text.is_empty()).then(|| shown(&text, 300))
}

/// An answer that does not refuse.
async fn success(reply: Reply) -> Answer<Reply> {
    if reply.status.is_client_error() || reply.status.is_server_error() {
        return Err(reply.refusal().await);
    }
    if !reply.status.is_success() {
        // Reads have been redirected by now; what is sent is not sent again to whoever is named.
        let status = reply.status;
        return Err(Failure::Wrong(format!("received unexpected HTTP status: {status}")));
    }
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::warning;

    #[test]
    fn warnings_for_people_are_told() {
        assert_eq!(warning(r#"299 - "it goes away""#).as_deref(), Some("it goes away"));
        assert_eq!(warning(r#"299 r.example "say \"hi\"""#).as_deref(), Some(r#"say "hi""#));
        for other in [r#"110 - "stale""#, "299", "299 -", r#"299 - """#, "299 - words"] {
            assert_eq!(warning(other), None, "{other}");
        }
    }
}
