//! Networks against the kernel, each test with an instance of its own.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hull_network::{Fabric, netns};

use super::*;
use crate::model::{LogConfig, PortBinding};

/// A daemon's networks, which leave the kernel as they found it.
struct Place {
    networks: Option<Networks>,
    config: DaemonConfig,
    database: Arc<Database>,
    _folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::tempdir().unwrap();
        let config = DaemonConfig {
            data_root: folder.path().to_owned(),
            exec_root: folder.path().to_owned(),
            instance: format!("hull-{:x}t{number}", std::process::id()),
            debug: false,
            default_ulimits: BTreeMap::new(),
            log: LogConfig::default(),
            default_network: crate::DefaultNetwork::default(),
            userland_proxy: true,
            network_options: BTreeMap::new(),
            host_gateways: Vec::new(),
            defaults: crate::Defaults::default(),
            live_restore: true,
            selinux_enabled: false,
            experimental: false,
            address_pools: vec![format!("base=10.213.{}.0/20,size=24", number * 16)],
            dns: Vec::new(),
            dns_options: Vec::new(),
            dns_search: Vec::new(),
            labels: Vec::new(),
            cdi_spec_dirs: Vec::new(),
            collection: crate::Collection::default(),
            default_size: None,
            storage_driver: None,
            registries: Default::default(),
            runtimes: crate::Runtimes::default(),
            userns_remap: None,
        };
        let database = Arc::new(Database::open(&folder.path().join("db")).unwrap());
        let mut place = Place { networks: None, config, database, _folder: folder };
        place.reopen();
        place
    }

    /// What a daemon does that comes back.
    fn reopen(&mut self) {
        let fabric = Arc::new(Fabric::open(&self.config.instance).unwrap());
        let (database, events) = (Arc::clone(&self.database), Arc::new(Events::new()));
        self.networks = Some(Networks::open(&self.config, fabric, database, events).unwrap());
    }

    fn networks(&self) -> &Networks {
        self.networks.as_ref().unwrap()
    }

    fn create(&self, body: Value) -> Result<Arc<Network>> {
        self.networks().create(serde_json::from_value(body).unwrap())
    }

    fn attached(&self, network: &str) -> usize {
        self.networks().inspect(network).unwrap()["Containers"].as_object().unwrap().len()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.networks = None;
        if let Err(error) = Fabric::open(&self.config.instance).and_then(Fabric::close) {
            eprintln!("{}: {error}", self.config.instance);
        }
    }
}

/// What a container asks.
struct Wish {
    id: String,
    endpoints: BTreeMap<String, EndpointSettings>,
    ports: BTreeMap<String, Vec<PortBinding>>,
}

impl Wish {
    fn on(networks: &[&str]) -> Wish {
        let settings = |name: &&str| ((*name).to_owned(), EndpointSettings::default());
        Wish { id: random_id(), endpoints: networks.iter().map(settings).collect(), ports: BTreeMap::new() }
    }

    fn publish(mut self, port: &str, host: &str) -> Wish {
        let binding = PortBinding { host_ip: "127.0.0.1".into(), host_port: host.into() };
        self.ports.entry(port.to_owned()).or_default().push(binding);
        self
    }

    fn allocate(&self, place: &Place) -> Result<Allocation> {
        place.networks().allocate(&Joiner {
            id: &self.id,
            name: "web",
            hostname: "host",
            endpoints: &self.endpoints,
            port_bindings: &self.ports,
            exposed: &["7/udp".to_owned()],
            publish_all: false,
            dns: &[],
        })
    }
}

