//! Networks: `hull network …`.

use std::net::IpAddr;

use clap::Args;
use serde_json::{Map, Value, json};

use super::shared::{self, confirm, labels_text, natural_order, pairs, print_list};
use super::volume::print_removed;
use super::{Entry, Management};
use crate::cli::parse_bool;
use crate::client::{Query, empty, segment};
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::format::human;
use crate::{errln, outln};

const ENTRIES: &[Entry] = &[
    entry!(
        "connect",
        [],
        Commands,
        "Connect a container to a network",
        "[OPTIONS] NETWORK CONTAINER",
        ConnectArgs,
        connect
    ),
    entry!("create", [], Commands, "Create a network", "[OPTIONS] NETWORK", CreateArgs, create),
    entry!(
        "disconnect",
        [],
        Commands,
        "Disconnect a container from a network",
        "[OPTIONS] NETWORK CONTAINER",
        DisconnectArgs,
        disconnect
    ),
    entry!(
        "inspect",
        [],
        Commands,
        "Display detailed information on one or more networks",
        "[OPTIONS] NETWORK [NETWORK...]",
        InspectArgs,
        inspect
    ),
    entry!("ls", ["list"], Commands, "List networks", "[OPTIONS]", ListArgs, list),
    entry!("prune", [], Commands, "Remove all unused networks", "[OPTIONS]", PruneArgs, prune),
    entry!(
        "rm",
        ["remove"],
        Commands,
        "Remove one or more networks",
        "NETWORK [NETWORK...]",
        RemoveArgs,
        remove
    ),
];

/// `hull network`.
pub const MANAGEMENT: Management = Management { name: "network", about: "Manage networks", entries: ENTRIES };

/// `network create`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull network create backend
  hull network create --subnet 10.5.0.0/16 --gateway 10.5.0.1 --internal closed")]
pub struct CreateArgs {
    /// Enable manual container attachment
    #[arg(long)]
    attachable: bool,
    /// Auxiliary IPv4 or IPv6 addresses used by Network driver
    #[arg(long, value_name = "name=address", value_delimiter = ',')]
    aux_address: Vec<String>,
    /// The network from which to copy the configuration
    #[arg(long, value_name = "string")]
    config_from: Option<String>,
    /// Create a configuration only network
    #[arg(long)]
    config_only: bool,
    /// Driver to manage the Network
    #[arg(short, long, value_name = "string", default_value = "bridge")]
    driver: String,
    /// IPv4 or IPv6 Gateway for the master subnet
    #[arg(long, value_name = "address", value_delimiter = ',')]
    gateway: Vec<String>,
    /// Create swarm routing-mesh network (not supported yet)
    #[arg(long, hide = true)]
    ingress: bool,
    /// Restrict external access to the network
    #[arg(long)]
    internal: bool,
    /// Allocate container ip from a sub-range
    #[arg(long, value_name = "subnet", value_delimiter = ',')]
    ip_range: Vec<String>,
    /// IP Address Management Driver
    #[arg(long, value_name = "string", default_value = "default")]
    ipam_driver: String,
    /// Set IPAM driver specific options
    #[arg(long, value_name = "map")]
    ipam_opt: Vec<String>,
    /// Enable or disable IPv4 address assignment (default true)
    #[arg(long, value_name = "bool", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = parse_bool)]
    ipv4: Option<bool>,
    /// Enable or disable IPv6 address assignment
    #[arg(long, value_name = "bool", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = parse_bool)]
    ipv6: Option<bool>,
    /// Set metadata on a network
    #[arg(long, value_name = "list")]
    label: Vec<String>,
    /// Set driver specific options
    #[arg(short, long, value_name = "map")]
    opt: Vec<String>,
    /// Control the network's scope
    #[arg(long, value_name = "string")]
    scope: Option<String>,
    /// Subnet in CIDR format that represents a network segment
    #[arg(long, value_name = "subnet", value_delimiter = ',')]
    subnet: Vec<String>,
    #[arg(value_name = "NETWORK")]
    name: String,
}

