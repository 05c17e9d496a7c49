//! One build that a client ordered: what it needs is asked for over the session, in the order of what is known, and then
//! hull's builder builds it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use hull_build::context::{Context, Folder};
use hull_build::dockerfile::{self, Dockerfile, Source};
use hull_build::plan::{Plan, plan};
use hull_build::progress::Listener;
use hull_build::{Builder, Built, Failure, Prepared, Request, Stop, Undelivered, shown};
use hull_engine::Engine;
use hull_image::Draft;

use crate::failing::{Failed, failed};
use crate::filesync::{Contexts, Name, Wanted, receive};
use crate::order::{Order, Place};
use crate::outgoing::{Carrier, Way};
use crate::patience::Patience;
use crate::questions::Question;
use crate::results::unwise;
use crate::session::{Key, Session, Sessions};
use crate::trace::{Trace, Work, definition};
use crate::upload::Upload;

/// The patterns of what a context is without.
const IGNORE: &str = ".dockerignore";

/// A build that goes on.
pub(crate) struct Job {
    pub(crate) engine: Arc<Engine>,
    pub(crate) builder: Arc<Builder>,
    pub(crate) contexts: Contexts,
    pub(crate) session: Arc<Session>,
    /// Where other sessions are, which folders may be on.
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) trace: Arc<Trace>,
    pub(crate) stop: Stop,
}

/// How a build came to its end.
pub(crate) enum Ended {
    /// With an image, which has no name yet and went nowhere.
    Made(Box<Made>),
    /// Only something about the Dockerfile was asked: this.
    Told(HashMap<String, Vec<u8>>),
}

/// What a build made.
pub(crate) struct Made {
    undelivered: Undelivered,
    carrier: Arc<Carrier>,
    source: Source,
}

impl Made {
    /// The images, one for each platform.
    pub(crate) fn drafts(&self) -> Vec<Draft> {
        self.undelivered.drafts()
    }

    /// Whether they are an index's.
    pub(crate) fn is_indexed(&self) -> bool {
        self.undelivered.is_indexed()
    }
}

/// Gives what was made its names, and sends it where it was asked for.
pub(crate) async fn deliver(trace: &Trace, made: Made) -> Result<Built, Failed> {
    let Made { undelivered, carrier, source } = made;
    if let Err(status) = carrier.begin().await {
        trace.end(Some(&status.message));
        return Err(Failed { failure: failed(status), source: Some(source) });
    }
    let (names, stays) = (undelivered.names(), undelivered.stays().is_some());
    let delivered = undelivered.deliver().await;
    match &delivered {
        Ok(built) => {
            if stays {
                let exported = trace.begin("exporting to image");
                exported.part(&format!("writing image {}", built.image.id));
                names.iter().for_each(|name| exported.part(&format!("naming to {name}")));
                exported.done();
            }
            trace.end(None);
        }
        Err(failure) => trace.end(Some(&failure.message)),
    }
    delivered.map_err(|failure| Failed { failure, source: Some(source) })
}

/// The sessions that folders are on.
pub(crate) struct Folders {
    session: Arc<Session>,
    others: BTreeMap<String, Arc<Session>>,
}

impl Folders {
    pub(crate) fn of(&self, folder: &str) -> &Session {
        self.others.get(folder).unwrap_or(&self.session)
    }
}

/// By what a folder of a client's is known again. What comes by a socket with a policy is no others'.
fn key(session: &Session, name: &str, request: &Request) -> String {
    let socket = request.socket.as_ref().map(|path| path.as_os_str().as_encoded_bytes());
    let key = hull_build::key::Key::of("context");
    key.with(socket.unwrap_or_default()).with(name).with_all(session.client()).finish().hex()
}

/// The Dockerfile of a build, and the patterns beside it.
struct Definition {
    source: Source,
    ignore: Option<String>,
}

impl Job {
    /// Builds. `archive` is the context, where somebody else than the session has it.
    pub(crate) async fn run(
        &self,
        mut order: Order,
        archive: Option<Box<dyn Read + Send>>,
    ) -> Result<Ended, Failed> {
        let ways = std::mem::take(&mut order.ways);
        let question = order.question;
        let prepared = tokio::select! {
            biased;
            () = self.stop.stopped() => Err(Failure::cancelled().into()),
            prepared = self.prepared(order, archive) => prepared,
        };
        let ended = match (prepared, question) {
            (Ok((prepared, _)), Some(question)) => answered(question, &prepared),
            (Ok(prepared), None) => self.built(prepared, ways).await,
            (Err(failed), _) => Err(failed),
        };
        match &ended {
            Ok(Ended::Made(_)) => {}
            Ok(Ended::Told(_)) => self.trace.end(None),
            Err(failed) => self.trace.end(Some(&failed.failure.message)),
        }
        ended
    }

