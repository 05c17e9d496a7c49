//! SELinux: whether this machine has it, what a label's words mean, and the labels of files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

mod relabel;

pub(crate) use relabel::label_opened;
pub use relabel::{Walk, check_relabel, relabel};

/// The attribute that is a file's label.
pub(crate) const ATTRIBUTE: &str = "security.selinux";

/// The machine's policies, and what containers' own tell engines.
const POLICY: &str = "/etc/selinux";
const CONTEXTS: &str = "/usr/share/containers/selinux/contexts";

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

/// Whether what the policy does not allow is refused, and not only told.
pub fn is_enforced() -> bool {
    std::fs::read("/sys/fs/selinux/enforce").is_ok_and(|text| text.first() == Some(&b'1'))
}

/// What the policy's authors tell engines: the labels of containers.
///
/// # Errors
/// They tell nothing, at neither of these places.
pub fn contexts_of_containers() -> Result<String, [PathBuf; 2]> {
    let policy = std::fs::read_to_string(Path::new(POLICY).join("config")).unwrap_or_default();
    let files = [PathBuf::from(CONTEXTS), contexts_of_policy(&policy)];
    files.iter().find_map(|file| std::fs::read_to_string(file).ok()).ok_or(files)
}

/// Where the contexts of containers are in the policy that `/etc/selinux/config` names.
fn contexts_of_policy(config: &str) -> PathBuf {
    let named = config.lines().find_map(|line| line.trim().strip_prefix("SELINUXTYPE="));
    Path::new(POLICY).join(named.map_or("targeted", str::trim)).join("contexts/lxc_contexts")
}

/// The label that a process has; none where SELinux is not enabled, or the process is not there any more.
pub fn label_of(pid: i32) -> Option<String> {
    if !is_enabled() {
        return None;
    }
    let current = std::fs::read_to_string(format!("/proc/{pid}/attr/current")).ok()?;
    Some(current.trim_end_matches(['\0', '\n']).to_owned())
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

/// Whether a label, or a part of one, has only characters that labels have. Others could end the quotes in which one is
/// given to the kernel.
pub fn is_label(text: &str) -> bool {
    text.chars().all(|letter| letter.is_ascii_alphanumeric() || "_.,:-".contains(letter))
}

/// The option by which `mount(2)` is told the label of all files of a file system, in quotes: a level may hold commas.
///
/// # Errors
/// It is no label, and might end the quotes.
pub fn context_option(label: &str) -> crate::Result<String> {
    if is_label(label) {
        return Ok(format!("context=\"{label}\""));
    }
    Err(crate::Error::refused(format!("mount files labelled {label:?}"), "that is no SELinux label"))
}

/// A level in the one form that all its spellings have in common: categories one by one where there are no more than two
/// in a row, in order, and each once. None: it is no level.
pub fn normal_level(level: &str) -> Option<String> {
    let (low, high) = level.split_once('-').map_or((level, None), |(low, high)| (low, Some(high)));
    let low = normal_end(low)?;
    match high.map(normal_end) {
        None => Some(low),
        Some(high) => high.map(|high| if high == low { low } else { format!("{low}-{high}") }),
    }
}

/// One end of a range of levels.
fn normal_end(level: &str) -> Option<String> {
    let number = |word: &str, letter: char| {
        let digits = word.strip_prefix(letter)?;
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|_| is_number)
    };
    let (sensitivity, categories) = level
        .split_once(':')
        .map_or((level, None), |(sensitivity, categories)| (sensitivity, Some(categories)));
    let sensitivity = number(sensitivity, 's')?;
    let mut all = std::collections::BTreeSet::new();
    for part in categories.into_iter().flat_map(|categories| categories.split(',')) {
        let (first, last) = part.split_once('.').unwrap_or((part, part));
        let (first, last) = (number(first, 'c')?, number(last, 'c')?);
        if first > last {
            return None;
        }
        all.extend(first..=last);
    }
    let mut words: Vec<String> = Vec::new();
    let mut rest = all.into_iter().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while let Some(next) = rest.next_if(|next| *next == last + 1) {
            last = next;
        }
        match last - first {
            0 => words.push(format!("c{first}")),
            1 => words.extend([format!("c{first}"), format!("c{last}")]),
            _ => words.push(format!("c{first}.c{last}")),
        }
    }
    Some(if words.is_empty() {
        format!("s{sensitivity}")
    } else {
        format!("s{sensitivity}:{}", words.join(","))
    })
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
    fn a_level_has_one_form() {
        for (level, normal) in [
            ("s0", "s0"),
            ("s0:c2,c1", "s0:c1,c2"),
            ("s0:c1.c2", "s0:c1,c2"),
            ("s0:c3,c1,c2,c9", "s0:c1.c3,c9"),
            ("s00:c01,c2,c2", "s0:c1,c2"),
            ("s0-s0:c1023,c0", "s0-s0:c0,c1023"),
            ("s0:c1-s0:c1", "s0:c1"),
        ] {
            assert_eq!(normal_level(level).as_deref(), Some(normal), "{level}");
        }
        for level in ["", "x", "s0:", "s0:c", "s0:c2.c1", "s0:c+1", "s0:c70000", "s0-", "s0:c1,", "s0:c1\""] {
            assert_eq!(normal_level(level), None, "{level}");
        }
        assert_eq!(context_option("u:r:t:s0:c1,c2").unwrap(), "context=\"u:r:t:s0:c1,c2\"");
        assert!(context_option("t\",lowerdir=/").is_err());
        assert!(is_label("system_u:object_r:t-x:s0:c1.c3") && !is_label("t\"") && !is_label("t x"));
    }

    #[test]
    fn a_label_is_its_parts() {
        for text in ["u:r:t", "u:r:t:s0", "u:r:t:s0:c1,c2", "u:r:t:s0-s0:c0.c1023"] {
            assert_eq!(text.parse::<Context>().unwrap().to_string(), text);
        }
        let label: Context = "system_u:object_r:container_file_t:s0:c1,c2".parse().unwrap();
        assert_eq!((label.kind.as_str(), label.level.as_deref()), ("container_file_t", Some("s0:c1,c2")));
        assert!("u:r".parse::<Context>().is_err() && "".parse::<Context>().is_err());
    }

    #[test]
    fn the_policy_is_the_one_that_the_machine_names() {
        let of = |config: &str| contexts_of_policy(config).display().to_string();
        assert_eq!(of("SELINUX=enforcing\nSELINUXTYPE=mls\n"), "/etc/selinux/mls/contexts/lxc_contexts");
        assert_eq!(of(""), "/etc/selinux/targeted/contexts/lxc_contexts");
    }
}
