//! Images from and to archives: `import`, `load`, `save`.

use std::io::{IsTerminal as _, Write};

use clap::Args;
use hyper::Method;

use crate::client::{Query, empty};
use crate::commands::shared::output::{self, Output};
use crate::commands::shared::progress;
use crate::commands::shared::{platform_json, require_version, upload};
use crate::context::Context;
use crate::error::{Error, ExitStatus};

const TAR: &[(&str, &str)] = &[("content-type", "application/x-tar")];

/// `import`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tar -C rootfs -c . | hull import -c 'CMD [\"sh\"]' - mine:1
  hull import rootfs.tar.gz mine:1")]
pub struct ImportArgs {
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "list")]
    change: Vec<String>,
    /// Set commit message for imported image
    #[arg(short, long, value_name = "string")]
    message: Option<String>,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "os[/arch[/variant]]")]
    platform: Option<String>,
    #[arg(value_name = "file|URL|-")]
    source: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

/// `hull import`.
pub async fn import(args: ImportArgs, context: &Context) -> Result<ExitStatus, Error> {
    let source = args.source.as_str();
    let is_address = source.starts_with("http://") || source.starts_with("https://");
    if source == "-" && std::io::stdin().is_terminal() {
        return Err(Error::new("requested import from stdin, but stdin is a terminal"));
    }
    // The daemon fetches an address itself.
    let (body, transfer) = match is_address {
        true => (empty(), None),
        false => {
            let (body, transfer) = upload::body((source != "-").then_some(source), "Importing")?;
            (body, Some(transfer))
        }
    };
    let mut path = Query::new("/images/create")
        .with("fromSrc", if is_address { source } else { "-" })
        .with_some("repo", args.reference.as_deref())
        .with_some("message", args.message.as_deref())
        .with_some("platform", args.platform.as_deref());
    for change in &args.change {
        path = path.with("changes", change);
    }
    let response = context.client.request(Method::POST, &path, TAR, body).await;
    drop(transfer);
    progress::show(&mut response?.json_stream()).await?;
    Ok(ExitStatus::SUCCESS)
}

/// `load`.
#[derive(Args, Debug)]
pub struct LoadArgs {
    /// Read from tar archive file, instead of STDIN
    #[arg(short, long, value_name = "string")]
    input: Option<String>,
    /// Load only the given platform variant
    #[arg(long, value_name = "os[/arch[/variant]]")]
    platform: Option<String>,
    /// Suppress the load output
    #[arg(short, long)]
    quiet: bool,
}

/// `hull load`.
pub async fn load(args: LoadArgs, context: &Context) -> Result<ExitStatus, Error> {
    let input = args.input.as_deref().filter(|input| !input.is_empty());
    if input.is_none() && std::io::stdin().is_terminal() {
        return Err(Error::new("requested load from stdin, but stdin is empty"));
    }
    let platform = args.platform.as_deref().map(platform_json).transpose()?;
    if platform.is_some() {
        require_version(context, "--platform", (1, 48)).await?;
    }
    let quiet = args.quiet || !std::io::stdout().is_terminal();
    let path = Query::new("/images/load")
        .with("quiet", if quiet { "1" } else { "0" })
        .with_some("platform", platform);
    let (body, transfer) = upload::body(input, "Loading")?;
    let response = context.client.request(Method::POST, &path, TAR, body).await;
    drop(transfer);
    let response = response?;
    if response.header("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
        progress::show(&mut response.json_stream()).await?;
    } else {
        std::io::stdout().write_all(&response.bytes().await?)?;
    }
    Ok(ExitStatus::SUCCESS)
}

/// `save`.
#[derive(Args, Debug)]
pub struct SaveArgs {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "string")]
    output: Option<String>,
    /// Save only the given platform variant
    #[arg(long, value_name = "os[/arch[/variant]]")]
    platform: Option<String>,
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// `hull save`.
pub async fn save(args: SaveArgs, context: &Context) -> Result<ExitStatus, Error> {
    let output = args.output.as_deref().filter(|output| !output.is_empty());
    if output.is_none() && std::io::stdout().is_terminal() {
        return Err(Error::new("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
    }
    let platform = args.platform.as_deref().map(platform_json).transpose()?;
    if platform.is_some() {
        require_version(context, "--platform", (1, 48)).await?;
    }
    // Before anything is asked of the daemon: what cannot be written in the end is known now.
    let file = output.map(Output::open).transpose()?;
    let mut path = Query::new("/images/get").with_some("platform", platform);
    for image in &args.images {
        path = path.with("names", image);
    }
    let response = context.client.stream(&path).await?;
    output::save(response, file, "Saving").await?;
    Ok(ExitStatus::SUCCESS)
}
