//! A build that can begin, and what it made: of several platforms each is a [`Build`] of its own, and they run side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hull_engine::Kind;
use hull_image::reference::Reference;
use hull_image::{Draft, Image};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::build::{Build, Made};
use crate::caches::{KEPT, collect};
use crate::cancel::Stop;
use crate::dockerfile::Source;
use crate::dockerfile::lint::Warning;
use crate::exporting::Leaving;
use crate::failure::{Failure, Result};
use crate::logs::{Logs, Recording};
use crate::plan::Plan;
use crate::progress::Tell;
use crate::request::Request;

/// A build that has been looked through and can begin.
pub struct Prepared {
    build: Build,
    /// Those for further platforms.
    further: Vec<Build>,
    stop: Stop,
    logs: Logs,
    /// What is unwise about its Dockerfile.
    pub warnings: Vec<Warning>,
}

/// A build that came to its end.
pub struct Built {
    /// The image that is here; of several platforms, where none is, the first one's.
    pub image: Arc<Image>,
    /// What was made is an index of images.
    indexed: bool,
    /// Build arguments that nothing asked for.
    pub unused: Vec<String>,
    /// What is told of it under BuildKit's names: `containerimage.digest` and so on.
    pub told: BTreeMap<String, serde_json::Value>,
}

impl Built {
    /// By what it is known: the image's id, or the digest of the index; none where images went to no index.
    pub fn id(&self) -> Option<String> {
        match self.indexed {
            false => Some(self.image.id.to_string()),
            true => self.told.get("containerimage.digest")?.as_str().map(str::to_owned),
        }
    }
}

impl Prepared {
    pub(crate) fn of(
        builds: Vec<Build>,
        stop: &Stop,
        logs: &Logs,
        warnings: Vec<Warning>,
    ) -> Result<Prepared> {
        let mut builds = builds.into_iter();
        let Some(build) = builds.next() else {
            return Err(Failure::new(Kind::System, "the build is for no platform"));
        };
        Ok(Prepared { build, further: builds.collect(), stop: stop.clone(), logs: logs.clone(), warnings })
    }

    /// The stages that are built, in their order; of several platforms the first one's.
    pub fn plan(&self) -> &Plan {
        &self.build.plan
    }

    /// The names that the image gets, as people write them.
    pub fn names(&self) -> Vec<String> {
        self.build.names.iter().map(Reference::familiar).collect()
    }

    /// What is asked; of several platforms of the first.
    pub fn request(&self) -> &Request {
        &self.build.request
    }

    /// The Dockerfile.
    pub fn source(&self) -> &Source {
        &self.build.source
    }

    /// Builds, and delivers what was made. What goes on is told meanwhile.
    ///
    /// # Errors
    /// A step failed, or the build was stopped.
    pub async fn run(self, tell: Tell) -> Result<Built> {
        // Boxed, as what follows: what these keep is large, and the daemon's threads have small stacks.
        let made = Box::pin(self.make(tell)).await?;
        Box::pin(made.deliver()).await
    }

    /// Builds, and leaves it to whoever asks whether what was made gets its names and goes anywhere.
    ///
    /// # Errors
    /// A step failed, or the build was stopped.
    pub async fn make(self, tell: Tell) -> Result<Undelivered> {
        let Prepared { build, further, stop, logs, .. } = self;
        let recording = Arc::new(logs.record(&build.request, &build.source.name, tell).begun());
        let begun = |mut build: Build| {
            build.tell = Arc::clone(&recording) as Tell;
            Arc::new(build)
        };
        let first = begun(build);
        let builds: Vec<Arc<Build>> =
            std::iter::once(Arc::clone(&first)).chain(further.into_iter().map(begun)).collect();
        let made = tokio::select! {
            biased;
            () = stop.stopped() => Err(Failure::cancelled()),
            made = Box::pin(all_made(&builds)) => made,
        };
        for build in &builds {
            build.close().await;
        }
        let mut undelivered = Undelivered { build: first, stop, logs, recording, made: Vec::new() };
        match made {
            Ok(made) => {
                let leaving = |(build, made): (_, Made)| Leaving { build, draft: made.draft };
                undelivered.made = builds.into_iter().zip(made).map(leaving).collect();
                Ok(undelivered)
            }
            Err(failure) => {
                undelivered.recording.ended(Err(&failure));
                Err(failure)
            }
        }
    }
}

