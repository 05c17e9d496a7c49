//! Named points at the steps that persist or change the kernel's state, where a test makes the daemon die or the step
//! fail. `HULL_FAULT=die:NAME` or `fail:NAME` chooses one; `HULL_FAULT_TRACE=FILE` has each that is passed added to a
//! file, from which a test learns their names. Without either in the environment a point costs one load.

use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;

use rustix::process::{Signal, getpid, kill_process};

use crate::{Error, Kind, Result};

/// What the environment asks for.
struct Plan {
    die: Option<String>,
    fail: Option<String>,
    trace: Option<File>,
}

fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    PLAN.get_or_init(|| {
        let (fault, trace) = (std::env::var("HULL_FAULT"), std::env::var_os("HULL_FAULT_TRACE"));
        if fault.is_err() && trace.is_none() {
            return None;
        }
        let fault = fault.unwrap_or_default();
        let of = |kind: &str| fault.strip_prefix(kind).map(str::to_owned);
        let trace = trace.and_then(|path| File::options().create(true).append(true).open(path).ok());
        Some(Plan { die: of("die:"), fail: of("fail:"), trace })
    })
    .as_ref()
}

/// A point that is passed.
///
/// # Errors
/// A test wants this step to fail.
pub fn point(of: &str, step: &str) -> Result<()> {
    let Some(plan) = plan() else { return Ok(()) };
    let name = &*format!("{of}: {step}");
    if let Some(mut trace) = plan.trace.as_ref() {
        // A test that gets no names says so itself.
        let _ = trace.write_all(format!("{name}\n").as_bytes());
    }
    if plan.die.as_deref() == Some(name) {
        let _ = kill_process(getpid(), Signal::KILL);
    }
    if plan.fail.as_deref() == Some(name) {
        let told = format!("pass the fault point {name}: a test asked for it");
        return Err(Error::new(Kind::System, told));
    }
    Ok(())
}

/// A point behind a step that cannot be taken back: there the daemon may die, but nothing can fail.
pub fn passed(of: &str, step: &str) {
    if let Err(error) = point(of, step) {
        tracing::debug!(%error, "nothing can fail here");
    }
}
