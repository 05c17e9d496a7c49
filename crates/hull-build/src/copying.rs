//! COPY, ADD and WORKDIR: files written straight into what becomes the layer.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hull_engine::model::CreateBody;
use hull_image::archive::{self, DigestOptions, Entering, Found};
use hull_image::{Digest, Draft, ImageConfig, Taken};
use sha2::{Digest as _, Sha256};

use crate::behind::known_by;
use crate::build::{Build, Origin};
use crate::copies::{Files, Placed, Wanted};
use crate::dockerfile::{Add, Copy};
use crate::elsewhere::repository;
use crate::failure::{Failure, Result};
use crate::fetching::fetch;
use crate::git;
use crate::intermediate::Doing;
use crate::key::Key;
use crate::metadata::{Change, shell};
use crate::stage::{Outcome, Stage};

/// What is said of a copy that is kept by the stage that it is of.
const BY_STAGE: &str = "the same, by its stage";

impl Stage {
    /// COPY, and ADD of what is here.
    pub(crate) async fn copy(&mut self, copy: &Copy, add: Option<&Add>) -> Result<Outcome> {
        let mut wanted = self.wanted(copy, add)?;
        if let Some(from) = &wanted.from {
            self.wait_for(from).await?;
        }
        let origin_key = match &wanted.from {
            Some(from) => self.build.origin_key(self.index, from).await?,
            None => None,
        };
        self.resolve(&mut wanted).await?;
        // What stands on the same stage and takes the same from it need not be looked at, nor what a commit has.
        let quick = origin_key.map(|key| self.copy_key(&wanted, "from").with(key.to_string()).finish());
        let quick =
            quick.or_else(|| wanted.is_of_commits().then(|| self.copy_key(&wanted, "commits").finish()));
        if let Some(mut outcome) = quick.map(|quick| self.kept(quick)).transpose()?.flatten() {
            outcome.made.key = self.copied_key(&outcome);
            return Ok(outcome);
        }
        // Nor what is copied of a context in the same state.
        let state = self.build.context.state().filter(|_| wanted.is_of_context());
        let by = state.map(|state| self.copy_key(&wanted, "state").with(state.to_string()).finish());
        let known = by.and_then(|by| self.build.contexts.copy_known(&by));
        if let Some(outcome) = known.map(|key| self.kept(key)).transpose()?.flatten() {
            return Ok(outcome);
        }
        let origin = match &wanted.from {
            Some(from) => Some(Box::pin(self.build.origin(self.index, from)).await?),
            None => None,
        };
        let into_folder = wanted.destination.ends_with('/');
        for address in &wanted.addresses {
            let (registries, parent) = (self.build.engine.registries(), &self.build.places.temporary);
            let stop = &self.build.stop;
            let fetched =
                Box::pin(fetch(registries, parent, ("ADD failed:", address), into_folder, stop)).await?;
            fetched.check(wanted.checksum.as_deref())?;
            wanted.fetched.push(Arc::new(fetched));
        }
        for (address, commit) in &wanted.repositories {
            let Some(commit) = commit else { continue };
            let fetcher = self.build.fetcher();
            let fetched = Box::pin(repository(&fetcher, address, *commit, wanted.keep_git_dir)).await?;
            wanted.fetched.push(Arc::new(fetched));
        }
        let wanted = Arc::new(wanted);
        let (placed, digest) = self.looked_at(&wanted, origin.as_ref()).await?;
        let key = self.copy_key(&wanted, "files").with(digest.to_string()).finish();
        if let Some(by) = by {
            self.build.contexts.note_copy(by, key);
        }
        let shell = shell(&self.made.draft.image.container_config());
        let doing = self.doing(wanted.done(shell, &digest, &placed));
        let created_by = doing.line();
        let mut outcome = match self.found(key, &created_by, |_: &mut ImageConfig| Ok(()))? {
            Some(outcome) => outcome,
            None => {
                let turn = self.turn(key).await;
                match self.kept(key)? {
                    Some(outcome) => outcome,
                    None => {
                        let taken = self.copied(&wanted, placed, origin.as_ref()).await?;
                        let entered =
                            self.entered(key, doing, taken, Some(turn), |_: &mut ImageConfig| Ok(()));
                        Box::pin(entered).await?
                    }
                }
            }
        };
        if let Some(quick) = quick {
            if !outcome.borrowed {
                self.keep_quick(quick, &outcome.made.draft)?;
            }
            outcome.made.key = self.copied_key(&outcome);
        }
        Ok(outcome)
    }

