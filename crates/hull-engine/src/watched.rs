//! A descriptor that the asynchronous runtime watches.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the runtime watch a descriptor, which it takes over. It blocks nobody only where it is nonblocking.
///
/// # Errors
/// The kernel does not watch it: it is no file that can be waited for, or the limit is reached.
pub fn watched(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the AsyncFd from here on and closes with it, not before.
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, interest) };
    Ok(watched?)
}
