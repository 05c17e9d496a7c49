//! What a client asks of the Dockerfile frontend, attribute by attribute, as a request of hull's builder. What is not
//! known here and would change the result is refused by its name.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hull_build::{Attest, Failure, Output, Request, output};
use hull_engine::Kind;
use hull_engine::model::{HostConfig, Ulimit};

use crate::outgoing::Way;
use crate::questions::Question;

/// An order of a build, but for who carries it out.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// What hull's builder is asked.
    pub request: Request,
    /// Where the files come from.
    pub context: Place,
    /// The folder of the client's that has the Dockerfile; empty: the context has it.
    pub dockerfile: String,
    /// Contexts beside the build's own.
    pub named: BTreeMap<String, NamedPlace>,
    /// The sessions that folders of the client's are on, where that is not the build's own.
    pub sessions: BTreeMap<String, String>,
    /// Caches in folders of the client's: their stores, and the digests of what they hold.
    pub(crate) caches: Vec<(String, String)>,
    /// How the client takes each output of the request, and by which number it knows it.
    pub(crate) ways: Vec<(Way, usize)>,
    /// Only this is asked of the Dockerfile.
    pub(crate) question: Option<Question>,
    /// No index is wanted.
    one_platform: bool,
    /// Attestations, by their kinds.
    attestations: BTreeMap<String, String>,
}

/// What a context beside the build's own is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedPlace {
    /// An image that is here or in a registry.
    Image(String),
    /// A folder of the client's.
    Folder(String),
    /// A git repository, or an address of http or https.
    Address(String),
    /// An image in a content store of the client's: the store, and the image's digest there.
    Layout(String, String),
}

/// Where the files of a context come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A folder of the client's, by the name that it has on the session.
    Folder(String),
    /// An archive that the client sends over the session, by its path there.
    Upload(String),
    /// An archive that somebody else sends.
    Archive,
    /// A git repository, or an address of http or https.
    Address(String),
}

impl Default for Place {
    fn default() -> Place {
        Place::Folder("context".to_owned())
    }
}

/// Attributes that say of the build what no build depends on.
const TOLD_ONLY: &[&str] = &["frontend.caps", "cmdline", "contextkey", "dockerfilekey"];

fn unsupported(what: &str) -> Failure {
    Failure::new(Kind::NotImplemented, format!("{what} is not supported by hull"))
}

fn wrong(name: &str, value: &str) -> Failure {
    Failure::invalid(format!("invalid value for {name}: {value:?}"))
}

impl Order {
    /// The order of a build whose files are on the session that it comes with.
    pub fn new(request: Request) -> Order {
        Order { request, dockerfile: "dockerfile".to_owned(), ..Order::default() }
    }

    /// Reads the attributes of the frontend.
    ///
    /// # Errors
    /// One is malformed, or asks for what there is not.
    pub(crate) fn of(attributes: &HashMap<String, String>) -> Result<Order, Failure> {
        let text = |name: &str| attributes.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let context = text("contextkey").unwrap_or("context");
        let mut order = Order {
            context: place(text("context"), context)?,
            dockerfile: text("dockerfilekey").unwrap_or("dockerfile").to_owned(),
            ..Order::default()
        };
        // What comes as an archive has its Dockerfile with it, where nothing else is said.
        if !matches!(order.context, Place::Folder(_)) && text("dockerfilekey").is_none() {
            order.dockerfile.clear();
        }
        for (name, value) in attributes {
            order.attribute(name, value)?;
        }
        if order.one_platform && !order.request.platforms.is_empty() {
            return Err(Failure::invalid(
                "conflicting config: returning multiple target platforms is not allowed",
            ));
        }
        order.request.attest = Attest::of(&order.attestations)?;
        Ok(order)
    }

