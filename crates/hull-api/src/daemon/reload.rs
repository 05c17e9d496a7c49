//! `SIGHUP`: what of the configuration file holds for a daemon that runs, as in Docker: `debug`, `labels` and the
//! runtimes.

use clap::ArgMatches;
use hull_engine::{Engine, Result};

use super::file::read_file;
use super::flags::Flags;
use super::messages::SetLevel;
use super::settle::log_level;
use super::{registries, runtimes};

/// What the daemon was started with, to be laid over the file again.
pub(super) struct Reload {
    /// The command line.
    pub(super) flags: Flags,
    /// The same, with what was said and what was not.
    pub(super) given: ArgMatches,
    /// The log's level, which follows `debug`.
    pub(super) set_level: SetLevel,
}

impl Reload {
    /// Reads the file again. One that cannot be read or says what is no configuration changes nothing.
    pub(super) fn run(&self, engine: &Engine) {
        match self.apply(engine) {
            Ok(()) => tracing::info!(
                "debug, labels, runtimes and registries are as in the configuration file; what else was changed in it holds from the next start on"
            ),
            Err(error) => tracing::error!(%error, "the configuration stays as it is"),
        }
    }

    fn apply(&self, engine: &Engine) -> Result<()> {
        let file = read_file(&self.flags, &self.given)?;
        let debug = self.flags.debug || file.debug;
        let registries = registries::settle(&self.flags, &file)?;
        let default = self.flags.default_runtime.clone().or(file.default_runtime);
        let runtimes = runtimes::all(&self.flags.runtime, file.runtimes, default)?;
        (self.set_level)(log_level(self.flags.log_level.as_deref().or(file.log_level.as_deref()), debug)?)?;
        let mut labels = self.flags.labels.clone();
        labels.extend(file.labels);
        engine.reload(debug, labels, runtimes, registries);
        Ok(())
    }
}
