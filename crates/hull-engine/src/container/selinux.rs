//! The SELinux labels of containers, where the daemon gives them (`--selinux-enabled`): as the machine's policy names them,
//! with a pair of categories for each container, which keeps it from the others' files and processes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use hull_runtime::selinux::{self, Context, Walk};
use serde::{Deserialize, Serialize};

use super::mounts::MountKind;
use super::spec::Source;
use super::{Record, locked};
use crate::model::HostConfig;
use crate::{Engine, Error, Kind, Result};

/// How many categories a policy of containers has.
const CATEGORIES: u16 = 1024;

/// The labels of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Labels {
    /// Of its processes; empty: none is set, and they run as the daemon does.
    pub(crate) process: String,
    /// Of its files.
    pub(crate) mount: String,
}

/// Who gives labels, and which levels are in use.
#[derive(Debug)]
pub(crate) struct Selinux {
    process: Context,
    file: Context,
    /// How many containers have each.
    levels: Mutex<BTreeMap<String, usize>>,
}

impl Selinux {
    /// As the daemon is told. A machine that has no SELinux has none, as with Docker.
    ///
    /// # Errors
    /// The machine's policy knows of no containers.
    pub(crate) fn open(wanted: bool) -> Result<Option<Selinux>> {
        if !wanted {
            return Ok(None);
        }
        if !selinux::is_enabled() {
            tracing::warn!("SELinux is not enabled on this machine: containers have no labels");
            return Ok(None);
        }
        let text = selinux::contexts_of_containers().map_err(|places| {
            let places = places.map(|file| file.display().to_string()).join(" nor ");
            Error::new(
                Kind::System,
                format!(
                    "--selinux-enabled: the machine's policy knows of no containers (neither {places} is there): \
                     install container-selinux, or leave the option away"
                ),
            )
        })?;
        let unreadable = |why: String| Error::new(Kind::System, format!("--selinux-enabled: {why}"));
        Selinux::of(&text).map(Some).map_err(unreadable)
    }

    fn of(contexts: &str) -> std::result::Result<Selinux, String> {
        let value = |wanted: &str| {
            let lines = contexts.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
            let mut values = lines.filter_map(|line| line.split_once('='));
            let value = values.find_map(|(name, value)| (name.trim() == wanted).then(|| value.trim()));
            value.ok_or_else(|| format!("the policy's contexts of containers name no {wanted:?}"))
        };
        let label = |name: &str| value(name)?.trim_matches('"').parse::<Context>();
        let (process, file) = (label("process")?, label("file")?);
        Ok(Selinux { process, file, levels: Mutex::default() })
    }

    /// The labels of a new container, and its level is taken.
    ///
    /// # Errors
    /// An option is none.
    pub(crate) fn give(&self, options: &[String]) -> Result<Labels> {
        let (mut process, mut file) = (self.process.clone(), self.file.clone());
        if options.iter().any(|option| option == "disable") {
            // What they have in common is kept from those that have labels.
            file.level = file.level.map(|_| disabled());
            return Ok(Labels { process: String::new(), mount: file.to_string() });
        }
        let mut level = None;
        for option in options {
            let (name, value) = option.split_once(':').ok_or_else(|| {
                bad(option, "'disable' or \n'user, role, level, type, filetype' followed by ':' and a value")
            })?;
            // It goes into the quotes of a mount's options.
            if value.is_empty() || !selinux::is_label(value) {
                return Err(bad(option, "have a value of letters, digits and any of _ . , : -"));
            }
            // A colon ends a part of a label; only a level may have some.
            if name != "level" && value.contains(':') {
                return Err(bad(option, "have a value without colons, but for level's"));
            }
            let value = value.to_owned();
            match name {
                "user" => (process.user, file.user) = (value.clone(), value),
                "role" => process.role = value,
                "type" => process.kind = value,
                "filetype" => file.kind = value,
                // In one form: the same categories in another spelling are not free for another container.
                "level" => {
                    let normal = selinux::normal_level(&value);
                    level = Some(normal.ok_or_else(|| bad(option, "have a level such as s0:c1,c2"))?);
                }
                _ => return Err(bad(option, "'disable, user, role, level, type, filetype'")),
            }
        }
        // A policy without levels has no categories either.
        let level = match level {
            Some(level) => {
                self.take(&level);
                Some(level)
            }
            None => process.level.is_some().then(|| self.draw()).transpose()?,
        };
        if let Some(level) = level {
            (process.level, file.level) = (Some(level.clone()), Some(level));
        }
        Ok(Labels { process: process.to_string(), mount: file.to_string() })
    }

