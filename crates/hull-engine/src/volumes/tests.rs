//! Volumes in a folder and a database of a test's own.

use super::remove::remove_tree;
use super::*;
use crate::Kind;

struct Place {
    _folder: tempfile::TempDir,
    config: DaemonConfig,
    database: Arc<Database>,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("volumes")).unwrap();
        let config = DaemonConfig {
            data_root: folder.path().to_owned(),
            exec_root: folder.path().join("exec"),
            instance: "hull-test".into(),
            debug: false,
            default_ulimits: BTreeMap::new(),
            log: crate::model::LogConfig::default(),
            default_network: crate::DefaultNetwork::default(),
            userland_proxy: true,
            network_options: BTreeMap::new(),
            host_gateways: Vec::new(),
            defaults: crate::Defaults::default(),
            live_restore: true,
            selinux_enabled: false,
            experimental: false,
            address_pools: Vec::new(),
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
        Place { _folder: folder, config, database }
    }

    fn open(&self) -> Volumes {
        Volumes::open(&self.config, Arc::clone(&self.database), Arc::new(Events::new())).unwrap()
    }
}

fn run(container: &str, number: u64) -> Run {
    Run { container: container.into(), number }
}

fn named(name: &str) -> VolumeCreate {
    VolumeCreate { name: name.into(), ..VolumeCreate::default() }
}

/// Removes a volume at once.
fn remove(volumes: &Volumes, name: &str) -> Result<()> {
    volumes.discard(name)?.iter().try_for_each(|folder| remove_tree(folder))
}

/// Takes out what nobody uses; the names.
fn prune(volumes: &Volumes, filters: &Filters) -> Vec<String> {
    let (aside, result) = volumes.discard_unused(filters, false).unwrap();
    result.unwrap();
    aside.into_iter().map(|(name, _)| name).collect()
}

fn filters(name: &str, value: &str) -> Filters {
    BTreeMap::from([(name.to_owned(), vec![value.to_owned()])]).into()
}

fn names(volumes: Vec<Arc<Volume>>) -> Vec<String> {
    volumes.iter().map(|volume| volume.name.clone()).collect()
}

#[test]
fn a_volume_outlives_the_daemon() {
    let place = Place::new();
    let made = place.open().create(named("data")).unwrap();
    fs::write(made.mountpoint.join("f"), "kept").unwrap();
    let again = place.open();
    assert_eq!(again.get("data").unwrap(), made);
    assert_eq!(again.create(named("data")).unwrap(), made);
    let mountpoint = again.disk_usage()[0].volume.mountpoint.clone();
    assert_eq!(hull_image::tree_size(&mountpoint).unwrap(), 4);
    remove(&again, "data").unwrap();
    assert!(!place.config.data_root.join("volumes/data").exists());
    assert_eq!(fs::read_dir(place.config.data_root.join("volumes")).unwrap().count(), 0);
    assert_eq!(place.open().get("data").unwrap_err().message, "get data: no such volume");
}

#[test]
fn anonymous_volumes_go_with_their_last_container() {
    let place = Place::new();
    let volumes = place.open();
    let none = BTreeMap::new();
    let acquire = |name, container| volumes.acquire(name, "", &none, &none, container).unwrap();
    let anonymous = acquire(None, "c1");
    acquire(Some("named"), "c1");
    let shared = acquire(None, "c1");
    acquire(Some(&shared.name), "c2");
    assert_eq!(anonymous.name.len(), 64);
    let error = remove(&volumes, "named").unwrap_err();
    assert_eq!(error.message, "remove named: volume is in use - [c1]");
    volumes.release("c1", true).1.unwrap();
    assert!(volumes.get(&anonymous.name).is_err());
    assert!(volumes.get("named").is_ok() && volumes.get(&shared.name).is_ok());
    volumes.release("c2", true).1.unwrap();
    assert!(volumes.get(&shared.name).is_ok(), "someone called it by its name");
}