/// So many platforms' builds run side by side: each has steps of its own that do, and a container for each of those.
const SIDE_BY_SIDE: usize = 8;

/// What builds make that run side by side, in their order. Where one fails the others end.
async fn all_made(builds: &[Arc<Build>]) -> Result<Vec<Made>> {
    let mut running = JoinSet::new();
    // A build waits for steps of those alone that have a place, too.
    let places = Arc::new(Semaphore::new(SIDE_BY_SIDE));
    for (number, build) in builds.iter().enumerate() {
        let (build, places) = (Arc::clone(build), Arc::clone(&places));
        running.spawn(async move {
            let _place = places.acquire().await;
            // What caches a registry has is fetched for one platform beside the other, too.
            Box::pin(build.begin()).await;
            (number, build.make().await)
        });
    }
    let mut made = BTreeMap::new();
    let mut interrupted = None;
    while let Some(ended) = running.join_next().await {
        let (number, ended) = ended.map_err(|error| Failure::system("build for a platform", error))?;
        match ended {
            Ok(one) => drop(made.insert(number, one)),
            // Another has failed: why, that one says.
            Err(failure) if failure.detail.interrupted => interrupted = Some(failure),
            Err(failure) => {
                running.shutdown().await;
                return Err(failure);
            }
        }
    }
    match interrupted {
        Some(failure) => Err(failure),
        None => Ok(made.into_values().collect()),
    }
}

/// What a build made, without a name yet. Dropped, it stays without.
pub struct Undelivered {
    build: Arc<Build>,
    stop: Stop,
    logs: Logs,
    recording: Arc<Recording>,
    /// For each platform; none: it was delivered, or nothing was made.
    made: Vec<Leaving>,
}

impl Undelivered {
    /// The images, one for each platform.
    pub fn drafts(&self) -> Vec<Draft> {
        self.made.iter().map(|one| one.draft.clone()).collect()
    }

    /// Whether they are an index's.
    pub fn is_indexed(&self) -> bool {
        self.build.request.indexed
    }

    /// The names that it gets, as people write them.
    pub fn names(&self) -> Vec<String> {
        self.build.names.iter().map(Reference::familiar).collect()
    }

    /// The image that stays on this machine, where one does not only go elsewhere.
    pub fn stays(&self) -> Option<&Draft> {
        self.build.staying(&self.made).map(|one| &one.draft)
    }

    /// Gives it its names, and sends it where the request wants it.
    ///
    /// # Errors
    /// It cannot be entered or sent, or the build was stopped.
    pub async fn deliver(mut self) -> Result<Built> {
        let leaving = std::mem::take(&mut self.made);
        let delivered = tokio::select! {
            biased;
            () = self.stop.stopped() => Err(Failure::cancelled()),
            delivered = Box::pin(self.build.deliver(&leaving)) => delivered,
        };
        self.recording.ended(delivered.as_ref().map(|(image, _)| image.id.to_string()));
        let (image, told) = delivered?;
        Ok(Built { image, indexed: self.is_indexed(), unused: unused(&leaving), told })
    }
}

/// Build arguments that no platform's build asked for.
fn unused(all: &[Leaving]) -> Vec<String> {
    let mut lists = all.iter().map(|one| one.build.not_consumed().into_iter().collect::<BTreeSet<_>>());
    let first = lists.next().unwrap_or_default();
    lists.fold(first, |so_far, list| so_far.intersection(&list).cloned().collect()).into_iter().collect()
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        if let Some(first) = self.made.first() {
            self.recording.ended(Ok(first.draft.image.id.to_string()));
        }
        let (engine, contexts) = (Arc::clone(&self.build.engine), Arc::clone(&self.build.contexts));
        let logs = self.logs.clone();
        // Behind: what is used least gives way to what was made now.
        let tidy = move || {
            logs.tidy();
            if let Err(error) = collect(&engine, KEPT) {
                tracing::warn!(%error, "steps of builds that are not used any more could not be removed");
            }
            if let Err(error) = contexts.collect() {
                tracing::warn!(%error, "contexts of builds that are not used any more could not be removed");
            }
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(tidy);
        }
    }
}
