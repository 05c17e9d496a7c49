//! What is legal and unwise, in the words of `docker build --check`.

use std::collections::{BTreeMap, BTreeSet};

use super::expand::Expander;
use super::instruction::{Command, Dockerfile, Instruction, Kind, Stage};
use super::mistake::Position;
use super::nearest::hint;

/// A rule that a line breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The rule's name.
    pub rule: &'static str,
    /// What it is about, in general.
    pub description: &'static str,
    /// What it is here.
    pub message: String,
    /// Where.
    pub at: Position,
}

impl Warning {
    /// Where the rule is explained.
    pub fn url(&self) -> String {
        let mut page = String::new();
        let mut before = None;
        for letter in self.rule.chars() {
            if letter.is_uppercase() && before.is_some_and(char::is_lowercase) {
                page.push('-');
            }
            page.extend(letter.to_lowercase());
            before = Some(letter);
        }
        // The one name that begins with an abbreviation.
        let page = page.replace("jsonargs", "json-args");
        format!("https://docs.docker.com/go/dockerfile/rule/{page}/")
    }
}

/// Which rules count, by `# check=skip=A,B;error=true`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    skipped: Vec<String>,
    /// A broken rule fails the build.
    pub error: bool,
}

impl Check {
    /// Reads a directive.
    ///
    /// # Errors
    /// An option of it is not known.
    pub fn parse(text: &str) -> Result<Check, String> {
        let mut check = Check::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=').map(|(name, value)| (name.trim().to_ascii_lowercase(), value)) {
                Some((name, value)) if name == "skip" => {
                    check.skipped.extend(value.split(',').map(|rule| rule.trim().to_ascii_lowercase()));
                }
                Some((name, value)) if name == "error" => {
                    let value = value.trim();
                    let parsed = value.to_ascii_lowercase().parse();
                    check.error =
                        parsed.map_err(|_| format!("failed to parse check option \"error\": {value}"))?;
                }
                // Nothing of the experimental rules is switched on by name: there are none here.
                Some((name, _)) if name == "experimental" => {}
                Some((name, _)) => {
                    return Err(format!("invalid check option {name:?}{}", hint(&name, ["skip", "error"])));
                }
                None => return Err(format!("invalid check option {part:?}")),
            }
        }
        Ok(check)
    }

    fn counts(&self, rule: &str) -> bool {
        !self.skipped.iter().any(|skipped| skipped == "all" || *skipped == rule.to_ascii_lowercase())
    }
}

/// Arguments that every stage has without declaring them.
pub const PREDEFINED: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Arguments that are known before the first stage.
pub const PLATFORM: [&str; 8] = [
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETARCH",
    "TARGETVARIANT",
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDARCH",
    "BUILDVARIANT",
];

struct Lint<'a> {
    file: &'a Dockerfile,
    check: Check,
    found: Vec<Warning>,
}

/// Tells what is unwise. `inherited` are the variables that a base image brings, by the stage's number; none where it
/// is not known, and then nothing is said about variables that may be its.
pub fn lint(
    file: &Dockerfile,
    inherited: &dyn Fn(usize) -> Option<Vec<String>>,
) -> Result<Vec<Warning>, String> {
    let check = match &file.directives.check {
        Some((text, _)) => Check::parse(text)?,
        None => Check::default(),
    };
    let mut lint = Lint { file, check, found: Vec::new() };
    lint.lines();
    lint.casing();
    lint.stages();
    lint.secrets();
    lint.instructions();
    lint.variables(inherited);
    lint.found.sort_by_key(|warning| warning.at);
    Ok(lint.found)
}

