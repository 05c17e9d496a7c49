//! /networks.

use hull_engine::Result;
use hull_engine::filter::Filters;
use hull_engine::model::EndpointSettings;
use hull_engine::networks::NetworkCreate;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::blocking;
use crate::http::{self, Request, Response};
use crate::policy::{self, Judge, Judged};

pub(crate) async fn list(request: Request) -> Result<Response> {
    let filters = Filters::from(request.query.filters()?);
    let mut networks = request.engine.networks.list(&filters)?;
    if request.version >= 50 {
        for members in networks.iter_mut().filter_map(Value::as_object_mut) {
            members.shift_remove("Containers");
        }
    }
    networks.iter_mut().for_each(|network| leave_out_the_unseen(&request, network));
    http::ok(&networks)
}

pub(crate) async fn inspect(request: Request) -> Result<Response> {
    // What it asks for, the tasks of services, is Swarm's.
    const BOOLEANS: [&str; 12] =
        ["1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"];
    if let Some(verbose) = request.query.text("verbose").filter(|text| !BOOLEANS.contains(text)) {
        let why = format!("strconv.ParseBool: parsing {verbose:?}: invalid syntax");
        return Err(hull_engine::Error::invalid(format!("invalid value for verbose: {verbose}: {why}")));
    }
    let mut network = request.engine.networks.inspect(request.capture(0))?;
    if let Some(scope) = request.query.text("scope").filter(|scope| *scope != "local") {
        let message = format!("network {} not found: its scope is local, not {scope}", request.capture(0));
        return Err(hull_engine::Error::not_found(message));
    }
    if request.version < 52
        && let Value::Object(members) = &mut network
    {
        members.shift_remove("Status");
    }
    leave_out_the_unseen(&request, &mut network);
    http::ok(&network)
}

/// Who is on a network is told as far as it is there for the socket.
fn leave_out_the_unseen(request: &Request, network: &mut Value) {
    let Some(guard) = &request.guard else { return };
    let judge = guard.on(&request.engine);
    let sees = |id: &str| request.engine.container(id).is_ok_and(|container| judge.sees(&container));
    if let Some(members) = network["Containers"].as_object_mut() {
        members.retain(|id, _| sees(id));
    }
}

pub(crate) async fn create(mut request: Request) -> Result<Response> {
    let create: NetworkCreate = request.json().await?;
    let engine = request.engine.clone();
    let network = blocking::run(move || engine.networks.create(create)).await?;
    http::json(StatusCode::CREATED, &json!({ "Id": network.id, "Warning": network.warning() }))
}

pub(crate) async fn remove(request: Request) -> Result<Response> {
    let name = request.capture(0).to_owned();
    let engine = request.engine.clone();
    blocking::run(move || engine.networks.remove(&name)).await?;
    http::empty(StatusCode::NO_CONTENT)
}

/// hull's own: a namespace on the network, for a program that is no container, until the process that asks ends.
pub(crate) async fn namespace(request: Request) -> Result<Response> {
    let owner = request.owner("a place on a network")?;
    let name = request.query.text("name");
    http::ok(&request.engine.take_place(request.capture(0), name, owner).await?)
}

pub(crate) async fn prune(request: Request) -> Result<Response> {
    let filters = Filters::from(request.query.filters()?);
    let engine = request.engine.clone();
    let names = blocking::run(move || engine.networks.prune(&filters)).await?;
    http::ok(&json!({ "NetworksDeleted": if names.is_empty() { Value::Null } else { json!(names) } }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConnectBody {
    container: String,
    endpoint_config: EndpointSettings,
}

pub(crate) async fn connect(mut request: Request) -> Result<Response> {
    let mut body: ConnectBody = request.json().await?;
    if request.version < 48 {
        body.endpoint_config.gw_priority = 0;
    }
    let container = request.engine.container(&body.container)?;
    request.engine.connect_network(request.capture(0), &container, body.endpoint_config).await?;
    http::empty(StatusCode::OK)
}

impl Judged for ConnectBody {
    fn judge(&mut self, judge: &Judge<'_>) -> Result<()> {
        policy::member(judge, &mut self.container)?;
        judge.place(&self.endpoint_config)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DisconnectBody {
    container: String,
    force: bool,
}

impl Judged for DisconnectBody {
    fn judge(&mut self, judge: &Judge<'_>) -> Result<()> {
        policy::member(judge, &mut self.container)
    }
}

pub(crate) async fn disconnect(mut request: Request) -> Result<Response> {
    let body: DisconnectBody = request.json().await?;
    let container = request.engine.container(&body.container)?;
    request.engine.disconnect_network(request.capture(0), &container, body.force).await?;
    http::empty(StatusCode::OK)
}
