//! Work inside a network namespace, never on the caller's thread.

use std::os::fd::BorrowedFd;

use crate::{Error, Result};

/// An interface and its counters since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index in its namespace.
    pub index: u32,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Packets dropped on receipt.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Send errors.
    pub tx_errors: u64,
    /// Packets dropped on sending.
    pub tx_dropped: u64,
}

/// Runs `work` on a thread of its own inside the namespace and hands back what it returned. The thread ends with it.
pub fn run<T: Send>(_namespace: BorrowedFd<'_>, _work: impl FnOnce() -> T + Send) -> Result<T> {
    Err(Error::Invalid("not there yet".into()))
}

/// The interfaces of a namespace with their counters: one netlink dump.
pub fn interfaces(_namespace: BorrowedFd<'_>) -> Result<Vec<Interface>> {
    Err(Error::Invalid("not there yet".into()))
}
