//! Instructions that change the configuration alone.

use hull_image::ImageConfig;
use hull_image::config::{ContainerConfig, Healthcheck};
use hull_image::instruction::{healthcheck, join, ports, set_env, signal};
use serde_json::Map;

use crate::dockerfile::expand::Expander;
use crate::dockerfile::{Command, Kind, Pairs};
use crate::failure::{Failure, Result};

/// What an instruction says with its variables expanded, ready to be applied: a second run of the same words does the
/// same.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// ENV.
    Env(Vec<(String, String)>),
    /// LABEL.
    Label(Vec<(String, String)>),
    /// WORKDIR, already whole.
    Workdir(String),
    /// USER.
    User(String),
    /// EXPOSE: each with its protocol, and as they are written.
    Expose(Vec<String>, Vec<String>),
    /// VOLUME.
    Volume(Vec<String>),
    /// ENTRYPOINT; whether a CMD of this stage stays.
    Entrypoint(Vec<String>, bool),
    /// CMD.
    Cmd(Vec<String>),
    /// SHELL.
    Shell(Vec<String>),
    /// STOPSIGNAL.
    Stopsignal(String),
    /// HEALTHCHECK.
    Healthcheck(String),
    /// ONBUILD.
    Onbuild(String),
    /// MAINTAINER.
    Maintainer(String),
    /// ARG: nothing but a line of the history.
    Arg(String),
}

/// The shell of commands that are lines.
pub fn shell(config: &ContainerConfig) -> Vec<String> {
    config.shell.clone().unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()])
}

fn words(config: &ContainerConfig, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(words) => words.clone(),
        Command::Shell(line) if line.is_empty() => Vec::new(),
        Command::Shell(line) => shell(config).into_iter().chain([line.clone()]).collect(),
    }
}

fn expanded(pairs: &Pairs, expander: &Expander<'_>, names: bool) -> Result<Vec<(String, String)>, String> {
    let mut out = Vec::new();
    for (name, value) in &pairs.pairs {
        let name = if names { expander.word(name)? } else { name.clone() };
        out.push((name, expander.word(value)?));
    }
    Ok(out)
}

/// What an instruction changes; none where it is not of these. `cmd_set`: this stage has a CMD already.
///
/// # Errors
/// A variable is required and not set, a port or signal is none.
pub fn change(
    kind: &Kind,
    config: &ContainerConfig,
    expander: &Expander<'_>,
    cmd_set: bool,
) -> Result<Option<Change>> {
    let wrong = |message: String| Failure::invalid(message);
    let word = |text: &str| expander.word(text).map_err(wrong);
    Ok(Some(match kind {
        Kind::Env(pairs) => Change::Env(expanded(pairs, expander, true).map_err(wrong)?),
        Kind::Label(pairs) => Change::Label(expanded(pairs, expander, true).map_err(wrong)?),
        Kind::Workdir(path) => {
            let path = word(path)?;
            if path.is_empty() {
                return Err(Failure::invalid("WORKDIR: the path is empty once its variables are expanded"));
            }
            Change::Workdir(join(&config.working_dir, &path))
        }
        Kind::User(user) => Change::User(word(user)?),
        Kind::Stopsignal(name) => Change::Stopsignal(signal(&word(name)?)?),
        Kind::Expose(written) => {
            let mut all = Vec::new();
            let mut words = Vec::new();
            for text in written {
                for port in expander.words(text).map_err(wrong)? {
                    // An address and a port of the host's mean nothing here, and are told of by the check.
                    all.extend(ports(port.rsplit(':').next().unwrap_or(&port))?);
                    words.push(port);
                }
            }
            all.sort();
            Change::Expose(all, words)
        }
        Kind::Volume(places) => {
            let places = places.iter().map(|place| word(place)).collect::<Result<Vec<_>>>()?;
            if places.iter().any(|place| place.trim().is_empty()) {
                return Err(Failure::invalid("VOLUME specified can not be an empty string"));
            }
            Change::Volume(places)
        }
        Kind::Entrypoint(command) => Change::Entrypoint(words(config, command), cmd_set),
        Kind::Cmd(command) => Change::Cmd(words(config, command)),
        Kind::Shell(words) => Change::Shell(words.clone()),
        Kind::Healthcheck(text) => Change::Healthcheck(text.clone()),
        Kind::Onbuild(text) => Change::Onbuild(text.clone()),
        Kind::Maintainer(text) => Change::Maintainer(text.clone()),
        Kind::From | Kind::Arg(_) | Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) => return Ok(None),
    }))
}

fn quoted(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

fn json(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(" "))
}

/// A health check as Go prints it.
fn shown(check: &Healthcheck) -> String {
    let Healthcheck { test, interval, timeout, start_period, start_interval, retries } = check;
    let times =
        [interval, timeout, start_period, start_interval].map(|time| format!("{:?}", duration(*time)));
    let retries = u8::try_from(*retries).unwrap_or(u8::MAX);
    let retries = match retries {
        b'\n' => "\\n".to_owned(),
        b'\t' => "\\t".to_owned(),
        b'\r' => "\\r".to_owned(),
        7 => "\\a".to_owned(),
        8 => "\\b".to_owned(),
        11 => "\\v".to_owned(),
        12 => "\\f".to_owned(),
        b'\'' => "\\'".to_owned(),
        b'\\' => "\\\\".to_owned(),
        0..0x20 | 0x7f.. => format!("\\x{retries:02x}"),
        _ => char::from(retries).to_string(),
    };
    format!("&{{{} {} '{retries}'}}", json(test), times.join(" "))
}

