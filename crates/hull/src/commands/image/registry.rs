//! Images from elsewhere: `pull`, `push`, `search`, and `bootstrap` from a distribution's packages.

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use crate::client::{Query, empty, segment};
use crate::commands::shared::{image_name, platform_json, print_list, progress, require_version, to_pull};
use crate::context::Context;
use crate::credentials::{registry_auth, server};
use crate::error::{Error, ExitStatus};
use crate::format::human;
use crate::outln;

/// `pull`.
#[derive(Args, Debug)]
pub struct PullArgs {
    /// Download all tagged images in the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "os[/arch[/variant]]")]
    platform: Option<String>,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
}

/// `hull pull`.
pub async fn pull(args: PullArgs, context: &Context) -> Result<ExitStatus, Error> {
    let name = image_name(&args.name)?;
    let exact = name.tag.is_some() || name.digest.is_some();
    if args.all_tags && exact {
        return Err(Error::new("tag can't be used with --all-tags/-a"));
    }
    if !exact && !args.all_tags && !args.quiet {
        outln!("Using default tag: latest")?;
    }
    let name = if args.all_tags { name } else { name.or_latest() };
    let (repository, tag) = to_pull(&name);
    let path = Query::new("/images/create")
        .with("fromImage", &repository)
        .with_some("tag", tag)
        .with_some("platform", args.platform.as_deref());
    let credentials = registry_auth(context, server::of_image(&args.name));
    let headers = [("x-registry-auth", credentials.as_str())];
    let mut stream = context.client.request(Method::POST, &path, &headers, empty()).await?.json_stream();
    match args.quiet {
        true => progress::drain(&mut stream).await?,
        false => progress::show(&mut stream).await?,
    }
    outln!("{name}")?;
    Ok(ExitStatus::SUCCESS)
}

/// `push`.
#[derive(Args, Debug)]
pub struct PushArgs {
    /// Push all tags of an image to the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Push a platform-specific manifest as a single-platform image to the registry
    #[arg(long, value_name = "os[/arch[/variant]]")]
    platform: Option<String>,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
}

/// `hull push`.
pub async fn push(args: PushArgs, context: &Context) -> Result<ExitStatus, Error> {
    let name = image_name(&args.name)?;
    if args.all_tags && name.tag.is_some() {
        return Err(Error::new("tag can't be used with --all-tags/-a"));
    }
    if name.digest.is_some() {
        return Err(Error::new("cannot push a digest reference"));
    }
    if name.tag.is_none() && !args.all_tags && !args.quiet {
        outln!("Using default tag: latest")?;
    }
    let platform = args.platform.as_deref().map(platform_json).transpose()?;
    if platform.is_some() {
        require_version(context, "--platform", (1, 46)).await?;
    }
    let name = if args.all_tags { name } else { name.or_latest() };
    let path = Query::new(format!("/images/{}/push", segment(&name.familiar_name())))
        .with_some("tag", name.tag.as_deref())
        .with_some("platform", platform);
    let credentials = registry_auth(context, server::of_image(&args.name));
    let headers = [("x-registry-auth", credentials.as_str())];
    let mut stream = context.client.request(Method::POST, &path, &headers, empty()).await?.json_stream();
    if args.quiet {
        progress::drain(&mut stream).await?;
        outln!("{name}")?;
    } else {
        progress::show(&mut stream).await?;
    }
    Ok(ExitStatus::SUCCESS)
}

/// `search`.
#[derive(Args, Debug)]
pub struct SearchArgs {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Pretty-print search using a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Max number of search results
    #[arg(long, value_name = "int")]
    limit: Option<u32>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    #[arg(value_name = "TERM")]
    term: String,
}

/// `hull search`.
pub async fn search(args: SearchArgs, context: &Context) -> Result<ExitStatus, Error> {
    /// As wide as Docker shows a description.
    const DESCRIPTION: usize = 45;
    let path = Query::new("/images/search")
        .with("term", &args.term)
        .with_some("limit", args.limit.map(|n| n.to_string()))
        .with_filters(&args.filter)?;
    let credentials = registry_auth(context, server::of_image(&args.term));
    let headers = [("x-registry-auth", credentials.as_str())];
    let results: Vec<Value> =
        context.client.request(Method::GET, &path, &headers, empty()).await?.json().await?;
    let yes = |value: &Value| if value.as_bool() == Some(true) { "[OK]" } else { "" };
    let rows: Vec<Value> = results
        .iter()
        .map(|result| {
            let description = result["description"].as_str().unwrap_or_default().replace(['\n', '\r'], " ");
            let shown = if args.no_trunc { description } else { human::ellipsis(&description, DESCRIPTION) };
            json!({
                "Name": result["name"],
                "Description": shown,
                "StarCount": result["star_count"].to_string(),
                "IsOfficial": yes(&result["is_official"]),
                "IsAutomated": yes(&result["is_automated"]),
            })
        })
        .collect();
    let headers = [
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("StarCount", "STARS"),
        ("IsOfficial", "OFFICIAL"),
        ("IsAutomated", "AUTOMATED"),
    ];
    print_list(
        args.format.as_deref(),
        "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}",
        &headers,
        &rows,
    )?;
    Ok(ExitStatus::SUCCESS)
}

/// `image bootstrap`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull image bootstrap debian:bookworm
  hull image bootstrap ubuntu:noble
  hull image bootstrap busybox")]
pub struct BootstrapArgs {
    /// What to make: debian:SUITE, ubuntu:SUITE or busybox
    #[arg(value_name = "REFERENCE")]
    reference: String,
}

/// `hull image bootstrap`: hull's own. The daemon makes the image with the distribution's own tools.
pub async fn bootstrap(args: BootstrapArgs, context: &Context) -> Result<ExitStatus, Error> {
    let path = Query::new("/hull/images/bootstrap").with("reference", &args.reference);
    let response = context.client.request(Method::POST, &path, &[], empty()).await?;
    progress::show(&mut response.json_stream()).await?;
    Ok(ExitStatus::SUCCESS)
}
