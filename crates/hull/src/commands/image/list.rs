//! What there is: `image ls`, `image inspect`, `history`; and `tag`.

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use crate::client::{Query, empty, segment};
use crate::commands::shared::{self, image_name, platform_json, print_list, require_version};
use crate::context::Context;
use crate::credentials::{registry_auth, server};
use crate::error::{Error, ExitStatus};
use crate::format::human;

/// `image ls`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull images --filter reference='debian*'
  hull images --format '{{.Repository}}:{{.Tag}} {{.Size}}'")]
pub struct ListArgs {
    /// Show all images (default hides intermediate images)
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    /// List multi-platform images as a tree (not supported yet)
    #[arg(long, hide = true)]
    tree: bool,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

/// The titles of an image's columns.
pub const HEADERS: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

/// `hull image ls`.
pub async fn list(args: ListArgs, context: &Context) -> Result<ExitStatus, Error> {
    if args.tree {
        return Err(Error::new("--tree is not supported yet"));
    }
    let mut filters = args.filter;
    filters.extend(args.reference.map(|reference| format!("reference={reference}")));
    let path = Query::new("/images/json").with_flag("all", args.all).with_filters(&filters)?;
    let images: Vec<Value> = context.client.get_json(&path).await?;
    let rows = rows(&images, args.no_trunc, args.digests);
    let table = match (args.quiet, args.digests) {
        (true, _) => "{{.ID}}",
        (false, true) => "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
        (false, false) => "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    };
    let spec = match args.format.as_deref().filter(|spec| !spec.is_empty()) {
        None | Some("table") if args.quiet => Some(table),
        spec => spec,
    };
    print_list(spec, table, HEADERS, &rows)?;
    Ok(ExitStatus::SUCCESS)
}

/// A row for each name of each image; with `digests`, for each of its digests too.
pub fn rows(images: &[Value], no_trunc: bool, digests: bool) -> Vec<Value> {
    let now = human::now();
    let mut rows = Vec::new();
    for image in images {
        let id = image["Id"].as_str().unwrap_or_default();
        let created = image["Created"].as_f64().unwrap_or_default();
        let size = image["Size"].as_f64().unwrap_or_default();
        let known = |field: &str| image[field].as_f64().filter(|n| *n >= 0.0);
        let shared = known("SharedSize");
        for (repository, tag, digest) in names(image, digests) {
            rows.push(json!({
                "ID": if no_trunc { id } else { human::short_id(id) },
                "Repository": repository,
                "Tag": tag,
                "Digest": digest,
                "CreatedSince": human::duration_ago(created, now),
                "CreatedAt": human::local_time(created),
                "Size": human::size(size),
                "VirtualSize": human::size_in_digits(size, 4),
                "Containers": known("Containers").map_or("N/A".to_owned(), |n| n.to_string()),
                "SharedSize": shared.map_or("N/A".to_owned(), |n| human::size_in_digits(n, 4)),
                "UniqueSize": shared.map_or("N/A".to_owned(), |n| human::size_in_digits(size - n, 4)),
            }));
        }
    }
    rows
}

/// The names under which an image is shown: repository, tag, digest.
fn names(image: &Value, show_digests: bool) -> Vec<(String, String, String)> {
    const NONE: &str = "<none>";
    let words = |field: &str| -> Vec<String> {
        let list = image[field].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).filter(|word| !word.starts_with(NONE)).map(str::to_owned).collect()
    };
    let digests = words("RepoDigests");
    let mut shown_digests = Vec::new();
    let mut names = Vec::new();
    for reference in words("RepoTags") {
        let Some((repository, tag)) = reference.rsplit_once(':') else { continue };
        let mut of_tag =
            digests.iter().filter_map(|d| d.split_once('@')).filter(|(r, _)| *r == repository).peekable();
        shown_digests.push(repository.to_owned());
        if !show_digests || of_tag.peek().is_none() {
            names.push((repository.to_owned(), tag.to_owned(), NONE.to_owned()));
            continue;
        }
        names.extend(of_tag.map(|(_, digest)| (repository.to_owned(), tag.to_owned(), digest.to_owned())));
    }
    // A repository that has a digest here and no tag has a line of its own.
    for (repository, digest) in digests.iter().filter_map(|d| d.split_once('@')) {
        if shown_digests.iter().any(|shown| shown == repository) {
            continue;
        }
        let digest = if show_digests { digest } else { NONE };
        let name = (repository.to_owned(), NONE.to_owned(), digest.to_owned());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        names.push((NONE.to_owned(), NONE.to_owned(), NONE.to_owned()));
    }
    names
}

/// `image inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Format output using a custom template: 'json', or 'TEMPLATE'
    #[arg(short, long, value_name = "string")]
    format: Option<String>,
    /// Inspect a specific platform of the multi-platform image
    #[arg(long, value_name = "os[/arch[/variant]]")]
    platform: Option<String>,
    /// Ask the image's registry what the name means there, and for which platforms
    #[arg(long)]
    remote: bool,
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// `hull image inspect`.
pub async fn inspect(args: InspectArgs, context: &Context) -> Result<ExitStatus, Error> {
    if args.remote {
        return inspect_remote(args, context).await;
    }
    let platform = args.platform.as_deref().map(platform_json).transpose()?;
    if platform.is_some() {
        require_version(context, "--platform", (1, 49)).await?;
    }
    let platform = platform.as_deref();
    shared::inspect::each(&args.images, args.format.as_deref(), |name| async move {
        let path = Query::new(format!("/images/{}/json", segment(&name))).with_some("platform", platform);
        context.client.get_json(&path).await
    })
    .await
}

async fn inspect_remote(args: InspectArgs, context: &Context) -> Result<ExitStatus, Error> {
    if args.platform.is_some() {
        return Err(Error::new("conflicting options: --remote shows all platforms, and takes no --platform"));
    }
    shared::inspect::each(&args.images, args.format.as_deref(), |name| async move {
        // The slashes of an image's name belong to the path.
        let path = segment(&name).replace("%2F", "/").replace("%3A", ":").replace("%40", "@");
        let credentials = registry_auth(context, server::of_image(&name));
        let headers = [("x-registry-auth", credentials.as_str())];
        let path = format!("/distribution/{path}/json");
        context.client.request(Method::GET, &path, &headers, empty()).await?.json().await
    })
    .await
}

/// `history`.
#[derive(Args, Debug)]
pub struct HistoryArgs {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Print sizes and dates in human readable format
    #[arg(
        short = 'H',
        long,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true",
        value_parser = crate::cli::parse_bool
    )]
    human: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Show history for the given platform
    #[arg(long, value_name = "os[/arch[/variant]]")]
    platform: Option<String>,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// `hull history`.