    /// Asks for all that the build needs.
    async fn prepared(
        &self,
        order: Order,
        archive: Option<Box<dyn Read + Send>>,
    ) -> Result<(Prepared, bool), Failed> {
        let Order { mut request, context, dockerfile, named, sessions, caches, question, .. } = order;
        let folders = self.folders(sessions).await?;
        for (name, place) in named {
            let stands_for = self.named(&name.to_ascii_lowercase(), place, &request, &folders).await?;
            request.contexts.extend(stands_for);
        }
        for (store, digest) in caches {
            self.cached(store, digest, &mut request).await;
        }
        let definition = match dockerfile.is_empty() {
            true => None,
            false => Some(self.definition((&dockerfile, folders.of(&dockerfile)), &request).await?),
        };
        let of_definition =
            definition.as_ref().map(|definition| planned(&definition.source, &request)).transpose()?;
        if let Some((_, plans)) = &of_definition {
            self.ask_for_what_is_private(&mut request, plans).await?;
        }
        let source = definition.as_ref().map(|definition| definition.source.clone());
        if let Some(source) = &source {
            request.dockerfile = source.name.clone();
            request.dockerfile_text = Some(source.text.clone());
        }
        let of_source = |failure: Failure| Failed { failure, source: source.clone() };
        let context = match (context, archive) {
            (_, Some(archive)) => self.unpacked(archive).await?,
            (Place::Upload(path), None) => {
                let patience = self.patience(&self.session).await?;
                let upload = Upload::open(&self.session, &path, patience).map_err(failed)?;
                self.unpacked(Box::new(upload)).await?
            }
            (Place::Folder(name), None) => {
                let ignore = definition.and_then(|definition| definition.ignore);
                let asked = question.is_some() || request.check_only;
                let mut paths = of_definition.as_ref().and_then(|(_, plans)| self.paths(plans));
                let folder = (&*name, folders.of(&name));
                let takes = !paths.as_ref().is_some_and(BTreeSet::is_empty);
                if takes && question.is_none() {
                    request.ignore_text = self.ignored(folder, ignore).await?;
                }
                if asked && of_definition.is_some() {
                    // What is asked of the Dockerfile alone needs no files.
                    paths = Some(BTreeSet::new());
                }
                let ignore = request.ignore_text.clone();
                self.received(folder, "[internal] load build context", &request, ignore, paths).await?
            }
            (Place::Address(address), None) => {
                self.ask_for_git(&mut request, &address).await?;
                let work =
                    self.trace.begin(&format!("[internal] load remote build context {}", shown(&address)));
                let context = self.builder.fetch_context(&address, &mut request, &self.stop).await?;
                work.done();
                context
            }
            (Place::Archive, None) => {
                return Err(Failure::invalid("the build context did not come").into());
            }
        };
        if of_definition.is_none()
            && let Some(source) = Self::source_in(&context, &request)?
            // What is wrong with it is told when it is read as a whole.
            && let Ok((_, plans)) = planned(&source, &request)
        {
            self.ask_for_what_is_private(&mut request, &plans).await?;
        }
        let check_only = request.check_only;
        let (builder, stop) = (Arc::clone(&self.builder), self.stop.clone());
        let prepared =
            blocking("prepare the build", move || builder.prepare_with(request, context, &stop)).await;
        let prepared = prepared.map_err(of_source)?;
        self.trace.prepared(&prepared);
        Ok((prepared, check_only))
    }

    /// Builds what has been prepared, unless only what is unwise about it was asked.
    async fn built(
        &self,
        (mut prepared, check_only): (Prepared, bool),
        ways: Vec<(Way, usize)>,
    ) -> Result<Ended, Failed> {
        if check_only {
            let warnings = std::mem::take(&mut prepared.warnings);
            return Ok(Ended::Told(unwise(&warnings, prepared.source())));
        }
        let source = prepared.source().clone();
        let carrier = Carrier::new(&self.trace, &self.session, ways, &self.stop);
        match prepared.make(Arc::clone(&carrier) as Arc<dyn Listener>).await {
            Ok(undelivered) => Ok(Ended::Made(Box::new(Made { undelivered, carrier, source }))),
            Err(failure) => Err(Failed { failure, source: Some(source) }),
        }
    }

