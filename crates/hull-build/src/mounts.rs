//! `RUN --mount`: what is mounted while a command runs, and no part of what it makes.

use std::any::Any;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use hull_engine::Kind;
use hull_engine::container::Step;
use hull_engine::model::{BindOptions, CreateBody, Layered, Mount as HostMount};
use hull_image::Digest;
use hull_image::archive::{self, DigestOptions, Found};

use crate::build::Build;
use crate::cache_mounts::note_used;
use crate::caches::Places;
use crate::context::{Folder, write_private};
use crate::copying::{blocking, digest_of};
use crate::dockerfile::{Mount, MountKind, Sharing};
use crate::failure::{Failure, Result};
use crate::key::Key;
use crate::request::Agent;
use crate::stage::Stage;

/// Where secrets are, where nothing else is said.
const SECRETS: &str = "/run/secrets/";

/// Where the first agent's socket is, where nothing else is said, and others with a number behind.
const AGENT: &str = "/run/buildkit/ssh_agent";

/// Mounts that have been looked through; nothing of them is there yet.
pub(crate) struct Mounts {
    build: Arc<Build>,
    wanted: Vec<Wanted>,
}

struct Wanted {
    target: String,
    kind: What,
    key: Digest,
}

enum What {
    /// Files of the context, or one file of a layer.
    File {
        source: PathBuf,
        writable: bool,
    },
    /// Folders, merged.
    Layers {
        lower: Vec<PathBuf>,
        writable: bool,
    },
    Cache {
        id: String,
        sharing: Sharing,
        mode: u32,
        owner: (u32, u32),
    },
    Tmpfs {
        size: Option<u64>,
    },
    Secret {
        bytes: Vec<u8>,
        mode: u32,
        owner: (u32, u32),
    },
    /// A secret as a variable of the environment.
    Variable {
        name: String,
        value: String,
    },
    /// The socket of an agent.
    Agent {
        agent: Arc<dyn Agent>,
        mode: u32,
        owner: (u32, u32),
    },
    /// A script that is executed by its path.
    Script {
        text: String,
    },
}

/// Mounts that are there, as long as this is.
pub(crate) struct Mounted {
    build: Arc<Build>,
    mounts: Vec<HostMount>,
    layered: Vec<Layered>,
    tmpfs: Vec<(String, String)>,
    variables: Vec<String>,
    /// Caches that nobody else may use now.
    _locks: Vec<tokio::sync::OwnedMutexGuard<()>>,
    /// Caches that must not be removed now.
    _used: Vec<Used>,
    /// What listens on behalf of agents.
    _agents: Vec<Box<dyn Any + Send + Sync>>,
    /// Folders that go with the step.
    _folders: Vec<Folder>,
}

/// A cache that a step has, until this is dropped.
pub(crate) struct Used {
    places: Arc<Places>,
    name: String,
}

impl Used {
    pub(crate) fn of(places: &Arc<Places>, name: &str) -> Used {
        let mut used = places.used.lock().unwrap_or_else(PoisonError::into_inner);
        *used.entry(name.to_owned()).or_default() += 1;
        Used { places: Arc::clone(places), name: name.to_owned() }
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        let mut used = self.places.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = used.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                used.remove(&self.name);
            }
        }
    }
}

impl Stage {
    /// Looks mounts through: their variables expanded, their sources found.
    pub(crate) async fn mounts(&self, mounts: &[Mount]) -> Result<Mounts> {
        let mut wanted = Vec::new();
        for mount in mounts {
            wanted.extend(self.mount(mount).await?);
        }
        Ok(Mounts { build: Arc::clone(&self.build), wanted })
    }

