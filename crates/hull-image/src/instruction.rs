//! Instructions as in a Dockerfile that change a configuration: `import --change`, `commit --change`.

use serde_json::Map;

use crate::archive::clean;
use crate::config::Healthcheck;
use crate::{ContainerConfig, Error, Result};

/// Applies instructions, one or more lines in each text. Nothing is changed where one is refused.
pub fn apply(config: &mut ContainerConfig, changes: &[String]) -> Result<()> {
    let mut changed = config.clone();
    for change in changes {
        for line in lines(change) {
            apply_line(&mut changed, &line)?;
        }
    }
    *config = changed;
    Ok(())
}

/// The lines of an instruction, those that end in a backslash joined, comments left out.
fn lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut current = String::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        match trimmed.strip_suffix('\\') {
            Some(start) => current.push_str(start),
            None => {
                current.push_str(trimmed);
                lines.push(std::mem::take(&mut current));
            }
        }
    }
    if !current.is_empty() {
        lines.push(current);
    }
    lines
}

fn apply_line(config: &mut ContainerConfig, line: &str) -> Result<()> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let name = word.to_ascii_uppercase();
    let rest = rest.trim();
    let required = || match rest.is_empty() {
        true => Err(Error::invalid(format!("{name} requires at least one argument"))),
        false => Ok(rest),
    };
    match name.as_str() {
        "CMD" => config.cmd = Some(command(config, rest)),
        "ENTRYPOINT" => config.entrypoint = Some(command(config, rest)),
        "ENV" => {
            for (key, value) in pairs(&name, required()?, true)? {
                set_env(&mut config.env, &key, &value);
            }
        }
        "LABEL" => config.labels.extend(pairs(&name, required()?, false)?),
        "EXPOSE" => {
            for port in words(required()?)? {
                for port in ports(&port)? {
                    config.exposed_ports.insert(port, Map::new());
                }
            }
        }
        "VOLUME" => {
            let places = match json_list(required()?) {
                Some(places) => places,
                None => words(rest)?,
            };
            for place in places {
                if place.trim().is_empty() {
                    return Err(Error::invalid("VOLUME specified can not be an empty string"));
                }
                config.volumes.insert(place, Map::new());
            }
        }
        "USER" => config.user = unquote(required()?)?,
        "WORKDIR" => config.working_dir = join(&config.working_dir, &unquote(required()?)?),
        "STOPSIGNAL" => config.stop_signal = signal(&unquote(required()?)?)?,
        "ONBUILD" => {
            let first = required()?.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            match first.as_str() {
                "ONBUILD" => {
                    return Err(Error::invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"));
                }
                "MAINTAINER" | "FROM" => {
                    return Err(Error::invalid(format!("{first} isn't allowed as an ONBUILD trigger")));
                }
                _ => config.on_build.push(rest.to_owned()),
            }
        }
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(required()?)?),
        _ => return Err(Error::invalid(format!("{name} is not a valid change command"))),
    }
    Ok(())
}

/// A JSON list of words is executed as it is; anything else is a line for the shell.
fn command(config: &ContainerConfig, text: &str) -> Vec<String> {
    if let Some(list) = json_list(text) {
        return list;
    }
    let shell = config.shell.clone().unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
    shell.into_iter().chain([text.to_owned()]).collect()
}

fn json_list(text: &str) -> Option<Vec<String>> {
    if !text.starts_with('[') {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// `a=b "c d"=e`, or for ENV and LABEL the old form `name the rest`.
fn pairs(name: &str, text: &str, env: bool) -> Result<Vec<(String, String)>> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        return match text.split_once(char::is_whitespace) {
            Some((key, value)) => Ok(vec![(key.to_owned(), unquote(value.trim())?)]),
            None => Err(Error::invalid(format!("{name} must have two arguments"))),
        };
    }
    let mut pairs = Vec::new();
    for word in words(text)? {
        let Some((key, value)) = word.split_once('=') else {
            return Err(Error::invalid(format!(
                "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
            )));
        };
        if key.is_empty() || (env && key.contains('\0')) {
            return Err(Error::invalid(format!("{name} names can not be blank")));
        }
        pairs.push((key.to_owned(), value.to_owned()));
    }
    Ok(pairs)
}

