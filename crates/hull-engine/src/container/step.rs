//! The steps of builds: containers on what was built so far, which are removed with the build whatever becomes of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use hull_image::{Held, Image, Layer, Store, Taken};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::view::View;
use super::{AttachRequest, ClientStream, Condition, Container, RemoveOptions};
use crate::model::CreateBody;
use crate::{Engine, Error, Kind, Result};

/// A step's container. Dropped, it is ended and removed.
pub struct Step {
    engine: Arc<Engine>,
    container: Arc<Container>,
    gone: bool,
}

/// The files of a step that does not run, as long as this is held.
pub struct StepView(View);

impl StepView {
    /// The root of its file system.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.0.root.as_fd()
    }

    /// The numbers of `user[:group]`, names looked up in the step's own files.
    ///
    /// # Errors
    /// A name is not in them.
    pub fn owner(&self, text: &str) -> Result<(u32, u32)> {
        super::archive::owner(self.root(), text)
    }

    /// Unmounts it, and waits until that is done.
    pub async fn close(self) {
        self.0.close().await;
    }
}

impl Engine {
    /// Makes a step's container on what was built so far.
    ///
    /// # Errors
    /// Something that was asked for cannot be.
    pub async fn create_step(self: &Arc<Self>, image: Arc<Image>, mut body: CreateBody) -> Result<Step> {
        let secret_env = std::mem::take(&mut body.secret_env);
        let created = self.create_on(image, body).await?;
        let container = self.container(&created.id)?;
        *super::locked(&container.secret_env) = secret_env;
        Ok(Step { engine: Arc::clone(self), container, gone: false })
    }

    /// The variables of a step that are written down nowhere.
    pub(super) fn secret_env(&self, id: &str) -> Vec<String> {
        self.container(id).map(|container| super::locked(&container.secret_env).clone()).unwrap_or_default()
    }

    /// Ends a step's container and removes it.
    pub(super) async fn remove_step(self: &Arc<Self>, container: &Arc<Container>) {
        let options = RemoveOptions { force: true, volumes: true };
        match self.remove(container, &container.id, options).await {
            Ok(()) => {}
            // A user was faster, or the step's own end.
            Err(error) if matches!(error.kind, Kind::NotFound | Kind::Conflict) => {}
            Err(error) => {
                tracing::error!(container = container.id, %error, "the container of a build's step stays behind");
            }
        }
    }
}

impl Step {
    /// The container's id.
    pub fn id(&self) -> &str {
        &self.container.id
    }

    /// Starts it. What it prints comes from the socket, in Docker's frames, until it ends.
    ///
    /// # Errors
    /// It cannot be started; the error's exit status says as what that counts.
    pub async fn start(&self) -> Result<OwnedFd> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|error| Error::system("make a socket for a step's output", error))?;
        let request = AttachRequest {
            stdin: false,
            stdout: true,
            stderr: true,
            framed: true,
            detach_keys: String::new(),
            stream: true,
            logs: false,
        };
        let place = self.engine.attach(&self.container, request)?;
        place.take(ClientStream { socket: theirs, already_read: Vec::new() }).await?;
        self.engine.start(&self.container).await?;
        Ok(ours)
    }

    /// Takes away what was made only to be mounted on, from what it changed, if nothing is in it: paths without links,
    /// the deepest first. It must not run.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn clear_mount_points(&self, paths: &[String]) -> Result<()> {
        self.engine.images.remove_if_empty(&self.container.id, paths).map_err(crate::images::error)
    }

    /// Waits until it has ended; the exit status, and whether it was killed for want of memory.
    pub async fn ended(&self) -> (i32, bool) {
        let ended = self.engine.wait(&self.container, Condition::NotRunning).await;
        (ended.status, self.container.record().state.oom_killed)
    }

    /// Its file system, without what is mounted while it runs. It must not run.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub async fn view(&self) -> Result<StepView> {
        let record = self.container.record().clone();
        self.engine.plain_view(&record).await.map(StepView)
    }

    /// Makes a layer of what it changed, none where it changed nothing, and removes it. No time in it is later than `latest`,
    /// in seconds since 1970.
    ///
    /// # Errors
    /// The files cannot be read, or the disk fails.
    pub async fn seal(self, latest: Option<i64>) -> Result<Option<(Layer, Held)>> {
        self.made_of(move |images, key| images.seal(key, latest)).await
    }

    /// The same, with the layer's digest still to be computed.
    ///
    /// # Errors
    /// As [`Step::seal`].
    pub async fn take(self, latest: Option<i64>) -> Result<Option<Taken>> {
        self.made_of(move |images, key| images.take(key, latest)).await
    }

    /// Makes a layer of a copy of what it changed, and lets the container be ([`Step::keep`]).
    ///
    /// # Errors
    /// As [`Step::seal`]; the container is removed then.
    pub async fn copied(self, latest: Option<i64>) -> Result<Option<Taken>> {
        let container = Arc::clone(&self.container);
        let _transition = container.transition.lock().await;
        container.cleared_at_rest().await;
        let (images, key) = (Arc::clone(&self.engine.images), container.id.clone());
        let copied =
            tokio::task::spawn_blocking(move || images.copied(&key, latest).map_err(crate::images::error));
        let copied =
            copied.await.unwrap_or_else(|error| Err(Error::system("make a layer of a step", error)))?;
        self.keep()?;
        Ok(copied)
    }

    /// Lets it be a container like others, which stays until somebody removes it.
    ///
    /// # Errors
    /// It was removed already, or that cannot be written down.
    pub fn keep(mut self) -> Result<()> {
        self.container.change(&self.engine.database, |record| record.build_step = false)?;
        self.gone = true;
        Ok(())
    }

    /// Makes something of its files, and removes it.
    async fn made_of<T: Send + 'static>(
        mut self,
        make: impl FnOnce(&Arc<Store>, &str) -> hull_image::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (engine, container) = (Arc::clone(&self.engine), Arc::clone(&self.container));
        let _transition = container.transition.lock().await;
        container.cleared_at_rest().await;
        let (images, key) = (Arc::clone(&engine.images), container.id.clone());
        let sealed = tokio::task::spawn_blocking(move || make(&images, &key).map_err(crate::images::error));
        let sealed = sealed.await.unwrap_or_else(|error| Err(Error::system("make a layer of a step", error)));
        let removed = engine.remove_now(&container, true).await;
        self.gone = removed.is_ok();
        match removed {
            Err(error) if error.kind != Kind::NotFound => Err(error),
            _ => sealed,
        }
    }

    /// Ends it and removes it.
    pub async fn remove(mut self) {
        self.gone = true;
        self.engine.remove_step(&self.container).await;
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        let (engine, container) = (Arc::clone(&self.engine), Arc::clone(&self.container));
        // Without a runtime the daemon itself is going, and the next one removes it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { engine.remove_step(&container).await });
        }
    }
}