    async fn mount(&self, mount: &Mount) -> Result<Option<Wanted>> {
        let target = self.expanded(&mount.target)?;
        let working_dir = self.made.draft.image.container_config().working_dir;
        let absolute = |target: &str| hull_image::instruction::join(&working_dir, target);
        let described = Key::of("mount").with(format!("{mount:?}"));
        let owner = (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
        let (target, kind, key) = match mount.kind {
            MountKind::Bind => return self.bind(mount, absolute(&target)).await.map(Some),
            MountKind::Cache => {
                if !mount.from.is_empty() {
                    return Err(Failure::new(
                        Kind::NotImplemented,
                        "RUN --mount=type=cache,from=… is not supported by hull yet: fill the cache in the command itself",
                    ));
                }
                let target = absolute(&target);
                let id = self.expanded(&mount.id)?;
                let id = if id.is_empty() { target.clone() } else { id };
                let mode = mount.mode.unwrap_or(0o755);
                let described = described.with(&id).finish();
                let mut used = self.build.caches_used.lock().unwrap_or_else(PoisonError::into_inner);
                used.insert(id.clone(), mount.sharing);
                (target, What::Cache { id, sharing: mount.sharing, mode, owner }, described)
            }
            MountKind::Tmpfs => (absolute(&target), What::Tmpfs { size: mount.size }, described.finish()),
            MountKind::Secret => return self.secret(mount, &target, owner, described.finish()),
            MountKind::Ssh => {
                let id = if mount.id.is_empty() { "default" } else { &mount.id };
                let Some(agent) = self.build.request.agents.get(id) else {
                    if mount.required {
                        return Err(Failure::invalid(format!(
                            "no SSH key {id:?} forwarded from the client: give it with --ssh {id}"
                        )));
                    }
                    // As in BuildKit: without an agent a mount that is not required is not there.
                    return Ok(None);
                };
                let target = if target.is_empty() { AGENT.to_owned() } else { absolute(&target) };
                let mode = mount.mode.unwrap_or(0o600);
                (target, What::Agent { agent: Arc::clone(agent), mode, owner }, described.finish())
            }
        };
        Ok(Some(Wanted { target, kind, key }))
    }

    fn secret(&self, mount: &Mount, target: &str, owner: (u32, u32), key: Digest) -> Result<Option<Wanted>> {
        let from_target = target.rsplit('/').next().unwrap_or_default();
        let id = [mount.id.as_str(), mount.source.as_str(), from_target];
        let id = id.into_iter().find(|id| !id.is_empty()).unwrap_or_default();
        let Some(secret) = self.build.request.secrets.get(id) else {
            if mount.required {
                return Err(Failure::invalid(format!(
                    "secret {id}: not found: give it with --secret id={id},src=FILE"
                )));
            }
            return Ok(None);
        };
        let bytes = secret.0.clone();
        if let Some(name) = &mount.env {
            let value = String::from_utf8(bytes).map_err(|_| {
                Failure::invalid(format!("secret {id} is no text, and cannot be a variable ({name})"))
            })?;
            return Ok(Some(Wanted {
                target: String::new(),
                kind: What::Variable { name: name.clone(), value },
                key,
            }));
        }
        let place = if target.is_empty() { format!("{SECRETS}{id}") } else { target.to_owned() };
        let place = if place.starts_with('/') { place } else { format!("{SECRETS}{place}") };
        let mode = mount.mode.unwrap_or(0o400);
        Ok(Some(Wanted { target: place, kind: What::Secret { bytes, mode, owner }, key }))
    }

    async fn bind(&self, mount: &Mount, target: String) -> Result<Wanted> {
        let writable = mount.read_only == Some(false);
        let source = self.expanded(&mount.source)?;
        let missing = |source: &str| Failure::invalid(format!("RUN --mount: {source:?}: not found"));
        let origin = match mount.from.as_str() {
            "" => None,
            from => Some(self.build.origin(self.index, from).await?),
        };
        let (build, named) = (Arc::clone(&self.build), source.clone());
        let looked_at = origin.clone();
        let (found, digest): (Found, Digest) = blocking("look at what is mounted", move || {
            let root = looked_at.as_ref().map_or_else(|| build.context.root(), |origin| origin.root());
            let found = archive::find(root, &named).map_err(|_| missing(&named))?;
            let [found] = <[Found; 1]>::try_from(found).map_err(|_| missing(&named))?;
            let known = |path: &[u8]| build.context.digest(path);
            let options = DigestOptions {
                owners: looked_at.as_ref().is_some_and(|origin| origin.has_owners()),
                known: if looked_at.is_none() { Some(&known) } else { None },
            };
            let digest = digest_of(root, &found, options, &build.stop)?;
            Ok((found, digest))
        })
        .await?;
        let key = Key::of("bind").with(&target).with([u8::from(writable)]).with(digest.to_string()).finish();
        let lower = match &origin {
            None => vec![self.build.context.path().join(&found.path)],
            Some(origin) => origin.parts(&self.build.engine.images, &found.path)?,
        };
        let is_sent = origin.as_ref().is_none_or(|origin| !origin.has_owners());
        let kind = match (found.is_folder, lower.into_iter().next()) {
            (false, Some(source)) => What::File { source, writable },
            (true, Some(first)) if is_sent && !writable => What::File { source: first, writable },
            (true, Some(first)) => {
                let rest = match &origin {
                    None => vec![first],
                    Some(origin) => origin.parts(&self.build.engine.images, &found.path)?,
                };
                What::Layers { lower: rest, writable }
            }
            (_, None) => return Err(missing(&source)),
        };
        Ok(Wanted { target, kind, key })
    }
}

impl Mounts {
    /// By what the mounts are known again.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.wanted.iter().map(|wanted| wanted.key.to_string()).collect()
    }

