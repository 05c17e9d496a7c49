//! From the words typed to one command's run, and from its error to an exit status.
//!
//! Parsed in two steps: the global flags by a small parser of their own, then the one command that was named by its
//! own. pflag's habits, which scripts for `docker` count on, are kept: `--flag=false` for switches, values that begin
//! with a hyphen, the last of a repeated flag wins.

use std::num::{IntErrorKind, ParseFloatError, ParseIntError};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::client::{Client, Host};
use crate::commands::{self, Entry, Management};
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::{errln, help, outln};

/// The flags that stand before the command.
#[derive(Args, Debug)]
pub struct Globals {
    /// Location of client config files
    #[arg(long, value_name = "string", env = "DOCKER_CONFIG")]
    config: Option<PathBuf>,
    /// Print more about what is done
    #[arg(short = 'D', long)]
    debug: bool,
    /// Daemon to talk to: unix://PATH, tcp://HOST:PORT, ssh://USER@HOST
    #[arg(short = 'H', long, value_name = "address")]
    host: Vec<String>,
    /// How much to tell: debug, info, warn, error, fatal
    #[arg(short = 'l', long, value_name = "level", default_value = "info")]
    log_level: String,
    /// Use TLS; implied by --tlsverify
    #[arg(long)]
    tls: bool,
    /// Trust only certificates signed by this CA (default ~/.docker/ca.pem)
    #[arg(long, value_name = "file")]
    tlscacert: Option<PathBuf>,
    /// The client's certificate (default ~/.docker/cert.pem)
    #[arg(long, value_name = "file")]
    tlscert: Option<PathBuf>,
    /// The key of the client's certificate (default ~/.docker/key.pem)
    #[arg(long, value_name = "file")]
    tlskey: Option<PathBuf>,
    /// Use TLS and verify the daemon's certificate
    #[arg(long)]
    tlsverify: bool,
    /// Print the version and quit
    #[arg(short = 'v', long)]
    version: bool,
    #[arg(trailing_var_arg = true, hide = true)]
    words: Vec<String>,
}

/// Where the client's TLS files are and what is asked of them.
#[derive(Clone, Debug)]
pub struct TlsChoice {
    /// The CA that the daemon's certificate must come from; `None` when it is not verified.
    pub ca: Option<PathBuf>,
    /// The client's certificate, if its file exists or was named.
    pub certificate: Option<PathBuf>,
    /// The certificate's key.
    pub key: Option<PathBuf>,
}

/// What was typed, resolved to a command.
enum Resolved {
    Run { path: String, entry: &'static Entry, words: Vec<String> },
    Done(ExitStatus),
}

/// The whole life of the process as a client.
pub fn main() -> ExitCode {
    let words = std::env::args_os().skip(1);
    let mut typed = Vec::with_capacity(words.len());
    for word in words {
        match word.into_string() {
            Ok(word) => typed.push(word),
            Err(word) => {
                errln!("hull: {word:?} is not valid UTF-8");
                return ExitCode::from(125);
            }
        }
    }
    match run(typed) {
        Ok(status) => ExitCode::from(status.0),
        Err((path, error)) => {
            report(&path, &error);
            ExitCode::from(error.status())
        }
    }
}

const ROOT_USAGE: &str = "\n\nUsage:  hull [OPTIONS] COMMAND [ARG...]";

fn run(typed: Vec<String>) -> Result<ExitStatus, (String, Error)> {
    let at_root = |error: Error| {
        let error = if error.is_flag() { error.followed_by(ROOT_USAGE) } else { error };
        ("hull".to_owned(), error)
    };
    let globals =
        match parse("hull", "[OPTIONS] COMMAND [ARG...]", globals_command(), &typed).map_err(at_root)? {
            Parsed::Matches(matches) => {
                Globals::from_arg_matches(&matches).map_err(|e| at_root(Error::usage(e.to_string())))?
            }
            Parsed::Help => return help::print_root().map(|()| ExitStatus::SUCCESS).map_err(at_root),
        };
    if globals.version {
        outln!("hull version {}", env!("CARGO_PKG_VERSION")).map_err(at_root)?;
        return Ok(ExitStatus::SUCCESS);
    }
    let (path, entry, words) = match resolve(&globals.words)? {
        Resolved::Run { path, entry, words } => (path, entry, words),
        Resolved::Done(status) => return Ok(status),
    };
    let in_command = |error: Error| {
        let error = if error.is_flag() {
            error.followed_by(&format!("\n\nUsage:  {path} {}", entry.usage))
        } else {
            error
        };
        (path.clone(), error)
    };
    let command = (entry.arguments)(Command::new(entry.name));
    let matches = match parse(&path, entry.usage, command, &words).map_err(in_command)? {
        Parsed::Matches(matches) => matches,
        Parsed::Help => {
            return help::print_command(&path, entry).map(|()| ExitStatus::SUCCESS).map_err(in_command);
        }
    };
    let context = make_context(globals, path.clone()).map_err(in_command)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| in_command(Error::from(e).context("cannot set up the event loop")))?;
    let result = runtime.block_on((entry.run)(&matches, &context)).map_err(in_command);
    // A thread blocked in a read of standard input would hold up a usual shutdown for ever.
    runtime.shutdown_background();
    result
}

