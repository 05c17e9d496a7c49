//! Which containers use a volume, and which of their runs have it mounted.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::{State, Volume, Volumes, locked, options};
use crate::{Error, Kind, Result};

/// The runs of containers that have a volume mounted.
pub(super) type Mounted = Arc<Mutex<BTreeSet<Run>>>;

/// A run of a container, from its start to its end. What still clears up behind one does not take a volume from the
/// next one of the same container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run {
    /// The container's id.
    pub(crate) container: String,
    /// Which of its runs under this daemon.
    pub(crate) number: u64,
}

impl Run {
    /// Before a container's first run its volumes are mounted to be filled.
    pub(crate) fn before_any(container: &str) -> Run {
        Run { container: container.to_owned(), number: 0 }
    }

    /// No container's: files are read or written for a user.
    pub(super) fn for_files() -> Run {
        Run { container: format!(".files-{}", crate::container::random_id()), number: 0 }
    }

    /// Nobody else may use it meanwhile: it is filled, and emptied again where that fails.
    pub(super) fn for_filling() -> Run {
        Run { container: format!("{FILLING}{}", crate::container::random_id()), number: 0 }
    }

    pub(super) fn is_for_files(&self) -> bool {
        self.container.starts_with('.')
    }
}

/// What a container's id does not begin with.
const FILLING: &str = ".filling-";

/// Refuses to use a volume that is being filled.
pub(super) fn not_filled(name: &str, mounted: &BTreeSet<Run>) -> Result<()> {
    match mounted.iter().any(|run| run.container.starts_with(FILLING)) {
        true => {
            Err(Error::conflict(format!("the volume {name} is being imported into; wait until that is done")))
        }
        false => Ok(()),
    }
}

impl Volumes {
    /// At load: that container uses that volume.
    pub(crate) fn retain(&self, name: &str, container: &str) {
        self.state().retain(name, container);
    }

    /// A container that is gone uses no volume any more; its anonymous ones may go with it. The folders that are left
    /// to be removed, out of the way already: what is in them may be large, and nobody has to wait for that.
    ///
    /// With them what went wrong, if something did: a folder or a row that cannot be removed does not keep the others.
    pub(crate) fn release(&self, container: &str, remove_anonymous: bool) -> (Vec<PathBuf>, Result<()>) {
        let mut ownerless = Vec::new();
        {
            let mut state = self.state();
            for name in state.by_container.remove(container).unwrap_or_default() {
                let Some(entry) = state.volumes.get_mut(&name) else { continue };
                entry.users.remove(container);
                if remove_anonymous && entry.volume.anonymous && entry.users.is_empty() {
                    ownerless.push(name);
                }
            }
        }
        let (mut gone, mut result) = (Vec::new(), Ok(()));
        for name in ownerless {
            match self.discard(&name) {
                Ok(aside) => gone.extend(aside),
                // Someone took or removed it meanwhile.
                Err(error) if matches!(error.kind, Kind::Conflict | Kind::NotFound) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        (gone, result)
    }

    /// Whether something is mounted over a volume of a container while it runs: that may take its time.
    pub(crate) fn of_a_container_are_mounts(&self, container: &str) -> bool {
        let state = self.state();
        let is_mount = |name: &String| {
            state.volumes.get(name).is_some_and(|entry| options::is_mount(&entry.volume.options))
        };
        state.by_container.get(container).is_some_and(|names| names.iter().any(is_mount))
    }

    /// The folder to bind, for a container that starts. What the volume's options name is mounted at first use.
    ///
    /// # Errors
    /// The volume is gone, or the kernel does not mount it.
    pub(crate) fn mount(&self, name: &str, run: &Run) -> Result<PathBuf> {
        let (volume, mounted) = self.mounts(name)?;
        {
            let mut mounted = locked(&mounted);
            not_filled(name, &mounted)?;
            if options::is_mount(&volume.options) && mounted.is_empty() {
                options::mount(&volume)?;
            }
            mounted.insert(run.clone());
        }
        Ok(volume.mountpoint.clone())
    }

    /// A run that ended needs it no longer: unmounted after the last. Whether the run had it.
    ///
    /// # Errors
    /// The kernel does not unmount it.
    pub(crate) fn unmount(&self, name: &str, run: &Run) -> Result<bool> {
        let (volume, mounted) = self.mounts(name)?;
        let mut mounted = locked(&mounted);
        if !mounted.remove(run) {
            return Ok(false);
        }
        if mounted.is_empty() && options::is_mount(&volume.options) {
            options::unmount(&volume)?;
        }
        Ok(true)
    }

    /// Unmounts what no run has mounted: its containers ended while no daemon was there.
    pub(crate) fn unmount_unused(&self) {
        let all: Vec<(Arc<Volume>, Mounted)> = {
            let state = self.state();
            let mounts = state.volumes.values().filter(|entry| options::is_mount(&entry.volume.options));
            mounts.map(|entry| (Arc::clone(&entry.volume), Arc::clone(&entry.mounted))).collect()
        };
        for (volume, mounted) in all {
            let mounted = locked(&mounted);
            if mounted.is_empty()
                && let Err(error) = options::unmount(&volume)
            {
                tracing::error!(volume = volume.name, %error, "a volume that nobody uses stays mounted");
            }
        }
    }

    pub(super) fn mounts(&self, name: &str) -> Result<(Arc<Volume>, Mounted)> {
        let state = self.state();
        let entry = state.find(name)?;
        Ok((Arc::clone(&entry.volume), Arc::clone(&entry.mounted)))
    }
}

impl State {
    pub(super) fn retain(&mut self, name: &str, container: &str) {
        if let Some(entry) = self.volumes.get_mut(name) {
            entry.users.insert(container.to_owned());
            self.by_container.entry(container.to_owned()).or_default().insert(name.to_owned());
        }
    }
}
