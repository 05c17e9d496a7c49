//! What attacks from inside a container are made of: this machine's Python, with the kernel's calls by number.

use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::Oci;

/// What attackers' scripts begin with: `call(NAME, arguments)` makes a system call and returns its result, or the
/// error's name; `tried(work)` does the like with Python's own errors.
const PRELUDE: &str = r#"
import ctypes, errno, os, platform, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
arm = platform.machine() == "aarch64"
NUMBERS = {"io_uring_setup": 425, "clone3": 435, "keyctl": 219 if arm else 250, "add_key": 217 if arm else 248,
           "clone": 220 if arm else 56, "unshare": 97 if arm else 272, "ioctl": 29 if arm else 16}
def call(name, *words):
    plain = [ctypes.c_long(word) if isinstance(word, int) else word for word in words]
    result = libc.syscall(ctypes.c_long(NUMBERS[name]), *plain)
    return result if result >= 0 else errno.errorcode[ctypes.get_errno()]
def tried(work):
    try:
        return work()
    except OSError as error:
        return errno.errorcode[error.errno]
def say(*words):
    print(*words, flush=True)
"#;

/// A whole script of Python.
pub fn python(script: &str) -> String {
    format!("{PRELUDE}\n{script}")
}

/// A configuration whose command is this script; the machine's own programs are in `/usr`, read-only.
///
/// # Panics
/// When the bundle cannot be written.
pub fn attacker(oci: &Oci, script: &str) -> Value {
    for folder in ["lib", "lib64"] {
        let link = oci.rootfs().join(folder);
        if link.symlink_metadata().is_err() {
            symlink(format!("usr/{folder}"), link).expect("a link in the bundle");
        }
    }
    let mut config = oci.config(&["/usr/bin/python3", "-c", &python(script)]);
    let mounts = config["mounts"].as_array_mut().expect("a list");
    mounts
        .push(json!({ "destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"] }));
    config
}
