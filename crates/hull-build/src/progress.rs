//! What a build tells while it goes on.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use hull_image::reference::Reference;
use hull_image::registry::{Pulled, Step as PullStep};
use serde::Serialize;

use crate::plan::Plan;

/// Something that happened. Steps are counted from 1 over all stages that are built.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// A step begins.
    Step {
        /// Its number.
        step: usize,
        /// How many there are.
        total: usize,
        /// The number of its stage.
        stage: usize,
        /// `build 2/3`: its stage, and which of that it is.
        name: String,
        /// The instruction.
        text: String,
    },
    /// Its command runs in a container.
    Running {
        /// Its number.
        step: usize,
        /// The container's id.
        container: String,
    },
    /// Its command printed something.
    Output {
        /// Its number.
        step: usize,
        /// What.
        text: String,
        /// On standard error.
        error: bool,
    },
    /// What a step does was done before. Told to clients of the classic builder alone, as is what follows.
    Cached {
        /// Its number.
        step: usize,
    },
    /// The container of a step is removed.
    Removed {
        /// The step's number.
        step: usize,
        /// The container's id.
        container: String,
    },
    /// A step is over.
    Done {
        /// Its number.
        step: usize,
        /// What was built so far: the digest of its configuration. Empty where the digest of a layer is not known yet.
        #[serde(skip_serializing_if = "String::is_empty")]
        id: String,
        /// It was made before.
        cached: bool,
        /// How long it took.
        seconds: f64,
    },
    /// A step failed; why, the build's end says.
    Failed {
        /// Its number.
        step: usize,
    },
    /// A stage is over.
    Stage {
        /// Its number.
        stage: usize,
        /// What it made: the digest of its configuration. Empty where that is nothing.
        #[serde(skip_serializing_if = "String::is_empty")]
        id: String,
    },
    /// The base image has instructions for who builds on it.
    Triggers {
        /// The step of the FROM.
        step: usize,
        /// How many.
        count: usize,
    },
    /// The context has been read.
    Context {
        /// How long it took.
        seconds: f64,
        /// The bytes that the client sent: of a context that is kept, those of what was changed.
        bytes: u64,
    },
    /// Something is unwise.
    Warning {
        /// `RuleName: what is unwise (line 3)`.
        text: String,
        /// The lines.
        excerpt: String,
    },
}

/// Who is told what goes on.
pub trait Listener: Send + Sync {
    /// Takes an event.
    fn event(&self, event: Event);

    /// Waits until what was told has been taken, more or less: whoever prints without end waits for who reads it.
    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// A base image comes further; told to clients of the classic builder alone.
    fn pulling(&self, _step: &PullStep) {}

    /// It is here, under this name.
    fn pulled(&self, _name: &Reference, _pulled: &Pulled) {}

    /// Where the output of this number of the request goes, if whoever asks takes it.
    fn output(&self, _number: usize) -> Option<Sink> {
        None
    }
}

/// Where an output goes.
pub enum Sink {
    /// An archive, piece by piece.
    Archive(Box<dyn TakesArchive>),
    /// The files themselves.
    Files(Box<dyn TakesFiles>),
}