    fn attribute(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        let request = &mut self.request;
        match name {
            "context" => {}
            "filename" => value.clone_into(&mut request.dockerfile),
            "target" => value.clone_into(&mut request.target),
            "platform" if value.is_empty() => {}
            "platform" => {
                let platforms: Result<Vec<_>, _> = value.split(',').map(str::parse).collect();
                request.build_for(platforms.map_err(|_| wrong(name, value))?)?;
            }
            "no-cache" if value.is_empty() => request.no_cache = true,
            "no-cache" => request.no_cache_filter = value.split(',').map(str::to_owned).collect(),
            "image-resolve-mode" => match value {
                "pull" => request.pull = true,
                "" | "default" | "local" => {}
                _ => return Err(wrong(name, value)),
            },
            "multi-platform" | "build-arg:BUILDKIT_MULTI_PLATFORM" => match value {
                "" => {}
                "0" | "f" | "F" | "false" | "False" | "FALSE" => self.one_platform = true,
                "1" | "t" | "T" | "true" | "True" | "TRUE" => request.indexed = true,
                _ => return Err(wrong(name, value)),
            },
            "force-network-mode" => match value {
                "" | "sandbox" | "default" => {}
                "none" | "host" => value.clone_into(&mut request.host.network_mode),
                _ => return Err(wrong(name, value)),
            },
            "add-hosts" => hosts(&mut request.host, value)?,
            "shm-size" if value.is_empty() => {}
            "shm-size" => request.host.shm_size = value.parse().map_err(|_| wrong(name, value))?,
            "ulimit" => request.host.resources.ulimits = ulimits(value)?,
            "cgroup-parent" => value.clone_into(&mut request.host.resources.cgroup_parent),
            "cache-from" => {
                let names = value.split(',').filter(|name| !name.is_empty());
                request.cache_from_registry.extend(names.map(str::to_owned));
            }
            "cache-imports" => self.imports(value)?,
            "requestid" if value == "frontend.lint" => request.check_only = true,
            "requestid" if Question::of(value).is_some() => self.question = Question::of(value),
            "requestid" if !value.is_empty() => {
                return Err(unsupported(&format!("the request {value} to the Dockerfile frontend")));
            }
            _ if TOLD_ONLY.contains(&name) => {}
            "source" if !value.is_empty() => return frontend(value),
            _ if name.contains(':') || !value.is_empty() => return self.prefixed(name, value),
            _ => {}
        }
        Ok(())
    }

    /// Attributes whose names begin with what they are.
    fn prefixed(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        match name.split_once(':') {
            Some(("build-arg", "BUILDKIT_SYNTAX")) => frontend(value),
            Some(("build-arg", "BUILDKIT_SANDBOX_HOSTNAME")) => {
                Err(unsupported("a name for the machine that steps see (BUILDKIT_SANDBOX_HOSTNAME)"))
            }
            Some(("build-arg", "BUILDKIT_CACHE_MOUNT_NS")) => {
                Err(unsupported("a namespace of cache mounts (BUILDKIT_CACHE_MOUNT_NS)"))
            }
            Some(("build-arg", argument)) => {
                self.request.build_args.insert(argument.to_owned(), Some(value.to_owned()));
                Ok(())
            }
            Some(("label", label)) => {
                self.request.labels.insert(label.to_owned(), value.to_owned());
                Ok(())
            }
            Some(("local-sessionid", folder)) => {
                self.sessions.insert(folder.to_owned(), value.to_owned());
                Ok(())
            }
            // An image that is given has its configuration with it.
            Some(("input-metadata", _)) => Ok(()),
            // Where the source came from, for attestations.
            Some(("vcs", _)) => Ok(()),
            Some(("attest", kind)) => {
                self.attestations.insert(kind.to_owned(), value.to_owned());
                Ok(())
            }
            Some(("context", context)) => {
                let place = match value.split_once(':') {
                    // What it is, comes beside the attributes.
                    Some(("input", _)) => return Ok(()),
                    Some(("docker-image", image)) => {
                        NamedPlace::Image(image.trim_start_matches("//").to_owned())
                    }
                    Some(("local", folder)) => NamedPlace::Folder(folder.to_owned()),
                    Some(("oci-layout", layout)) => {
                        let layout = layout.trim_start_matches("//");
                        let (store, digest) = layout.split_once('@').ok_or_else(|| wrong(name, value))?;
                        // The digest is what the tag means.
                        let store = store.split(':').next().unwrap_or(store);
                        NamedPlace::Layout(format!("oci:{store}"), digest.to_owned())
                    }
                    _ if hull_build::is_elsewhere(value) => NamedPlace::Address(value.to_owned()),
                    _ => return Err(unsupported(&format!("the named context {context}={value}"))),
                };
                self.named.insert(context.to_owned(), place);
                Ok(())
            }
            _ => Err(unsupported(&format!("the option {name}={value} of the Dockerfile frontend"))),
        }
    }

