//! What is legal and unwise, in the words of `docker build --check`.

use std::collections::{BTreeMap, BTreeSet};

use super::expand::Expander;
use super::instruction::{Command, Dockerfile, Instruction, Kind, Stage};
use super::mistake::Position;
use super::nearest::{hint, nearest};

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
    /// Rules that count only where they are asked for.
    experimental: Vec<String>,
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
                Some((name, value)) if name == "experimental" => {
                    check.experimental.extend(value.split(',').map(|rule| rule.trim().to_ascii_lowercase()));
                }
                Some((name, _)) => {
                    return Err(format!("invalid check option {name:?}{}", hint(&name, ["skip", "error"])));
                }
                None => return Err(format!("invalid check option {part:?}")),
            }
        }
        Ok(check)
    }

    /// The directive's of a file, and what the build argument says beyond that.
    ///
    /// # Errors
    /// An option is not known.
    pub fn of(file: &Dockerfile, arguments: &BTreeMap<String, Option<String>>) -> Result<Check, String> {
        let given = |name: &str| arguments.get(name).cloned().flatten();
        let directive = file.directives.check.as_ref().map(|(text, _)| text.clone());
        let text = given("BUILDKIT_DOCKERFILE_CHECK").or(directive);
        let mut check = text.map(|text| Check::parse(&text)).transpose()?.unwrap_or_default();
        if let Some(rules) = given("BUILDKIT_DOCKERFILE_CHECK_EXPERIMENTAL") {
            check.experimental.extend(rules.split(',').map(|rule| rule.trim().to_ascii_lowercase()));
        }
        Ok(check)
    }

    fn counts(&self, rule: &str) -> bool {
        let among = |list: &[String]| list.iter().any(|one| one == "all" || one.eq_ignore_ascii_case(rule));
        !among(&self.skipped) && (!EXPERIMENTAL.contains(&rule) || among(&self.experimental))
    }
}

/// Rules that count only where they are asked for.
const EXPERIMENTAL: [&str; 2] = ["CopyIgnoredFile", "InvalidDefinitionDescription"];

/// What is known beside the file.
pub struct Around<'a> {
    /// The variables that a base image brings, by the stage's number; none where it is not known, and then nothing is said
    /// about variables that may be its.
    pub inherited: &'a dyn Fn(usize) -> Option<Vec<String>>,
    /// Whether the context is without a path.
    pub ignored: &'a dyn Fn(&str) -> bool,
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
    check: &'a Check,
    found: Vec<Warning>,
}

