//! Tar archives written byte by byte, so that a test can say what no archiver would; and the busybox root file system
//! that most tests run.

use std::path::Path;
use std::process::{Command, Stdio};

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file, 0644.
    File,
    /// A regular file, 0755.
    Program,
    /// A hard link to the entry's link name.
    HardLink,
    /// A symbolic link.
    SymLink,
    /// A character device, 1:3 (null).
    CharDevice,
    /// A directory, 0755.
    Directory,
}

impl Kind {
    /// The type flag and the mode, as a header has them.
    fn in_header(self) -> (u8, &'static [u8]) {
        match self {
            Self::File => (b'0', b"0000644\0"),
            Self::Program => (b'0', b"0000755\0"),
            Self::HardLink => (b'1', b"0000644\0"),
            Self::SymLink => (b'2', b"0000777\0"),
            Self::CharDevice => (b'3', b"0000666\0"),
            Self::Directory => (b'5', b"0000755\0"),
        }
    }
}

/// A tar archive in the making.
#[derive(Debug, Default, Clone)]
pub struct Tar(Vec<u8>);

impl Tar {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a regular file, 0644.
    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(Kind::File, name, "", content)
    }

    /// Adds a regular file, 0755.
    pub fn program(self, name: &str, content: &[u8]) -> Self {
        self.entry(Kind::Program, name, "", content)
    }

    /// Adds a directory, 0755.
    pub fn directory(self, name: &str) -> Self {
        self.entry(Kind::Directory, name, "", &[])
    }

    /// Adds an entry with any name and link name, unchecked (each up to 100 bytes).
    pub fn entry(mut self, kind: Kind, name: &str, link: &str, content: &[u8]) -> Self {
        self.header(kind, name, link, content.len() as u64);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// Adds a header that claims this many bytes, and none of them.
    pub fn claim(mut self, name: &str, size: u64) -> Self {
        self.header(Kind::File, name, "", size);
        self
    }

    /// The archive with its end mark.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    /// The archive as it is, without its end mark.
    pub fn unfinished(self) -> Vec<u8> {
        self.0
    }

    fn header(&mut self, kind: Kind, name: &str, link: &str, size: u64) {
        let (flag, mode) = kind.in_header();
        let mut header = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, mode);
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{size:011o}\0").as_bytes());
        put(136, b"14000000000\0");
        put(156, &[flag]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        if kind == Kind::CharDevice {
            put(329, b"0000001\0");
            put(337, b"0000003\0");
        }
        put(148, b"        ");
        let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
    }
}

/// A root file system of the machine's static busybox, with all of its applets.
///
/// # Panics
/// Where busybox-static is not installed.
pub fn busybox_rootfs() -> Tar {
    let busybox = ["/usr/bin/busybox", "/bin/busybox"]
        .into_iter()
        .map(Path::new)
        .find(|path| path.exists())
        .expect("busybox-static is not installed: apt-get install busybox-static");
    let list = Command::new(busybox).arg("--list").stdin(Stdio::null()).output().expect("busybox --list");
    let mut tar = Tar::new();
    for directory in ["bin/", "dev/", "etc/", "proc/", "root/", "sys/", "tmp/"] {
        tar = tar.directory(directory);
    }
    tar = tar.program("bin/busybox", &std::fs::read(busybox).expect("busybox is readable"));
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|applet| *applet != "busybox") {
        tar = tar.entry(Kind::SymLink, &format!("bin/{applet}"), "busybox", &[]);
    }
    tar.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n").file("etc/group", b"root:x:0:\n")
}
