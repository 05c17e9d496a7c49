//! A process that does work of the log's beside its shim.

use std::ffi::CStr;
use std::io;
use std::os::fd::RawFd;

use crate::shim::kernel;
use crate::sys;

/// Has the work done by a process of its own, which has nothing of the shim's open but `kept` and ends behind it. A shim
/// has one thread, so a fork of it may go on with all that it has.
pub(super) fn beside(name: &CStr, kept: &mut [RawFd], work: impl FnOnce()) -> io::Result<()> {
    if sys::fork()?.is_some() {
        return Ok(());
    }
    if sys::close_others(kept).is_ok() {
        // Whatever this one forks needs no reaping.
        kernel::ignore_signals();
        // The name is for who looks at the list of processes.
        let _ = rustix::thread::set_name(name);
        work();
    }
    sys::exit_now(0)
}
