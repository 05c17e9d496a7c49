//! What stands beside an image in its registry: `image referrers`, `image verify`.

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use crate::client::{Query, empty, full};
use crate::commands::shared::{print_list, upload};
use crate::context::Context;
use crate::credentials::{registry_auth, server};
use crate::error::{Error, ExitStatus};
use crate::format::human;
use crate::outln;

/// `image referrers`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull image referrers registry.example/web:1
  hull image referrers --artifact-type application/spdx+json --format '{{.Digest}}' registry.example/web:1")]
pub struct ReferrersArgs {
    /// Only what is of this type
    #[arg(long, value_name = "string")]
    artifact_type: Option<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    #[arg(value_name = "NAME")]
    name: String,
}

/// `hull image referrers`.
pub async fn referrers(args: ReferrersArgs, context: &Context) -> Result<ExitStatus, Error> {
    let path = Query::new("/hull/images/referrers")
        .with("name", &args.name)
        .with_some("artifact-type", args.artifact_type);
    let credentials = registry_auth(context, server::of_image(&args.name));
    let headers = [("x-registry-auth", credentials.as_str())];
    let found: Value = context.client.request(Method::GET, &path, &headers, empty()).await?.json().await?;
    let rows: Vec<Value> = found["Referrers"].as_array().into_iter().flatten().map(row).collect();
    let headers = [
        ("Digest", "DIGEST"),
        ("ArtifactType", "ARTIFACT TYPE"),
        ("MediaType", "MEDIA TYPE"),
        ("Size", "SIZE"),
        ("Created", "CREATED"),
        ("Annotations", "ANNOTATIONS"),
    ];
    print_list(args.format.as_deref(), "{{.Digest}}\t{{.ArtifactType}}\t{{.Size}}", &headers, &rows)?;
    Ok(ExitStatus::SUCCESS)
}

fn row(referrer: &Value) -> Value {
    json!({
        "Digest": referrer["digest"],
        "ArtifactType": referrer["artifactType"],
        "MediaType": referrer["mediaType"],
        "Size": human::size_in_digits(referrer["size"].as_f64().unwrap_or_default(), 4),
        "Created": referrer["annotations"]["org.opencontainers.image.created"].as_str().unwrap_or_default(),
        "Annotations": referrer["annotations"],
    })
}

/// `image verify`.
#[derive(Args, Debug)]
#[command(
    after_help = "What is verified is what the name means in its registry now. Its digest is printed: pull by that.

Examples:
  hull image verify --key cosign.pub registry.example/web:1
  hull pull $(hull image verify --key cosign.pub registry.example/web:1)"
)]
pub struct VerifyArgs {
    /// The public key, in PEM
    #[arg(long, value_name = "FILE")]
    key: String,
    #[arg(value_name = "NAME")]
    name: String,
}

/// `hull image verify`.
pub async fn verify(args: VerifyArgs, context: &Context) -> Result<ExitStatus, Error> {
    let key = std::fs::read(&args.key)
        .map_err(|error| Error::new(format!("read the key {}: {}", args.key, upload::plain(&error))))?;
    let path = Query::new("/hull/images/verify").with("name", &args.name);
    let credentials = registry_auth(context, server::of_image(&args.name));
    let headers = [("x-registry-auth", credentials.as_str()), ("content-type", "application/x-pem-file")];
    let verified: Value =
        context.client.request(Method::POST, &path, &headers, full(key)).await?.json().await?;
    outln!("{}", verified["Reference"].as_str().unwrap_or_default())?;
    Ok(ExitStatus::SUCCESS)
}