impl Lint<'_> {
    fn add(
        &mut self,
        rule: &'static str,
        description: &'static str,
        message: impl Into<String>,
        at: Position,
    ) {
        if self.check.counts(rule) {
            self.found.push(Warning { rule, description, message: message.into(), at });
        }
    }

    fn lines(&mut self) {
        for line in &self.file.empty_continuations {
            let at = Position { line: *line, column: 1 };
            let description = "Empty continuation lines will become errors in a future release";
            self.add("NoEmptyContinuation", description, "Empty continuation line", at);
        }
    }

    fn all(&self) -> impl Iterator<Item = &Instruction> {
        let stages =
            self.file.stages.iter().flat_map(|stage| [&stage.from].into_iter().chain(&stage.instructions));
        self.file.arguments.iter().chain(stages)
    }

    fn casing(&mut self) {
        let is_lower = |word: &str| word.chars().all(char::is_lowercase);
        let is_upper = |word: &str| word.chars().all(char::is_uppercase);
        let lower = self.all().filter(|instruction| is_lower(&instruction.keyword)).count();
        let upper = self.all().filter(|instruction| is_upper(&instruction.keyword)).count();
        let majority_lower = lower > upper;
        let (name, fits): (_, &dyn Fn(&str) -> bool) =
            if majority_lower { ("lowercase", &is_lower) } else { ("uppercase", &is_upper) };
        let odd: Vec<(String, Position)> = self
            .all()
            .filter(|instruction| !fits(&instruction.keyword))
            .map(|instruction| (instruction.keyword.clone(), instruction.at))
            .collect();
        for (word, at) in odd {
            self.add(
                "ConsistentInstructionCasing",
                "All commands within the Dockerfile should use the same casing (either upper or lower)",
                format!("Command '{word}' should match the case of the command majority ({name})"),
                at,
            );
        }
    }

    fn stages(&mut self) {
        let mut seen = BTreeSet::new();
        for stage in &self.file.stages {
            let at = stage.from.at;
            if let Some((word, name)) = &stage.written_name {
                let from_lower = stage.from.keyword.chars().all(char::is_lowercase);
                let as_lower = word.chars().all(char::is_lowercase);
                if from_lower != as_lower {
                    self.add(
                        "FromAsCasing",
                        "The 'as' keyword should match the case of the 'from' keyword",
                        format!("'{word}' and '{}' keywords' casing do not match", stage.from.keyword),
                        at,
                    );
                }
                if name.chars().any(char::is_uppercase) {
                    self.add(
                        "StageNameCasing",
                        "Stage names should be lowercase",
                        format!("Stage name '{name}' should be lowercase"),
                        at,
                    );
                }
            }
            if let Some(name) = &stage.name {
                if matches!(name.as_str(), "scratch" | "context") {
                    self.add(
                        "ReservedStageName",
                        "Reserved words should not be used as stage names",
                        format!("Stage name should not use the same name as reserved stage {name:?}"),
                        at,
                    );
                }
                if !seen.insert(name) {
                    self.add(
                        "DuplicateStageName",
                        "Stage names should be unique",
                        format!("Duplicate stage name {name:?}, stage names should be unique"),
                        at,
                    );
                }
            }
            self.platform(stage);
        }
    }

    fn platform(&mut self, stage: &Stage) {
        let Some(platform) = &stage.platform else { return };
        if matches!(platform.as_str(), "$TARGETPLATFORM" | "${TARGETPLATFORM}") {
            self.add(
                "RedundantTargetPlatform",
                "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
                format!("Setting platform to predefined {platform} in FROM is redundant as this is the default behavior"),
                stage.from.at,
            );
        } else if !platform.contains('$') {
            self.add(
                "FromPlatformFlagConstDisallowed",
                "FROM --platform flag should not use a constant value",
                format!("FROM --platform flag should not use constant value {platform:?}"),
                stage.from.at,
            );
        }
    }

    fn secrets(&mut self) {
        let mut found = Vec::new();
        for instruction in self.all() {
            let (word, names): (_, Vec<&String>) = match &instruction.kind {
                Kind::Arg(arguments) => ("ARG", arguments.iter().map(|(name, _)| name).collect()),
                Kind::Env(pairs) => ("ENV", pairs.pairs.iter().map(|(name, _)| name).collect()),
                _ => continue,
            };
            for name in names.into_iter().filter(|name| is_secret(name)) {
                found.push((word, name.clone(), instruction.at));
            }
        }
        for (word, name, at) in found {
            self.add(
                "SecretsUsedInArgOrEnv",
                "Sensitive data should not be used in the ARG or ENV commands",
                format!("Do not use ARG or ENV instructions for sensitive data ({word} {name:?})"),
                at,
            );
        }
    }

    fn instructions(&mut self) {
        let file = self.file;
        for stage in &file.stages {
            let mut last: BTreeMap<&str, Position> = BTreeMap::new();
            let has_shell = stage.instructions.iter().any(|one| matches!(one.kind, Kind::Shell(_)));
            for instruction in &stage.instructions {
                let at = instruction.at;
                let mut once = |lint: &mut Self, word: &'static str| {
                    // The last one counts, so the ones before are told.
                    if let Some(before) = last.insert(word, at) {
                        lint.add(
                            "MultipleInstructionsDisallowed",
                            "Multiple instructions of the same type should not be used in the same stage",
                            format!(
                                "Multiple {word} instructions should not be used in the same stage because only the last one \
                                 will be used"
                            ),
                            before,
                        );
                    }
                };
                match &instruction.kind {
                    Kind::Cmd(command) => {
                        once(self, "CMD");
                        self.json("CMD", command, has_shell, at);
                    }
                    Kind::Entrypoint(command) => {
                        once(self, "ENTRYPOINT");
                        self.json("ENTRYPOINT", command, has_shell, at);
                    }
                    Kind::Healthcheck(_) => once(self, "HEALTHCHECK"),
                    Kind::Maintainer(_) => self.add(
                        "MaintainerDeprecated",
                        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
                        "Maintainer instruction is deprecated in favor of using label",
                        at,
                    ),
                    Kind::Env(pairs) if pairs.legacy => self.legacy("ENV", at),
                    Kind::Label(pairs) if pairs.legacy => self.legacy("LABEL", at),
                    Kind::Expose(ports) => self.ports(ports, at),
                    _ => {}
                }
            }
            self.relative_workdir(stage);
        }
    }

    fn legacy(&mut self, word: &str, at: Position) {
        self.add(
            "LegacyKeyValueFormat",
            "Legacy key/value format with whitespace separator should not be used",
            format!("\"{word} key=value\" should be used instead of legacy \"{word} key value\" format"),
            at,
        );
    }

    fn json(&mut self, word: &str, command: &Command, has_shell: bool, at: Position) {
        // Who chooses a shell wants one.
        if let Command::Shell(line) = command
            && !has_shell
            && !line.is_empty()
        {
            self.add(
                "JSONArgsRecommended",
                "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
                format!(
                    "JSON arguments recommended for {word} to prevent unintended behavior related to OS signals"
                ),
                at,
            );
        }
    }

    fn ports(&mut self, ports: &[String], at: Position) {
        for port in ports {
            let Some((_, protocol)) = port.split_once('/') else { continue };
            if protocol.chars().any(char::is_uppercase) {
                self.add(
                    "ExposeProtoCasing",
                    "Protocol in EXPOSE instruction should be lowercase",
                    format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase"),
                    at,
                );
            }
        }
    }

    /// Where nothing before says where the working directory is, the image does, and may change its mind.
    fn relative_workdir(&mut self, stage: &Stage) {
        let from_stage =
            self.file.stages.iter().any(|other| other.name.as_deref() == Some(&stage.base.to_lowercase()));
        for instruction in &stage.instructions {
            let Kind::Workdir(path) = &instruction.kind else { continue };
            if path.starts_with(['/', '$', '"', '\'']) || from_stage {
                return;
            }
            self.add(
                "WorkdirRelativePath",
                "Relative workdir without an absolute workdir declared within the build can have unexpected results if the \
                 base image changes",
                format!("Relative workdir {path:?} can have unexpected results if the base image changes"),
                instruction.at,
            );
            return;
        }
    }

    fn variables(&mut self, inherited: &dyn Fn(usize) -> Option<Vec<String>>) {
        let file = self.file;
        let escape = file.directives.escape;
        let globals: BTreeMap<String, Option<String>> = file
            .arguments
            .iter()
            .filter_map(|instruction| match &instruction.kind {
                Kind::Arg(arguments) => Some(arguments.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        let mut of_stage: BTreeMap<String, Option<BTreeSet<String>>> = BTreeMap::new();
        for (number, stage) in file.stages.iter().enumerate() {
            self.variables_of_from(stage, &globals, escape);
            let base = stage.base.to_lowercase();
            let mut known: Option<BTreeSet<String>> = match of_stage.get(&base) {
                Some(known) => known.clone(),
                None if base == "scratch" => Some(BTreeSet::new()),
                None => inherited(number).map(|names| names.into_iter().collect()),
            };
            for instruction in &stage.instructions {
                self.variables_of(instruction, known.as_ref(), escape);
                if let Some(known) = &mut known {
                    match &instruction.kind {
                        Kind::Arg(arguments) => known.extend(arguments.iter().map(|(name, _)| name.clone())),
                        Kind::Env(pairs) => known.extend(pairs.pairs.iter().map(|(name, _)| name.clone())),
                        _ => {}
                    }
                }
            }
            if let Some(name) = &stage.name {
                of_stage.insert(name.clone(), known.clone());
            }
            of_stage.insert(number.to_string(), known);
        }
    }

    fn variables_of_from(&mut self, stage: &Stage, globals: &BTreeMap<String, Option<String>>, escape: char) {
        let value = |name: &str| match globals.get(name) {
            Some(value) => Some(value.clone().unwrap_or_default()),
            None => PLATFORM.contains(&name).then(|| "x".to_owned()),
        };
        let expander = Expander::new(escape, &value);
        let image = expander.word(&stage.base).unwrap_or_default();
        for name in expander.missing() {
            self.add(
                "UndefinedArgInFrom",
                "FROM command must use declared ARGs",
                format!(
                    "FROM argument '{name}' is not declared{}",
                    hint(&name, globals.keys().map(String::as_str))
                ),
                stage.from.at,
            );
        }
        // A name that has nothing where its argument has no default.
        let invalid =
            image.is_empty() || image.ends_with(':') || image.starts_with([':', '/']) || image.contains("//");
        if invalid && stage.base.contains('$') && expander.missing().is_empty() {
            self.add(
                "InvalidDefaultArgInFrom",
                "Default value for global ARG results in an empty or invalid base image name",
                format!("Default value for ARG {} results in empty or invalid base image name", stage.base),
                stage.from.at,
            );
        }
    }

    fn variables_of(&mut self, instruction: &Instruction, known: Option<&BTreeSet<String>>, escape: char) {
        let texts: Vec<&String> = match &instruction.kind {
            Kind::Arg(arguments) => arguments.iter().filter_map(|(_, value)| value.as_ref()).collect(),
            Kind::Env(pairs) | Kind::Label(pairs) => pairs.pairs.iter().map(|(_, value)| value).collect(),
            Kind::Copy(copy) => copy.sources.iter().chain([&copy.destination]).collect(),
            Kind::Add(add) => add.copy.sources.iter().chain([&add.copy.destination]).collect(),
            Kind::Workdir(text) | Kind::User(text) | Kind::Stopsignal(text) => vec![text],
            Kind::Expose(texts) | Kind::Volume(texts) => texts.iter().collect(),
            _ => return,
        };
        let Some(known) = known else { return };
        let predefined =
            |name: &str| PREDEFINED.contains(&name) || PLATFORM.contains(&name) || name == "PATH";
        let value = |name: &str| (known.contains(name) || predefined(name)).then(|| "x".to_owned());
        let expander = Expander::new(escape, &value);
        for text in texts {
            // What does not parse has been refused already.
            let _ = expander.word(text);
        }
        for name in expander.missing() {
            self.add(
                "UndefinedVar",
                "Variables should be defined before their use",
                format!(
                    "Usage of undefined variable '${name}'{}",
                    hint(&name, known.iter().map(String::as_str))
                ),
                instruction.at,
            );
        }
    }
}

fn is_secret(name: &str) -> bool {
    const SECRET: [&str; 9] =
        ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret"];
    let lower = name.to_lowercase();
    let public = lower.split('_').any(|word| word == "public");
    !public && lower.split('_').any(|word| SECRET.contains(&word) || word == "token")
}
