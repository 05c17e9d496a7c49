//! `logs`.

use clap::Args;
use serde_json::Value;

use crate::client::{Query, segment};
use crate::commands::shared::timestamp;
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::stream::{self, Demux, Target};

/// `logs`.
#[derive(Args, Debug)]
pub struct LogsArgs {
    /// Show extra details provided to logs
    #[arg(long)]
    details: bool,
    /// Follow log output
    #[arg(short, long)]
    follow: bool,
    /// Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long, value_name = "string")]
    since: Option<String>,
    /// Number of lines to show from the end of the logs (default "all")
    #[arg(short = 'n', long, value_name = "string")]
    tail: Option<String>,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
    /// Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long, value_name = "string")]
    until: Option<String>,
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// `hull logs`.
pub async fn logs(args: LogsArgs, context: &Context) -> Result<ExitStatus, Error> {
    let now = jiff::Timestamp::now();
    let time = |flag: &str, text: &Option<String>| {
        let parsed = text.as_deref().map(|text| timestamp::parse(text, now)).transpose();
        parsed.map_err(|error| error.context(format_args!("invalid value for {flag:?}")))
    };
    let path = Query::new(format!("/containers/{}/logs", segment(&args.container)))
        .with("stdout", "1")
        .with("stderr", "1")
        .with_flag("details", args.details)
        .with_flag("follow", args.follow)
        .with_flag("timestamps", args.timestamps)
        .with_some("since", time("since", &args.since)?)
        .with_some("until", time("until", &args.until)?)
        .with_some("tail", args.tail.as_deref());
    let mut answer = context.client.stream(&path).await?;
    let multiplexed = match answer.header("content-type") {
        Some("application/vnd.docker.multiplexed-stream") => true,
        // Before API 1.42 one name stood for both.
        Some("application/vnd.docker.raw-stream") if context.client.version().await? >= (1, 42) => false,
        _ => {
            let path = format!("/containers/{}/json", segment(&args.container));
            let container: Value = context.client.get_json(&path).await?;
            container["Config"]["Tty"] != true
        }
    };
    let mut demux = Demux::default();
    while let Some(piece) = answer.chunk().await? {
        if !multiplexed {
            stream::write(Target::Out, &piece).await?;
            continue;
        }
        demux.feed(&piece);
        while let Some((target, data)) = demux.next()? {
            stream::write(target, &data).await?;
        }
    }
    Ok(ExitStatus::SUCCESS)
}
