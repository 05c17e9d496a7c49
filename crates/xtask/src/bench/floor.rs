//! The floor: what the kernel alone needs for a container. Clones the same namespaces, makes the same cgroups, mounts
//! the same overlay with /proc, /dev and /sys, pivots, executes `true`, waits, and takes all of it away again; nothing
//! else. Runs in a small process of its own (`xtask floor`), so that the clone copies little.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};

use crate::Result;

/// What one iteration makes.
struct Floor {
    lower: PathBuf,
    scratch: PathBuf,
    own_network: bool,
    /// The parents, one in each hierarchy, beneath which each iteration makes a cgroup.
    cgroups: Vec<PathBuf>,
}

/// `xtask floor LOWER SCRATCH host|own COUNT CGROUP…`: prints the microseconds of each iteration, one a line.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    let [lower, scratch, network, count, cgroups @ ..] = args else {
        return Err("usage: xtask floor LOWER SCRATCH host|own COUNT CGROUP…".into());
    };
    let floor = Floor {
        lower: PathBuf::from(lower),
        scratch: PathBuf::from(scratch),
        own_network: *network == "own",
        cgroups: cgroups.iter().map(PathBuf::from).collect(),
    };
    for n in 0..count.parse::<u32>()? {
        let start = Instant::now();
        floor.container(n)?;
        println!("{:.1}", start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(())
}

/// `xtask peak PROGRAM WORD…`: executes it and prints how much memory it, or one of its own children, had resident at
/// most, in MiB. A process of its own, for what a process has before its exec counts too.
pub(crate) fn peak(args: &[&str]) -> Result<()> {
    let [program, words @ ..] = args else { return Err("usage: xtask peak PROGRAM WORD…".into()) };
    let quiet = std::process::Stdio::null;
    let child = std::process::Command::new(program).args(words).stdout(quiet()).stderr(quiet()).spawn()?;
    let mut status = 0;
    // SAFETY: all zero is a valid value of this structure of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both live through the call, and nobody else waits for the child.
    let waited = unsafe { libc::wait4(child.id() as i32, &raw mut status, 0, &raw mut usage) };
    if waited < 0 || !libc::WIFEXITED(status) || libc::WEXITSTATUS(status) != 0 {
        return Err(format!("it ended with wait status {status}").into());
    }
    println!("{:.2}", usage.ru_maxrss as f64 / 1024.0);
    Ok(())
}

impl Floor {
    fn container(&self, n: u32) -> Result<()> {
        let name = format!("{}-{n}", std::process::id());
        let cgroups: Vec<PathBuf> = self.cgroups.iter().map(|parent| parent.join(&name)).collect();
        for cgroup in &cgroups {
            fs::create_dir(cgroup).map_err(|error| format!("{}: {error}", cgroup.display()))?;
        }
        let dir = self.scratch.join(&name);
        let (upper, work, merged) = (dir.join("upper"), dir.join("work"), dir.join("merged"));
        for folder in [&dir, &upper, &work, &merged] {
            fs::create_dir(folder)?;
        }
        let overlay = c_string(&format!(
            "lowerdir={},upperdir={},workdir={}",
            self.lower.display(),
            upper.display(),
            work.display()
        ))?;
        let status = self.process(&cgroups, &merged, &overlay)?;
        for cgroup in &cgroups {
            fs::remove_dir(cgroup)?;
        }
        fs::remove_dir_all(&dir)?;
        if status == 0 {
            Ok(())
        } else {
            Err(format!("the floor's container ended with wait status {status}").into())
        }
    }

    /// Clones the first process into its namespaces and waits for it.
    fn process(&self, cgroups: &[PathBuf], merged: &Path, overlay: &CString) -> Result<i32> {
        let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        if self.own_network {
            flags |= libc::CLONE_NEWNET;
        }
        // SAFETY: clone_args is plain numbers, for which zero is "not used".
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = flags as u64;
        args.exit_signal = libc::SIGCHLD as u64;
        // SAFETY: without CLONE_VM the child has a copy of this single-threaded process, as after fork; it leaves by
        // execve or _exit and never returns from here.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
        match pid {
            -1 => Err(format!("clone3: {}", io::Error::last_os_error()).into()),
            0 => {
                let error = self.first_process(cgroups, merged, overlay);
                eprintln!("the floor's container: {error}");
                // SAFETY: ends the child without running the parent's destructors.
                unsafe { libc::_exit(125) }
            }
            pid => {
                let mut status = 0;
                // SAFETY: status is a valid place for the one number that waitpid writes.
                let waited = unsafe { libc::waitpid(pid as i32, &raw mut status, 0) };
                if waited == -1 {
                    Err(format!("waitpid: {}", io::Error::last_os_error()).into())
                } else {
                    Ok(status)
                }
            }
        }
    }

    /// In the child: from the host's view to the container's, then execve. Only an error comes back.
    fn first_process(&self, cgroups: &[PathBuf], merged: &Path, overlay: &CString) -> io::Error {
        let prepare = || -> io::Result<()> {
            for cgroup in cgroups {
                fs::write(cgroup.join("cgroup.procs"), "0")?;
            }
            // SAFETY: the cgroup namespace alone is unshared; nothing in memory depends on it.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWCGROUP) }?;
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            mount("overlay", merged, "overlay", MountFlags::empty(), Some(overlay.as_c_str()))?;
            rustix::process::chdir(merged)?;
            self.system_mounts()?;
            rustix::process::pivot_root(".", ".")?;
            unmount(".", UnmountFlags::DETACH)?;
            rustix::system::sethostname(b"floor")?;
            if self.own_network { loopback_up() } else { Ok(()) }
        };
        if let Err(error) = prepare() {
            return error;
        }
        let program = c"/bin/true";
        let (argv, envp) = ([program.as_ptr(), std::ptr::null()], [c"PATH=/bin".as_ptr(), std::ptr::null()]);
        // SAFETY: both arrays end with a null pointer and their strings live until the process is replaced.
        unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        io::Error::last_os_error()
    }

    /// What every container has mounted, beneath the working directory.
    fn system_mounts(&self) -> io::Result<()> {
        let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("proc", "proc", "proc", safe, None)?;
        mount("tmpfs", "dev", "tmpfs", MountFlags::NOSUID, Some(c"mode=755,size=65536k"))?;
        for folder in ["dev/pts", "dev/mqueue", "dev/shm"] {
            fs::create_dir(folder)?;
        }
        let terminals = c"newinstance,ptmxmode=0666,mode=0620,gid=5";
        mount("devpts", "dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, Some(terminals))?;
        mount("mqueue", "dev/mqueue", "mqueue", safe, None)?;
        mount("shm", "dev/shm", "tmpfs", safe, Some(c"mode=1777,size=65536k"))?;
        mount("sysfs", "sys", "sysfs", safe | MountFlags::RDONLY, None)?;
        for (name, major, minor) in [
            ("null", 1, 3),
            ("zero", 1, 5),
            ("full", 1, 7),
            ("random", 1, 8),
            ("urandom", 1, 9),
            ("tty", 5, 0),
        ] {
            let device = rustix::fs::makedev(major, minor);
            let mode = rustix::fs::Mode::from_raw_mode(0o666);
            let kind = rustix::fs::FileType::CharacterDevice;
            rustix::fs::mknodat(rustix::fs::CWD, format!("dev/{name}"), kind, mode, device)?;
        }
        Ok(())
    }
}

fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: ifreq is plain numbers, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request is an ifreq with its name and flags set, as SIOCSIFFLAGS reads it.
    let done = unsafe {
        libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFFLAGS, &raw const request)
    };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn c_string(text: &str) -> Result<CString> {
    Ok(CString::new(Path::new(text).as_os_str().as_bytes())?)
}