    /// Caches to begin with, as JSON.
    fn imports(&mut self, value: &str) -> Result<(), Failure> {
        #[derive(serde::Deserialize)]
        struct Entry {
            #[serde(rename = "Type", alias = "type", default)]
            kind: String,
            #[serde(rename = "Attrs", alias = "attrs", default)]
            attributes: HashMap<String, String>,
        }
        if value.is_empty() {
            return Ok(());
        }
        let entries: Vec<Entry> = serde_json::from_str(value).map_err(|_| wrong("cache-imports", value))?;
        entries.iter().try_for_each(|entry| self.import(&entry.kind, &entry.attributes))
    }

    /// A cache to begin with.
    pub(crate) fn import(&mut self, kind: &str, attributes: &HashMap<String, String>) -> Result<(), Failure> {
        let of = |name: &str| attributes.get(name).filter(|value| !value.is_empty());
        match (kind, of("ref"), of("src"), of("digest")) {
            ("registry", Some(reference), ..) => self.request.cache_from_registry.push(reference.clone()),
            ("local", _, Some(folder), Some(digest)) => {
                self.caches.push((format!("local:{folder}"), digest.clone()));
            }
            ("local", ..) => return Err(Failure::invalid("local cache importer requires src and digest")),
            ("registry", ..) => return Err(Failure::invalid("registry cache importer requires ref")),
            _ => return Err(unsupported(&format!("--cache-from type={kind}"))),
        }
        Ok(())
    }

    /// Where the image's steps are kept for later builds.
    pub(crate) fn export_cache(
        &mut self,
        kind: &str,
        attributes: &HashMap<String, String>,
    ) -> Result<(), Failure> {
        let mut attrs = BTreeMap::from([("cache".to_owned(), "true".to_owned())]);
        let (mut reference, mut folder) = (None, None);
        for (name, value) in attributes {
            match (name.as_str(), value.as_str()) {
                ("ref", value) => reference = Some(value),
                ("dest", value) => folder = Some(value),
                ("mode", "max") if kind == "inline" => {
                    return Err(unsupported(
                        "mode=max of --cache-to type=inline (an image has the steps of its own stage)",
                    ));
                }
                ("mode", "max") => drop(attrs.insert("cache".to_owned(), "max".to_owned())),
                // It is so in any case: steps are in their image's history.
                ("mode", "min" | "") | ("image-manifest" | "oci-mediatypes", "true" | "1") => {}
                ("compression" | "compression-level" | "force-compression", value) if kind != "inline" => {
                    if !value.is_empty() {
                        attrs.insert(name.clone(), value.to_owned());
                    }
                }
                ("ignore-error", "false" | "0" | "") => {}
                _ => return Err(unsupported(&format!("{name}={value} of --cache-to type={kind}"))),
            }
        }
        let (kind, way) = match (kind, reference, folder) {
            // An image has its steps in its history in any case.
            ("inline", ..) => return Ok(()),
            ("registry", Some(reference), _) => {
                attrs.insert("name".to_owned(), reference.to_owned());
                attrs.insert("push".to_owned(), "true".to_owned());
                ("image", Way::None)
            }
            ("registry", None, _) => return Err(Failure::invalid("registry cache exporter requires ref")),
            ("local", _, Some(folder)) => ("oci", Way::Store(format!("local:{folder}"))),
            ("local", _, None) => return Err(Failure::invalid("local cache exporter requires dest")),
            _ => return Err(unsupported(&format!("--cache-to type={kind}"))),
        };
        let asked = output::Asked { kind: kind.to_owned(), attrs };
        self.add(Output::of(asked, &[], false)?, way, 0);
        Ok(())
    }

    /// Where the result goes: this is one of the client's exporters.
    pub(crate) fn export(
        &mut self,
        kind: &str,
        attributes: &HashMap<String, String>,
        number: usize,
    ) -> Result<(), Failure> {
        let mut attrs: BTreeMap<String, String> =
            attributes.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let is = |text: Option<String>, what: &str| text.is_some_and(|text| text == what);
        let unpacked = is(attrs.remove("tar"), "false");
        let way = match kind {
            "local" => Way::Files,
            "oci" | "docker" if unpacked => Way::Store("export".to_owned()),
            "tar" | "oci" | "docker" => Way::Archive,
            _ => Way::None,
        };
        // The image is in Docker's store in any case, which is what this asks for.
        for (name, value) in [("load", "true"), ("unpack", "true")] {
            if attrs.get(name).is_some_and(|given| given == value) {
                attrs.remove(name);
            }
        }
        // Docker's clients call the image in its own store by another name.
        let kind = if kind == "moby" { "image" } else { kind }.to_owned();
        let indexed = self.request.indexed || self.request.attest.any();
        let output = Output::of(output::Asked { kind, attrs }, &[], indexed)?;
        self.add(output, way, number);
        Ok(())
    }

