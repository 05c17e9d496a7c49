//! `hull build shell`: a shell in the files of the command that failed, as it left them.

use std::io::IsTerminal as _;

use clap::{Args as _, Command, FromArgMatches as _};
use hyper::Method;
use serde_json::Value;

use crate::client::{Query, empty, segment};
use crate::commands::container::{RunArgs, run};
use crate::context::Context;
use crate::error::{Error, ExitStatus};

/// Where the host's shell is, in a stage that has none.
const OURS: &str = "/.hull/busybox";

/// Opens a shell in what is left of a build, or of the last one of which something is. The image that it runs in goes with it.
pub(super) async fn open(context: &Context, id: Option<&str>) -> Result<ExitStatus, Error> {
    let path = Query::new("/hull/builds/shell").with_some("id", id);
    let answer: Value = context.client.request(Method::POST, &path, &[], empty()).await?.json().await?;
    let image = answer["Image"].as_str().unwrap_or_default().to_owned();
    let ended = match arguments(&answer, &image) {
        Ok(arguments) => run(arguments, context).await,
        Err(error) => Err(error),
    };
    // Whoever gave it a name meanwhile keeps it.
    let removed = context.client.delete(&format!("/images/{}", segment(&image))).await;
    if let (Ok(_), Err(error)) = (&ended, removed)
        && !matches!(error.http_status(), Some(404 | 409))
    {
        return Err(error);
    }
    ended
}

/// What is run, as a person would.
fn arguments(answer: &Value, image: &str) -> Result<RunArgs, Error> {
    let mut words: Vec<String> = ["run", "--rm", "-i"].map(str::to_owned).to_vec();
    if std::io::stdin().is_terminal() {
        words.push("-t".to_owned());
    }
    match (answer["HasShell"] == true, answer["HostShell"].as_str()) {
        (true, _) => words.extend(["--entrypoint", "/bin/sh", image].map(str::to_owned)),
        (false, Some(shell)) => {
            words.extend(["-v".to_owned(), format!("{shell}:{OURS}:ro")]);
            words.extend(["--entrypoint", OURS, image, "sh"].map(str::to_owned));
        }
        (false, None) => {
            return Err(Error::new(
                "the stage has no /bin/sh, and the daemon's machine no busybox to lend it: install busybox-static there",
            ));
        }
    }
    let command = RunArgs::augment_args(Command::new("run").disable_help_flag(true));
    let matches = command.try_get_matches_from(words).map_err(|error| Error::new(error.to_string()))?;
    RunArgs::from_arg_matches(&matches).map_err(|error| Error::new(error.to_string()))
}