pub async fn history(args: HistoryArgs, context: &Context) -> Result<ExitStatus, Error> {
    let platform = args.platform.as_deref().map(platform_json).transpose()?;
    if platform.is_some() {
        require_version(context, "--platform", (1, 48)).await?;
    }
    let path =
        Query::new(format!("/images/{}/history", segment(&args.image))).with_some("platform", platform);
    let layers: Vec<Value> = context.client.get_json(&path).await?;
    let now = human::now();
    let rows: Vec<Value> = layers.iter().map(|layer| history_row(layer, &args, now)).collect();
    let table = match (args.quiet, args.human) {
        (true, _) => "{{.ID}}",
        (false, true) => "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
        (false, false) => "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    };
    let spec = match args.format.as_deref().filter(|spec| !spec.is_empty()) {
        None | Some("table") if args.quiet => Some(table),
        spec => spec,
    };
    let headers = [
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ];
    print_list(spec, table, &headers, &rows)?;
    Ok(ExitStatus::SUCCESS)
}

fn history_row(layer: &Value, args: &HistoryArgs, now: f64) -> Value {
    /// As wide as Docker shows a step.
    const STEP: usize = 45;
    let id = layer["Id"].as_str().unwrap_or("<missing>");
    let created = layer["Created"].as_f64().unwrap_or_default();
    let size = layer["Size"].as_f64().unwrap_or_default();
    let by = layer["CreatedBy"].as_str().unwrap_or_default().replace('\t', " ");
    let at = jiff::Timestamp::from_second(created as i64)
        .map_or_else(|_| String::new(), |time| rfc3339(&time.to_zoned(jiff::tz::TimeZone::system())));
    json!({
        "ID": if args.no_trunc { id } else { human::short_id(id) },
        "CreatedSince": if args.human { human::duration_ago(created, now) } else { at.clone() },
        "CreatedAt": at,
        "CreatedBy": if args.no_trunc { by } else { human::ellipsis(&by, STEP) },
        "Size": if args.human { human::size(size) } else { format!("{size}") },
        "Comment": layer["Comment"].as_str().unwrap_or_default(),
    })
}

/// RFC 3339 with the zone's offset, `Z` for UTC.
fn rfc3339(time: &jiff::Zoned) -> String {
    if time.offset().is_zero() {
        return time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    }
    time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// `tag`.
#[derive(Args, Debug)]
pub struct TagArgs {
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

/// `hull tag`.
pub async fn tag(args: TagArgs, context: &Context) -> Result<ExitStatus, Error> {
    let target = image_name(&args.target)?;
    if target.digest.is_some() {
        return Err(Error::new("refusing to create a tag with a digest reference"));
    }
    let target = target.or_latest();
    let path = Query::new(format!("/images/{}/tag", segment(&args.source)))
        .with("repo", target.familiar_name())
        .with_some("tag", target.tag.as_deref());
    context.client.post_empty(&path).await?;
    Ok(ExitStatus::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_of(tags: &[&str], digests: &[&str], show: bool) -> Vec<String> {
        let image = json!({"RepoTags": tags, "RepoDigests": digests});
        names(&image, show).into_iter().map(|(r, t, d)| format!("{r} {t} {d}")).collect()
    }

    #[test]
    fn an_image_has_a_row_for_each_name() {
        for (tags, digests, show, expected) in [
            (vec![], vec![], false, vec!["<none> <none> <none>"]),
            (vec!["<none>:<none>"], vec!["<none>@<none>"], true, vec!["<none> <none> <none>"]),
            (vec!["a:1", "r:5000/b:2"], vec![], false, vec!["a 1 <none>", "r:5000/b 2 <none>"]),
            (vec!["a:1"], vec!["a@sha256:x"], false, vec!["a 1 <none>"]),
            (vec!["a:1"], vec!["a@sha256:x"], true, vec!["a 1 sha256:x"]),
            (vec!["a:1"], vec!["b@sha256:x", "b@sha256:y"], false, vec!["a 1 <none>", "b <none> <none>"]),
            (vec!["a:1"], vec!["b@sha256:x"], true, vec!["a 1 <none>", "b <none> sha256:x"]),
        ] {
            assert_eq!(names_of(&tags, &digests, show), expected, "{tags:?} {digests:?} {show}");
        }
    }
}