    /// By what that which follows a copy of a stage is known: the same by whichever of its two keys the copy was found.
    /// One that another image gave keeps its key, which has the layer's digest in it: the moment that tells the copies that
    /// were made here apart is that image's word.
    fn copied_key(&self, outcome: &Outcome) -> Digest {
        if outcome.borrowed {
            return outcome.made.key;
        }
        let now = &outcome.made.draft.image.config;
        let new = known_by(&self.made.draft.image.config, now);
        let line = now.history.last().map(|line| line.created_by.as_str()).unwrap_or_default();
        let key = Key::of("copied").with(self.made.key.to_string()).with(line);
        key.with_all(new).finish()
    }

    /// Keeps a copy by its stage too, once its layer has its digest.
    fn keep_quick(&mut self, quick: Digest, draft: &Draft) -> Result<()> {
        let doing = Doing { words: vec![BY_STAGE.to_owned()], ..Doing::default() };
        match &mut self.behind {
            Some(behind) => behind.note(quick, draft, doing),
            None => self.build.keep(&quick, draft, &doing, 0)?,
        }
        Ok(())
    }

    /// Finds out which commits are meant.
    async fn resolve(&self, wanted: &mut Wanted) -> Result<()> {
        for (address, commit) in &mut wanted.repositories {
            let meant = Box::pin(self.build.fetcher().resolve(address)).await?;
            if let Some(checksum) = wanted.checksum.as_ref().filter(|checksum| !meant.begins_with(checksum)) {
                return Err(git::mismatch(checksum, &meant));
            }
            *commit = Some(meant);
        }
        Ok(())
    }

    fn copy_key(&self, wanted: &Wanted, by: &str) -> Key {
        Key::of("copy")
            .with(self.made.key.to_string())
            .with(by)
            .with(wanted.keyword)
            .with(&wanted.destination)
            .with(wanted.chown.as_deref().unwrap_or_default())
            .with(wanted.chmod.as_ref().map(|(text, _)| text.as_str()).unwrap_or_default())
            .with([wanted.link, wanted.parents, wanted.unpack, wanted.unpack_fetched].map(u8::from))
            .with_all(&wanted.sources)
            .with_all(&wanted.addresses)
            .with([u8::from(wanted.keep_git_dir)])
            .with_all(wanted.repositories.iter().map(|repository| format!("{repository:?}")))
            .with_all(&wanted.exclude)
            .with_all(wanted.documents.iter().flat_map(|(name, text)| [name, text]))
    }

    /// Finds the sources and tells them apart by what is in them.
    async fn looked_at(
        &self,
        wanted: &Arc<Wanted>,
        origin: Option<&Arc<Origin>>,
    ) -> Result<(Vec<Placed>, Digest)> {
        let (build, wanted, origin) = (Arc::clone(&self.build), Arc::clone(wanted), origin.cloned());
        blocking("read the files to copy", move || {
            let root = origin.as_ref().map_or_else(|| build.context.root(), |origin| origin.root());
            let points = mount_points(&build, origin.as_deref())?;
            let placed = wanted.placed(root, &points)?;
            let mut hasher = Sha256::new();
            for one in &placed {
                hasher.update((one.destination.len() as u64).to_le_bytes());
                hasher.update(&one.destination);
                let exclude = wanted.excluded(&one.found, &points)?;
                let owners = origin.as_ref().is_some_and(|origin| origin.has_owners());
                let known = |path: &[u8]| build.context.digest(path);
                let is_context = origin.is_none() && one.fetched.is_none();
                let options = DigestOptions {
                    owners: owners && wanted.chown.is_none(),
                    known: if is_context { Some(&known) } else { None },
                };
                let root = one.fetched.as_ref().map_or(root, |fetched| fetched.root());
                archive::digest(root, &one.found, options, &*exclude, &build.stop, &mut hasher)?;
            }
            Ok((placed, Digest::from_hasher(hasher)))
        })
        .await
    }

