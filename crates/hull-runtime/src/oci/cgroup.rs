//! Who makes a container's cgroup, and where: the runtime by itself, or systemd as a scope.

use oci_spec::runtime::Spec;

use crate::cgroup::Cgroup;
use crate::error::Context;
use crate::systemd::{self, Property, Systemd, Unit};
use crate::{Error, Result};

/// The cgroup of a container that is being created, removed with all in it unless it is kept; one that was there before
/// stays.
#[derive(Debug)]
pub(super) struct NewCgroup {
    cgroup: Cgroup,
    made: bool,
    scope: Option<NewScope>,
}

/// What systemd is asked for once there is a process to be put into it.
#[derive(Debug)]
struct NewScope {
    systemd: Systemd,
    unit: Unit,
    properties: Vec<Property>,
    started: bool,
}

impl NewCgroup {
    /// The folder that the first process can be cloned into; with `by_systemd` none yet, but systemd is there.
    pub(super) fn begin(spec: &Spec, id: &str, by_systemd: bool) -> Result<NewCgroup> {
        let asked = asked(spec);
        if !by_systemd {
            let path = path_of(&asked, id);
            let made = !is_there(&path)?;
            return Ok(NewCgroup { cgroup: Cgroup::begin(&path)?, made, scope: None });
        }
        let unit = Unit::of(&asked, id)?;
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let mut properties = systemd::limits(resources, true)?;
        properties.extend(systemd::annotated(&spec.annotations().clone().unwrap_or_default())?);
        let made = !is_there(&unit.cgroup())?;
        let cgroup = Cgroup::at(&unit.cgroup())?;
        let scope = NewScope { systemd: Systemd::connect()?, unit, properties, started: false };
        Ok(NewCgroup { cgroup, made, scope: Some(scope) })
    }

    /// None: the container is where its creator is.
    pub(super) fn nowhere() -> NewCgroup {
        NewCgroup { cgroup: Cgroup::nowhere(), made: false, scope: None }
    }

    /// Whether it is made for the container, and was not there before.
    pub(super) fn is_made(&self) -> bool {
        self.made
    }

    pub(super) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Whether the first process is moved into it, having been cloned outside of it.
    pub(super) fn moves(&self) -> bool {
        self.scope.is_some()
    }

    /// The unit's name, where systemd makes it.
    pub(super) fn unit(&self) -> Option<&str> {
        self.scope.as_ref().map(|scope| scope.unit.name())
    }

    /// Has systemd make it around the first process.
    pub(super) fn place(&mut self, pid: i32) -> Result<()> {
        let Some(scope) = &mut self.scope else { return Ok(()) };
        // A scope whose start has failed on the way may be there.
        scope.started = true;
        scope.systemd.start(&scope.unit, pid, std::mem::take(&mut scope.properties))?;
        is_in(pid, self.cgroup.path())?;
        Cgroup::begin(self.cgroup.path()).map(drop)
    }

    pub(super) fn keep(mut self) {
        self.made = false;
        if let Some(scope) = &mut self.scope {
            scope.started = false;
        }
    }
}

impl Drop for NewCgroup {
    fn drop(&mut self) {
        // The error that led here is the one to tell.
        if self.made {
            let _ = self.cgroup.kill_all();
        }
        if let Some(scope) = self.scope.as_mut().filter(|scope| scope.started) {
            let _ = scope.systemd.stop(scope.unit.name());
        }
        if self.made {
            let _ = self.cgroup.remove();
        }
    }
}

/// Whether a cgroup is there already, which must then be empty and not frozen.
fn is_there(path: &str) -> Result<bool> {
    let Ok(there) = Cgroup::open(path) else { return Ok(false) };
    let doing = || format!("use the cgroup {path}");
    if !there.processes()?.is_empty() {
        return Err(Error::refused(doing(), "it is there already, and not empty"));
    }
    if there.is_frozen()? {
        return Err(Error::refused(doing(), "it is there already, and frozen"));
    }
    Ok(true)
}

/// What systemd said that it did: limits are about to be set there, and nowhere else.
fn is_in(pid: i32, path: &str) -> Result<()> {
    let file = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&file).context(|| format!("read {file}"))?;
    let mut own = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        matches!(controllers, "" | "name=systemd").then_some(path)
    });
    if own.any(|own| own == path) {
        return Ok(());
    }
    let doing = format!("have systemd make the cgroup {path}");
    Err(Error::refused(doing, format!("its process is somewhere else: {}", text.trim().replace('\n', " "))))
}

/// Where a container's cgroup may be, whoever has made it; a scope's unit ends by itself when its cgroup is empty.
pub(super) fn places(spec: &Spec, id: &str) -> Vec<String> {
    let asked = asked(spec);
    let unit = Unit::of(&asked, id).ok().map(|unit| unit.cgroup());
    std::iter::once(path_of(&asked, id)).chain(unit).collect()
}

fn asked(spec: &Spec) -> String {
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Where a cgroup is that the runtime makes: as the configuration says, from the hierarchies' root.
fn path_of(asked: &str, id: &str) -> String {
    if asked.is_empty() { format!("/hull-oci-{id}") } else { format!("/{}", asked.trim_matches('/')) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_where_the_configuration_says() {
        assert_eq!(path_of("/a/b", "c"), "/a/b");
        assert_eq!(path_of("a/b/", "c"), "/a/b");
        assert_eq!(path_of("", "c"), "/hull-oci-c");
    }
}