    /// Takes a pair of categories that no container has.
    fn draw(&self) -> Result<String> {
        let mut levels = locked(&self.levels);
        loop {
            let mut bytes = [0; 4];
            getrandom::fill(&mut bytes).map_err(|error| Error::system("draw a level", error))?;
            let [one, other] = [[bytes[0], bytes[1]], [bytes[2], bytes[3]]];
            let [one, other] = [one, other].map(|number| u16::from_ne_bytes(number) % CATEGORIES);
            let level = format!("s0:c{},c{}", one.min(other), one.max(other));
            if one != other && level != disabled() && !levels.contains_key(&level) {
                levels.insert(level.clone(), 1);
                return Ok(level);
            }
        }
    }

    fn take(&self, level: &str) {
        // An earlier daemon may have written another spelling.
        let level = selinux::normal_level(level).unwrap_or_else(|| level.to_owned());
        *locked(&self.levels).entry(level).or_default() += 1;
    }

    /// A container of an earlier daemon's has these.
    pub(crate) fn take_up(&self, labels: &Labels) {
        if let Some(level) = level_of(labels) {
            self.take(&level);
        }
    }

    /// The container is gone.
    pub(crate) fn free(&self, labels: &Labels) {
        let Some(level) = level_of(labels) else { return };
        let mut levels = locked(&self.levels);
        if let Some(count) = levels.get_mut(&level) {
            *count -= 1;
            if *count == 0 {
                levels.remove(&level);
            }
        }
    }
}

/// The level of files of containers without a label.
fn disabled() -> String {
    format!("s0:c{},c{}", CATEGORIES - 2, CATEGORIES - 1)
}

fn bad(option: &str, valid: &str) -> Error {
    // Docker's words.
    Error::invalid(format!("bad label option {option:?}, valid options {valid}"))
}

fn level_of(labels: &Labels) -> Option<String> {
    let level = labels.process.parse::<Context>().ok()?.level?;
    Some(selinux::normal_level(&level).unwrap_or(level))
}

/// The same label without categories: what all containers may have.
fn shared(label: &str) -> String {
    match label.parse::<Context>() {
        Ok(context) => {
            Context { level: context.level.as_ref().map(|_| "s0".to_owned()), ..context }.to_string()
        }
        Err(_) => label.to_owned(),
    }
}

/// The values of `--security-opt label=`.
fn options(host: &HostConfig) -> Vec<String> {
    let value = |option: &String| match option.as_str() {
        // `label=disable`, in its oldest spelling.
        "disable" => Some("disable".to_owned()),
        option => {
            option.strip_prefix("label").and_then(|rest| rest.strip_prefix(['=', ':'])).map(str::to_owned)
        }
    };
    host.security_opt.iter().flatten().filter_map(value).collect()
}