async fn create(args: CreateArgs, context: &Context) -> Result<ExitStatus, Error> {
    if args.ingress {
        return Err(Error::new("--ingress is not supported yet"));
    }
    let ipam = ipam_config(&args)?;
    let mut body = json!({
        "Name": args.name,
        "Driver": args.driver,
        "Internal": args.internal,
        "Attachable": args.attachable,
        "ConfigOnly": args.config_only,
        "IPAM": {"Driver": args.ipam_driver, "Options": pairs(&args.ipam_opt), "Config": ipam},
        "Options": pairs(&args.opt),
        "Labels": pairs(&args.label),
    });
    if args.ipv4.is_some() {
        shared::require_version(context, "--ipv4", (1, 47)).await?;
    }
    let optional = [
        ("Scope", args.scope.map(Value::from)),
        ("EnableIPv4", args.ipv4.map(Value::from)),
        ("EnableIPv6", args.ipv6.map(Value::from)),
        ("ConfigFrom", args.config_from.map(|network| json!({"Network": network}))),
    ];
    for (field, value) in optional {
        if let Some(value) = value {
            body[field] = value;
        }
    }
    let answer: Value = context.client.post_json("/networks/create", &body).await?;
    if let Some(warning) = answer["Warning"].as_str().filter(|warning| !warning.is_empty()) {
        errln!("WARNING: {warning}");
    }
    outln!("{}", answer["Id"].as_str().unwrap_or_default())?;
    Ok(ExitStatus::SUCCESS)
}

/// An address range: its first bits.
#[derive(Clone, Copy, Debug)]
struct Range {
    address: IpAddr,
    bits: u8,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        (bits <= most).then_some(Self { address, bits })
    }

    fn contains(&self, address: IpAddr) -> bool {
        let number = |address: IpAddr| match address {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 4),
            IpAddr::V6(v6) => (u128::from(v6), 6),
        };
        let ((a, family), (b, other)) = (number(self.address), number(address));
        let kept = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
        family == other && a & kept == b & kept
    }
}

/// The addresses of a network: a configuration for each subnet, with the ranges, gateways and reserved addresses that
/// lie in it.
fn ipam_config(args: &CreateArgs) -> Result<Vec<Value>, Error> {
    if args.subnet.len() < args.ip_range.len() || args.subnet.len() < args.gateway.len() {
        return Err(Error::new("every ip-range or gateway must have a corresponding subnet"));
    }
    let mut subnets: Vec<(Range, Map<String, Value>)> = Vec::new();
    for text in &args.subnet {
        let range = Range::parse(text).ok_or_else(|| {
            Error::new(format!("invalid subnet {text:?}: it is an address and a length, as 10.5.0.0/16"))
        })?;
        if subnets.iter().any(|(other, _)| other.contains(range.address) || range.contains(other.address)) {
            return Err(Error::new("multiple overlapping subnet configuration is not supported"));
        }
        subnets.push((range, Map::from_iter([("Subnet".to_owned(), json!(text))])));
    }
    let mut place = |what: &str, field: &str, text: &str, address: IpAddr| {
        let Some((_, config)) = subnets.iter_mut().find(|(range, _)| range.contains(address)) else {
            return Err(Error::new(format!("no matching subnet for {what} {text}")));
        };
        if config.insert(field.to_owned(), json!(text)).is_some() {
            return Err(Error::new(format!("cannot configure multiple {what}s ({text}) on the same subnet")));
        }
        Ok(())
    };
    for text in &args.ip_range {
        let range = Range::parse(text).ok_or_else(|| Error::new(format!("invalid ip-range {text:?}")))?;
        place("range", "IPRange", text, range.address)?;
    }
    for text in &args.gateway {
        let address = text.parse().map_err(|_| Error::new(format!("invalid gateway address {text:?}")))?;
        place("gateway", "Gateway", text, address)?;
    }
    for pair in &args.aux_address {
        let (name, text) = pair.split_once('=').ok_or_else(|| {
            Error::usage(format!("invalid argument {pair:?} for \"--aux-address\" flag: it is name=address"))
        })?;
        let address: IpAddr =
            text.parse().map_err(|_| Error::new(format!("invalid auxiliary address {text:?}")))?;
        let Some((_, config)) = subnets.iter_mut().find(|(range, _)| range.contains(address)) else {
            return Err(Error::new(format!("no matching subnet for aux-address {text}")));
        };
        config.entry("AuxiliaryAddresses").or_insert_with(|| json!({}))[name] = json!(text);
    }
    Ok(subnets.into_iter().map(|(_, config)| Value::Object(config)).collect())
}

/// `network ls`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Provide filter values (e.g. "driver=bridge")
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Do not truncate the output
    #[arg(long)]
    no_trunc: bool,
    /// Only display network IDs
    #[arg(short, long)]
    quiet: bool,
}

