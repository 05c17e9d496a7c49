//! The parts of a partial container that the daemon has: a place on a network, an image's files.

use std::path::PathBuf;

use hull_runtime::partial::run::{Network, Root};
use serde_json::{Value, json};

use crate::client::{JsonStream, Query, empty, segment};
use crate::context::Context;
use crate::errln;
use crate::error::Error;

/// A place on a network, held as long as this lives.
pub(super) struct Place {
    pub(super) network: Network,
    /// The daemon takes the place back when this connection closes.
    _held: JsonStream,
}

impl Place {
    pub(super) async fn take(context: &Context, network: &str, name: Option<&str>) -> Result<Place, Error> {
        local(context, "--net")?;
        let mut path = Query::new(format!("/networks/{}/namespace", segment(network)));
        if let Some(name) = name {
            path = path.with("name", name);
        }
        let answer = context.client.request(hyper::Method::POST, &path, &[], empty()).await;
        let mut held = answer.map_err(|error| error.with_status(125))?.json_stream();
        let told = held.next().await?.unwrap_or_default();
        let text = |name: &str| {
            let text = told[name].as_str().map(str::to_owned);
            text.ok_or_else(|| Error::new(format!("the daemon's answer has no {name}")).with_status(125))
        };
        let network = Network {
            namespace: PathBuf::from(text("Namespace")?),
            resolv_conf: text("ResolvConf")?,
            hosts: text("Hosts")?,
        };
        Ok(Place { network, _held: held })
    }
}

/// An image's files with a layer of their own upon them: a container that is never started.
pub(super) struct Files {
    container: String,
    pub(super) root: Root,
}

impl Files {
    pub(super) async fn make(context: &Context, image: &str) -> Result<Files, Error> {
        local(context, "--root IMAGE")?;
        let wish = json!({
            "Image": image,
            "Cmd": ["true"],
            "Labels": { "hull.ns-run": std::process::id().to_string() },
        });
        let made = context.client.post_json::<Value>("/containers/create", &wish).await;
        let made = made.map_err(|error| error.with_status(125))?;
        let container = made["Id"].as_str().unwrap_or_default().to_owned();
        match layers(context, &container).await {
            Ok(root) => Ok(Files { container, root }),
            Err(error) => {
                remove(context, &container).await;
                Err(error.with_status(125))
            }
        }
    }

    /// Removes them, with what the program changed.
    pub(super) async fn remove(self, context: &Context) {
        remove(context, &self.container).await;
    }
}

async fn layers(context: &Context, container: &str) -> Result<Root, Error> {
    let path = format!("/containers/{}/json", segment(container));
    let shown: Value = context.client.get_json(&path).await?;
    let data = &shown["GraphDriver"]["Data"];
    let lower = data["LowerDir"].as_str().unwrap_or_default();
    match (data["UpperDir"].as_str(), data["WorkDir"].as_str()) {
        (Some(upper), Some(work)) if !lower.is_empty() => Ok(Root::Layers {
            lower: lower.split(':').map(PathBuf::from).collect(),
            upper: PathBuf::from(upper),
            work: PathBuf::from(work),
        }),
        _ => Err(Error::new("the daemon does not tell where the image's layers are")),
    }
}

async fn remove(context: &Context, container: &str) {
    // The connection rested while the program ran; what has become of it is seen before it is used again.
    tokio::task::yield_now().await;
    let path = Query::new(format!("/containers/{}", segment(container))).with("force", "1").with("v", "1");
    if let Err(error) = context.client.delete(&path).await {
        errln!(
            "hull: the program's files stay behind: {error}: hull rm {}",
            &container[..12.min(container.len())]
        );
    }
}

fn local(context: &Context, flag: &str) -> Result<(), Error> {
    if context.client.is_local() {
        return Ok(());
    }
    Err(Error::new(format!(
        "{flag} needs a daemon of this machine, and {} is another's",
        context.client.host()
    ))
    .with_status(125))
}