/// Nanoseconds as Go prints a duration: `1m30s`, `500ms`.
fn duration(nanoseconds: i64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    let below = nanoseconds % 1_000_000_000;
    let decimal = |whole: i64, fraction: i64, digits: usize| {
        let fraction = format!("{fraction:0digits$}");
        let fraction = fraction.trim_end_matches('0');
        if fraction.is_empty() { whole.to_string() } else { format!("{whole}.{fraction}") }
    };
    match (seconds, below) {
        (0, 0) => "0s".to_owned(),
        (0, 0..1_000) => format!("{below}ns"),
        (0, 0..1_000_000) => format!("{}µs", decimal(below / 1_000, below % 1_000, 3)),
        (0, _) => format!("{}ms", decimal(below / 1_000_000, below % 1_000_000, 6)),
        _ => {
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let rest = format!("{}s", decimal(seconds % 60, below, 9));
            match (hours, minutes) {
                (0, 0) => rest,
                (0, _) => format!("{minutes}m{rest}"),
                _ => format!("{hours}h{minutes}m{rest}"),
            }
        }
    }
}

impl Change {
    /// The line of the history, as Docker's classic builder writes it on an image of this configuration.
    pub fn created_by(&self, config: &ContainerConfig) -> String {
        self.words(config).join(" ")
    }

    /// The words of that line: the command of the container that Docker's classic builder makes for it.
    pub fn words(&self, config: &ContainerConfig) -> Vec<String> {
        let mut words = match self {
            Change::Shell(words) => words.clone(),
            _ => shell(config),
        };
        let text = match self {
            Change::Workdir(path) => {
                words.push(format!("#(nop) WORKDIR {path}"));
                return words;
            }
            Change::Env(pairs) => format!("ENV {}", quoted(pairs)),
            Change::Label(pairs) => format!("LABEL {}", quoted(pairs)),
            Change::User(user) => format!("USER {user}"),
            Change::Expose(_, written) => format!("EXPOSE {}", written.join(" ")),
            Change::Volume(places) => format!("VOLUME [{}]", places.join(" ")),
            Change::Entrypoint(words, _) => format!("ENTRYPOINT {}", json(words)),
            Change::Cmd(words) => format!("CMD {}", json(words)),
            Change::Shell(words) => format!("SHELL [{}]", words.join(" ")),
            Change::Stopsignal(signal) => format!("STOPSIGNAL {signal}"),
            Change::Healthcheck(text) => match healthcheck(text) {
                Ok(check) => format!("HEALTHCHECK {}", shown(&check)),
                // It is refused when it is applied.
                Err(_) => format!("HEALTHCHECK {text}"),
            },
            Change::Onbuild(text) => format!("ONBUILD {text}"),
            Change::Maintainer(text) => format!("MAINTAINER {text}"),
            Change::Arg(text) => format!("ARG {text}"),
        };
        words.extend(["#(nop) ".to_owned(), text]);
        words
    }