async fn list(args: ListArgs, context: &Context) -> Result<ExitStatus, Error> {
    let path = Query::new("/networks").with_filters(&args.filter)?;
    let mut networks: Vec<Value> = context.client.get_json(&path).await?;
    let name = |network: &Value| network["Name"].as_str().unwrap_or_default().to_owned();
    networks.sort_by(|a, b| natural_order(&name(a), &name(b)));
    let truth = |value: &Value| value.as_bool().unwrap_or_default().to_string();
    let rows: Vec<Value> = networks
        .iter()
        .map(|network| {
            let id = network["Id"].as_str().unwrap_or_default();
            json!({
                "ID": if args.no_trunc { id } else { human::short_id(id) },
                "Name": network["Name"],
                "Driver": network["Driver"],
                "Scope": network["Scope"],
                "IPv4": truth(&network["EnableIPv4"]),
                "IPv6": truth(&network["EnableIPv6"]),
                "Internal": truth(&network["Internal"]),
                "Labels": labels_text(&network["Labels"]),
                "Label": network["Labels"],
                "CreatedAt": human::go_time(network["Created"].as_str().unwrap_or_default()),
            })
        })
        .collect();
    let headers = [
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ];
    let table = if args.quiet { "{{.ID}}" } else { "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}" };
    let spec = match args.format.as_deref().filter(|spec| !spec.is_empty()) {
        None | Some("table") if args.quiet => Some(table),
        spec => spec,
    };
    print_list(spec, table, &headers, &rows)?;
    Ok(ExitStatus::SUCCESS)
}

/// `network inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Format output using a custom template: 'json', or 'TEMPLATE'
    #[arg(short, long, value_name = "string")]
    format: Option<String>,
    /// Verbose output for diagnostics
    #[arg(short, long)]
    verbose: bool,
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

async fn inspect(args: InspectArgs, context: &Context) -> Result<ExitStatus, Error> {
    shared::inspect::each(&args.networks, args.format.as_deref(), |name| async move {
        let path = Query::new(format!("/networks/{}", segment(&name))).with_flag("verbose", args.verbose);
        context.client.get_json(&path).await
    })
    .await
}

