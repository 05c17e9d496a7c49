//! The parts of a partial container that the daemon has: a place on a network, an image's files.

use std::path::PathBuf;

use hull_runtime::partial::run::{Network, Root};
use serde_json::{Value, json};

use crate::client::{Query, empty, segment};
use crate::context::Context;
use crate::errln;
use crate::error::Error;

/// Takes a place on a network, which is this process's until it ends.
pub(super) async fn take_place(
    context: &Context,
    network: &str,
    name: Option<&str>,
) -> Result<Network, Error> {
    local(context, "--net")?;
    let path = format!("/networks/{}/namespace", segment(network));
    let mut path = Query::new(path);
    if let Some(name) = name {
        path = path.with("name", name);
    }
    let answer = context.client.request(hyper::Method::POST, &path, &[], empty()).await;
    let told: Value = answer.map_err(|error| error.with_status(125))?.json().await?;
    let text = |name: &str| {
        let text = told[name].as_str().map(str::to_owned);
        text.ok_or_else(|| Error::new(format!("the daemon's answer has no {name}")).with_status(125))
    };
    Ok(Network {
        namespace: PathBuf::from(text("Namespace")?),
        resolv_conf: text("ResolvConf")?,
        hosts: text("Hosts")?,
    })
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
        // This process may be killed, and then nobody else would remove it.
        let path = Query::new("/containers/create".to_owned()).with("end-with-caller", "1");
        let made = context.client.post_json::<Value>(&path, &wish).await;
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
    let path = Query::new(format!("/containers/{}", segment(container))).with("force", "1").with("v", "1");
    let mut removed = context.client.delete(&path).await;
    if removed.as_ref().is_err_and(Error::is_connection) {
        // The connection rested while the program ran; a daemon that came back meanwhile has closed it.
        removed = context.client.delete(&path).await;
    }
    if let Err(error) = removed {
        let id = container.get(..12).unwrap_or(container);
        errln!("hull: the program's files stay behind: {error}: hull rm {id}");
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