    /// Changes a configuration.
    ///
    /// # Errors
    /// The words of a health check are none.
    pub fn apply(&self, image: &mut ImageConfig) -> Result<()> {
        let config = image.config.get_or_insert_default();
        match self {
            Change::Env(pairs) => {
                pairs.iter().for_each(|(name, value)| set_env(&mut config.env, name, value));
            }
            Change::Label(pairs) => config.labels.extend(pairs.iter().cloned()),
            Change::Workdir(path) => config.working_dir.clone_from(path),
            Change::User(user) => config.user.clone_from(user),
            Change::Expose(ports, _) => {
                config.exposed_ports.extend(ports.iter().map(|port| (port.clone(), Map::new())));
            }
            Change::Volume(places) => {
                config.volumes.extend(places.iter().map(|place| (place.clone(), Map::new())));
            }
            Change::Entrypoint(words, cmd_stays) => {
                config.entrypoint = Some(words.clone());
                if !cmd_stays {
                    config.cmd = None;
                }
            }
            Change::Cmd(words) => config.cmd = Some(words.clone()),
            Change::Shell(words) => config.shell = Some(words.clone()),
            Change::Stopsignal(signal) => config.stop_signal.clone_from(signal),
            Change::Healthcheck(text) => config.healthcheck = Some(healthcheck(text)?),
            Change::Onbuild(text) => config.on_build.push(text.clone()),
            Change::Maintainer(text) => image.author.clone_from(text),
            Change::Arg(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::parse;

    /// The configuration that instructions make.
    fn made(text: &str) -> Result<ImageConfig> {
        let file = parse(&format!("FROM x\n{text}\n")).unwrap();
        let mut image = ImageConfig::default();
        let mut cmd_set = false;
        for instruction in &file.stages[0].instructions {
            let config = image.config.clone().unwrap_or_default();
            let value = |name: &str| {
                config
                    .env
                    .iter()
                    .find_map(|entry| entry.split_once('=').filter(|(key, _)| *key == name))
                    .map(|(_, v)| v.to_owned())
            };
            let change = change(&instruction.kind, &config, &Expander::new('\\', &value), cmd_set)?.unwrap();
            cmd_set |= matches!(change, Change::Cmd(_));
            change.apply(&mut image)?;
        }
        Ok(image)
    }

    #[test]
    fn instructions_change_the_configuration() {
        let image = made(
            "ENV A=1 B=\"two words\"\nENV C=$A-$B D=$D\nLABEL l=\"$A\" \"m n\"='o'\nWORKDIR /srv\nWORKDIR app/$A\nUSER $A:2\n\
             EXPOSE 80 5${A}/udp\nVOLUME /v$A\nSHELL [\"bash\", \"-c\"]\nCMD echo $A\nENTRYPOINT [\"e\"]\nSTOPSIGNAL SIGUSR1\n\
             HEALTHCHECK --interval=5s CMD true\nONBUILD RUN x\nMAINTAINER me",
        )
        .unwrap();
        let config = image.config.unwrap();
        assert_eq!(config.env, ["A=1", "B=two words", "C=1-two words", "D="]);
        assert_eq!((config.labels["l"].as_str(), config.labels["m n"].as_str()), ("1", "o"));
        assert_eq!((config.working_dir.as_str(), config.user.as_str()), ("/srv/app/1", "1:2"));
        assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["51/udp", "80/tcp"]);
        assert_eq!(config.cmd.unwrap(), ["bash", "-c", "echo $A"], "an earlier CMD of this stage stays");
        assert_eq!(config.entrypoint.unwrap(), ["e"]);
        assert_eq!((config.stop_signal.as_str(), image.author.as_str()), ("SIGUSR1", "me"));
        assert_eq!(
            (config.healthcheck.unwrap().interval, config.on_build),
            (5_000_000_000, vec!["RUN x".to_owned()])
        );
    }

    #[test]
    fn variables_of_one_line_do_not_see_each_other() {
        let config = made("ENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc").unwrap().config.unwrap();
        assert_eq!(config.env, ["abc=bye", "def=hello", "ghi=bye"]);
        assert!(made("EXPOSE x").is_err());
        let exposed = made("EXPOSE 127.0.0.1:81:80/udp [::1]:82:83").unwrap().config.unwrap().exposed_ports;
        assert_eq!(exposed.keys().collect::<Vec<_>>(), ["80/udp", "83/tcp"]);
        assert!(made("STOPSIGNAL NOPE").is_err());
        assert!(made("WORKDIR $NO").is_err());
    }

    #[test]
    fn an_entry_point_forgets_an_inherited_command() {
        let mut image = ImageConfig::default();
        image.config.get_or_insert_default().cmd = Some(vec!["inherited".to_owned()]);
        Change::Entrypoint(vec!["e".to_owned()], false).apply(&mut image).unwrap();
        assert_eq!(image.config.unwrap().cmd, None);
        let config = ContainerConfig::default();
        let created = Change::Entrypoint(vec!["sh".to_owned(), "-c".to_owned()], false).created_by(&config);
        assert_eq!(created, "/bin/sh -c #(nop)  ENTRYPOINT [\"sh\" \"-c\"]");
    }

    #[test]
    fn lines_of_the_history_are_dockers() {
        let line = |text: &str| {
            let file = parse(&format!("FROM x\n{text}\n")).unwrap();
            let config =
                ContainerConfig { shell: Some(vec!["sh".into(), "-ec".into()]), ..Default::default() };
            let value = |_: &str| None;
            let expander = Expander::new('\\', &value);
            let change = change(&file.stages[0].instructions[0].kind, &config, &expander, false);
            change.unwrap().unwrap().created_by(&config)
        };
        assert_eq!(line("EXPOSE 80 81/udp 90-92"), "sh -ec #(nop)  EXPOSE 80 81/udp 90-92");
        assert_eq!(line("VOLUME [\"/a\", \"/b c\"]"), "sh -ec #(nop)  VOLUME [/a /b c]");
        assert_eq!(line("WORKDIR /a"), "sh -ec #(nop) WORKDIR /a");
        assert_eq!(line("SHELL [\"/bin/bash\", \"-c\"]"), "/bin/bash -c #(nop)  SHELL [/bin/bash -c]");
        assert_eq!(
            line("HEALTHCHECK --interval=5s --timeout=1h --start-period=1500ms --retries=10 CMD true"),
            "sh -ec #(nop)  HEALTHCHECK &{[\"CMD-SHELL\" \"true\"] \"5s\" \"1h0m0s\" \"1.5s\" \"0s\" '\\n'}"
        );
        assert_eq!(
            line("HEALTHCHECK NONE"),
            "sh -ec #(nop)  HEALTHCHECK &{[\"NONE\"] \"0s\" \"0s\" \"0s\" \"0s\" '\\x00'}"
        );
    }
}