    /// A script that is executed by its path, which is returned.
    pub(crate) fn add_script(&mut self, name: &str, text: String) -> String {
        let target = format!("/dev/pipes/{}", name.replace('/', "_"));
        let key = Key::of("script").with(&text).finish();
        self.wanted.push(Wanted { target: target.clone(), kind: What::Script { text }, key });
        target
    }

    /// Makes what is to be mounted, and waits for caches that others have.
    pub(crate) async fn acquire(self) -> Result<Mounted> {
        let mut mounted = Mounted::none(&self.build);
        for lock in self.locked() {
            mounted._locks.push(lock.lock_owned().await);
        }
        blocking("make what is mounted", move || {
            for Wanted { target, kind, .. } in self.wanted {
                mounted.add(target, kind)?;
            }
            Ok(mounted)
        })
        .await
    }

    /// The locks of caches that others wait for: each once and in one order for all, so that no two steps wait for each
    /// other, nor one for itself.
    fn locked(&self) -> Vec<Arc<tokio::sync::Mutex<()>>> {
        let of = |wanted: &Wanted| match &wanted.kind {
            What::Cache { id, sharing: Sharing::Locked, .. } => Some(self.build.cache_name(id)),
            _ => None,
        };
        let names: BTreeSet<String> = self.wanted.iter().filter_map(of).collect();
        names.iter().map(|name| self.build.places.lock(name)).collect()
    }
}

impl Build {
    /// The name of a cache's folder.
    pub(crate) fn cache_name(&self, id: &str) -> String {
        self.key_of("cache").with(id).finish().hex()
    }
}

impl Places {
    /// The lock of a cache of this name.
    pub(crate) fn lock(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Names are clients': of those that nobody has or waits for, nothing is kept.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(name.to_owned()).or_default())
    }
}

impl Mounted {
    fn none(build: &Arc<Build>) -> Mounted {
        Mounted {
            build: Arc::clone(build),
            mounts: Vec::new(),
            layered: Vec::new(),
            tmpfs: Vec::new(),
            variables: Vec::new(),
            _locks: Vec::new(),
            _used: Vec::new(),
            _agents: Vec::new(),
            _folders: Vec::new(),
        }
    }