/// Sets a variable in `NAME=value` lines, in its place where it is there.
pub fn set_env(env: &mut Vec<String>, key: &str, value: &str) {
    let entry = format!("{key}={value}");
    let same = |known: &&mut String| known.split_once('=').map_or(known.as_str(), |(name, _)| name) == key;
    match env.iter_mut().find(same) {
        Some(known) => *known = entry,
        None => env.push(entry),
    }
}

/// Words as a shell splits them: quotes and backslashes, no variables.
fn words(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (None, '"' | '\'') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (Some(open), close) if open == close => quote = None,
            (Some('"'), '\\') => match letters.next() {
                Some(next @ ('"' | '\\' | '$')) => word.get_or_insert_default().push(next),
                Some(next) => word.get_or_insert_default().extend(['\\', next]),
                None => return Err(Error::invalid(format!("unexpected end of statement: {text}"))),
            },
            (None, '\\') => word.get_or_insert_default().extend(letters.next()),
            (None, letter) if letter.is_whitespace() => words.extend(word.take()),
            (_, letter) => word.get_or_insert_default().push(letter),
        }
    }
    if let Some(quote) = quote {
        return Err(Error::invalid(format!(
            "unexpected end of statement while looking for matching {quote}: {text}"
        )));
    }
    words.extend(word);
    Ok(words)
}

fn unquote(text: &str) -> Result<String> {
    Ok(words(text)?.join(" "))
}

/// `80`, `80/udp`, `80-82/tcp`.
///
/// # Errors
/// It is none of these.
pub fn ports(text: &str) -> Result<Vec<String>> {
    let wrong = || Error::invalid(format!("Invalid containerPort: {text}"));
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(Error::invalid(format!("Invalid proto: {protocol}")));
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let port =
        |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (first, last) = (port(first).ok_or_else(wrong)?, port(last).ok_or_else(wrong)?);
    if first > last {
        return Err(wrong());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// A relative working directory is beneath the one before.
pub fn join(before: &str, path: &str) -> String {
    if path.starts_with('/') { clean(path) } else { clean(&format!("{before}/{path}")) }
}

/// Names of signals with or without SIG, or numbers.
///
/// # Errors
/// It is neither.
pub fn signal(text: &str) -> Result<String> {
    const NAMES: &[&str] = &[
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
        "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
        "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
    ];
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let is_number = text.parse::<u8>().is_ok_and(|number| (1..=64).contains(&number));
    let is_real_time = name.starts_with("RTMIN") || name.starts_with("RTMAX");
    match is_number || is_real_time || NAMES.contains(&name) {
        true => Ok(text.to_owned()),
        false => Err(Error::invalid(format!("Invalid signal: {text}"))),
    }
}

/// The words of HEALTHCHECK.
///
/// # Errors
/// They are not as they have to be.
pub fn healthcheck(text: &str) -> Result<Healthcheck> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| Error::invalid(format!("HEALTHCHECK: the option --{option} has no value")))?;
        match name {
            "interval" => check.interval = duration(value)?,
            "timeout" => check.timeout = duration(value)?,
            "start-period" => check.start_period = duration(value)?,
            "start-interval" => check.start_interval = duration(value)?,
            "retries" => {
                let retries = value.parse::<i64>();
                let retries =
                    retries.map_err(|_| Error::invalid(format!("--retries: {value} is no number")))?;
                if retries < 0 {
                    return Err(Error::invalid(format!("--retries cannot be negative ({retries})")));
                }
                check.retries = retries;
            }
            _ => return Err(Error::invalid(format!("Unknown flag: {name}"))),
        }
        rest = after.trim_start();
    }
    let (word, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    match (word.to_ascii_uppercase().as_str(), command.trim()) {
        ("NONE", "") => check.test = vec!["NONE".to_owned()],
        ("NONE", _) => return Err(Error::invalid("HEALTHCHECK NONE takes no arguments")),
        ("CMD", "") => return Err(Error::invalid("Missing command after HEALTHCHECK CMD")),
        ("CMD", command) => {
            check.test = match json_list(command) {
                Some(list) => ["CMD".to_owned()].into_iter().chain(list).collect(),
                None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
            }
        }
        (word, _) => return Err(Error::invalid(format!("Unknown type {word:?} in HEALTHCHECK (try CMD)"))),
    }
    Ok(check)
}

