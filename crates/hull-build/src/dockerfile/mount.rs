//! `RUN --mount=…`.

use super::nearest::hint;

/// What is mounted while a command runs. Values are as they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Of which kind.
    pub kind: MountKind,
    /// Where.
    pub target: String,
    /// The path in what it is from.
    pub source: String,
    /// A stage, an image or a named context; empty: the build's own context.
    pub from: String,
    /// The name of a cache, a secret or an agent.
    pub id: String,
    /// Nothing is written.
    pub read_only: Option<bool>,
    /// Who uses a cache at the same time.
    pub sharing: Sharing,
    /// The size of a tmpfs.
    pub size: Option<u64>,
    /// The mode of a cache's folder, of a secret's file.
    pub mode: Option<u32>,
    /// Whose it is.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// Without the secret there is no build.
    pub required: bool,
    /// The environment variable that a secret becomes.
    pub env: Option<String>,
}

/// Of which kind a mount is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    #[default]
    Bind,
    /// A folder that outlives the build.
    Cache,
    /// An empty folder in memory.
    Tmpfs,
    /// A secret's file.
    Secret,
    /// The socket of an agent.
    Ssh,
}

impl MountKind {
    /// Its name, as it is written.
    pub fn name(self) -> &'static str {
        match self {
            MountKind::Bind => "bind",
            MountKind::Cache => "cache",
            MountKind::Tmpfs => "tmpfs",
            MountKind::Secret => "secret",
            MountKind::Ssh => "ssh",
        }
    }
}

/// Who uses a cache at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// Nobody: each has one of its own.
    Private,
    /// One after the other.
    Locked,
}

const KEYS: &[&str] = &[
    "type",
    "target",
    "dst",
    "destination",
    "source",
    "src",
    "from",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

/// Reads the value of a flag.
pub(super) fn parse(text: &str) -> Result<Mount, String> {
    let mut mount = Mount::default();
    let mut given = Vec::new();
    for field in fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        if !KEYS.contains(&key.as_str()) {
            let hint = hint(&key, KEYS.iter().copied());
            return Err(match value {
                Some(_) => format!("unexpected key '{key}' in '{field}'{hint}"),
                None => format!("invalid field '{field}' must be a key=value pair{hint}"),
            });
        }
        given.extend(KEYS.iter().copied().find(|known| *known == key));
        let switch = |value: Option<&str>| match value.map(str::to_ascii_lowercase).as_deref() {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(value) => Err(format!("invalid value for {key}: {value}")),
        };
        match key.as_str() {
            "readonly" | "ro" => mount.read_only = Some(switch(value)?),
            "readwrite" | "rw" => mount.read_only = Some(!switch(value)?),
            "required" => mount.required = switch(value)?,
            _ => {
                let value =
                    value.ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))?;
                set(&mut mount, &key, value)?;
            }
        }
    }
    check(&mount, &given)?;
    Ok(mount)
}

fn set(mount: &mut Mount, key: &str, value: &str) -> Result<(), String> {
    let invalid = || format!("invalid value {value} for {key}");
    match key {
        "type" => {
            mount.kind = match value.to_ascii_lowercase().as_str() {
                "bind" => MountKind::Bind,
                "cache" => MountKind::Cache,
                "tmpfs" => MountKind::Tmpfs,
                "secret" => MountKind::Secret,
                "ssh" => MountKind::Ssh,
                other => {
                    let hint = hint(other, ["bind", "cache", "tmpfs", "secret", "ssh"]);
                    return Err(format!("unsupported mount type {value:?}{hint}"));
                }
            }
        }
        "target" | "dst" | "destination" => value.clone_into(&mut mount.target),
        "source" | "src" => value.clone_into(&mut mount.source),
        "from" => value.clone_into(&mut mount.from),
        "id" => value.clone_into(&mut mount.id),
        "env" => mount.env = Some(value.to_owned()),
        "sharing" => {
            mount.sharing = match value.to_ascii_lowercase().as_str() {
                "shared" => Sharing::Shared,
                "private" => Sharing::Private,
                "locked" => Sharing::Locked,
                other => {
                    let hint = hint(other, ["shared", "private", "locked"]);
                    return Err(format!("unsupported sharing value {value:?}{hint}"));
                }
            }
        }
        "size" => mount.size = Some(size(value).ok_or_else(invalid)?),
        "mode" => mount.mode = Some(u32::from_str_radix(value, 8).map_err(|_| invalid())?),
        "uid" => mount.uid = Some(value.parse().map_err(|_| invalid())?),
        _ => mount.gid = Some(value.parse().map_err(|_| invalid())?),
    }
    Ok(())
}