#[test]
fn what_is_allocated_is_free_again_when_it_is_dropped() {
    let place = Place::new();
    let wish = Wish::on(&["bridge"]).publish("80/tcp", "");
    let allocation = wish.allocate(&place).unwrap();
    let settings = &allocation.endpoints["bridge"];
    assert_eq!(settings.gateway, format!("{}1", &settings.ip_address[..settings.ip_address.len() - 1]));
    assert!(settings.mac_address.starts_with("02:42:0a:d5:") && settings.dns_names.is_none());
    assert_eq!(allocation.ports["7/udp"], []);
    let port = allocation.ports["80/tcp"][0].host_port.clone();
    let taken = Wish::on(&["bridge"]).publish("80/tcp", &port).allocate(&place).err().unwrap();
    assert!(taken.message.starts_with("driver failed programming external connectivity on endpoint web ("));
    assert!(taken.message.contains(&format!("Bind for 127.0.0.1:{port} failed: port is already allocated")));
    assert_eq!(place.attached("bridge"), 1, "the one that failed left nothing");
    assert_eq!(wish.allocate(&place).err().unwrap().kind, Kind::Forbidden, "it is there already");
    drop(allocation);
    assert_eq!(place.attached("bridge"), 0);
    Wish::on(&["bridge"]).publish("80/tcp", &port).allocate(&place).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_on_two_networks_from_its_start_to_its_end() {
    let mut place = Place::new();
    place.create(json!({ "Name": "back", "Internal": true })).unwrap();
    let front = place.create(json!({ "Name": "front" })).unwrap();
    let wish = Wish::on(&["back", "front"]).publish("80/tcp", "");
    let mut allocation = wish.allocate(&place).unwrap();
    assert_eq!(allocation.endpoints["back"].gateway, "");
    assert_eq!(allocation.endpoints["front"].dns_names.as_ref().unwrap(), &["web", &wish.id[..12], "host"]);
    let networks = place.networks();
    let namespace = networks.realise(&allocation, None).unwrap();
    let names = || -> Vec<String> {
        let mut all = netns::interfaces(namespace.as_fd()).unwrap();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all.into_iter().map(|interface| interface.name).collect()
    };
    assert_eq!(names(), ["eth0", "eth1", "lo"]);
    networks.running(&wish.id, &allocation, 0).unwrap();
    assert_eq!(networks.inner.fabric.published().unwrap().len(), 1);
    let refused = networks.remove("front").unwrap_err();
    assert_eq!(refused.kind, Kind::Forbidden);
    assert!(refused.message.contains("network front has active endpoints (name:\"web\" id:"));
    networks.renamed(&mut allocation, "new");
    use hull_network::dns::Names;
    assert!(networks.inner.directory.lookup(&wish.id, "new.front").is_some());
    assert!(networks.inner.directory.lookup(&wish.id, "web").is_none());
    networks.release(&wish.id, allocation).unwrap();
    assert!(networks.inner.directory.lookup(&wish.id, "new").is_none());
    assert!(networks.inner.fabric.published().unwrap().is_empty());
    networks.remove("front").unwrap();
    assert_eq!(networks.prune(&Filters::default()).unwrap(), ["back"]);
    assert_eq!(networks.inner.fabric.bridges().unwrap(), [place.config.bridge_name()]);
    place.reopen();
    assert_eq!(place.networks().resolve(&front.id).unwrap_err().kind, Kind::NotFound);
}

#[test]
fn networks_outlive_the_daemon_and_strangers_do_not() {
    let mut place = Place::new();
    let kept = place.create(json!({ "Name": "kept", "Labels": { "a": "1" } })).unwrap();
    assert_eq!(place.create(json!({ "Name": "kept" })).unwrap_err().kind, Kind::Conflict);
    let bridge = place.networks().resolve("bridge").unwrap();
    // A crash between the bridge and the row.
    let stranger = hull_network::Bridge { name: "br-e2stranger".into(), ..Default::default() };
    place.networks().inner.fabric.ensure_bridge(&stranger).unwrap();
    place.reopen();
    assert_eq!(place.networks().resolve(&kept.id[..10]).unwrap(), kept);
    assert_eq!(place.networks().resolve("bridge").unwrap(), bridge);
    assert!(!place.networks().inner.fabric.bridges().unwrap().contains(&stranger.name));
    let list = |name: &str, value: &str| -> Vec<String> {
        let filters = BTreeMap::from([(name.to_owned(), vec![value.to_owned()])]);
        let list = place.networks().list(&filters.into()).unwrap();
        list.iter().map(|network| network["Name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(list("type", "custom"), ["kept"]);
    assert_eq!(list("label", "a=1"), ["kept"]);
    assert_eq!(list("driver", "bridge"), ["bridge", "kept"]);
    assert_eq!(list("dangling", "true"), ["kept"]);
    for name in ["bridge", "host", "none"] {
        assert_eq!(place.networks().remove(name).unwrap_err().kind, Kind::Forbidden);
    }
}

/// A process in a namespace of its own, which ends with the test.
struct Sleeper(std::process::Child);

impl Sleeper {
    fn of(namespace: std::os::fd::BorrowedFd<'_>) -> Sleeper {
        let child = netns::run(namespace, || {
            std::process::Command::new("/usr/bin/sleep").arg("600").stdin(std::process::Stdio::null()).spawn()
        });
        Sleeper(child.unwrap().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        if self.0.kill().and_then(|()| self.0.wait().map(|_| ())).is_err() {
            eprintln!("a sleeper stays: {}", self.0.id());
        }
    }
}

/// An interface of the machine, for VLANs on it.
struct Cable(String);

impl Cable {
    fn new() -> Cable {
        let cable = Cable(format!("hp{:x}", std::process::id()));
        cable.ip(&["link", "add", &cable.0, "type", "veth", "peer", "name", &format!("{}p", cable.0)]);
        cable
    }

    fn ip(&self, words: &[&str]) {
        let status = std::process::Command::new("ip").args(words).status();
        assert!(status.is_ok_and(|status| status.success()), "these tests need root and ip(8): {words:?}");
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.ip(&["link", "del", &self.0]);
    }
}

/// Whether there is such a network; unknown while somebody has the state to himself.
fn knows(networks: &Networks, name: &str) -> Option<bool> {
    let state = networks.inner.state.try_lock().ok()?;
    Some(state.by_name.contains_key(name))
}

/// Waits for what others do.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !is_so() {
        assert!(std::time::Instant::now() < limit, "{what} did not come");
        std::thread::yield_now();
    }
}

/// Deleting an interface takes the kernel tens of milliseconds: others' places are decided about meanwhile.
#[test]
fn a_parent_that_goes_holds_up_nobody() {
    let place = Place::new();
    let networks = place.networks();
    place.create(json!({ "Name": "alone", "Driver": "macvlan" })).unwrap();
    std::thread::scope(|scope| {
        // Given back before the threads are waited for, also by an assertion that fails.
        let held = networks.inner.parents();
        let removal = scope.spawn(|| networks.remove("alone"));
        until("a state that is free while the parent goes", || knows(networks, "alone") == Some(false));
        let (sender, receiver) = std::sync::mpsc::channel();
        let place = &place;
        scope.spawn(move || sender.send(Wish::on(&["bridge"]).allocate(place).map(drop)));
        let allocated = receiver.recv_timeout(std::time::Duration::from_secs(20));
        allocated.expect("a place while the parent goes").unwrap();
        drop(held);
        removal.join().unwrap().unwrap();
    });
}

#[test]
fn who_comes_to_a_parent_that_goes_finds_it() {
    let place = Place::new();
    let networks = place.networks();
    let cable = Cable::new();
    let parent = format!("{}.7", cable.0);
    let body = |name: &str| json!({ "Name": name, "Driver": "macvlan", "Options": { "parent": parent } });
    if let Err(error) = place.create(body("first")) {
        eprintln!("left out: this kernel has no VLANs: {error}");
        return;
    }
    std::thread::scope(|scope| {
        let held = networks.inner.parents();
        let removal = scope.spawn(|| networks.remove("first"));
        until("the first network's end", || knows(networks, "first") == Some(false));
        let creation = scope.spawn(|| place.create(body("second")));
        until("the second network", || knows(networks, "second") == Some(true) || creation.is_finished());
        drop(held);
        removal.join().unwrap().unwrap();
        creation.join().unwrap().unwrap();
    });
    assert!(networks.inner.fabric.host_index(&parent).is_ok(), "the second network is on it");
    networks.remove("second").unwrap();
    assert!(networks.inner.fabric.host_index(&parent).is_err(), "it goes with its last network");
}

/// What was asked for is had, or refused: never left out.
#[test]
fn an_address_of_no_pool_is_refused() {
    let place = Place::new();
    let subnet = format!("10.214.{}.0/24", std::process::id() % 256);
    let body = json!({ "Name": "own", "IPAM": { "Config": [{ "Subnet": subnet }] } });
    place.create(body).unwrap();
    let mut wish = Wish::on(&["own"]);
    let address = subnet.replace(".0/24", ".9");
    let ipam = crate::model::EndpointIpam { ipv4_address: address.clone(), ..Default::default() };
    wish.endpoints.insert("own".into(), EndpointSettings { ipam_config: Some(ipam), ..Default::default() });
    drop(wish.allocate(&place).unwrap());
    place.networks().inner.state().find_mut("own").unwrap().pools.clear();
    let refused = wish.allocate(&place).err().unwrap();
    let message = format!("no configured subnet or ip-range contain the IP address {address}");
    assert_eq!((refused.kind, refused.message), (Kind::InvalidParameter, message));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_container_changes_its_networks_and_outlives_the_daemon() {
    let mut place = Place::new();
    for name in ["aa", "zz"] {
        place.create(json!({ "Name": name })).unwrap();
    }
    let wish = Wish::on(&["zz"]).publish("80/tcp", "");
    let mut allocation = wish.allocate(&place).unwrap();
    let namespace = place.networks().realise(&allocation, None).unwrap();
    let sleeper = Sleeper::of(namespace.as_fd());
    place.networks().running(&wish.id, &allocation, sleeper.pid()).unwrap();
    let live = Live { id: &wish.id, name: "web", hostname: "host", pid: sleeper.pid(), dns: &[] };
    let index = |name: &str| {
        let all = netns::interfaces(namespace.as_fd()).unwrap();
        all.into_iter().find(|interface| interface.name == name).map(|interface| interface.index)
    };
    let first = index("eth0");
    let joined =
        place.networks().connect("aa", &live, &EndpointSettings::default(), &mut allocation).unwrap();
    assert_eq!((index("eth0"), default_device(&namespace)), (first, "eth1".into()), "the route moved alone");
    let target = |place: &Place| place.networks().inner.fabric.published().unwrap()[0].port.container_address;
    // By the networks' names the default route, and the port with it, is the new one's.
    assert_eq!(target(&place).to_string(), joined.ip_address);
    let (endpoints, ports, old) =
        (allocation.endpoints.clone(), allocation.ports.clone(), endpoints_of(&allocation));
    assert_eq!(old, [("aa".to_owned(), "eth1".to_owned()), ("zz".to_owned(), "eth0".to_owned())]);
    let sockets = std::mem::take(&mut allocation.reserved);
    drop(allocation);
    assert_eq!(
        place.networks().inner.fabric.published().unwrap().len(),
        1,
        "the daemon ends, the container does not"
    );

    place.reopen();
    let mut allocation = place.networks().restore(&live, &endpoints, &ports).unwrap();
    place.networks().settle().unwrap();
    assert_eq!(endpoints_of(&allocation), old);
    assert_eq!(target(&place).to_string(), joined.ip_address);
    assert_eq!(place.attached("aa"), 1);
    place.networks().disconnect("aa", &live, &mut allocation).unwrap();
    assert_eq!((index("eth0"), default_device(&namespace)), (first, "eth0".into()), "and came back");
    assert_eq!(target(&place).to_string(), endpoints["zz"].ip_address);
    assert_eq!(place.attached("aa"), 0);
    let again = place.networks().disconnect("aa", &live, &mut allocation).unwrap_err();
    assert!(again.message.contains("is not connected to network aa"), "{}", again.message);
    place.networks().release(&wish.id, allocation).unwrap();
    drop(sockets);
    assert!(place.networks().inner.fabric.published().unwrap().is_empty());
}

/// The interface that the only default route of IPv4 leads through.
fn default_device(namespace: &impl AsFd) -> String {
    let routes = netns::run(namespace.as_fd(), || {
        std::process::Command::new("ip").args(["-o", "route", "show", "default"]).output()
    });
    let text = String::from_utf8(routes.unwrap().unwrap().stdout).unwrap();
    let mut devices =
        text.lines().map(|line| line.split_whitespace().skip_while(|word| *word != "dev").nth(1));
    let (first, second) = (devices.next().flatten().unwrap_or_default(), devices.next());
    assert_eq!(second, None, "{text}");
    first.to_owned()
}

fn endpoints_of(allocation: &Allocation) -> Vec<(String, String)> {
    allocation.legs.iter().map(|leg| (leg.network.name.clone(), leg.interface.clone())).collect()
}