    /// Where the result goes, as Docker's clients name it beside the build's tags. A folder or file of the client's is the
    /// client's alone to know.
    ///
    /// # Errors
    /// There is no such output, or it makes no sense.
    pub fn goes_to(&mut self, outputs: Vec<output::Asked>) -> Result<(), Failure> {
        let tags = self.request.tags.join(",");
        if !outputs.is_empty() {
            self.request.tags.clear();
        }
        for (number, output::Asked { kind, mut attrs }) in outputs.into_iter().enumerate() {
            attrs.remove("dest");
            if !tags.is_empty() && !matches!(kind.as_str(), "local" | "tar" | "cacheonly") {
                attrs.entry("name".to_owned()).or_insert_with(|| tags.clone());
            }
            self.export(&kind, &attrs.into_iter().collect(), number)?;
        }
        Ok(())
    }

    /// Whether an image stays on this machine.
    pub fn stays(&self) -> bool {
        let outputs = &self.request.outputs;
        outputs.is_empty() || outputs.iter().any(|output| output.archive.is_none() && !output.nowhere)
    }

    /// The image is for later builds alone.
    pub(crate) fn keep_only(&mut self) {
        self.add(Output { nowhere: true, ..Output::default() }, Way::None, 0);
    }

    fn add(&mut self, output: Output, way: Way, number: usize) {
        self.request.outputs.push(output);
        self.ways.push((way, number));
    }
}

/// What names the frontend: hull itself answers for Docker's.
fn frontend(name: &str) -> Result<(), Failure> {
    let known = name.trim_start_matches("docker.io/");
    match known.starts_with("docker/dockerfile:") || known == "docker/dockerfile" {
        true => Ok(()),
        false => Err(unsupported(&format!("the frontend {name}"))),
    }
}

fn place(context: Option<&str>, key: &str) -> Result<Place, Failure> {
    match context {
        None => Ok(Place::Folder(key.to_owned())),
        Some(context) => match context.strip_prefix("http://buildkit-session/") {
            Some(path) => Ok(Place::Upload(format!("/{path}"))),
            None => match context.strip_prefix("local:") {
                Some(name) => Ok(Place::Folder(name.to_owned())),
                None if hull_build::is_elsewhere(context) => Ok(Place::Address(context.to_owned())),
                None => Err(unsupported(&format!("a context from an address ({context})"))),
            },
        },
    }
}

/// `name=address,…` as `name:address`.
fn hosts(host: &mut HostConfig, value: &str) -> Result<(), Failure> {
    for entry in value.split(',').filter(|entry| !entry.is_empty()) {
        let (name, address) = entry.split_once('=').ok_or_else(|| wrong("add-hosts", value))?;
        host.extra_hosts.get_or_insert_default().push(format!("{name}:{address}"));
    }
    Ok(())
}

/// `nofile=1024:2048,…`
fn ulimits(value: &str) -> Result<Option<Vec<Ulimit>>, Failure> {
    let of = |entry: &str| {
        let (name, limits) = entry.split_once('=')?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        Some(Ulimit { name: name.to_owned(), soft: soft.parse().ok()?, hard: hard.parse().ok()? })
    };
    let limits = value.split(',').filter(|entry| !entry.is_empty());
    let limits: Option<Vec<Ulimit>> = limits.map(of).collect();
    let limits = limits.ok_or_else(|| wrong("ulimit", value))?;
    Ok((!limits.is_empty()).then_some(limits))
}

