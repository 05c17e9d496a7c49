//! The AppArmor profile of containers that ask for none. hull loads none by itself: that takes apparmor_parser, a program of
//! others, once for each boot of the machine. Where the operator has loaded hull's or Docker's, containers run under it.

use std::path::Path;
use std::sync::OnceLock;

/// hull's own profile, for apparmor_parser.
pub const PROFILE: &str = include_str!("hull-default");

/// Those that stand for the default, the better one first.
const DEFAULTS: [&str; 2] = ["hull-default", "docker-default"];

/// What is loaded, a profile and its mode a line.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// Whether AppArmor is enabled on this machine.
pub fn is_enabled() -> bool {
    static ENABLED: OnceLock<bool> = OnceLock::new();
    *ENABLED.get_or_init(|| {
        let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled");
        enabled.is_ok_and(|text| text.first() == Some(&b'Y'))
    })
}

/// The profile of a container that asks for none; none where AppArmor is not enabled, or no such profile is loaded.
pub fn default_profile() -> Option<&'static str> {
    if is_enabled() { default_among(Path::new(LOADED)) } else { None }
}

/// The profile that a process runs under, empty if it is under none; nothing where AppArmor is not enabled, or the process
/// is not there any more.
pub fn profile_of(pid: i32) -> Option<String> {
    if !is_enabled() {
        return None;
    }
    let attributes = Path::new("/proc").join(pid.to_string()).join("attr");
    // Before Linux 5.8 AppArmor has no folder of its own.
    let current = std::fs::read_to_string(attributes.join("apparmor/current"))
        .or_else(|_| std::fs::read_to_string(attributes.join("current")));
    current.ok().map(|current| profile_in(&current))
}

/// The profile's name in what the kernel says of a process: `name (mode)`, or `unconfined`.
fn profile_in(current: &str) -> String {
    let current = current.trim_end_matches(['\n', '\0']);
    match current.rsplit_once(" (") {
        Some((name, _)) => name.to_owned(),
        None if current == "unconfined" => String::new(),
        None => current.to_owned(),
    }
}

fn default_among(loaded: &Path) -> Option<&'static str> {
    let loaded = std::fs::read_to_string(loaded).unwrap_or_default();
    let is_loaded =
        |name: &&str| loaded.lines().any(|line| line.rsplit_once(" (").is_some_and(|(own, _)| own == *name));
    DEFAULTS.into_iter().find(is_loaded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_one_that_is_loaded() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (loaded, expected) in [
            ("", None),
            ("/usr/sbin/ntpd (enforce)\nhull-default-not (enforce)\n", None),
            ("docker-default (enforce)\n", Some("docker-default")),
            ("docker-default (enforce)\nhull-default (complain)\n", Some("hull-default")),
        ] {
            std::fs::write(file.path(), loaded).unwrap();
            assert_eq!(default_among(file.path()), expected, "{loaded:?}");
        }
        assert_eq!(default_among(Path::new("/no/such/file")), None);
        assert!(is_enabled() || default_profile().is_none());
    }

    #[test]
    fn what_a_process_runs_under_is_read_without_its_mode() {
        assert_eq!(profile_in("unconfined\n"), "");
        assert_eq!(profile_in("hull-default (enforce)\n"), "hull-default");
        assert_eq!(profile_in("a (b) (complain)"), "a (b)");
        assert_eq!(profile_in("a//&b (enforce)\n"), "a//&b");
        assert_eq!(profile_of(0), None);
    }

    #[test]
    fn the_profile_is_of_that_name_and_closes_what_it_opens() {
        assert!(PROFILE.contains(&format!("\nprofile {} ", DEFAULTS[0])));
        let count = |letter: char| PROFILE.chars().filter(|other| *other == letter).count();
        assert_eq!((count('{'), count('(')), (count('}'), count(')')));
        let rules = PROFILE.lines().map(str::trim).filter(|line| line.starts_with("deny "));
        assert!(rules.clone().count() > 10 && rules.clone().all(|rule| rule.ends_with(',')));
    }
}