/// A duration as Go writes it (`1m30s`, `500ms`), in nanoseconds; it may not be below a millisecond, save 0.
fn duration(text: &str) -> Result<i64> {
    let wrong = || Error::invalid(format!("invalid duration {text:?}: as in 30s, 1m30s, 500ms"));
    let mut rest = text;
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |end| digits + end);
        let unit = match &rest[digits..end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "" if number == 0.0 => 1.0,
            _ => return Err(wrong()),
        };
        total += number * unit;
        rest = &rest[end..];
    }
    if text.is_empty() || total > 9e18 || (total > 0.0 && total < 1e6) {
        return Err(wrong());
    }
    Ok(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> Result<ContainerConfig> {
        let mut config = ContainerConfig::default();
        apply(&mut config, &changes.iter().map(|&change| change.to_owned()).collect::<Vec<_>>())?;
        Ok(config)
    }

    #[test]
    fn every_instruction() {
        let config = changed(&[
            "ENV PATH=/bin A=\"b c\" D='e'",
            "env A again and again",
            "CMD [\"sh\", \"-c\"]",
            "ENTRYPOINT exec top -b",
            "EXPOSE 80 53/udp 8000-8001",
            "LABEL a=b \"c d\"=\"e\\\"f\"",
            "USER 1:2",
            "VOLUME /a /b",
            "VOLUME [\"/c d\"]",
            "WORKDIR /x\nWORKDIR y/../z",
            "STOPSIGNAL SIGUSR1",
            "ONBUILD RUN true",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl x",
        ])
        .unwrap();
        assert_eq!(config.env, ["PATH=/bin", "A=again and again", "D=e"]);
        assert_eq!(config.cmd.unwrap(), ["sh", "-c"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "exec top -b"]);
        assert_eq!(
            config.exposed_ports.keys().collect::<Vec<_>>(),
            ["53/udp", "80/tcp", "8000/tcp", "8001/tcp"]
        );
        assert_eq!(config.labels["a"], "b");
        assert_eq!(config.labels["c d"], "e\"f");
        assert_eq!(
            (config.user, config.working_dir, config.stop_signal),
            ("1:2".into(), "/x/z".into(), "SIGUSR1".into())
        );
        assert_eq!(config.volumes.keys().collect::<Vec<_>>(), ["/a", "/b", "/c d"]);
        assert_eq!(config.on_build, ["RUN true"]);
        let check = config.healthcheck.unwrap();
        assert_eq!((check.interval, check.retries), (90_000_000_000, 3));
        assert_eq!(check.test, ["CMD-SHELL", "curl x"]);
    }

    #[test]
    fn what_is_wrong_is_refused_and_changes_nothing() {
        for change in [
            "RUN true",
            "FROM x",
            "COPY a b",
            "NOSUCH",
            "ENV",
            "ENV A",
            "EXPOSE x",
            "EXPOSE 9-1",
            "EXPOSE 80/x",
            "EXPOSE 65536",
            "STOPSIGNAL SIGNO",
            "ONBUILD ONBUILD RUN x",
            "HEALTHCHECK x",
            "HEALTHCHECK --retries=x CMD y",
            "HEALTHCHECK --interval=1us CMD y",
            "LABEL a=\"b",
            "VOLUME",
            "HEALTHCHECK CMD",
        ] {
            let mut config = ContainerConfig::default();
            let error = apply(&mut config, &["USER x".to_owned(), change.to_owned()]).unwrap_err();
            assert_eq!(error.kind, crate::Kind::InvalidParameter, "{change}");
            assert_eq!(config, ContainerConfig::default());
        }
    }
}