/// Tells what is unwise.
pub fn lint(file: &Dockerfile, check: &Check, around: &Around<'_>) -> Vec<Warning> {
    let mut lint = Lint { file, check, found: Vec::new() };
    lint.lines();
    lint.casing();
    lint.stages();
    lint.secrets();
    lint.instructions();
    lint.variables(around.inherited);
    lint.descriptions();
    lint.ignored(around.ignored);
    lint.found.sort_by_key(|warning| warning.at);
    lint.found
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
        self.file.arguments.iter().chain(self.of_stages())
    }

    /// The instructions of stages, with their FROM.
    fn of_stages(&self) -> impl Iterator<Item = &Instruction> {
        self.file.stages.iter().flat_map(|stage| [&stage.from].into_iter().chain(&stage.instructions))
    }

    /// What stands before the first stage does not count.
    fn casing(&mut self) {
        let is_lower = |word: &str| word.chars().all(char::is_lowercase);
        let is_upper = |word: &str| word.chars().all(char::is_uppercase);
        let lower = self.of_stages().filter(|instruction| is_lower(&instruction.keyword)).count();
        let upper = self.of_stages().filter(|instruction| is_upper(&instruction.keyword)).count();
        let majority_lower = lower > upper;
        let (name, fits): (_, &dyn Fn(&str) -> bool) =
            if majority_lower { ("lowercase", &is_lower) } else { ("uppercase", &is_upper) };
        let odd: Vec<(String, Position)> = self
            .of_stages()
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
        } else if !platform.contains('$') && !is_named_by(stage, platform) {
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
        // The stages that chose a shell, and those that said where the working directory is, by number and name.
        let (mut shells, mut workdirs) = (BTreeSet::new(), BTreeSet::new());
        for stage in &file.stages {
            let mut last: BTreeMap<&str, Position> = BTreeMap::new();
            let base = stage.base.to_lowercase();
            let (mut has_shell, mut has_workdir) = (shells.contains(&base), workdirs.contains(&base));
            for instruction in &stage.instructions {
                let at = instruction.at;
                has_shell |= matches!(instruction.kind, Kind::Shell(_));
                if let Kind::Workdir(path) = &instruction.kind {
                    if !has_workdir {
                        self.relative_workdir(path, at);
                    }
                    has_workdir = true;
                }
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
            if let Some(name) = &stage.name {
                shells.extend(has_shell.then(|| name.clone()));
                workdirs.extend(has_workdir.then(|| name.clone()));
            }
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
            if port.contains(':') && !port.contains('$') {
                self.add(
                    "ExposeInvalidFormat",
                    "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a \
                     future release",
                    format!(
                        "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                    ),
                    at,
                );
            }
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
    fn relative_workdir(&mut self, path: &str, at: Position) {
        if path.starts_with(['/', '$', '"', '\'']) {
            return;
        }
        self.add(
            "WorkdirRelativePath",
            "Relative workdir without an absolute workdir declared within the build can have unexpected results if the \
             base image changes",
            format!("Relative workdir {path:?} can have unexpected results if the base image changes"),
            at,
        );
    }

    /// Comments right above an argument or a stage describe it, or ought not to stand there.
    fn descriptions(&mut self) {
        let stages = self.file.stages.iter().filter_map(|stage| {
            let (_, name) = stage.written_name.as_ref()?;
            Some(("FROM", vec![name.clone()], &stage.from))
        });
        let arguments = self.all().filter_map(|instruction| match &instruction.kind {
            Kind::Arg(arguments) => {
                Some(("ARG", arguments.iter().map(|(name, _)| name.clone()).collect(), instruction))
            }
            _ => None,
        });
        let mut found = Vec::new();
        for (word, names, instruction) in stages.chain(arguments) {
            let Some(comment) = instruction.comments.last() else { continue };
            let first = comment.split(' ').next().unwrap_or_default();
            if names.iter().any(|name| name == first) {
                continue;
            }
            let example =
                if names.len() > 1 { "<arg_key>" } else { names.first().map_or("", String::as_str) };
            found.push((
                format!("Comment for {word} should follow the format: `# {example} <description>`"),
                instruction.at,
            ));
        }
        for (message, at) in found {
            self.add(
                "InvalidDefinitionDescription",
                "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is \
                 not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
                message,
                at,
            );
        }
    }

    /// What is copied and is not in the context.
    fn ignored(&mut self, ignored: &dyn Fn(&str) -> bool) {
        let mut found = Vec::new();
        for instruction in self.of_stages() {
            let (word, copy) = match &instruction.kind {
                Kind::Copy(copy) if copy.from.is_none() => ("Copy", copy),
                Kind::Add(add) => ("Add", &add.copy),
                _ => continue,
            };
            for source in copy.sources.iter().filter(|source| !source.contains(['$', '*', '?', '[', ':'])) {
                let parts = source.split('/').filter(|part| !matches!(*part, "" | "."));
                let plain = parts.collect::<Vec<_>>().join("/");
                if !plain.is_empty() && ignored(&plain) {
                    found.push((word, plain, instruction.at));
                }
            }
        }
        for (word, path, at) in found {
            self.add(
                "CopyIgnoredFile",
                "Attempting to Copy file that is excluded by .dockerignore",
                format!("Attempting to {word} file {path:?} that is excluded by .dockerignore"),
                at,
            );
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
                match nearest(&name, known.iter().map(String::as_str)) {
                    Some(meant) => {
                        format!("Usage of undefined variable '${name}' (did you mean ${meant}?)")
                    }
                    None => format!("Usage of undefined variable '${name}'"),
                },
                instruction.at,
            );
        }
    }
}

/// Whether a stage says by its name for which platform it is.
fn is_named_by(stage: &Stage, platform: &str) -> bool {
    let name = stage.name.as_deref().unwrap_or_default();
    let mut parts = platform.split('/').take(2).filter(|part| !part.is_empty());
    !name.is_empty() && parts.any(|part| name.contains(part))
}

fn is_secret(name: &str) -> bool {
    const SECRET: [&str; 9] =
        ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret"];
    let lower = name.to_lowercase();
    let public = lower.split('_').any(|word| word == "public");
    !public && lower.split('_').any(|word| SECRET.contains(&word) || word == "token")
}
