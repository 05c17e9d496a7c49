//! From logical lines to instructions, and from those to stages.

use super::expand::Expander;
use super::instruction::{Add, Command, Copy, Dockerfile, Instruction, Kind, Run, Stage};
use super::lines::{self, Heredoc, Logical, unknown_instruction};
use super::mistake::{Mistake, Position};
use super::{flags, mount, values};

const KEYWORDS: &[&str] = &[
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Reads a Dockerfile.
///
/// # Errors
/// The first thing that is wrong with it, with its place.
pub fn parse(text: &str) -> Result<Dockerfile, Mistake> {
    let lines = lines::read(text)?;
    check_syntax(&lines.directives)?;
    if lines.logical.is_empty() {
        return Err(Mistake::of_file("file with no instructions"));
    }
    let mut file = Dockerfile {
        directives: lines.directives,
        empty_continuations: lines.empty_continuations,
        ..Dockerfile::default()
    };
    for line in &lines.logical {
        let instruction = instruction(line, file.directives.escape)?;
        match (&instruction.kind, file.stages.last_mut()) {
            (Kind::From, _) => file.stages.push(stage(line, instruction, file.directives.escape)?),
            (_, Some(stage)) => stage.instructions.push(instruction),
            (Kind::Arg(_), None) => file.arguments.push(instruction),
            (_, None) => return Err(line.mistake(0, "no build stage in current context")),
        }
    }
    if file.stages.is_empty() {
        return Err(Mistake::of_file("dockerfile contains no stages to build"));
    }
    Ok(file)
}

/// Reads an instruction that an image holds for who builds on it.
///
/// # Errors
/// It is none.
pub fn parse_trigger(text: &str) -> Result<Instruction, Mistake> {
    let lines = lines::read(text)?;
    match lines.logical.as_slice() {
        [line] => instruction(line, '\\'),
        _ => Err(Mistake::of_file(format!("ONBUILD: {text:?} is not one instruction"))),
    }
}

/// Another language needs another builder; hull reads Docker's by itself.
fn check_syntax(directives: &lines::Directives) -> Result<(), Mistake> {
    let Some((syntax, line)) = &directives.syntax else { return Ok(()) };
    let name = syntax.split_whitespace().next().unwrap_or_default();
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let repository = name.split(['@', ':']).next().unwrap_or_default();
    if matches!(repository, "docker/dockerfile" | "docker/dockerfile-upstream") {
        return Ok(());
    }
    let at = Position { line: *line, column: 1 };
    Err(Mistake::at(
        at,
        format!(
            "the frontend {name} is not supported by hull, which reads Dockerfiles itself: # syntax=docker/dockerfile:1, or \
             no such line"
        ),
    ))
}

/// A place in the text of a line: a part of it, by its first byte.
struct Rest<'a> {
    line: &'a Logical,
    keyword: &'a str,
    text: &'a str,
    offset: usize,
    escape: char,
}

impl Rest<'_> {
    fn wrong(&self, message: impl Into<String>) -> Mistake {
        self.line.mistake(self.offset.min(self.line.text.len()), message)
    }

    fn at_start(&self, message: impl Into<String>) -> Mistake {
        self.line.mistake(0, message)
    }

    fn required(&self) -> Result<&str, Mistake> {
        if self.text.is_empty() {
            return Err(self.at_start(format!("{} requires at least one argument", self.keyword)));
        }
        Ok(self.text)
    }

    fn exactly_one(&self) -> Result<String, Mistake> {
        if self.text.is_empty() {
            return Err(self.at_start(format!("{} requires exactly one argument", self.keyword)));
        }
        Ok(self.text.to_owned())
    }

    /// A text whose quotes are closed and whose braces mean something, whatever the values will be.
    fn sound<'t>(&self, texts: impl IntoIterator<Item = &'t str>) -> Result<(), Mistake> {
        for text in texts {
            let anything = |_: &str| Some("x".to_owned());
            Expander::new(self.escape, &anything).word(text).map_err(|message| {
                self.line.mistake_at(text, format!("failed to process {text:?}: {message}"))
            })?;
        }
        Ok(())
    }
}