fn check(mount: &Mount, given: &[&str]) -> Result<(), String> {
    use MountKind::{Bind, Cache, Secret, Ssh, Tmpfs};
    let (kind, name) = (mount.kind, mount.kind.name());
    for key in given {
        let wrong = match *key {
            "required" => !matches!(kind, Secret | Ssh),
            "size" => kind != Tmpfs,
            _ => false,
        };
        if wrong {
            return Err(format!("unexpected key '{key}' for mount type '{name}'"));
        }
        if matches!(*key, "mode" | "uid" | "gid") && matches!(kind, Bind | Tmpfs) {
            return Err(format!("{key} not allowed for {name:?} type mounts"));
        }
    }
    if mount.from.split('$').skip(1).any(|behind| !behind.is_empty()) {
        return Err("'from' doesn't support variable expansion, define alias stage instead".to_owned());
    }
    if kind == Secret {
        check_secret(mount, given)?;
    }
    if given.contains(&"sharing") && kind != Cache {
        return Err(format!("invalid cache sharing set for {name} mount"));
    }
    if mount.target.is_empty() && !matches!(kind, Secret | Ssh) {
        return Err("mount target is required".to_owned());
    }
    if mount.env.is_some() && kind != Secret {
        return Err("mount env is only supported for secret mounts".to_owned());
    }
    if kind == Tmpfs && !(mount.source.is_empty() && mount.from.is_empty()) {
        return Err("a tmpfs mount has neither source nor from".to_owned());
    }
    Ok(())
}

fn check_secret(mount: &Mount, given: &[&str]) -> Result<(), String> {
    let wrong = if !mount.from.is_empty() {
        "secret mount should not have a from"
    } else if given.contains(&"sharing") {
        "secret mount should not define sharing"
    } else if mount.id.is_empty() && mount.source.is_empty() && mount.target.is_empty() {
        "invalid secret mount. one of source, target required"
    } else if !mount.id.is_empty() && !mount.source.is_empty() {
        "both source and id can't be set"
    } else {
        return Ok(());
    };
    Err(wrong.to_owned())
}

/// `64m`.
fn size(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, factor) = match lower.as_bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 1 << 10),
        b'm' => (&lower[..lower.len() - 1], 1 << 20),
        b'g' => (&lower[..lower.len() - 1], 1 << 30),
        b't' => (&lower[..lower.len() - 1], 1u64 << 40),
        _ => (lower, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// Fields divided by commas; one in double quotes may hold them.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let last = fields.len() - 1;
        match letter {
            '"' if quoted && letters.next_if_eq(&'"').is_some() => fields[last].push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            letter => fields[last].push(letter),
        }
    }
    if quoted {
        return Err(format!("failed to parse csv mounts: a quote is not closed in {text}"));
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_every_kind() {
        let cache = parse("type=cache,id=x,target=/var/cache,sharing=locked,mode=0755,uid=1,gid=2").unwrap();
        assert_eq!((cache.kind, cache.sharing), (MountKind::Cache, Sharing::Locked));
        assert_eq!((cache.mode, cache.uid, cache.gid), (Some(0o755), Some(1), Some(2)));
        let bind = parse("from=build,source=/out,dst=/in,rw").unwrap();
        assert_eq!((bind.kind, bind.read_only), (MountKind::Bind, Some(false)));
        assert_eq!(parse("type=tmpfs,target=/t,size=64m").unwrap().size, Some(64 << 20));
        let secret = parse("type=secret,id=token,required,env=TOKEN").unwrap();
        assert!(secret.required && secret.env.as_deref() == Some("TOKEN"));
        assert_eq!(parse("\"target=/a,b\"").unwrap().target, "/a,b");
        assert_eq!(parse("from=a$,target=/x").unwrap().from, "a$");
        // The kind need not stand first.
        assert!(parse("required,mode=0400,uid=1,type=secret,id=x").unwrap().required);
        assert!(parse("type=ssh,required,mode=0600").is_ok());
    }

    #[test]
    fn what_is_wrong() {
        for (text, want) in [
            ("type=cahce,target=/x", "unsupported mount type \"cahce\" (did you mean cache?)"),
            ("target=/x,surce=/y", "unexpected key 'surce' in 'surce=/y' (did you mean source?)"),
            ("target=/x,nothing", "invalid field 'nothing' must be a key=value pair"),
            ("type=cache", "mount target is required"),
            ("type=secret", "invalid secret mount. one of source, target required"),
            ("type=cache,target=/x,sharing=no", "unsupported sharing value \"no\""),
            ("type=cache,target=/x,mode=9", "invalid value 9 for mode"),
            ("type=bind,target=/x,size=1", "unexpected key 'size' for mount type 'bind'"),
            ("target=/x,required", "unexpected key 'required' for mount type 'bind'"),
            ("type=cache,target=/x,required=false", "unexpected key 'required' for mount type 'cache'"),
            ("target=/x,mode=0755", "mode not allowed for \"bind\" type mounts"),
            ("type=tmpfs,target=/x,uid=1", "uid not allowed for \"tmpfs\" type mounts"),
            ("type=tmpfs,target=/x,gid=1", "gid not allowed for \"tmpfs\" type mounts"),
            ("target=/x,sharing=shared", "invalid cache sharing set for bind mount"),
            ("type=ssh,sharing=locked", "invalid cache sharing set for ssh mount"),
            ("type=secret,id=x,sharing=shared", "secret mount should not define sharing"),
            ("type=secret,id=x,from=y", "secret mount should not have a from"),
            ("type=secret,id=x,source=y", "both source and id can't be set"),
            ("from=$x,target=/x", "'from' doesn't support variable expansion, define alias stage instead"),
        ] {
            assert_eq!(parse(text).unwrap_err(), want, "{text}");
        }
    }
}