impl Engine {
    /// What a container's label is by its namespaces, where nobody said one: it is written into its options, as Docker does.
    /// Whom it shares processes or memory with has the same label; the host's have none that would do.
    ///
    /// # Errors
    /// It joins two that have different ones.
    pub(super) fn fill_label_options(&self, host: &mut HostConfig) -> Result<()> {
        if !options(host).is_empty() {
            return Ok(());
        }
        let more = if host.privileged || host.pid_mode == "host" || host.ipc_mode == "host" {
            vec!["label=disable".to_owned()]
        } else {
            let of = |mode: &str| -> Result<Option<Vec<String>>> {
                let Some(other) = mode.strip_prefix("container:") else { return Ok(None) };
                let other = self.container(other)?;
                let labels = other.record().labels.clone();
                Ok(labels.and_then(|labels| as_options(&labels.process)))
            };
            match (of(&host.ipc_mode)?, of(&host.pid_mode)?) {
                (Some(ipc), Some(pid)) if ipc != pid => {
                    return Err(Error::invalid("--ipc and --pid containers SELinux labels aren't the same"));
                }
                (ipc, pid) => ipc.or(pid).unwrap_or_default(),
            }
        };
        if !more.is_empty() {
            host.security_opt.get_or_insert_default().extend(more);
        }
        Ok(())
    }

    /// The labels of a new container; none where the daemon gives none.
    pub(super) fn labels_for(&self, host: &HostConfig) -> Result<Option<Labels>> {
        self.selinux.as_ref().map(|selinux| selinux.give(&options(host))).transpose()
    }

    /// A container with these is gone, or never was.
    pub(super) fn free_labels(&self, labels: Option<&Labels>) {
        if let (Some(selinux), Some(labels)) = (&self.selinux, labels) {
            selinux.free(labels);
        }
    }

    /// Refuses labels that nobody would give. Where SELinux is not enabled they mean nothing, as with Docker.
    pub(super) fn check_labels(&self, host: &HostConfig) -> Result<()> {
        let asked = options(host).into_iter().find(|option| option != "disable");
        match asked {
            Some(option) if self.selinux.is_none() && selinux::is_enabled() => Err(Error::invalid(format!(
                "invalid --security-opt: \"label={option}\": this daemon gives containers no SELinux labels: start it with \
                 --selinux-enabled, or say label=disable"
            ))),
            _ => Ok(()),
        }
    }
}

/// A label as the options that ask for it.
fn as_options(label: &str) -> Option<Vec<String>> {
    let Context { user, role, kind, level } = label.parse().ok()?;
    let mut options =
        vec![format!("label=user:{user}"), format!("label=role:{role}"), format!("label=type:{kind}")];
    options.extend(level.map(|level| format!("label=level:{level}")));
    Some(options)
}

/// How a mount's files are labelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relabel {
    /// For this container alone.
    Private,
    /// For all containers.
    Shared,
}

impl Relabel {
    /// What `:z` or `:Z` behind a mount asks for.
    pub(super) fn asked(mode: &str) -> Option<Relabel> {
        mode.split(',').find_map(|word| match word {
            "z" => Some(Relabel::Shared),
            "Z" => Some(Relabel::Private),
            _ => None,
        })
    }
}

impl Engine {
    /// Labels what was asked to be (`:z`, `:Z`), all files of it, before there is a container.
    ///
    /// # Errors
    /// It is the machine's own or hull's, or cannot be labelled.
    pub(super) fn label_binds(&self, record: &Record) -> Result<()> {
        for plan in record.mounts.iter().filter(|plan| plan.kind == MountKind::Bind) {
            if let Some(how) = Relabel::asked(&plan.mode) {
                record.relabel(Path::new(&plan.source), how, Walk::Whole, &self.own_roots())?;
            }
        }
        Ok(())
    }