fn make_context(globals: Globals, command: String) -> Result<Context, Error> {
    let config_dir = globals.config.clone().unwrap_or_else(|| home().join(".docker"));
    let host = match globals.host.as_slice() {
        [] => ["HULL_HOST", "DOCKER_HOST"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty())),
        [one] => Some(one.clone()),
        _ => return Err(Error::usage("specify only one -H")),
    };
    let tls = tls_choice(&globals, &config_dir);
    let client = Client::new(Host::parse(host.as_deref(), tls.is_some())?, tls);
    Ok(Context { client, command, config_dir, debug: globals.debug || globals.log_level == "debug" })
}

fn home() -> PathBuf {
    std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

fn tls_choice(globals: &Globals, config_dir: &std::path::Path) -> Option<TlsChoice> {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let verify = globals.tlsverify || set("DOCKER_TLS_VERIFY");
    if !(verify || globals.tls || set("DOCKER_TLS")) {
        return None;
    }
    let folder = std::env::var_os("DOCKER_CERT_PATH")
        .filter(|value| !value.is_empty())
        .map_or_else(|| config_dir.to_owned(), PathBuf::from);
    // A file that was named must be there; one at its default place need not.
    let file = |named: &Option<PathBuf>, name: &str| {
        named.clone().or_else(|| Some(folder.join(name)).filter(|path| path.exists()))
    };
    Some(TlsChoice {
        ca: verify.then(|| globals.tlscacert.clone().unwrap_or_else(|| folder.join("ca.pem"))),
        certificate: file(&globals.tlscert, "cert.pem"),
        key: file(&globals.tlskey, "key.pem"),
    })
}

/// Finds the command that the words name. `help` stands for the flag at any place, as in Docker.
fn resolve(words: &[String]) -> Result<Resolved, (String, Error)> {
    let at_root = |error| ("hull".to_owned(), error);
    let done =
        |result: Result<(), Error>| result.map(|()| Resolved::Done(ExitStatus::SUCCESS)).map_err(at_root);
    let Some((first, rest)) = words.split_first() else {
        return done(help::print_root());
    };
    if first == "help" {
        return match rest {
            [] => done(help::print_root()),
            [name] if commands::find_management(name).is_some() => {
                done(commands::find_management(name).map_or(Ok(()), help::print_management))
            }
            _ => {
                let mut with_flag = rest.to_vec();
                with_flag.push("--help".to_owned());
                resolve(&with_flag)
            }
        };
    }
    if let Some(management) = commands::find_management(first) {
        return resolve_managed(management, rest);
    }
    match commands::find_root(first) {
        Some(entry) => {
            Ok(Resolved::Run { path: format!("hull {}", entry.name), entry, words: rest.to_vec() })
        }
        None => {
            let names = commands::ROOT.iter().flat_map(|table| table.iter()).map(|entry| entry.name);
            let names = names.chain(commands::MANAGEMENT.iter().map(|management| management.name));
            Err(at_root(unknown_command("hull", first, names)))
        }
    }
}

fn resolve_managed(management: &'static Management, words: &[String]) -> Result<Resolved, (String, Error)> {
    let path = format!("hull {}", management.name);
    let Some((first, rest)) = words.split_first() else {
        return help::print_management(management)
            .map(|()| Resolved::Done(ExitStatus::SUCCESS))
            .map_err(|error| (path, error));
    };
    if first == "--help" || first == "-h" || first == "help" {
        return help::print_management(management)
            .map(|()| Resolved::Done(ExitStatus::SUCCESS))
            .map_err(|error| (path, error));
    }
    if first.starts_with('-') {
        return Err((path, Error::usage(format!("unknown flag: {first}"))));
    }
    match management.find(first) {
        Some(entry) => {
            Ok(Resolved::Run { path: format!("{path} {}", entry.name), entry, words: rest.to_vec() })
        }
        None => {
            let names = management.entries.iter().map(|entry| entry.name);
            let error = unknown_command(&path, first, names);
            Err((path, error))
        }
    }
}

fn unknown_command(path: &str, typed: &str, names: impl Iterator<Item = &'static str>) -> Error {
    let near = names.map(|name| (distance(typed, name), name)).filter(|(d, name)| *d <= 2 && *d < name.len());
    let near = near.min_by_key(|(d, _)| *d).map(|(_, name)| name);
    let hint = near.map(|near| format!("\n\nDid you mean `{path} {near}`?")).unwrap_or_default();
    Error::usage(format!("unknown command: {path} {typed}{hint}")).with_status(1)
}

/// How many letters are missing, too many, wrong or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            table[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let changed = table[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                let least = changed.min(table[i - 1][j] + 1).min(table[i][j - 1] + 1);
                if swapped { least.min(table[i - 2][j - 2] + 1) } else { least }
            };
        }
    }
    table[a.len()][b.len()]
}

