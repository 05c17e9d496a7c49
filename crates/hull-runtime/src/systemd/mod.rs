//! systemd as who makes a container's cgroup: a transient scope of its own, asked for by D-Bus.
//!
//! systemd owns the hierarchy on its machines: what it does not know of it may rearrange. The scope is made around the
//! container's first process and delegated: below it, and in the files that systemd has no property for, the runtime
//! writes by itself as everywhere else ([`crate::cgroup`]).
//!
//! - [`wire`]: values in D-Bus's format. [`bus`]: a connection.
//! - [`properties`]: limits and annotations as a unit's properties.
//!
//! Sources: org.freedesktop.systemd1(5), systemd's "Control Group APIs and Delegation".

use std::path::{Path, PathBuf};

use crate::{Error, Result};

mod bus;
mod properties;
mod wire;

use bus::{Bus, Target};
pub(crate) use properties::{Property, annotated, limits};
use wire::Value;

const SYSTEMD: Target<'_> = Target {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};

const BUS: Target<'_> = Target {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

/// The variable that names another system bus than the usual one.
const ADDRESS: &str = "DBUS_SYSTEM_BUS_ADDRESS";

/// The unit of a container: a scope in a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    slice: String,
    name: String,
}

impl Unit {
    /// From a configuration's `cgroupsPath`, which is `SLICE:PREFIX:NAME` here; without one it is the container's id,
    /// in `system.slice`.
    pub(crate) fn of(cgroups_path: &str, id: &str) -> Result<Unit> {
        let parts: Vec<&str> = match cgroups_path {
            "" => vec!["", "", id],
            path => path.split(':').collect(),
        };
        let doing = || format!("linux.cgroupsPath {cgroups_path:?}");
        let [slice, prefix, name] = parts[..] else {
            let reason = "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups";
            return Err(Error::refused(doing(), reason));
        };
        let or =
            |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
        let slice = or(slice, "system.slice");
        let name = format!("{}-{name}.scope", or(prefix, "hull"));
        let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if parts[2].is_empty() || name.len() > 255 || !name.chars().all(plain) {
            return Err(Error::refused(doing(), format!("{name} is no unit's name")));
        }
        if slice_path(&slice).is_none() {
            return Err(Error::refused(doing(), format!("{slice} is no slice's name")));
        }
        Ok(Unit { slice, name })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where systemd puts it in the hierarchies: `a-b.slice` is in `a.slice`.
    pub(crate) fn cgroup(&self) -> String {
        format!("{}/{}", slice_path(&self.slice).unwrap_or_default(), self.name)
    }
}

/// The folder of a slice; none where it is no slice's name.
fn slice_path(slice: &str) -> Option<String> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(String::new());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || ":_.\\@".contains(c);
    let mut path = String::new();
    let mut whole = String::new();
    for part in name.split('-') {
        if part.is_empty() || !part.chars().all(plain) {
            return None;
        }
        whole.push_str(if whole.is_empty() { "" } else { "-" });
        whole.push_str(part);
        path.push_str(&format!("/{whole}.slice"));
    }
    Some(path)
}

/// A connection to systemd.
#[derive(Debug)]
pub(crate) struct Systemd {
    bus: Bus,
}

impl Systemd {
    /// Connects to the machine's systemd: by its own socket, or by the system bus, that of `DBUS_SYSTEM_BUS_ADDRESS`
    /// where it is set.
    ///
    /// # Errors
    /// There is none, or it does not take this user.
    pub(crate) fn connect() -> Result<Systemd> {
        const OWN: &str = "/run/systemd/private";
        const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
        if let Some(address) = std::env::var_os(ADDRESS).filter(|address| !address.is_empty()) {
            return Systemd::on_bus(&socket_of(&address.to_string_lossy())?);
        }
        if !Path::new("/run/systemd/system").is_dir() {
            let reason = "systemd not running on this host, cannot use systemd cgroups manager: leave \
                          --systemd-cgroup away";
            return Err(Error::refused("make a cgroup by systemd", reason));
        }
        if !rustix::process::geteuid().is_root() {
            let reason = "only root is served by the machine's systemd, and a user's own is not asked: leave \
                          --systemd-cgroup away";
            return Err(Error::refused("make a cgroup by systemd", reason));
        }
        let direct = Bus::connect(Path::new(OWN));
        match direct.and_then(|bus| Systemd { bus }.subscribed()) {
            Ok(systemd) => Ok(systemd),
            Err(first) => Systemd::on_bus(Path::new(SYSTEM_BUS))
                .map_err(|error| Error::refused("make a cgroup by systemd", format!("{first}; {error}"))),
        }
    }

    fn on_bus(socket: &Path) -> Result<Systemd> {
        let mut systemd = Systemd { bus: Bus::connect(socket)? };
        systemd.call(BUS, "Hello", &[])?;
        let rule = "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
        systemd.call(BUS, "AddMatch", &[Value::text(rule)])?;
        systemd.subscribed()
    }

    /// systemd tells only those of its jobs who have asked for it.
    fn subscribed(mut self) -> Result<Systemd> {
        self.call(SYSTEMD, "Subscribe", &[])?;
        Ok(self)
    }