/// `network rm`.
#[derive(Args, Debug)]
pub struct RemoveArgs {
    /// Do not error if the network does not exist
    #[arg(short, long)]
    force: bool,
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

async fn remove(args: RemoveArgs, context: &Context) -> Result<ExitStatus, Error> {
    shared::remove::each(&args.networks, async |network| {
        let answer = context.client.delete(&format!("/networks/{}", segment(network))).await;
        match answer {
            Err(error) if args.force && error.http_status() == Some(404) => return Ok(()),
            answer => answer?.bytes().await?,
        };
        outln!("{network}")
    })
    .await
}

/// `network prune`.
#[derive(Args, Debug)]
pub struct PruneArgs {
    /// Provide filter values (e.g. "until=<timestamp>")
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

async fn prune(args: PruneArgs, context: &Context) -> Result<ExitStatus, Error> {
    if !args.force && !confirm("This will remove all custom networks not used by at least one container.")? {
        return Ok(ExitStatus::SUCCESS);
    }
    prune_networks(context, &args.filter).await?;
    Ok(ExitStatus::SUCCESS)
}

/// Removes unused networks and prints which.
pub async fn prune_networks(context: &Context, filters: &[String]) -> Result<(), Error> {
    let path = Query::new("/networks/prune").with_filters(filters)?;
    let answer: Value =
        context.client.request(hyper::Method::POST, &path, &[], empty()).await?.json().await?;
    print_removed("Deleted Networks:", &answer["NetworksDeleted"])
}

/// `network connect`.
#[derive(Args, Debug)]
pub struct ConnectArgs {
    /// Add network-scoped alias for the container
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    alias: Vec<String>,
    /// driver options for the network
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    driver_opt: Vec<String>,
    /// Highest gw-priority provides the default gateway. Accepts positive and negative values.
    #[arg(long, value_name = "int")]
    gw_priority: Option<i64>,
    /// IPv4 address (e.g., "172.30.100.104")
    #[arg(long, value_name = "address")]
    ip: Option<String>,
    /// IPv6 address (e.g., "2001:db8::33")
    #[arg(long, value_name = "address")]
    ip6: Option<String>,
    /// Add link to another container
    #[arg(long, value_name = "list")]
    link: Vec<String>,
    /// Add a link-local address for the container
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    link_local_ip: Vec<String>,
    #[arg(value_name = "NETWORK")]
    network: String,
    #[arg(value_name = "CONTAINER")]
    container: String,
}

async fn connect(args: ConnectArgs, context: &Context) -> Result<ExitStatus, Error> {
    if args.gw_priority.is_some() {
        shared::require_version(context, "--gw-priority", (1, 48)).await?;
    }
    let mut endpoint = json!({
        "IPAMConfig": {
            "IPv4Address": args.ip.unwrap_or_default(),
            "IPv6Address": args.ip6.unwrap_or_default(),
            "LinkLocalIPs": args.link_local_ip,
        },
        "Links": args.link,
        "Aliases": args.alias,
        "DriverOpts": pairs(&args.driver_opt),
    });
    if let Some(priority) = args.gw_priority {
        endpoint["GwPriority"] = json!(priority);
    }
    let body = json!({"Container": args.container, "EndpointConfig": endpoint});
    context
        .client
        .post(&format!("/networks/{}/connect", segment(&args.network)), &body)
        .await?
        .bytes()
        .await?;
    Ok(ExitStatus::SUCCESS)
}

/// `network disconnect`.
#[derive(Args, Debug)]
pub struct DisconnectArgs {
    /// Force the container to disconnect from a network
    #[arg(short, long)]
    force: bool,
    #[arg(value_name = "NETWORK")]
    network: String,
    #[arg(value_name = "CONTAINER")]
    container: String,
}

async fn disconnect(args: DisconnectArgs, context: &Context) -> Result<ExitStatus, Error> {
    let body = json!({"Container": args.container, "Force": args.force});
    let path = format!("/networks/{}/disconnect", segment(&args.network));
    context.client.post(&path, &body).await?.bytes().await?;
    Ok(ExitStatus::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;

    fn ipam(words: &[&str]) -> Result<Value, String> {
        let command = CreateArgs::augment_args(clap::Command::new("create")).no_binary_name(true);
        let matches = command.try_get_matches_from(words.iter().chain(&["name"])).unwrap();
        let args = CreateArgs::from_arg_matches(&matches).unwrap();
        ipam_config(&args).map(Value::Array).map_err(|e| e.to_string())
    }

    #[test]
    fn each_address_finds_its_subnet() {
        let config = ipam(&[
            "--subnet=10.1.0.0/16,fd00::/64",
            "--gateway=fd00::1",
            "--gateway=10.1.0.1",
            "--ip-range=10.1.2.0/24",
            "--aux-address=a=10.1.0.5,b=10.1.0.6",
        ]);
        let expected = json!([
            {"Subnet": "10.1.0.0/16", "IPRange": "10.1.2.0/24", "Gateway": "10.1.0.1",
             "AuxiliaryAddresses": {"a": "10.1.0.5", "b": "10.1.0.6"}},
            {"Subnet": "fd00::/64", "Gateway": "fd00::1"},
        ]);
        assert_eq!(config, Ok(expected));
        assert_eq!(ipam(&[]), Ok(json!([])));
    }

    #[test]
    fn what_fits_nowhere_is_refused() {
        for (words, why) in [
            (vec!["--gateway=10.1.0.1"], "every ip-range or gateway must have a corresponding subnet"),
            (vec!["--subnet=10.1.0.0/16", "--gateway=10.2.0.1"], "no matching subnet for gateway 10.2.0.1"),
            (
                vec!["--subnet=10.1.0.0/16", "--ip-range=10.2.0.0/24"],
                "no matching subnet for range 10.2.0.0/24",
            ),
            (
                vec![
                    "--subnet=10.1.0.0/16",
                    "--subnet=10.3.0.0/16",
                    "--gateway=10.1.0.1",
                    "--gateway=10.1.0.2",
                ],
                "cannot configure multiple gateways (10.1.0.2) on the same subnet",
            ),
            (
                vec!["--subnet=10.1.0.0/16", "--subnet=10.1.2.0/24"],
                "multiple overlapping subnet configuration is not supported",
            ),
        ] {
            assert_eq!(ipam(&words), Err(why.to_owned()));
        }
        assert!(ipam(&["--subnet=1.2"]).is_err());
        assert!(ipam(&["--subnet=1.2.3.4/33"]).is_err());
        assert!(ipam(&["--subnet=10.0.0.0/8", "--gateway=x"]).is_err());
    }
}