/// The globals' parser.
pub fn globals_command() -> Command {
    Globals::augment_args(Command::new("hull"))
}

enum Parsed {
    Matches(ArgMatches),
    Help,
}

/// Parses one command's words with pflag's habits, and words the errors as Docker does.
fn parse(path: &str, usage: &str, command: Command, words: &[String]) -> Result<Parsed, Error> {
    let mut command = pflag_habits(command);
    match command.try_get_matches_from_mut(words) {
        Ok(matches) => Ok(Parsed::Matches(matches)),
        Err(error) if error.kind() == ErrorKind::DisplayHelp => Ok(Parsed::Help),
        Err(error) => Err(word_error(path, usage, &command, &error)),
    }
}

/// Switches take `=true` and `=false`, values may begin with a hyphen, and the last of a repeated flag wins.
fn pflag_habits(command: Command) -> Command {
    let command = command.no_binary_name(true).disable_help_flag(true).disable_version_flag(true);
    let mut short_h_taken = false;
    let command = command.args_override_self(true).mut_args(|arg| {
        short_h_taken |= arg.get_short() == Some('h');
        if arg.is_positional() {
            return arg;
        }
        match arg.get_action() {
            ArgAction::SetTrue => arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_value("false")
                .default_missing_value("true")
                .value_parser(parse_bool),
            ArgAction::Set | ArgAction::Append => arg.allow_hyphen_values(true),
            _ => arg,
        }
    });
    let help = Arg::new("help").long("help").action(ArgAction::Help);
    command.arg(if short_h_taken { help } else { help.short('h') })
}

/// Go's strconv.ParseBool.
pub fn parse_bool(word: &str) -> Result<bool, String> {
    match word {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("{word:?} is neither true nor false")),
    }
}

fn context_text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.first().cloned(),
        _ => None,
    }
}

fn suggestion(error: &clap::Error, kind: ContextKind) -> Option<String> {
    context_text(error, kind)
}

