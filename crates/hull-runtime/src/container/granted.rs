//! What a process asks for, cut to what this machine grants: for runtimes that would refuse the container for it.

use oci_spec::runtime::{PosixRlimitBuilder, Process};

use super::{capabilities, process};
use crate::error::Context;
use crate::{Error, Result, sys};

/// Cuts capabilities, limits and the score for who is killed for memory. Returns a warning for each.
pub(crate) fn cut_to_granted(process: &mut Process) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if let Some(mut sets) = process.capabilities().clone() {
        let lacking = capabilities::cut(&mut sets)?;
        if !lacking.is_empty() {
            warnings.push(format!("this machine does not grant {}", lacking.join(", ")));
        }
        process.set_capabilities(Some(sets));
    }
    if capabilities::lacking().iter().any(|name| name == "CAP_SYS_RESOURCE") {
        limits(process, &mut warnings)?;
        score(process, &mut warnings);
    }
    Ok(warnings)
}

/// Without CAP_SYS_RESOURCE a hard limit can only be lowered.
fn limits(process: &mut Process, warnings: &mut Vec<String>) -> Result<()> {
    let mut limits = process.rlimits().clone().unwrap_or_default();
    for limit in &mut limits {
        let (resource, name) = process::resource(limit.typ());
        let (soft, hard) = (limit.soft(), limit.hard());
        let (_, most) = sys::get_limit(resource).context(|| format!("read the limit {name}"))?;
        if hard > most {
            let cut = PosixRlimitBuilder::default().typ(limit.typ()).soft(soft.min(most)).hard(most).build();
            *limit =
                cut.map_err(|error| Error::refused(format!("cut the limit {name}"), error.to_string()))?;
            warnings.push(format!(
                "the limit {name} is {}:{most} instead of {soft}:{hard}: this machine does not grant \
                 CAP_SYS_RESOURCE",
                soft.min(most)
            ));
        }
    }
    process.set_rlimits(Some(limits));
    Ok(())
}

/// Nor can the score be lowered.
fn score(process: &mut Process, warnings: &mut Vec<String>) {
    let Some(score) = process.oom_score_adj() else { return };
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok();
    let own = own.and_then(|text| text.trim().parse::<i32>().ok()).unwrap_or(0);
    if score < own {
        process.set_oom_score_adj(None);
        warnings.push(format!(
            "oom_score_adj is not set to {score}: lowering it needs CAP_SYS_RESOURCE, which this machine does \
             not grant"
        ));
    }
}