fn instruction(line: &Logical, escape: char) -> Result<Instruction, Mistake> {
    let (word, offset) = lines::keyword(&line.text);
    let upper = word.to_ascii_uppercase();
    let Some(keyword) = KEYWORDS.iter().find(|known| **known == upper) else {
        return Err(line.mistake(0, unknown_instruction(word, KEYWORDS)));
    };
    let mut rest = Rest { line, keyword, text: line.text[offset..].trim_end(), offset, escape };
    let kind = kind(&mut rest)?;
    Ok(Instruction {
        text: line.text.trim_end().to_owned(),
        keyword: word.to_owned(),
        at: line.position(0),
        last_line: line.last,
        kind,
        comments: line.comments.clone(),
    })
}

const NO_FLAGS: &[&str] = &[];
const FROM_FLAGS: &[&str] = &["platform"];
const RUN_FLAGS: &[&str] = &["mount", "network", "security", "device"];
const COPY_FLAGS: &[&str] = &["from", "chown", "chmod", "link", "parents", "exclude"];
const ADD_FLAGS: &[&str] = &["chown", "chmod", "link", "keep-git-dir", "checksum", "unpack", "exclude"];

fn kind(rest: &mut Rest<'_>) -> Result<Kind, Mistake> {
    // Those that may begin with `--` of their own.
    match rest.keyword {
        "HEALTHCHECK" => {
            hull_image::instruction::healthcheck(rest.required()?)
                .map_err(|error| rest.wrong(error.to_string()))?;
            return Ok(Kind::Healthcheck(rest.text.to_owned()));
        }
        "ONBUILD" => return trigger(rest),
        "RUN" => return run(rest).map(Kind::Run),
        "COPY" => {
            let mut flags = take_flags(rest, COPY_FLAGS)?;
            return copy(rest, &mut flags).map(Kind::Copy);
        }
        "ADD" => return add(rest).map(Kind::Add),
        "FROM" => return Ok(Kind::From),
        _ => {}
    }
    take_flags(rest, NO_FLAGS)?;
    let wrong = |message: String| rest.wrong(message);
    Ok(match rest.keyword {
        "ARG" => {
            let arguments = values::arguments(rest.text, rest.escape).map_err(wrong)?;
            rest.sound(arguments.iter().filter_map(|(_, value)| value.as_deref()))?;
            Kind::Arg(arguments)
        }
        "ENV" | "LABEL" => {
            let pairs = values::pairs(rest.keyword, rest.text, rest.escape).map_err(wrong)?;
            rest.sound(pairs.pairs.iter().map(|(_, value)| value.as_str()))?;
            if rest.keyword == "ENV" { Kind::Env(pairs) } else { Kind::Label(pairs) }
        }
        "WORKDIR" => Kind::Workdir(one_word(rest)?),
        "USER" => Kind::User(one_word(rest)?),
        "STOPSIGNAL" => Kind::Stopsignal(one_word(rest)?),
        "MAINTAINER" => Kind::Maintainer(rest.exactly_one()?),
        "EXPOSE" => {
            let ports = values::list(rest.required()?).map_err(wrong)?;
            rest.sound(ports.iter().map(String::as_str))?;
            Kind::Expose(ports)
        }
        "VOLUME" => {
            let places = values::list(rest.required()?).map_err(wrong)?;
            if places.is_empty() {
                return Err(rest.at_start("VOLUME requires at least one argument"));
            }
            if places.iter().any(|place| place.trim().is_empty()) {
                return Err(rest.wrong("VOLUME specified can not be an empty string"));
            }
            Kind::Volume(places)
        }
        "CMD" => Kind::Cmd(values::command(rest.text).map_err(wrong)?),
        "ENTRYPOINT" => Kind::Entrypoint(values::command(rest.text).map_err(wrong)?),
        _ => match values::json(rest.text).map_err(wrong)? {
            Some(shell) if !shell.is_empty() => Kind::Shell(shell),
            Some(_) => return Err(rest.at_start("SHELL requires at least one argument")),
            None => return Err(rest.wrong("SHELL requires the arguments to be in JSON form")),
        },
    })
}