fn word_error(path: &str, usage: &str, command: &Command, error: &clap::Error) -> Error {
    let of_flag = !command
        .get_positionals()
        .any(|arg| Some(arg.to_string()) == context_text(error, ContextKind::InvalidArg));
    let arg = context_text(error, ContextKind::InvalidArg).unwrap_or_default();
    let value = context_text(error, ContextKind::InvalidValue).unwrap_or_default();
    let wrong_count = || {
        Error::usage(format!("'{path}' {}\n\nUsage:  {path} {usage}", wanted_count(command))).with_status(1)
    };
    match error.kind() {
        ErrorKind::UnknownArgument if arg.starts_with("--") => {
            let near = suggestion(error, ContextKind::SuggestedArg);
            let hint = near.map(|near| format!("\n\nDid you mean `{near}`?")).unwrap_or_default();
            let name = arg.split('=').next().unwrap_or(&arg);
            Error::flag(format!("unknown flag: {name}{hint}"))
        }
        ErrorKind::UnknownArgument if arg.starts_with('-') && arg.len() > 1 => {
            let letter = arg.chars().nth(1).unwrap_or('-');
            Error::flag(format!("unknown shorthand flag: '{letter}' in {arg}"))
        }
        ErrorKind::UnknownArgument | ErrorKind::MissingRequiredArgument | ErrorKind::TooManyValues => {
            wrong_count()
        }
        ErrorKind::InvalidValue | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues if !of_flag => {
            wrong_count()
        }
        // clap says "invalid value" with none when a flag stands last without the value it needs.
        ErrorKind::InvalidValue | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues
            if value.is_empty() =>
        {
            Error::flag(format!("flag needs an argument: {}", flag_name(&arg)))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map(|why| format!(": {}", wanted_value(why)));
            let why = why.unwrap_or_default();
            Error::flag(format!("invalid argument {value:?} for {:?} flag{why}", flag_name(&arg)))
        }
        ErrorKind::NoEquals => Error::flag(format!("invalid argument for {:?} flag", flag_name(&arg))),
        ErrorKind::ArgumentConflict => {
            let prior = context_text(error, ContextKind::PriorArg).unwrap_or_default();
            Error::flag(format!("conflicting options: {} and {}", flag_name(&arg), flag_name(&prior)))
        }
        _ => Error::flag(error.to_string().trim_start_matches("error: ").trim_end().to_owned()),
    }
}

