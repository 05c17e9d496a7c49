//! Names of containers: which are allowed, and one for a container that was given none.

use crate::{Error, Result};

/// Checks a name that a user chose; a leading slash is Docker's own and goes.
///
/// # Errors
/// The name has a character that names have not.
pub(super) fn checked(name: &str) -> Result<&str> {
    let plain = name.strip_prefix('/').unwrap_or(name);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let valid = plain.len() >= 2
        && plain.len() <= 255
        && plain.as_bytes()[0].is_ascii_alphanumeric()
        && plain.bytes().all(allowed);
    if valid {
        return Ok(plain);
    }
    Err(Error::invalid(format!(
        "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

const MANNERS: [&str; 48] = [
    "agile", "amber", "ample", "azure", "bold", "brave", "breezy", "bright", "brisk", "calm", "civil",
    "clever", "copper", "crisp", "eager", "early", "fair", "fleet", "fresh", "gentle", "glad", "golden",
    "hardy", "honest", "jolly", "keen", "kind", "lively", "loyal", "lucid", "merry", "mild", "nimble",
    "noble", "patient", "placid", "polite", "proud", "quick", "quiet", "ready", "serene", "silver", "steady",
    "stout", "sunny", "swift", "witty",
];

const THINGS: [&str; 64] = [
    "anchor",
    "astrolabe",
    "ballast",
    "barge",
    "beacon",
    "boom",
    "bosun",
    "bow",
    "brig",
    "buoy",
    "cabin",
    "canoe",
    "capstan",
    "catamaran",
    "chart",
    "clipper",
    "compass",
    "coracle",
    "crane",
    "current",
    "cutter",
    "deck",
    "dinghy",
    "dock",
    "ferry",
    "fjord",
    "frigate",
    "galley",
    "gangway",
    "halyard",
    "harbour",
    "hatch",
    "helm",
    "hold",
    "jetty",
    "keel",
    "ketch",
    "lagoon",
    "lantern",
    "lighthouse",
    "locker",
    "mast",
    "mizzen",
    "mooring",
    "oar",
    "pier",
    "pilot",
    "porthole",
    "quay",
    "raft",
    "rigging",
    "rudder",
    "sail",
    "schooner",
    "sextant",
    "skiff",
    "sloop",
    "spar",
    "stern",
    "tender",
    "tide",
    "tiller",
    "wharf",
    "yawl",
];

/// A name that is easy to say: a manner and a thing of ships; from the fifth `attempt` on with a number.
pub(super) fn random(attempt: u32) -> String {
    let id = super::random_id();
    let number = |digits: &str| usize::from_str_radix(digits, 16).unwrap_or(0);
    let manner = MANNERS[number(&id[..8]) % MANNERS.len()];
    let thing = THINGS[number(&id[8..16]) % THINGS.len()];
    if attempt < 4 { format!("{manner}_{thing}") } else { format!("{manner}_{thing}{}", number(&id[16..20])) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_paths_or_lines_are_refused() {
        for name in ["", "a", "a/b", "../x", "-x", "a\nb", "ä1", ".x", &"x".repeat(256)] {
            assert!(checked(name).is_err(), "{name:?}");
        }
        assert_eq!(checked("/web-1.a_b").unwrap(), "web-1.a_b");
    }

    #[test]
    fn made_names_are_names() {
        for attempt in 0..8 {
            let name = random(attempt);
            assert_eq!(checked(&name).unwrap(), name);
        }
    }
}