    /// Makes a mount. Blocks: files are copied, however long they are.
    fn add(&mut self, target: String, kind: What) -> Result<()> {
        match kind {
            What::File { source, writable: false } => self.bind(&target, &source, true),
            What::File { source, writable: true } => {
                // What is written to it is nobody's afterwards.
                let folder = Folder::beneath(&self.build.places.temporary)?;
                let copy = folder.path().join("file");
                std::fs::copy(&source, &copy)
                    .map_err(|error| Failure::system(format_args!("copy {}", source.display()), error))?;
                self.bind(&target, &copy, false);
                self._folders.push(folder);
            }
            What::Layers { lower, writable } => {
                let folder = Folder::beneath(&self.build.places.temporary)?;
                for name in ["upper", "work"] {
                    std::fs::create_dir(folder.path().join(name))
                        .map_err(|error| Failure::system("make a folder for a mount", error))?;
                }
                let path = folder.path().to_owned();
                self.layered.push(Layered { target, lower, folder: path, writable });
                self._folders.push(folder);
            }
            What::Cache { id, sharing, mode, owner } => self.cache(&target, &id, sharing, mode, owner)?,
            What::Tmpfs { size } => {
                let size = size.map(|size| format!("size={size}")).unwrap_or_default();
                self.tmpfs.push((target, size));
            }
            What::Secret { bytes, mode, owner } => {
                let folder = Folder::beneath(self.build.private.path())?;
                let path = folder.path().join("secret");
                write_private(&path, &bytes, mode)?;
                std::os::unix::fs::chown(&path, Some(owner.0), Some(owner.1))
                    .map_err(|error| Failure::system("give a secret its owner", error))?;
                self.bind(&target, &path, true);
                self._folders.push(folder);
            }
            What::Variable { name, value } => self.variables.push(format!("{name}={value}")),
            What::Agent { agent, mode, owner } => {
                let folder = Folder::beneath(self.build.private.path())?;
                let path = folder.path().join("agent");
                let failed = |error: std::io::Error| Failure::system("listen for an agent", error);
                let listens = agent.listen(&path).map_err(failed)?;
                std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))
                    .map_err(failed)?;
                std::os::unix::fs::chown(&path, Some(owner.0), Some(owner.1)).map_err(failed)?;
                let target = if target == AGENT { format!("{AGENT}.{}", self._agents.len()) } else { target };
                if self._agents.is_empty() {
                    self.variables.push(format!("SSH_AUTH_SOCK={target}"));
                }
                self.bind(&target, &path, true);
                self._agents.push(listens);
                self._folders.push(folder);
            }
            What::Script { text } => {
                let folder = Folder::beneath(self.build.private.path())?;
                let path = folder.path().join("script");
                write_private(&path, text.as_bytes(), 0o755)?;
                self.bind(&target, &path, true);
                self._folders.push(folder);
            }
        }
        Ok(())
    }

    fn bind(&mut self, target: &str, source: &Path, read_only: bool) {
        self.mounts.push(HostMount {
            kind: "bind".to_owned(),
            source: source.to_string_lossy().into_owned(),
            target: target.to_owned(),
            read_only,
            bind_options: Some(BindOptions { non_recursive: true, ..BindOptions::default() }),
            ..HostMount::default()
        });
    }

    /// The folder of a cache: its own for who shares it with nobody.
    fn cache(
        &mut self,
        target: &str,
        id: &str,
        sharing: Sharing,
        mode: u32,
        owner: (u32, u32),
    ) -> Result<()> {
        let places = Arc::clone(&self.build.places);
        let name = self.build.cache_name(id);
        let name = match sharing {
            // A locked one has been waited for.
            Sharing::Shared | Sharing::Locked => name,
            Sharing::Private => {
                // The first that nobody has.
                let mut number = 0;
                loop {
                    let own = if number == 0 { name.clone() } else { format!("{name}-{number}") };
                    if let Ok(guard) = places.lock(&own).try_lock_owned() {
                        self._locks.push(guard);
                        break own;
                    }
                    number += 1;
                }
            }
        };
        self._used.push(Used::of(&places, &name));
        // What is elsewhere is the first one's, of those that share it with nobody.
        if name == self.build.cache_name(id) {
            self.build.bring_back(id, &name)?;
        }
        let folder = places.caches.join(&name);
        let failed = |error: std::io::Error| Failure::system(format_args!("make the cache {id}"), error);
        match std::fs::create_dir(&folder) {
            Ok(()) => {
                std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(mode))
                    .map_err(failed)?;
                std::os::unix::fs::chown(&folder, Some(owner.0), Some(owner.1)).map_err(failed)?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
        note_used(&places.caches, id, &name).map_err(failed)?;
        self.bind(target, &folder, false);
        Ok(())
    }

    /// Adds the mounts to what a container is asked to be.
    pub(crate) fn add_to(&self, body: &mut CreateBody) {
        if !self.mounts.is_empty() {
            body.host_config.mounts.get_or_insert_default().extend(self.mounts.iter().cloned());
        }
        if !self.tmpfs.is_empty() {
            body.host_config.tmpfs.get_or_insert_default().extend(self.tmpfs.iter().cloned());
        }
        body.layered.clone_from(&self.layered);
        body.secret_env.clone_from(&self.variables);
    }

    /// What is made in the step's files only to be mounted on: paths without links, the deepest first.
    pub(crate) async fn stubs(&self, step: &Step) -> Result<Vec<String>> {
        let targets: Vec<String> = self
            .mounts
            .iter()
            .map(|mount| mount.target.clone())
            .chain(self.layered.iter().map(|layered| layered.target.clone()))
            .chain(self.tmpfs.iter().map(|(target, _)| target.clone()))
            .filter(|target| !target.starts_with("/dev/"))
            .collect();
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        let view = step.view().await?;
        let (view, mut stubs) = blocking("look at the places of mounts", move || {
            let mut stubs = std::collections::BTreeSet::new();
            for target in targets {
                stubs.extend(archive::missing(view.root(), &target)?);
            }
            Ok((view, stubs.into_iter().collect::<Vec<String>>()))
        })
        .await?;
        view.close().await;
        stubs.sort_by_key(|stub| std::cmp::Reverse(stub.matches('/').count()));
        Ok(stubs)
    }
}