    /// A place for a thread that works with a session.
    pub(crate) async fn patience(&self, session: &Session) -> Result<Arc<Patience>, Failure> {
        Patience::take(&session.places, &self.stop).await.map_err(failed)
    }

    /// Fetches the Dockerfile, and the patterns of its own that may lie beside it.
    async fn definition(&self, folder: (&str, &Session), request: &Request) -> Result<Definition, Failure> {
        let given = request.dockerfile.trim_start_matches("./");
        let name = if given.is_empty() { "Dockerfile" } else { given };
        let mut work = self.trace.begin(&definition(name));
        let own = format!("{name}.dockerignore");
        let mut paths = vec![name.to_owned(), own.clone()];
        // As Docker does, whoever wrote it small.
        let lower = name.strip_suffix("Dockerfile").map(|folder| format!("{folder}dockerfile"));
        paths.extend(lower.clone());
        let fetched = self.fetched(folder, paths, (&work, "transferring dockerfile:")).await;
        let found = fetched.and_then(|context| {
            let text = match context.text(name)? {
                None => lower.map(|lower| context.text(&lower)).transpose()?.flatten(),
                text => text,
            };
            Ok((text, context.text(&own)?))
        });
        let missing =
            || Failure::invalid(format!("failed to read dockerfile: open {name}: no such file or directory"));
        let found = found.and_then(|(text, ignore)| Ok((text.ok_or_else(missing)?, ignore)));
        work.ended(found.as_ref().err().map_or("", |failure| &failure.message));
        let (text, ignore) = found?;
        Ok(Definition { source: Source { name: name.to_owned(), text }, ignore })
    }

