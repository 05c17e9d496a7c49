//! One connection that is answered, and what is on its way in either direction.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt};

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: OwnedFd,
    pub(super) target: OwnedFd,
    /// The connection to the container is there.
    pub(super) connected: bool,
    /// The client has hung up, which its socket would tell again and again.
    pub(super) hung_up: bool,
    pub(super) up: Way,
    pub(super) down: Way,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// What has been read and could not be written at once; it is written from `written` on.
    bytes: Vec<u8>,
    written: usize,
    /// There will be no more to be read.
    ended: bool,
    /// And the other side knows.
    told: bool,
}

impl Connection {
    /// What is waited for at the client's end and at the container's.
    pub(super) fn events(&self) -> (i16, i16) {
        if !self.connected {
            return (0, libc::POLLOUT);
        }
        let reads = |way: &Way| if way.is_empty() && !way.ended { libc::POLLIN } else { 0 };
        let writes = |way: &Way| if way.is_empty() { 0 } else { libc::POLLOUT };
        (reads(&self.up) | writes(&self.down), reads(&self.down) | writes(&self.up))
    }

    /// How much memory it takes.
    pub(super) fn kept(&self) -> usize {
        self.up.bytes.capacity() + self.down.bytes.capacity()
    }

    /// Something has happened at the client's end.
    pub(super) fn client_ready(&mut self, ready: i16, buffer: &mut [u8]) {
        let (wanted, _) = self.events();
        // What it has sent before is read first, where there is room for it.
        if ready & libc::POLLERR != 0 && wanted & libc::POLLIN == 0 {
            return self.cut();
        }
        self.hung_up |= ready & libc::POLLHUP != 0;
        if self.connected {
            self.turn(buffer);
        }
    }

    /// Passes on what can be passed on.
    pub(super) fn turn(&mut self, buffer: &mut [u8]) {
        if !self.connected {
            match sockopt::socket_error(&self.target) {
                Ok(Ok(())) => self.connected = true,
                // Nobody listens in the container: the client hears of it as if it had asked there.
                _ => return self.cut(),
            }
        }
        let passed = self.up.pass(&self.client, &self.target, buffer);
        if passed.and_then(|()| self.down.pass(&self.target, &self.client, buffer)).is_err() {
            self.cut();
        }
    }

    /// Ends both ways at once.
    fn cut(&mut self) {
        // With a reset, as the container's own end would have it: what is on its way is not worth waiting for.
        for end in [&self.client, &self.target] {
            let _ = sockopt::set_socket_linger(end, Some(Duration::ZERO));
        }
        (self.up, self.down) = (Way::over(), Way::over());
    }

    pub(super) fn is_over(&self) -> bool {
        self.up.told && self.down.told
    }
}

impl Way {
    fn over() -> Way {
        Way { ended: true, told: true, ..Way::default() }
    }

    fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Writes what was read, and reads once more when that is through; an error ends the connection.
    fn pass(&mut self, from: &OwnedFd, to: &OwnedFd, buffer: &mut [u8]) -> rustix::io::Result<()> {
        self.written += write(to, &self.bytes[self.written..])?;
        if !self.is_empty() {
            return Ok(());
        }
        // Connections that rest take no memory.
        (self.bytes, self.written) = (Vec::new(), 0);
        if !self.ended {
            match recv(from.as_fd(), &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) => self.ended = true,
                Ok((length, _)) => {
                    let written = write(to, &buffer[..length])?;
                    self.bytes = buffer[written..length].to_vec();
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        if self.ended && !self.told {
            self.told = true;
            // It may have gone meanwhile, which its other way tells.
            let _ = shutdown(to, Shutdown::Write);
        }
        Ok(())
    }
}

/// Writes what there is room for.
fn write(to: &OwnedFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match send(to, &bytes[written..], SendFlags::NOSIGNAL) {
            Ok(length) => written += length,
            Err(Errno::AGAIN | Errno::INTR) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