    /// Writes the files above what was built so far, or for themselves where they are linked.
    async fn copied(
        &self,
        wanted: &Arc<Wanted>,
        placed: Vec<Placed>,
        origin: Option<&Arc<Origin>>,
    ) -> Result<Option<Taken>> {
        let step = Box::pin(self.build.step(&self.made.draft, CreateBody::default())).await?;
        let view = Box::pin(step.view()).await?;
        let owner = wanted.chown.as_ref().map(|chown| view.owner(chown)).transpose();
        let owner = owner.map_err(|error| {
            let mut failure = Failure::from(error);
            let message =
                format!("unable to convert uid/gid chown string to host mapping: {}", failure.message);
            failure.message = message;
            failure
        })?;
        let (build, wanted, origin) = (Arc::clone(&self.build), Arc::clone(wanted), origin.cloned());
        let view = blocking("copy files", move || {
            let root = origin.as_ref().map_or_else(|| build.context.root(), |origin| origin.root());
            let has_owners = origin.as_ref().is_some_and(|origin| origin.has_owners());
            let from = Files { root, has_owners, points: mount_points(&build, origin.as_deref())? };
            wanted.write(&from, &placed, view.root(), owner, &build.stop)?;
            Ok(view)
        })
        .await?;
        view.close().await;
        Ok(Box::pin(step.take(self.build.epoch)).await?)
    }

    /// WORKDIR: the folder is made where it is not there, for the user that is set.
    pub(crate) async fn workdir(&mut self, path: &str, change: &Change) -> Result<Outcome> {
        let mut doing = self.doing(change.words(&self.made.draft.image.container_config()));
        let key = Key::of("workdir").with(self.made.key.to_string()).with(path).finish();
        if let Some(outcome) = self.found(key, &doing.line(), |config| change.apply(config))? {
            return Ok(outcome);
        }
        let container = match self.build.request.classic {
            true => Some(Box::pin(self.container_of(&mut doing)).await?),
            false => None,
        };
        let step = Box::pin(self.build.step(&self.made.draft, CreateBody::default())).await?;
        let view = Box::pin(step.view()).await?;
        let user = self.made.draft.image.container_config().user;
        let path = path.to_owned();
        let (view, made) = blocking("make the working directory", move || {
            if archive::has(view.root(), &path)? {
                return Ok((view, false));
            }
            // A user that only a later step makes has no folder yet.
            let owner = if user.is_empty() { (0, 0) } else { view.owner(&user).unwrap_or((0, 0)) };
            archive::make_folder(view.root(), &path, owner)?;
            Ok((view, true))
        })
        .await?;
        view.close().await;
        let taken = if made { Box::pin(step.take(self.build.epoch)).await? } else { None };
        if let Some(container) = container {
            Box::pin(self.part_with(container)).await?;
        }
        Box::pin(self.entered(key, doing, taken, None, |config| change.apply(config))).await
    }
}

/// What an origin has only to be mounted on.
fn mount_points(build: &Build, origin: Option<&Origin>) -> Result<BTreeSet<&'static str>> {
    origin.map_or_else(|| Ok(BTreeSet::new()), |origin| origin.mount_points(&build.engine.images))
}

/// Does work that blocks on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Failure::system(doing, error)))
}

/// What a mount shows, told apart by what is in it.
pub(crate) fn digest_of(
    root: BorrowedFd<'_>,
    found: &Found,
    options: DigestOptions<'_>,
    stop: &AtomicBool,
) -> Result<Digest> {
    let mut hasher = Sha256::new();
    let take = |_: &[u8], _: bool| Entering::Take;
    archive::digest(root.as_fd(), found, options, &take, stop, &mut hasher)?;
    Ok(Digest::from_hasher(hasher))
}