/// Why a value is none, of numbers what is wanted: the library's own words are of its language, not of the user's.
fn wanted_value(why: &(dyn std::error::Error + 'static)) -> String {
    if let Some(error) = why.downcast_ref::<ParseIntError>() {
        return match error.kind() {
            IntErrorKind::PosOverflow => "the number is too large",
            IntErrorKind::NegOverflow => "the number is too small",
            _ => "a whole number is expected",
        }
        .to_owned();
    }
    if why.is::<ParseFloatError>() {
        return "a number is expected, such as 1 or 0.5".to_owned();
    }
    let words = why.to_string();
    let range = words.split_once(" is not in ").and_then(|(_, range)| range.split_once("..="));
    match range {
        Some((least, most)) => format!("a whole number from {least} to {most} is expected"),
        None => words,
    }
}

/// `--memory <bytes>` is `--memory`.
fn flag_name(arg: &str) -> &str {
    arg.split([' ', '=', '[']).next().unwrap_or(arg)
}

/// How many arguments the command wants, in Docker's words.
fn wanted_count(command: &Command) -> String {
    let mut min = 0;
    let mut max = Some(0);
    for arg in command.get_positionals() {
        let many = matches!(arg.get_action(), ArgAction::Append);
        if arg.is_required_set() {
            min += arg.get_num_args().map_or(1, |range| range.min_values().max(1));
        }
        max = if many { None } else { max.map(|max: usize| max + 1) };
    }
    let arguments = |count| if count == 1 { "argument" } else { "arguments" };
    match max {
        Some(0) => "accepts no arguments".to_owned(),
        Some(max) if max == min => format!("requires {max} {}", arguments(max)),
        Some(max) if min == 0 => format!("requires at most {max} {}", arguments(max)),
        Some(max) => format!("requires at least {min} and at most {max} {}", arguments(max)),
        None => format!("requires at least {min} {}", arguments(min)),
    }
}

/// The last words on standard error.
fn report(path: &str, error: &Error) {
    if error.is_silent() {
        return;
    }
    let runs = path.ends_with(" run") || path.ends_with(" create");
    // Docker's habits: it names itself before an error where a container's own words may stand beside it, and where
    // the command line is wrong, but not before what is wrong with a flag.
    let named = !error.is_flag() && (error.is_usage() || (runs && error.status() >= 125));
    if named {
        errln!("hull: {error}");
    } else {
        errln!("{error}");
    }
    if error.is_usage() || (runs && error.status() >= 125) {
        errln!("\nRun '{path} --help' for more information");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(words: &[&str]) -> (String, u8) {
        let (path, error) = run(words.iter().map(|word| (*word).to_owned()).collect()).unwrap_err();
        (format!("{path}: {error}"), error.status())
    }

    #[test]
    fn mistyped_words_get_the_nearest() {
        for (typed, near) in
            [("rnu", "`hull run`"), ("exce", "`hull exec`"), ("contaner", "`hull container`")]
        {
            let (told, status) = refused(&[typed]);
            assert!(told.contains(near), "{told}");
            assert_eq!(status, 1);
        }
        assert!(!refused(&["frobnicate"]).0.contains("Did you mean"));
        assert!(refused(&["container", "inspcet", "x"]).0.contains("`hull container inspect`"));
        let (told, status) = refused(&["run", "--memroy", "5m", "x"]);
        assert!(told.contains("unknown flag: --memroy") && told.contains("`--memory`"), "{told}");
        assert_eq!(status, 125);
    }

    #[test]
    fn counts_of_arguments() {
        for (words, wanted) in [
            (vec!["run"], "'hull run' requires at least 1 argument"),
            (vec!["exec", "x"], "'hull exec' requires at least 2 arguments"),
            (vec!["rename", "x"], "'hull rename' requires 2 arguments"),
            (vec!["ps", "x"], "'hull ps' accepts no arguments"),
        ] {
            let (told, status) = refused(&words);
            assert!(told.contains(wanted), "{told}");
            assert_eq!(status, 1, "{words:?}");
        }
    }

    #[test]
    fn numbers_that_are_none() {
        for (words, why) in [
            (
                vec!["cgroup", "run", "--cpus", "abc"],
                "\"--cpus\" flag: a number is expected, such as 1 or 0.5",
            ),
            (vec!["cgroup", "run", "--pids", "1.5"], "\"--pids\" flag: a whole number is expected"),
            (vec!["stop", "-t", "x", "c"], "flag: a whole number is expected"),
            (vec!["ps", "-n", "99999999999999999999"], "flag: the number is too large"),
            (vec!["ns", "enter", "--setuid", "-5", "1"], "a whole number from 0 to 4294967295 is expected"),
        ] {
            let (told, _) = refused(&words);
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn habits_of_pflag() {
        let parsed = |words: &[&str]| {
            let command = Command::new("x")
                .arg(Arg::new("rm").long("rm").action(ArgAction::SetTrue))
                .arg(Arg::new("tty").short('t').action(ArgAction::SetTrue))
                .arg(Arg::new("in").short('i').action(ArgAction::SetTrue))
                .arg(Arg::new("swap").long("swap").action(ArgAction::Set));
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            match parse("hull x", "", command, &words) {
                Ok(Parsed::Matches(matches)) => matches,
                Ok(Parsed::Help) => panic!("help"),
                Err(error) => panic!("{error}"),
            }
        };
        assert!(!parsed(&["--rm=false"]).get_flag("rm"));
        assert!(parsed(&["--rm=T"]).get_flag("rm"));
        let matches = parsed(&["-it", "--swap", "-1", "--swap", "-2"]);
        assert!(matches.get_flag("tty") && matches.get_flag("in"));
        assert_eq!(matches.get_one::<String>("swap").unwrap(), "-2");
    }
}