#[test]
fn a_volume_that_cannot_be_removed_does_not_keep_the_others() {
    let place = Place::new();
    let volumes = place.open();
    let none = BTreeMap::new();
    let mut made = [(); 2].map(|()| volumes.acquire(None, "", &none, &none, "c").unwrap());
    made.sort_by(|one, other| one.name.cmp(&other.name));
    // In the place of the second one's folder is a mount that cannot be renamed.
    let stuck = place.config.data_root.join("volumes").join(&made[1].name);
    rustix::mount::mount("tmpfs", &stuck, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    let (gone, result) = volumes.release("c", true);
    rustix::mount::unmount(&stuck, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(result.unwrap_err().message.contains(&made[1].name));
    assert!(gone.len() == 1 && gone[0].exists(), "what is aside is told: {gone:?}");
    assert!(volumes.get(&made[0].name).is_err() && volumes.get(&made[1].name).is_ok());
}

#[test]
fn a_volume_that_is_being_mounted_keeps_no_other_waiting() {
    let place = Place::new();
    let volumes = Arc::new(place.open());
    let options = [("type", "tmpfs"), ("device", "tmpfs")];
    let driver_opts = options.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    volumes.create(VolumeCreate { driver_opts, ..named("slow") }).unwrap();
    let (_, mounted) = volumes.mounts("slow").unwrap();
    let hangs = locked(&mounted);
    let removal = std::thread::spawn({
        let volumes = Arc::clone(&volumes);
        move || remove(&volumes, "slow")
    });
    volumes.create(named("other")).unwrap();
    assert!(volumes.get("slow").is_ok(), "its removal waits");
    drop(hangs);
    removal.join().unwrap().unwrap();
    assert!(volumes.get("slow").is_err());
}

#[test]
fn lists_are_filtered_and_prune_spares_what_has_a_name() {
    let place = Place::new();
    let volumes = place.open();
    volumes.create(named("one")).unwrap();
    volumes
        .create(VolumeCreate { labels: BTreeMap::from([("a".into(), "1".into())]), ..named("two") })
        .unwrap();
    volumes.retain("two", "c");
    let unnamed = volumes.create(named("")).unwrap();
    let list = |name: &str, value: &str| names(volumes.list(&filters(name, value)).unwrap());
    assert_eq!(list("label", "a=1"), ["two"]);
    assert_eq!(list("dangling", "false"), ["two"]);
    assert_eq!(list("name", "^on"), ["one"]);
    assert_eq!(volumes.list(&filters("x", "")).unwrap_err().message, "invalid filter 'x'");
    assert_eq!(prune(&volumes, &Filters::default()), std::slice::from_ref(&unnamed.name));
    assert_eq!(prune(&volumes, &filters("all", "1")), ["one"]);
    assert_eq!(names(volumes.list(&Filters::default()).unwrap()), ["two"]);
}

#[test]
fn a_volume_that_is_deeper_than_a_stack_goes() {
    use rustix::fs::{Mode, OFlags, mkdirat, openat};
    let place = Place::new();
    let volumes = place.open();
    let made = volumes.create(named("deep")).unwrap();
    let mut folder: std::os::fd::OwnedFd = fs::File::open(&made.mountpoint).unwrap().into();
    for _ in 0..3_000 {
        mkdirat(&folder, "d", Mode::RWXU).unwrap();
        folder = openat(&folder, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    assert_eq!(volumes.disk_usage()[0].size, Size::Walked);
    // As deep as this, each folder may take a hundred bytes of the stack.
    let removal = move || remove(&volumes, "deep");
    let thread = std::thread::Builder::new().stack_size(256 << 10);
    thread.spawn(removal).unwrap().join().unwrap().unwrap();
    assert!(!place.config.data_root.join("volumes/deep").exists());
    assert_eq!(fs::read_dir(place.config.data_root.join("volumes")).unwrap().count(), 0);
}

#[test]
fn names_that_are_paths_are_refused() {
    let place = Place::new();
    let volumes = place.open();
    for name in ["a/b", "..", ".gone-x", "a\nb", "a", "-a", &"a".repeat(300)] {
        assert_eq!(volumes.create(named(name)).unwrap_err().kind, Kind::InvalidParameter, "{name:?}");
    }
    assert_eq!(
        volumes.create(VolumeCreate { driver: "nfs".into(), ..named("ab") }).unwrap_err().kind,
        Kind::NotFound
    );
}

#[test]
fn a_removal_that_a_crash_cut_off_is_finished() {
    let place = Place::new();
    place.open().create(named("data")).unwrap();
    let root = place.config.data_root.join("volumes");
    fs::rename(root.join("data"), root.join(".gone-data")).unwrap();
    assert!(place.open().get("data").is_err());
    assert!(!root.join(".gone-data").exists());
}

#[test]
fn what_cannot_be_removed_keeps_no_daemon_from_starting() {
    let place = Place::new();
    place.open().create(named("data")).unwrap();
    let left = place.config.data_root.join("volumes/.gone-other/_data/stuck");
    fs::create_dir_all(&left).unwrap();
    rustix::mount::mount("tmpfs", &left, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    let opened = Volumes::open(&place.config, Arc::clone(&place.database), Arc::new(Events::new()));
    rustix::mount::unmount(&left, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(opened.unwrap().get("data").is_ok());
    assert!(left.exists());
    place.open();
    assert!(!left.exists(), "the next one removes it");
}

#[test]
fn snapshots_of_one_second_have_names_of_their_own() {
    let place = Place::new();
    let volumes = place.open();
    for expected in ["data-1", "data-1-2", "data-1-3"] {
        let name = volumes.free_name("data-1".to_owned());
        assert_eq!(name, expected);
        volumes.create(named(&name)).unwrap();
    }
}

#[test]
fn options_are_mounted_at_first_use_and_unmounted_at_last() {
    let place = Place::new();
    let volumes = place.open();
    let options = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,noexec")];
    let driver_opts = options.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let volume = volumes.create(VolumeCreate { driver_opts, ..named("scratch") }).unwrap();
    let is_mounted = || {
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        table.lines().any(|line| line.contains(&format!(" {} tmpfs ", volume.mountpoint.display())))
    };
    volumes.mount("scratch", &run("c1", 1)).unwrap();
    volumes.mount("scratch", &run("c2", 1)).unwrap();
    assert!(is_mounted());
    // Another daemon finds it mounted and does not mount it again.
    place.open().mount("scratch", &run("c1", 1)).unwrap();
    volumes.unmount("scratch", &run("c1", 1)).unwrap();
    assert!(is_mounted());
    volumes.mount("scratch", &run("c2", 2)).unwrap();
    assert!(volumes.unmount("scratch", &run("c2", 1)).unwrap());
    assert!(!volumes.unmount("scratch", &run("c2", 1)).unwrap());
    assert!(is_mounted(), "the end of a run, however late, takes nothing from the next");
    assert!(volumes.unmount("scratch", &run("c2", 2)).unwrap());
    assert!(!is_mounted());
}