    /// Labels what a start mounts: the files that the engine writes into `files`, volumes, whole trees of images, and what
    /// was asked to be. Each has its label from an earlier start, and what was made in it since from its folder.
    ///
    /// # Errors
    /// It is the machine's own or hull's, or cannot be labelled.
    pub(super) fn label_mounts(&self, record: &Record, files: &Path, sources: &[Source]) -> Result<()> {
        if record.labels.is_none() {
            return Ok(());
        }
        let others = record.host_config.network_mode.starts_with("container:");
        for name in ["hostname", "hosts", "resolv.conf"] {
            let how = if others { Relabel::Shared } else { Relabel::Private };
            record.relabel(&files.join(name), how, Walk::UnlessLabelled, &[])?;
        }
        let roots = self.own_roots();
        // What is merged is mounted with a label for all of it.
        let labelled = record.mounts.iter().zip(sources).filter(|(_, source)| source.layers.is_empty());
        for (plan, source) in labelled {
            let asked = Relabel::asked(&plan.mode);
            let (how, kept) = match plan.kind {
                MountKind::Tmpfs => continue,
                MountKind::Image => (Some(Relabel::Private), &[][..]),
                MountKind::Volume => {
                    if asked.is_some() && !source.own {
                        self.check_relabel_of_device(record, &plan.name)?;
                    }
                    (asked.or(source.own.then_some(Relabel::Shared)), &[][..])
                }
                // What a build mounts is the builder's.
                MountKind::Bind if record.build_step => (asked.or(Some(Relabel::Shared)), &[][..]),
                MountKind::Bind => (asked, &roots[..]),
            };
            if let Some(how) = how {
                record.relabel(&source.folder, how, Walk::UnlessLabelled, kept)?;
            }
        }
        Ok(())
    }

    /// A folder of the host's that a volume shows is as well kept as a bind's.
    fn check_relabel_of_device(&self, record: &Record, volume: &str) -> Result<()> {
        let volume = self.volumes.get(volume)?;
        let device = volume.options.get("device").filter(|device| device.starts_with('/'));
        let (Some(device), Some(Labels { mount, .. })) = (device, &record.labels) else { return Ok(()) };
        let device = Path::new(device);
        selinux::check_relabel(device, mount, &self.own_roots()).map_err(|error| not_labelled(device, &error))
    }

    /// What of the host is hull's.
    fn own_roots(&self) -> [&Path; 2] {
        [&self.config.data_root, &self.config.exec_root]
    }
}

fn not_labelled(path: &Path, error: &hull_runtime::Error) -> Error {
    Error::invalid(format!("error setting label on mount source '{}': {error}", path.display()))
}

impl Record {
    /// Gives files of the host the container's label, where it has one; not these folders, nor what is in them.
    ///
    /// # Errors
    /// They are the machine's own or those, or cannot be labelled.
    pub(super) fn relabel(&self, path: &Path, how: Relabel, walk: Walk, kept: &[&Path]) -> Result<()> {
        let Some(Labels { mount, .. }) = &self.labels else { return Ok(()) };
        let label = if how == Relabel::Shared { shared(mount) } else { mount.clone() };
        selinux::relabel(path, &label, walk, kept).map_err(|error| not_labelled(path, &error))
    }

    /// The label of what is mounted for the container.
    pub(super) fn mount_label(&self) -> Option<String> {
        self.labels.as_ref().map(|labels| labels.mount.clone())
    }