fn one_word(rest: &Rest<'_>) -> Result<String, Mistake> {
    let word = rest.exactly_one()?;
    rest.sound([word.as_str()])?;
    Ok(word)
}

fn take_flags(rest: &mut Rest<'_>, known: &'static [&'static str]) -> Result<flags::Flags, Mistake> {
    let (flags, taken) = flags::take(rest.text, rest.escape, known).map_err(|message| rest.wrong(message))?;
    rest.text = &rest.text[taken..];
    rest.offset += taken;
    Ok(flags)
}

fn stage(line: &Logical, from: Instruction, escape: char) -> Result<Stage, Mistake> {
    let (keyword, offset) = ("FROM", lines::keyword(&line.text).1);
    let mut rest = Rest { line, keyword, text: line.text[offset..].trim_end(), offset, escape };
    let mut flags = take_flags(&mut rest, FROM_FLAGS)?;
    let platform = flags.one("platform").map_err(|message| rest.wrong(message))?;
    let words: Vec<&str> = rest.text.split_whitespace().collect();
    let (base, written_name) = match words.as_slice() {
        [base] => (*base, None),
        [base, word, name] if word.eq_ignore_ascii_case("as") => {
            (*base, Some(((*word).to_owned(), (*name).to_owned())))
        }
        _ => return Err(rest.at_start("FROM requires either one or three arguments")),
    };
    rest.sound([base])?;
    let name = match &written_name {
        Some((_, written)) => {
            let name = written.to_ascii_lowercase();
            let plain = name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
            if !plain {
                let message = "name can't start with a number or contain symbols";
                return Err(
                    line.mistake_at(written, format!("invalid name for build stage: {written:?}, {message}"))
                );
            }
            Some(name)
        }
        None => None,
    };
    Ok(Stage { base: base.to_owned(), platform, name, written_name, from, instructions: Vec::new() })
}

fn run(rest: &mut Rest<'_>) -> Result<Run, Mistake> {
    let mut flags = take_flags(rest, RUN_FLAGS)?;
    let wrong = |message: String| rest.wrong(message);
    let mut mounts = Vec::new();
    for text in flags.all("mount").map_err(wrong)? {
        mounts.push(
            mount::parse(&text).map_err(|message| {
                rest.line.mistake_at(text.split(',').next().unwrap_or_default(), message)
            })?,
        );
    }
    let network = flags.one("network").map_err(wrong)?;
    one_of("network", network.as_deref(), &["default", "none", "host"]).map_err(wrong)?;
    let security = flags.one("security").map_err(wrong)?;
    one_of("security", security.as_deref(), &["sandbox", "insecure"]).map_err(wrong)?;
    let devices = flags.all("device").map_err(wrong)?;
    if rest.text.is_empty() {
        return Err(rest.at_start("RUN requires at least one argument"));
    }
    let heredocs = rest.line.heredocs.clone();
    let command = values::command(rest.text).map_err(wrong)?;
    Ok(Run { command, heredocs, mounts, network, security, devices })
}

fn one_of(flag: &str, value: Option<&str>, known: &[&str]) -> Result<(), String> {
    match value {
        Some(value) if !known.contains(&value) => {
            let hint = super::nearest::hint(value, known.iter().copied());
            Err(format!("{flag} value {value:?} is not one of {}{hint}", known.join(", ")))
        }
        _ => Ok(()),
    }
}

fn copy(rest: &mut Rest<'_>, flags: &mut flags::Flags) -> Result<Copy, Mistake> {
    let wrong = |message: String| rest.wrong(message);
    let is_copy = rest.keyword == "COPY";
    let mut copy = Copy {
        chown: flags.one("chown").map_err(wrong)?,
        chmod: flags.one("chmod").map_err(wrong)?,
        link: flags.switch("link").map_err(wrong)?.unwrap_or(false),
        exclude: flags.all("exclude").map_err(wrong)?,
        ..Copy::default()
    };
    if is_copy {
        copy.from = flags.one("from").map_err(wrong)?;
        if let Some(from) = copy.from.as_ref().filter(|from| from.contains('$')) {
            return Err(rest.line.mistake_at(
                from,
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a \
                 workaround",
            ));
        }
        copy.parents = flags.switch("parents").map_err(wrong)?.unwrap_or(false);
    }
    let mut words = match values::json(rest.text).map_err(wrong)? {
        Some(words) => words,
        None => lines::raw_words(rest.text, rest.escape),
    };
    let keyword = rest.keyword;
    let destination = match words.len() {
        0 | 1 => {
            return Err(rest.at_start(format!(
                "{keyword} requires at least two arguments, but only one was provided. Destination could not be determined"
            )));
        }
        _ => words.pop().unwrap_or_default(),
    };
    if lines::heredoc(&destination).is_some() {
        return Err(rest.wrong(format!("{keyword} cannot accept a heredoc as a destination")));
    }
    copy.destination = destination;
    let mut documents = rest.line.heredocs.iter();
    for word in words {
        match lines::heredoc(&word) {
            Some(_) => copy.documents.extend(documents.next().cloned()),
            None => copy.sources.push(word),
        }
    }
    rest.sound(copy.sources.iter().chain([&copy.destination]).map(String::as_str))?;
    Ok(copy)
}

fn add(rest: &mut Rest<'_>) -> Result<Add, Mistake> {
    let mut flags = take_flags(rest, ADD_FLAGS)?;
    let wrong = |message: String| rest.wrong(message);
    let keep_git_dir = flags.switch("keep-git-dir").map_err(wrong)?.unwrap_or(false);
    let checksum = flags.one("checksum").map_err(wrong)?;
    let unpack = flags.switch("unpack").map_err(wrong)?;
    let copy = copy(rest, &mut flags)?;
    Ok(Add { copy, keep_git_dir, checksum, unpack })
}

fn trigger(rest: &Rest<'_>) -> Result<Kind, Mistake> {
    let text = rest.required()?;
    let (word, _) = lines::keyword(text);
    match word.to_ascii_uppercase().as_str() {
        "ONBUILD" => return Err(rest.wrong("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")),
        upper @ ("MAINTAINER" | "FROM") => {
            return Err(rest.wrong(format!("{upper} isn't allowed as an ONBUILD trigger")));
        }
        _ => {}
    }
    // What it says is looked through now, as it will be when it is run.
    let inner = Logical::part(rest.line, text);
    instruction(&inner, rest.escape)
        .map_err(|mistake| Mistake { at: Some(rest.line.position(rest.offset)), ..mistake })?;
    Ok(Kind::Onbuild(with_documents(text, &rest.line.heredocs)))
}

/// The text of an instruction with its documents, as it was written.
fn with_documents(text: &str, heredocs: &[Heredoc]) -> String {
    let mut out = text.to_owned();
    for heredoc in heredocs {
        out.push('\n');
        out.push_str(&heredoc.content);
        out.push_str(&heredoc.name);
    }
    out
}

impl Run {
    /// The line for the shell: the command, its documents behind it. One document alone is a script.
    pub fn script(&self) -> Option<&Heredoc> {
        let Command::Shell(line) = &self.command else { return None };
        match self.heredocs.as_slice() {
            [only] if lines::heredoc(line.trim()).is_some() => Some(only),
            _ => None,
        }
    }

    /// The command line with its documents behind it, as a shell reads it.
    pub fn line(&self) -> Option<String> {
        match &self.command {
            Command::Exec(_) => None,
            Command::Shell(line) => Some(with_documents(line, &self.heredocs)),
        }
    }
}