/// Whoever asks, taking an archive. What is written blocks as long as nobody reads.
pub trait TakesArchive: std::io::Write + Send {
    /// All of it was written: waits until whoever asks has taken it, where he says so.
    ///
    /// # Errors
    /// He could not take it.
    fn finish(self: Box<Self>) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whoever asks, taking files.
pub trait TakesFiles: Send {
    /// Sends what is in a folder, but for these paths, as what is in the folder of the name `beneath` where there is one. Blocks.
    ///
    /// # Errors
    /// The files cannot be read, or he could not take them.
    fn take(
        self: Box<Self>,
        root: BorrowedFd<'_>,
        without: &HashSet<Vec<u8>>,
        beneath: Option<&str>,
    ) -> std::io::Result<()>;
}

/// Where events go.
pub type Tell = Arc<dyn Listener>;

/// Nobody is told anything.
pub struct Silence;

impl Listener for Silence {
    fn event(&self, _: Event) {}

    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

/// What a client of Docker's classic builder is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A line or a part of one.
    Text(String),
    /// What a stage made: its image's id.
    Image(String),
}

/// So many bytes of what stages print are kept back until it is their turn to be told.
const KEPT_BACK: usize = 4 << 20;

/// Events as the lines of Docker's classic builder, stage by stage in their order, however they run: the first that is not
/// over is told as it goes, those behind it are kept back.
pub struct Classic {
    say: Box<dyn Fn(Said) + Send + Sync>,
    /// Steps before the first stage: its arguments.
    before: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The stages that are built, in their order; what is kept back of each.
    waiting: BTreeMap<usize, Waiting>,
    /// Bytes of output that are kept back, of all stages.
    bytes: usize,
    over: Vec<usize>,
    /// Which stage a step is of.
    stage_of: BTreeMap<usize, usize>,
}

/// What is kept back of a stage.
#[derive(Default)]
struct Waiting {
    events: VecDeque<Event>,
    /// By step, how many bytes of its output are left out.
    left_out: BTreeMap<usize, usize>,
}

/// What an output takes while it is kept back.
fn taken_by(text: &str) -> usize {
    text.len() + size_of::<Event>()
}

impl State {
    /// Keeps an event back. A stage whose turn has not come cannot wait for a reader, for the one whose turn it is may be
    /// waiting for it (for a cache mount, for the same step): where all keep back too much, it loses what it printed first.
    fn keep_back(&mut self, stage: usize, event: Event) {
        let waiting = self.waiting.entry(stage).or_default();
        if let Event::Output { text, .. } = &event {
            self.bytes += taken_by(text);
        }
        waiting.events.push_back(event);
        while self.bytes > KEPT_BACK {
            let is_output = |event: &Event| matches!(event, Event::Output { .. });
            let first = waiting.events.iter().position(is_output);
            let Some(Event::Output { step, text, .. }) = first.and_then(|at| waiting.events.remove(at))
            else {
                return;
            };
            self.bytes -= taken_by(&text);
            *waiting.left_out.entry(step).or_default() += text.len();
        }
    }
}

impl Classic {
    /// For what is planned; `say` gets the lines.
    pub fn new(plan: &Plan, say: impl Fn(Said) + Send + Sync + 'static) -> Classic {
        let classic = Classic::of(&plan.needed, plan.before.len(), say);
        let total = plan.before.len() + plan.steps();
        for (index, text) in plan.before.iter().enumerate() {
            classic.begun(index + 1, total, text);
        }
        classic
    }

    fn of(stages: &[usize], before: usize, say: impl Fn(Said) + Send + Sync + 'static) -> Classic {
        let waiting = stages.iter().map(|stage| (*stage, Waiting::default())).collect();
        Classic { say: Box::new(say), before, state: Mutex::new(State { waiting, ..State::default() }) }
    }

    /// Takes an event.
    pub fn event(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stage = match &event {
            Event::Step { step, stage, .. } => {
                state.stage_of.insert(*step, *stage);
                *stage
            }
            Event::Running { step, .. }
            | Event::Output { step, .. }
            | Event::Cached { step }
            | Event::Removed { step, .. }
            | Event::Done { step, .. }
            | Event::Failed { step }
            | Event::Triggers { step, .. } => state.stage_of.get(step).copied().unwrap_or_default(),
            Event::Stage { stage, .. } => *stage,
            Event::Context { .. } | Event::Warning { .. } => return,
        };
        let first = state.waiting.keys().next().copied();
        let is_over = matches!(event, Event::Stage { .. });
        if first.is_some_and(|first| first != stage) {
            if is_over {
                state.over.push(stage);
            }
            state.keep_back(stage, event);
            return;
        }
        self.told(event);
        if is_over {
            state.waiting.remove(&stage);
            // Those behind it may be over already.
            while let Some((next, waiting)) = state.waiting.pop_first() {
                state.bytes -= self.kept_back(waiting);
                if !state.over.contains(&next) {
                    state.waiting.insert(next, Waiting::default());
                    break;
                }
            }
        }
    }

    /// Tells what was kept back: a build that failed in a later stage is told with what that printed.
    pub fn finish(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, waiting) in std::mem::take(&mut state.waiting) {
            state.bytes -= self.kept_back(waiting);
        }
    }

    /// Tells what was kept back of a stage, and how many bytes that was.
    fn kept_back(&self, mut waiting: Waiting) -> usize {
        let mut bytes = 0;
        for event in waiting.events {
            let begun = match &event {
                Event::Running { step, .. } => Some(*step),
                Event::Output { step, text, .. } => {
                    bytes += taken_by(text);
                    Some(*step)
                }
                _ => None,
            };
            let left_out = begun.and_then(|step| waiting.left_out.remove(&step));
            let is_output = matches!(event, Event::Output { .. });
            let mut note = left_out.map(|bytes| format!("[{bytes} bytes of output are left out]\n"));
            // What is left out was before what is still here, and behind the container's name.
            if is_output && let Some(note) = note.take() {
                self.text(note);
            }
            self.told(event);
            note.into_iter().for_each(|note| self.text(note));
        }
        bytes
    }

