//! The terminal: its raw mode, its size, and the keys that leave a container without ending it.

use std::io::{self, IsTerminal as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::error::{Error, words};

/// Puts standard input's terminal into raw mode; whichever way this is dropped, the terminal is as it was.
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Enters raw mode; `None` where standard input is no terminal.
    pub fn enter() -> Result<Option<Self>, Error> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let wrong = |e: rustix::io::Errno| {
            Error::new(format!("cannot set the terminal to raw mode: {}", words(&e.into())))
        };
        let before = tcgetattr(&stdin).map_err(wrong)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(wrong)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone by now (a hang-up); then there is nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Keeps standard input's terminal from showing what is typed; whichever way this is dropped, it shows it again.
pub struct Silent {
    before: Termios,
}

impl Silent {
    /// Turns the echo off. Lines are still edited and ended by the terminal, and its keys still signal.
    pub fn enter() -> Result<Self, Error> {
        let stdin = io::stdin();
        let wrong = |e: rustix::io::Errno| {
            Error::new(format!("cannot turn the terminal's echo off: {}", words(&e.into())))
        };
        let before = tcgetattr(&stdin).map_err(wrong)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        // What was typed ahead has been shown already; it is not taken for the secret.
        tcsetattr(&stdin, OptionalActions::Flush, &silent).map_err(wrong)?;
        Ok(Self { before })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // As with `Raw`: a terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// The terminal's height and width in characters; `None` where standard output is no terminal or has no size.
pub fn size() -> Option<(u16, u16)> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = tcgetwinsize(&stdout).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// The keys that detach where nothing else was said: ctrl-p, ctrl-q.
pub const DEFAULT_DETACH_KEYS: &[u8] = &[16, 17];

/// Reads `ctrl-p,ctrl-q` and the like: single characters or `ctrl-` and one of `a-z @ [ \ ] ^ _`.
pub fn detach_keys(text: &str) -> Result<Vec<u8>, Error> {
    let wrong = |key: &str| Error::usage(format!("invalid detach keys ({text}): unknown character: '{key}'"));
    let mut keys = Vec::new();
    for key in text.split(',') {
        let code = match (key.strip_prefix("ctrl-").map(str::as_bytes), key.as_bytes()) {
            (Some([letter @ b'a'..=b'z']), _) => letter - b'a' + 1,
            (Some([b'@']), _) => 0,
            (Some([sign @ b'['..=b'_']), _) => sign - b'[' + 27,
            (None, [single]) => *single,
            _ => return Err(wrong(key)),
        };
        keys.push(code);
    }
    Ok(keys)
}

/// Watches what is typed for the detach keys. What may be their beginning is held back until it is known.
#[derive(Debug)]
pub struct Escape {
    keys: Vec<u8>,
    matched: usize,
}

impl Escape {
    /// Watches for these keys; with none, for nothing.
    pub fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// Takes what was typed and gives what goes on to the container, and whether the keys were complete.
    pub fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        if self.keys.is_empty() {
            return (typed.to_vec(), false);
        }
        let mut through = Vec::with_capacity(typed.len());
        for &byte in typed {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (through, true);
                }
                continue;
            }
            through.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if byte == self.keys[0] && self.keys.len() > 1 {
                self.matched = 1;
            } else {
                through.push(byte);
            }
        }
        (through, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        assert_eq!(detach_keys("ctrl-p,ctrl-q").unwrap(), DEFAULT_DETACH_KEYS);
        assert_eq!(detach_keys("a,ctrl-@,ctrl-[,ctrl-_").unwrap(), [b'a', 0, 27, 31]);
        for wrong in ["", "ctrl-", "ctrl-A", "ab", "ctrl-p,,", "strg-p"] {
            assert!(detach_keys(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn escape_over_several_reads() {
        let mut escape = Escape::new(vec![16, 17]);
        assert_eq!(escape.pass(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(escape.pass(b"c\x10"), (b"\x10c".to_vec(), false));
        assert_eq!(escape.pass(b"\x10"), (b"\x10".to_vec(), false));
        assert_eq!(escape.pass(b"\x11rest"), (Vec::new(), true));
    }

    #[test]
    fn no_keys_let_all_through() {
        assert_eq!(Escape::new(Vec::new()).pass(&[16, 17]), (vec![16, 17], false));
    }
}
