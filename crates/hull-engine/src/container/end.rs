//! Why something ended, as inspect shows it: one object. What is not known is `null`, and never a zero.

use std::sync::Arc;

use hull_runtime::protocol::{EndReason, Exit, Whose};
use serde::{Deserialize, Serialize};

use super::Container;
use crate::Engine;
use crate::blocking::may_hang;

/// How a container's last run, or an exec, ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct End {
    /// `exited`, `signal`, `oom`, `timeout`, `cpu-time`, `client-gone`.
    reason: Option<String>,
    exit_code: Option<i32>,
    /// The signal that ended it; null where none did, as the exit status tells.
    signal: Option<i32>,
    /// Whether the kernel killed any process of it for memory.
    out_of_memory: Option<bool>,
    /// At whose limit: `own`, `parent`, `machine`.
    memory_limit: Option<Whose>,
    /// Whether its time was over.
    time_limit: Option<bool>,
    /// Whether its processor time was spent.
    cpu_time_limit: Option<bool>,
    /// The processor time that it used, in nanoseconds.
    cpu_time: Option<u64>,
    /// Whether a new process was refused for the limit of processes.
    process_limit: Option<bool>,
    /// Whether the container's own files had reached their limit (`--storage-opt size=`) when it ended; null otherwise:
    /// that a write was refused before something was removed again is seen by nobody outside.
    disk_limit: Option<bool>,
}

impl End {
    /// As the shim told it, and what was seen of the disk.
    pub(super) fn told(exit: &Exit, disk_limit: Option<bool>) -> End {
        End {
            reason: Some(reason(exit.reason).to_owned()),
            exit_code: Some(exit.status),
            signal: exit.signal,
            out_of_memory: Some(exit.oom_killed),
            memory_limit: exit.met.memory,
            time_limit: Some(exit.reason == EndReason::Timeout),
            cpu_time_limit: Some(exit.reason == EndReason::CpuTime),
            cpu_time: exit.met.cpu_time_ns,
            process_limit: exit.met.refused_forks.map(|refused| refused > 0),
            disk_limit,
        }
    }
}

impl Engine {
    /// Whether a container's own files have reached their limit, where it has one and that is known.
    pub(super) async fn disk_limit_met(self: &Arc<Self>, container: &Container) -> Option<bool> {
        let has_limit =
            self.storage_limit(&container.record().host_config).is_ok_and(|limit| limit.is_some());
        if !has_limit {
            return None;
        }
        let (engine, id) = (Arc::clone(self), container.id.clone());
        // The disk may be slow to answer.
        let met = may_hang(move || engine.images.is_full(&id).map_err(crate::images::error)).await;
        met.unwrap_or_else(|error| {
            tracing::debug!(container = container.id, %error, "what is left of the disk's limit is not known");
            None
        })
    }
}

/// A reason's word.
pub(super) fn reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Exited => "exited",
        EndReason::Signal => "signal",
        EndReason::Oom => "oom",
        EndReason::Timeout => "timeout",
        EndReason::CpuTime => "cpu-time",
        EndReason::ClientGone => "client-gone",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_older_shim_does_not_tell_is_null() {
        let exit: Exit = serde_json::from_value(json!({
            "status": 137, "signal": 9, "oom_killed": true, "reason": "oom", "at_ns": 1
        }))
        .unwrap();
        let shown = json!(End::told(&exit, None));
        assert_eq!((&shown["Reason"], &shown["OutOfMemory"]), (&json!("oom"), &json!(true)));
        for unknown in ["MemoryLimit", "CpuTime", "ProcessLimit", "DiskLimit"] {
            assert_eq!(shown[unknown], json!(null), "{unknown}");
        }
    }

    #[test]
    fn of_an_end_that_nobody_saw_nothing_is_known() {
        let shown = json!(End::default());
        assert!(shown.as_object().unwrap().values().all(serde_json::Value::is_null), "{shown}");
        assert_eq!(shown.as_object().unwrap().len(), 10);
    }
}