    /// As Docker does, in two pieces.
    fn begun(&self, step: usize, total: usize, text: &str) {
        self.text(format!("Step {step}/{total} : {text}"));
        self.text("\n".to_owned());
    }

    fn text(&self, text: String) {
        (self.say)(Said::Text(text));
    }

    fn told(&self, event: Event) {
        let short = |id: &str| id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
        match event {
            Event::Step { step, total, text, .. } => {
                self.begun(self.before + step, self.before + total, &text);
            }
            Event::Running { container, .. } => {
                self.text(format!(" ---> Running in {}\n", short(&container)));
            }
            // As Docker marks what comes from standard error.
            Event::Output { text, error: true, .. } => self.text(format!("\u{1b}[91m{text}\u{1b}[0m")),
            Event::Output { text, .. } => self.text(text),
            Event::Cached { .. } => self.text(" ---> Using cache\n".to_owned()),
            Event::Removed { container, .. } => {
                self.text(format!(" ---> Removed intermediate container {}\n", short(&container)));
            }
            Event::Done { id, .. } => self.text(format!(" ---> {}\n", short(&id))),
            Event::Triggers { count, .. } => {
                let many = if count == 1 { "" } else { "s" };
                self.text(format!("# Executing {count} build trigger{many}\n"));
            }
            Event::Stage { id, .. } if !id.is_empty() => (self.say)(Said::Image(id)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_told_in_their_order() {
        let said = Arc::new(Mutex::new(String::new()));
        let into = Arc::clone(&said);
        let classic = Classic::of(&[0, 2], 1, move |said| {
            let text = match said {
                Said::Text(text) => text,
                Said::Image(id) => format!("[{id}]\n"),
            };
            into.lock().unwrap().push_str(&text);
        });
        let step = |step, stage| Event::Step {
            step,
            total: 3,
            stage,
            name: String::new(),
            text: format!("s{step}"),
        };
        let done = |step, cached| Event::Done {
            step,
            id: "sha256:0123456789abcdef".to_owned(),
            cached,
            seconds: 0.0,
        };
        classic.event(step(1, 0));
        classic.event(step(3, 2));
        classic.event(Event::Output { step: 3, text: "late\n".to_owned(), error: true });
        classic.event(Event::Cached { step: 1 });
        classic.event(done(1, true));
        assert_eq!(said.lock().unwrap().as_str(), "Step 2/4 : s1\n ---> Using cache\n ---> 0123456789ab\n");
        let container = "c".repeat(64);
        classic.event(Event::Running { step: 3, container: container.clone() });
        classic.event(Event::Stage { stage: 0, id: "sha256:a".to_owned() });
        classic.event(Event::Removed { step: 3, container });
        classic.event(done(3, false));
        classic.event(Event::Stage { stage: 2, id: "sha256:b".to_owned() });
        let said = said.lock().unwrap();
        let rest = "[sha256:a]\nStep 4/4 : s3\n\u{1b}[91mlate\n\u{1b}[0m ---> Running in cccccccccccc\n \
                    ---> Removed intermediate container cccccccccccc\n ---> 0123456789ab\n[sha256:b]\n";
        assert!(said.ends_with(rest), "{said}");
    }

    #[test]
    fn what_is_kept_back_has_a_bound() {
        let said = Arc::new(Mutex::new(String::new()));
        let into = Arc::clone(&said);
        let classic = Classic::of(&[0, 1], 0, move |said| {
            if let Said::Text(text) = said {
                into.lock().unwrap().push_str(&text);
            }
        });
        let step =
            |step, stage| Event::Step { step, total: 2, stage, name: String::new(), text: String::new() };
        classic.event(step(1, 0));
        classic.event(step(2, 1));
        classic.event(Event::Running { step: 2, container: "c".repeat(64) });
        let piece = "x".repeat(64 << 10);
        for _ in 0..2 * KEPT_BACK / piece.len() {
            classic.event(Event::Output { step: 2, text: piece.clone(), error: false });
        }
        classic.event(Event::Output { step: 2, text: "the end\n".to_owned(), error: false });
        assert!(classic.state.lock().unwrap().bytes <= KEPT_BACK);
        classic.event(Event::Stage { stage: 0, id: String::new() });
        let said = said.lock().unwrap();
        let (_, behind) = said.split_once(" ---> Running in cccccccccccc\n[").unwrap();
        let (count, rest) = behind.split_once(" bytes of output are left out]\n").unwrap();
        let count: usize = count.parse().unwrap();
        assert_eq!(count + rest.len(), 2 * KEPT_BACK + "the end\n".len());
        assert!(count > KEPT_BACK && rest.ends_with("xthe end\n"));
        assert_eq!(classic.state.lock().unwrap().bytes, 0);
    }
}
