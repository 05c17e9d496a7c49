//! SELinux: whether this machine has it, what a label's words mean, and the labels of files.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

mod relabel;

pub(crate) use relabel::label_opened;
pub use relabel::{Walk, relabel};

/// The attribute that is a file's label.
pub(crate) const ATTRIBUTE: &str = "security.selinux";

/// What a process is told to be before a policy is loaded.
const WITHOUT_POLICY: &str = "kernel";

/// Whether SELinux is enabled and has a policy, enforced or not.
pub fn is_enabled() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
        && std::fs::read("/proc/self/attr/current").is_ok_and(|own| {
            let own = String::from_utf8_lossy(&own);
            own.trim_end_matches(['\0', '\n']) != WITHOUT_POLICY
        })
}

/// A label in its parts: `user:role:type`, and with levels `:level` behind it, which may hold colons of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// SELinux's user.
    pub user: String,
    /// The role, `object_r` of files.
    pub role: String,
    /// The type: what the policy's rules are about.
    pub kind: String,
    /// Sensitivity and categories; none where the policy has no levels.
    pub level: Option<String>,
}

impl FromStr for Context {
    type Err = String;

    fn from_str(text: &str) -> Result<Context, String> {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(user), Some(role), Some(kind), level) => Ok(Context { user, role, kind, level }),
            _ => Err(format!("{text:?} is no SELinux label: user:role:type[:level]")),
        }
    }
}

impl fmt::Display for Context {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.user, self.role, self.kind)?;
        self.level.as_ref().map_or(Ok(()), |level| write!(formatter, ":{level}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_its_parts() {
        for text in ["u:r:t", "u:r:t:s0", "u:r:t:s0:c1,c2", "u:r:t:s0-s0:c0.c1023"] {
            assert_eq!(text.parse::<Context>().unwrap().to_string(), text);
        }
        let label: Context = "system_u:object_r:container_file_t:s0:c1,c2".parse().unwrap();
        assert_eq!((label.kind.as_str(), label.level.as_deref()), ("container_file_t", Some("s0:c1,c2")));
        assert!("u:r".parse::<Context>().is_err() && "".parse::<Context>().is_err());
    }
}
