//! What becomes of a limit that this machine cannot hold, because it lacks the controller or the file for it.

use std::path::Path;

use crate::{Error, Result};

/// Who asked for limits, and so what they are told of those that cannot be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lacking {
    /// The container runs without, with a warning in Docker's words: what Docker's clients expect of an engine.
    Warned,
    /// It is an error, as with runc: whoever writes a limit into a configuration relies on it.
    Refused,
}

/// Where a limit would be, on this machine.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'p> {
    /// In a file that this kernel does not have.
    File(&'p Path),
    /// With a controller that no hierarchy of this machine has.
    Controller(&'p str),
    /// In version 1 alone, and the controller is in version 2 here.
    OtherVersion(&'p str),
}

/// What is noted while limits are set.
#[derive(Debug)]
pub(super) struct Notes {
    lacking: Lacking,
    pub(super) warnings: Vec<String>,
}

impl Notes {
    pub(super) fn new(lacking: Lacking) -> Notes {
        Notes { lacking, warnings: Vec::new() }
    }

    /// A limit that is not held; `docker` are Docker's words for it.
    ///
    /// # Errors
    /// Limits that are not held are refused, and `value` is one.
    pub(super) fn not_held(&mut self, place: Place<'_>, value: &str, docker: &str) -> Result<()> {
        match self.lacking {
            Lacking::Warned => self.warn(docker),
            Lacking::Refused if is_no_limit(value) => {}
            Lacking::Refused => return Err(refusal(place, value)),
        }
        Ok(())
    }

    /// What is no limit and is not heeded, whoever asks for it.
    pub(super) fn warn(&mut self, text: &str) {
        if !self.warnings.iter().any(|warning| warning == text) {
            self.warnings.push(text.to_owned());
        }
    }
}

/// Without any limit is what everything is whose limit cannot be set.
fn is_no_limit(value: &str) -> bool {
    matches!(value, "max" | "-1")
}

fn refusal(place: Place<'_>, value: &str) -> Error {
    let leave_out = "leave the limit out of linux.resources";
    match place {
        Place::File(file) => {
            let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
            let doing = format!("set the limit {} to {value}", file.display());
            Error::refused(
                doing,
                format!(
                    "there is no {name} here: turn it on in the kernel (on v2 a cgroup that holds processes hands down \
                     none: use one beside them), or {leave_out}"
                ),
            )
        }
        Place::Controller(name) => {
            let reason = format!(
                "no cgroup hierarchy of this machine has the controller {name}: mount one (`hull doctor` shows what \
                 there is), or {leave_out}"
            );
            Error::refused(format!("cannot set {name} limit to {value}"), reason)
        }
        Place::OtherVersion(name) => {
            let reason = format!("cgroup v2 has no such limit, and {name} is on v2 here: {leave_out}");
            Error::refused(format!("cannot set {name} limit to {value}"), reason)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_not_held_is_refused_or_warned_of() {
        let words = "Your kernel does not support it.";
        let mut docker = Notes::new(Lacking::Warned);
        for value in ["7", "max"] {
            docker.not_held(Place::Controller("rdma"), value, words).unwrap();
        }
        assert_eq!(docker.warnings, [words], "once");
        let mut oci = Notes::new(Lacking::Refused);
        for place in [
            Place::Controller("memory"),
            Place::OtherVersion("memory"),
            Place::File(Path::new("/sys/fs/cgroup/memory/c/memory.memsw.limit_in_bytes")),
        ] {
            let error = oci.not_held(place, "7", words).unwrap_err().to_string();
            assert!(error.contains("memory") && error.contains("to 7") && error.contains("leave"), "{error}");
            // Nothing is lost where there is no limit.
            oci.not_held(place, "-1", words).unwrap();
            oci.not_held(place, "max", words).unwrap();
        }
        assert_eq!(oci.warnings, [] as [&str; 0]);
    }
}
