//! What instructions say, typed. Variables in their words are not expanded yet.

use super::lines::{Directives, Heredoc};
use super::mistake::{Mistake, Position};
use super::mount::Mount;

/// A Dockerfile that has been read.
#[derive(Clone, Debug, Default)]
pub struct Dockerfile {
    /// What its first lines direct.
    pub directives: Directives,
    /// ARG instructions before the first stage.
    pub arguments: Vec<Instruction>,
    /// The stages, in their order; there is at least one.
    pub stages: Vec<Stage>,
    /// Lines that are empty amid an instruction.
    pub empty_continuations: Vec<u32>,
}

/// A stage: its FROM, and what follows.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The image, as it is written.
    pub base: String,
    /// `--platform`, as it is written.
    pub platform: Option<String>,
    /// Its name, in small letters.
    pub name: Option<String>,
    /// The name as it is written, with its `AS`.
    pub written_name: Option<(String, String)>,
    /// The FROM itself.
    pub from: Instruction,
    /// The instructions behind it.
    pub instructions: Vec<Instruction>,
}

/// An instruction and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// As it is written, continuation lines joined.
    pub text: String,
    /// The keyword as it is written.
    pub keyword: String,
    /// Where it begins.
    pub at: Position,
    /// Its last line.
    pub last_line: u32,
    /// What it says.
    pub kind: Kind,
    /// The comments right above it.
    pub comments: Vec<String>,
}

impl Instruction {
    /// What the comments above tell of the argument or stage of this name: `# NAME what it is for`.
    pub fn description(&self, name: &str) -> Option<&str> {
        self.comments.iter().find_map(|comment| comment.strip_prefix(name)?.strip_prefix(' '))
    }

    /// A mistake in it.
    pub fn mistake(&self, message: impl Into<String>) -> Mistake {
        Mistake::at(self.at, message).until(self.last_line)
    }
}

/// What an instruction says.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A stage begins.
    From,
    /// Build arguments, with their defaults.
    Arg(Vec<(String, Option<String>)>),
    /// Environment variables.
    Env(Pairs),
    /// Labels.
    Label(Pairs),
    /// A command is run.
    Run(Run),
    /// Files are copied.
    Copy(Copy),
    /// Files are copied, fetched, unpacked.
    Add(Add),
    /// The working directory.
    Workdir(String),
    /// The user, with a group.
    User(String),
    /// Ports.
    Expose(Vec<String>),
    /// Places that are volumes.
    Volume(Vec<String>),
    /// What is executed.
    Entrypoint(Command),
    /// Its words.
    Cmd(Command),
    /// The shell of commands that are lines.
    Shell(Vec<String>),
    /// The signal that ends.
    Stopsignal(String),
    /// How health is checked; flags and words as they are written.
    Healthcheck(String),
    /// An instruction for who builds on this image, as text that has been looked through.
    Onbuild(String),
    /// Who made it.
    Maintainer(String),
}

/// Names with values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// In their order; quotes and variables as they are written.
    pub pairs: Vec<(String, String)>,
    /// The form `ENV name the rest`.
    pub legacy: bool,
}

/// A command in one of its two forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Words that are executed as they are.
    Exec(Vec<String>),
    /// A line for the shell.
    Shell(String),
}

/// RUN.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// What is run; a line that announces documents is without their contents.
    pub command: Command,
    /// The documents.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`.
    pub mounts: Vec<Mount>,
    /// `--network`: default, none or host.
    pub network: Option<String>,
    /// `--security`: sandbox or insecure.
    pub security: Option<String>,
    /// `--device`.
    pub devices: Vec<String>,
}

/// What COPY and ADD have in common.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Copy {
    /// Paths and patterns, as they are written.
    pub sources: Vec<String>,
    /// Documents, which are sources too.
    pub documents: Vec<Heredoc>,
    /// Where to.
    pub destination: String,
    /// `--from`: a stage, an image, a named context.
    pub from: Option<String>,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`.
    pub exclude: Vec<String>,
}

/// ADD.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Add {
    /// What it has in common with COPY.
    pub copy: Copy,
    /// `--keep-git-dir`.
    pub keep_git_dir: bool,
    /// `--checksum`.
    pub checksum: Option<String>,
    /// `--unpack`: whether archives are unpacked, also fetched ones.
    pub unpack: Option<bool>,
}
