//! What a client has beside its context: contexts of other names, the images of its OCI layouts, caches in folders.

use std::sync::Arc;

use hull_build::{Failure, Named, Request, shown};
use hull_image::{Draft, Platform};

use crate::failing::failed;
use crate::job::{Folders, Job, blocking};
use crate::order::NamedPlace;
use crate::store::Blobs;

impl Job {
    /// What a context beside the build's own stands for: one thing, or one for each platform.
    pub(crate) async fn named(
        &self,
        name: &str,
        place: NamedPlace,
        request: &Request,
        folders: &Folders,
    ) -> Result<Vec<(String, Named)>, Failure> {
        let named = match place {
            NamedPlace::Image(image) => Named::Image(image),
            NamedPlace::Layout(store, digest) => {
                let work = self.trace.begin(&format!("[context {name}] load the OCI layout {digest}"));
                let mut given = Vec::new();
                for platform in &request.platforms {
                    let draft = self.layout((store.clone(), digest.clone()), Some(platform)).await?;
                    given.push((format!("{name}::{platform}"), Named::Given(draft)));
                }
                if given.is_empty() {
                    let draft = self.layout((store, digest), request.platform.as_ref()).await?;
                    given.push((name.to_owned(), Named::Given(draft)));
                }
                work.done();
                return Ok(given);
            }
            NamedPlace::Address(address) => {
                let work = self
                    .trace
                    .begin(&format!("[context {name}] load remote build context {}", shown(&address)));
                let fetched = self.builder.fetch_named(&address, request, &self.stop).await?;
                work.done();
                fetched
            }
            NamedPlace::Folder(folder) => {
                let work = format!("[context {name}] load from client");
                let from = (&*folder, folders.of(&folder));
                let ignore = self.ignored(from, None).await?;
                let context = self.received(from, &work, request, ignore, None).await?;
                Named::Folder(Arc::new(context))
            }
        };
        Ok(vec![(name.to_owned(), named)])
    }

    /// The image of an OCI layout that the client has, whose store and digest these are.
    async fn layout(&self, place: (String, String), platform: Option<&Platform>) -> Result<Draft, Failure> {
        match <[Draft; 1]>::try_from(self.images(place, platform).await?) {
            Ok([draft]) => Ok(draft),
            Err(drafts) => Err(Failure::invalid(format!(
                "the OCI layout has {} images where one is wanted",
                drafts.len()
            ))),
        }
    }

    /// The images of an OCI layout that the client has: one, or those of the stages of a build.
    async fn images(
        &self,
        (store, digest): (String, String),
        platform: Option<&Platform>,
    ) -> Result<Vec<Draft>, Failure> {
        let patience = self.patience(&self.session).await?;
        let blobs = Blobs::new(Arc::clone(&self.session), store, Arc::clone(&patience));
        let stored = blobs.image(&digest, platform).await.map_err(failed)?;
        let broken = |error| Failure::system("receive an OCI layout", error);
        let (mut archive, out) = std::io::pipe().map_err(broken)?;
        let sending = tokio::task::spawn_blocking(move || blobs.send_layout(&stored, out));
        let (builder, platforms) = (Arc::clone(&self.builder), Vec::from_iter(platform.cloned()));
        let received =
            blocking("receive an OCI layout", move || builder.receive_cache(&mut archive, &platforms));
        let received = received.await;
        if received.is_err() {
            patience.end();
        }
        // Why it was not sent says more than that it did not come.
        match (sending.await.map_err(|error| broken(std::io::Error::other(error)))?, received) {
            (Err(error), Err(_)) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Failure::invalid(error.to_string()))
            }
            (_, received) => received,
        }
    }

    /// Takes a cache that the client has in a folder. One that cannot be had has nothing to give.
    pub(crate) async fn cached(&self, store: String, digest: String, request: &mut Request) {
        let mut work = self.trace.begin(&format!("importing cache manifest from {store}"));
        let several = request.platforms.iter().cloned().map(Some);
        let platforms: Vec<_> = match request.platforms.is_empty() {
            true => vec![request.platform.clone()],
            false => several.collect(),
        };
        let mut why = String::new();
        for platform in platforms {
            match self.images((store.clone(), digest.clone()), platform.as_ref()).await {
                Ok(drafts) => request.cache_given.extend(drafts),
                Err(failure) => why = failure.message,
            }
        }
        work.ended(&why);
    }
}
