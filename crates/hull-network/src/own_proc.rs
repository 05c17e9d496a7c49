//! A `/proc` of the daemon's own, through which it sets what holds in new network namespaces.
//!
//! The kernel keeps one entry `/proc/sys/net` for each namespace that was looked at through a mount of proc, all under one
//! name, and looks through them one by one (`proc_sys_compare`). By the machine's `/proc` the thousandth namespace took a
//! millisecond longer than the first; an instance that is exchanged now and then keeps that to some ten microseconds.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// So many namespaces are looked at through one instance. To let go of one takes the kernel half a millisecond of waiting.
const USES: u32 = 64;

/// The instance; made when it is first used.
#[derive(Debug, Default)]
pub(crate) struct OwnProc(Mutex<Instance>);

#[derive(Debug, Default)]
struct Instance {
    root: Option<OwnedFd>,
    uses: u32,
}

impl OwnProc {
    /// Has the interfaces that come into the calling thread's network namespace believe no router advertisement: on a bridge
    /// any container can send one, and would be the others' way out (CVE-2020-13401). Addresses and routes are given.
    pub(crate) fn hear_no_routers(&self) -> io::Result<()> {
        let mut instance = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if instance.uses >= USES {
            *instance = Instance::default();
        }
        instance.uses += 1;
        let root = match instance.root.take() {
            Some(root) => root,
            None => root()?,
        };
        let root = instance.root.insert(root);
        for key in ["all", "default"] {
            let path = format!("sys/net/ipv6/conf/{key}/accept_ra");
            match openat(&*root, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
                // A kernel without IPv6.
                Err(rustix::io::Errno::NOENT) => {}
                opened => io::Write::write_all(&mut File::from(opened?), b"0")?,
            }
        }
        Ok(())
    }
}

/// The root of a new instance of proc that is mounted nowhere; of the machine's where there can be none.
fn root() -> io::Result<OwnedFd> {
    let new = || {
        let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    let machines =
        |_| openat(CWD, "/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    Ok(new().or_else(machines)?)
}

#[cfg(test)]
mod tests {
    use std::fs::read_to_string;
    use std::os::fd::AsFd as _;

    use super::USES;
    use crate::netns::{Maker, current, run};

    #[test]
    fn routers_are_heard_in_no_namespace_however_many_there_were() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("left out: network namespaces are root's to make");
            return;
        }
        let maker = Maker::new(current().unwrap());
        for _ in 0..USES + 2 {
            let made = maker.make().unwrap();
            let heard = run(made.namespace.as_fd(), || {
                let keys = ["all", "default", "lo"].into_iter();
                let read = |key| read_to_string(format!("/proc/sys/net/ipv6/conf/{key}/accept_ra")).ok();
                keys.filter_map(read).filter(|setting| setting != "0\n").count()
            });
            // The loopback was there before.
            assert!(heard.unwrap() <= 1);
        }
    }
}