/// Grants what a client asks for beyond the attributes.
pub(crate) fn grant(request: &mut Request, entitlements: &[String]) -> Result<(), Failure> {
    let known = BTreeSet::from(["network.host"]);
    for entitlement in entitlements {
        if !known.contains(entitlement.as_str()) {
            return Err(Failure::new(
                Kind::Forbidden,
                format!(
                    "{entitlement} is not allowed: hull grants no build more than a container of its own"
                ),
            ));
        }
        // The one thing that is granted is judged as a container's.
        if request.host.network_mode != "host" {
            return Err(unsupported(
                "the entitlement network.host without the host's network for all (--network host)",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(attributes: &[(&str, &str)]) -> Result<Order, Failure> {
        let attributes =
            attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Order::of(&attributes)
    }

    #[test]
    fn attributes_are_read() {
        let order = of(&[
            ("filename", "D"),
            ("target", "t"),
            ("build-arg:A", "1"),
            ("build-arg:EMPTY", ""),
            ("label:l", "v"),
            ("no-cache", ""),
            ("platform", "linux/arm64"),
            ("image-resolve-mode", "pull"),
            ("force-network-mode", "none"),
            ("add-hosts", "a=1.2.3.4,b=::1"),
            ("shm-size", "7"),
            ("ulimit", "nofile=1:2,nproc=3"),
            ("cgroup-parent", "/p"),
            ("cache-from", "x,y"),
            ("cache-imports", r#"[{"Type":"registry","Attrs":{"ref":"z"}}]"#),
            ("vcs:revision", "abc"),
            ("context:img", "docker-image://docker.io/library/x:1"),
            ("context:dir", "local:dir"),
        ])
        .unwrap();
        assert_eq!(order.named["img"], NamedPlace::Image("docker.io/library/x:1".to_owned()));
        assert_eq!(order.named["dir"], NamedPlace::Folder("dir".to_owned()));
        let request = order.request;
        assert_eq!((request.dockerfile.as_str(), request.target.as_str()), ("D", "t"));
        assert_eq!(request.build_args["A"].as_deref(), Some("1"));
        assert_eq!(request.build_args["EMPTY"].as_deref(), Some(""));
        assert!(request.no_cache && request.pull && request.labels["l"] == "v");
        assert_eq!(request.platform.unwrap().architecture, "arm64");
        assert_eq!(request.host.extra_hosts.unwrap(), ["a:1.2.3.4", "b:::1"]);
        assert_eq!((request.host.network_mode.as_str(), request.host.shm_size), ("none", 7));
        let ulimits = request.host.resources.ulimits.unwrap();
        assert_eq!((ulimits[0].soft, ulimits[0].hard, ulimits[1].hard), (1, 2, 3));
        assert_eq!(request.host.resources.cgroup_parent, "/p");
        let mut caches = request.cache_from_registry;
        caches.sort();
        assert_eq!(caches, ["x", "y", "z"]);
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (name, value) in [
            ("never-heard-of", "1"),
            ("build-arg:BUILDKIT_SYNTAX", "someone/frontend"),
            ("source", "someone/frontend"),
            ("cache-imports", r#"[{"Type":"gha","Attrs":{}}]"#),
            ("context", "input:x"),
        ] {
            let failure = of(&[(name, value)]).unwrap_err();
            assert_eq!(failure.kind, Kind::NotImplemented, "{name}: {failure}");
        }
        let several = ("platform", "linux/amd64,linux/arm64");
        let request = of(&[several]).unwrap().request;
        assert_eq!((request.platforms.len(), request.indexed), (2, true));
        assert!(of(&[several, ("multi-platform", "false")]).unwrap_err().message.contains("is not allowed"));
        assert!(of(&[("multi-platform", "true")]).unwrap().request.indexed);
        assert!(of(&[("platform", "linux/amd64,")]).is_err());
        let many: Vec<String> = (0..33).map(|number| format!("linux/a{number}")).collect();
        assert!(of(&[("platform", &many.join(","))]).unwrap_err().message.contains("33 are asked for"));
        assert!(of(&[("ulimit", "nofile")]).is_err());
        assert!(of(&[("build-arg:BUILDKIT_SYNTAX", "docker/dockerfile:1")]).is_ok());
    }

    #[test]
    fn an_archive_has_its_dockerfile_with_it() {
        let order = of(&[("context", "http://buildkit-session/abc")]).unwrap();
        assert_eq!((order.context, order.dockerfile.as_str()), (Place::Upload("/abc".to_owned()), ""));
        let order =
            of(&[("context", "http://buildkit-session/abc"), ("dockerfilekey", "dockerfile")]).unwrap();
        assert_eq!(order.dockerfile, "dockerfile");
        let order = of(&[("context", "https://e/x.git#main")]).unwrap();
        assert_eq!(order.context, Place::Address("https://e/x.git#main".to_owned()));
        assert_eq!(of(&[]).unwrap().context, Place::Folder("context".to_owned()));
    }
}