    /// Some small files of a folder of the client's, which nobody keeps.
    async fn fetched(
        &self,
        (folder, session): (&str, &Session),
        paths: Vec<String>,
        (work, what): (&Work<'_>, &str),
    ) -> Result<Context, Failure> {
        let temporary = Folder::beneath(&self.builder.places().temporary)?;
        let wanted = Wanted::files(folder, paths);
        let files = receive(
            (session, self.patience(session).await?),
            &wanted,
            temporary.path(),
            Default::default(),
            |_| {},
        )
        .await?;
        let bytes = files.iter().map(|file| u64::try_from(file.size).unwrap_or(0)).sum();
        work.transferred(what, bytes);
        let path = temporary.path().to_owned();
        Context::of_folder(&path, temporary)
    }

    /// What a folder is said to be without: the Dockerfile's own patterns, or those that lie in it.
    pub(crate) async fn ignored(
        &self,
        folder: (&str, &Session),
        own: Option<String>,
    ) -> Result<Option<String>, Failure> {
        if own.is_some() {
            return Ok(own);
        }
        let work = self.trace.begin(&format!("[internal] load {IGNORE}"));
        let fetched = self.fetched(folder, vec![IGNORE.to_owned()], (&work, "transferring context:")).await?;
        let text = fetched.text(IGNORE)?;
        work.done();
        Ok(text)
    }

    /// Receives the context: only what the plan takes of it, and of that only what is not here.
    pub(crate) async fn received(
        &self,
        (name, session): (&str, &Session),
        called: &str,
        request: &Request,
        ignore: Option<String>,
        paths: Option<BTreeSet<String>>,
    ) -> Result<Context, Failure> {
        if paths.as_ref().is_some_and(BTreeSet::is_empty) {
            // Nothing of it is copied.
            return Context::of_file(&self.builder.places().temporary, ".empty", &[]);
        }
        let excluded = ignore.as_deref().map(patterns).unwrap_or_default();
        hull_build::ignore::Ignore::of(excluded.iter().map(String::as_str))
            .map_err(|message| Failure::invalid(format!("failed to parse {IGNORE}: {message}")))?;
        let followed = paths.unwrap_or_default().into_iter().collect();
        let wanted = Wanted { name: name.to_owned(), followed, excluded };
        let contexts = self.contexts.clone();
        let name = Name { key: key(session, name, request), socket: request.socket.clone() };
        let on = (session, self.patience(session).await?);
        let (mut held, before) = blocking("open the build context", move || contexts.take(&name)).await?;
        let work = self.trace.begin(called);
        let told = {
            let (trace, digest) = (Arc::clone(&self.trace), work.digest().to_owned());
            move |bytes| trace.transferred(&digest, "transferring context:", bytes)
        };
        let files = receive(on, &wanted, &held.path(), before, told).await?;
        let held = blocking("keep the build context", move || {
            held.complete(&files)?;
            Ok(held)
        })
        .await?;
        work.done();
        let path = held.path();
        Context::of_folder(&path, held)
    }

    /// Which sessions the client's folders are on.
    async fn folders(&self, named: BTreeMap<String, String>) -> Result<Folders, Failure> {
        let mut others = BTreeMap::new();
        for (folder, id) in named {
            let key = Key { id, socket: self.socket.clone() };
            others.insert(folder, self.sessions.get(&key).await.map_err(failed)?);
        }
        Ok(Folders { session: Arc::clone(&self.session), others })
    }

    /// Unpacks a context that comes as an archive.
    async fn unpacked(&self, mut archive: Box<dyn Read + Send>) -> Result<Context, Failure> {
        let work = self.trace.begin("[internal] load build context");
        let parent = self.builder.places().temporary.clone();
        let context = blocking("read the build context", move || {
            let context = Context::read(&parent, &mut archive)?;
            // What comes behind the archive is read too: the client is still sending it.
            std::io::copy(&mut archive, &mut std::io::sink())
                .map_err(|error| Failure::system("read the build context", error))?;
            Ok(context)
        })
        .await?;
        work.done();
        Ok(context)
    }

    /// The Dockerfile that came with the context, by itself or in it; none where there is none.
    fn source_in(context: &Context, request: &Request) -> Result<Option<Source>, Failure> {
        let given = request.dockerfile.trim_start_matches("./");
        let name = if given.is_empty() { "Dockerfile" } else { given };
        let text = match &request.dockerfile_text {
            Some(text) => Some(text.clone()),
            None => context.text(name)?,
        };
        Ok(text.map(|text| Source { name: name.to_owned(), text }))
    }
}

/// What is asked of a Dockerfile that nobody builds.
fn answered(question: Question, prepared: &Prepared) -> Result<Ended, Failed> {
    let source = prepared.source();
    let (file, plans) = planned(source, prepared.request())?;
    let mut told = HashMap::new();
    // Of several platforms the first: what is asked of the Dockerfile is the same for all.
    if let Some((request, plan)) = plans.first() {
        told = question.answered((&file, plan), source, request);
    }
    Ok(Ended::Told(told))
}

/// The patterns of a `.dockerignore`, as clients take them.
fn patterns(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::trim);
    let cleaned = |line: &str| {
        let (negated, pattern) = match line.strip_prefix('!') {
            Some(rest) => ("!", rest.trim()),
            None => ("", line),
        };
        let pattern = pattern.trim_start_matches('/');
        let pattern = pattern.strip_prefix("./").unwrap_or(pattern).trim_end_matches('/');
        format!("{negated}{pattern}")
    };
    // The folder itself is never left out.
    lines.map(cleaned).filter(|pattern| !matches!(pattern.as_str(), "" | "." | "!.")).collect()
}

/// Reads a Dockerfile, and what of it is needed for each platform.
fn planned(source: &Source, request: &Request) -> Result<(Dockerfile, Vec<(Request, Plan)>), Failed> {
    let of_source =
        |mistake| Failed { failure: Failure::of_mistake(&mistake, source), source: Some(source.clone()) };
    if source.text.trim().is_empty() {
        return Err(Failure::invalid(format!("the Dockerfile ({}) cannot be empty", source.name)).into());
    }
    let file = dockerfile::parse(&source.text).map_err(of_source)?;
    let mut plans = Vec::new();
    for request in request.each() {
        let plan = plan(&file, &request).map_err(of_source)?;
        plans.push((request, plan));
    }
    Ok((file, plans))
}

pub(crate) async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Failure::system(doing, error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_cleaned() {
        let text = "# no\n/a/\n\n ./b \n!/c\n.\n**/*.log\n";
        assert_eq!(patterns(text), ["a", "b", "!c", "**/*.log"]);
    }
}