    /// Makes the scope with a process in it. Returns when systemd has.
    pub(crate) fn start(&mut self, unit: &Unit, pid: i32, mut more: Vec<Property>) -> Result<()> {
        let mut all = properties::of_scope(&unit.slice, &unit.name, pid);
        // Later ones are stronger: an annotation may say otherwise.
        all.append(&mut more);
        let arguments = [
            Value::text(&unit.name),
            Value::text("replace"),
            properties::marshal(all),
            Value::Array("(sa(sv))".into(), Vec::new()),
        ];
        let doing = || format!("start the unit {}", unit.name);
        let mut answer = self.bus.call(SYSTEMD, "StartTransientUnit", &arguments)?;
        if answer.as_ref().is_err_and(|refusal| refusal.name.ends_with(".UnitExists")) {
            // One of that name that failed is kept to be looked at; one that runs stays, and is told.
            let _ = self.bus.call(SYSTEMD, "ResetFailedUnit", &[Value::text(&unit.name)])?;
            answer = self.bus.call(SYSTEMD, "StartTransientUnit", &arguments)?;
        }
        let answer = answer.map_err(|refusal| Error::refused(doing(), refusal.words))?;
        match self.end_of_job(&answer, &doing())?.as_str() {
            "done" => Ok(()),
            result => Err(Error::refused(doing(), format!("systemd says that this was {result}"))),
        }
    }

    /// Ends the scope. One that is gone, as it is with its last process, is no error.
    pub(crate) fn stop(&mut self, unit: &str) -> Result<()> {
        let doing = || format!("stop the unit {unit}");
        match self.bus.call(SYSTEMD, "StopUnit", &[Value::text(unit), Value::text("replace")])? {
            Ok(answer) => drop(self.end_of_job(&answer, &doing())?),
            Err(refusal) if refusal.name.ends_with(".NoSuchUnit") => {}
            Err(refusal) => return Err(Error::refused(doing(), refusal.words)),
        }
        // It is kept as failed where it was killed for memory, and its name would not be free. None is the usual answer.
        let _ = self.bus.call(SYSTEMD, "ResetFailedUnit", &[Value::text(unit)])?;
        Ok(())
    }

    /// Tells systemd of new limits, until the machine's next start.
    pub(crate) fn set(&mut self, unit: &str, properties: Vec<Property>) -> Result<()> {
        if properties.is_empty() {
            return Ok(());
        }
        let arguments = [Value::text(unit), Value::Bool(true), properties::marshal(properties)];
        self.call(SYSTEMD, "SetUnitProperties", &arguments).map(drop)
    }

    /// Waits until the job that was answered is no more, and returns what became of it.
    fn end_of_job(&mut self, answer: &[Value], doing: &str) -> Result<String> {
        let Some(Value::Path(job)) = answer.first() else {
            return Err(Error::refused(doing, "systemd's answer names no job"));
        };
        self.bus.wait(doing, |signal| match signal.body.as_slice() {
            [Value::U32(_), Value::Path(removed), Value::Text(_), Value::Text(result)]
                if signal.member == "JobRemoved" && removed == job =>
            {
                Some(result.clone())
            }
            _ => None,
        })
    }

    fn call(&mut self, target: Target<'_>, method: &str, body: &[Value]) -> Result<Vec<Value>> {
        let answer = self.bus.call(target, method, body)?;
        answer.map_err(|refusal| {
            Error::refused(format!("{method} of systemd's"), format!("{} ({})", refusal.words, refusal.name))
        })
    }
}

/// The socket of a bus's address; the first of several that this speaks.
fn socket_of(address: &str) -> Result<PathBuf> {
    let path = address.split(';').find_map(|one| {
        let keys = one.strip_prefix("unix:")?;
        keys.split(',').find_map(|key| key.strip_prefix("path="))
    });
    path.map(PathBuf::from).ok_or_else(|| {
        Error::refused(format!("{ADDRESS}={address}"), "only an address unix:path=FILE is understood")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_named_by_slice_prefix_and_name() {
        let unit = |path: &str| Unit::of(path, "id").map(|unit| unit.cgroup());
        assert_eq!(unit("machine.slice:libpod:c1").unwrap(), "/machine.slice/libpod-c1.scope");
        assert_eq!(unit("").unwrap(), "/system.slice/hull-id.scope");
        assert_eq!(unit("::n").unwrap(), "/system.slice/hull-n.scope");
        assert_eq!(unit("-.slice:p:n").unwrap(), "/p-n.scope");
        assert_eq!(unit("a-b-c.slice:p:n").unwrap(), "/a.slice/a-b.slice/a-b-c.slice/p-n.scope");
        for wrong in ["/a/b", "a:b", "a.slice:p:", "a:p:n", "a--b.slice:p:n", "-a.slice:p:n", ".slice:p:n"] {
            assert!(unit(wrong).is_err(), "{wrong}");
        }
        assert!(unit("../a.slice:p:n").is_err() && unit("a.slice:p:../n").is_err());
        assert!(unit(&format!("a.slice:p:{}", "n".repeat(250))).is_err());
    }

    #[test]
    fn a_bus_s_address_is_a_socket() {
        assert_eq!(socket_of("tcp:host=x;unix:guid=1,path=/a/b").unwrap(), Path::new("/a/b"));
        assert!(socket_of("unix:abstract=x").is_err());
    }
}