    /// The label of what the container executes; none: it runs as the daemon does.
    pub(super) fn process_label(&self) -> Option<String> {
        let labels = self.labels.as_ref().filter(|_| !self.host_config.privileged)?;
        Some(labels.process.clone()).filter(|label| !label.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIANS: &str = "# Containers\nprocess = \"system_u:system_r:container_t:s0\"\ncontent = \"x:y:z:s0\"\n\
                           file = \"system_u:object_r:container_file_t:s0\"\n";

    fn words(options: &[&str]) -> Vec<String> {
        options.iter().map(|option| (*option).to_owned()).collect()
    }

    #[test]
    fn every_container_has_a_pair_of_its_own_until_it_is_gone() {
        let selinux = Selinux::of(DEBIANS).unwrap();
        let given: Vec<Labels> = (0..2000).map(|_| selinux.give(&[]).unwrap()).collect();
        let levels: std::collections::BTreeSet<String> = given.iter().filter_map(level_of).collect();
        assert_eq!(levels.len(), given.len());
        for labels in &given {
            let (process, mount): (Context, Context) =
                (labels.process.parse().unwrap(), labels.mount.parse().unwrap());
            assert_eq!(process.level, mount.level);
            let categories = process.level.unwrap();
            let pair = categories.strip_prefix("s0:c").and_then(|pair| pair.split_once(",c")).unwrap();
            let [first, second] = [pair.0, pair.1].map(|number| number.parse::<u16>().unwrap());
            assert!(first < second && second < CATEGORIES, "{categories}");
        }
        given.iter().for_each(|labels| selinux.free(labels));
        assert!(locked(&selinux.levels).is_empty());
    }

    #[test]
    fn options_change_what_the_policy_says() {
        let selinux = Selinux::of(DEBIANS).unwrap();
        let give =
            |options: &[&str]| selinux.give(&words(options)).map(|labels| (labels.process, labels.mount));
        let labels = |process: &str, mount: &str| (process.to_owned(), mount.to_owned());
        assert_eq!(
            give(&["disable"]).unwrap(),
            labels("", "system_u:object_r:container_file_t:s0:c1022,c1023")
        );
        assert_eq!(
            give(&["level:s0:c5,c6", "type:other_t", "role:r", "user:u", "filetype:f_t"]).unwrap(),
            labels("u:r:other_t:s0:c5,c6", "u:object_r:f_t:s0:c5,c6"),
        );
        // A level that two have is in use until both are gone.
        give(&["level:s0:c5,c6"]).unwrap();
        selinux.free(&Labels { process: "u:r:other_t:s0:c5,c6".into(), mount: String::new() });
        assert!(locked(&selinux.levels).contains_key("s0:c5,c6"));
        // In another spelling it is the same.
        give(&["level:s0:c8,c7"]).unwrap();
        give(&["level:s0:c7.c8"]).unwrap();
        assert_eq!(locked(&selinux.levels).get("s0:c7,c8"), Some(&2));
        for (option, why) in [
            ("filetype:t\",lowerdir=/etc,x=\"", "letters, digits"),
            ("type:t:s0", "without colons"),
            ("type:", "letters, digits"),
            ("level:secret", "such as s0:c1,c2"),
            ("nested", "bad label option \"nested\", valid options 'disable' or \n'user, role"),
            ("colour:red", "bad label option \"colour:red\", valid options 'disable, user"),
        ] {
            let error = give(&[option]).unwrap_err();
            assert!(error.message.contains(why), "{}", error.message);
        }
    }

    #[test]
    fn a_policy_without_levels_has_no_categories() {
        let selinux = Selinux::of("process = \"u:r:t\"\nfile = \"u:o:f\"\n").unwrap();
        assert_eq!(selinux.give(&[]).unwrap(), Labels { process: "u:r:t".into(), mount: "u:o:f".into() });
        assert_eq!(shared("u:o:f"), "u:o:f");
        assert_eq!(shared("u:o:f:s0:c1,c2"), "u:o:f:s0");
        assert!(Selinux::of("process = \"u:r:t\"\n").unwrap_err().contains("\"file\""));
        assert!(Selinux::of("process = \"nonsense\"\nfile = \"u:o:f\"\n").is_err());
    }

    #[test]
    fn labels_are_asked_for_in_three_spellings() {
        let host = |list: &[&str]| HostConfig { security_opt: Some(words(list)), ..HostConfig::default() };
        assert_eq!(
            options(&host(&["label=type:t", "label:level:s0", "disable", "labels=x"])),
            ["type:t", "level:s0", "disable"]
        );
        assert_eq!(
            as_options("u:r:t:s0:c1,c2").unwrap(),
            ["label=user:u", "label=role:r", "label=type:t", "label=level:s0:c1,c2"]
        );
        assert_eq!(as_options(""), None);
    }

    #[test]
    fn a_mode_says_for_whom() {
        assert_eq!(Relabel::asked("ro,z"), Some(Relabel::Shared));
        assert_eq!(Relabel::asked("Z"), Some(Relabel::Private));
        assert_eq!(Relabel::asked("rw"), None);
    }
}
