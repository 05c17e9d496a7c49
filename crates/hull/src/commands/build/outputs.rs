//! Where a build goes: what the flags mean for it, in the words of BuildKit's exporters.

use std::collections::HashSet;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use hull_api::Platform;
use serde_json::{Map, Value, json};

use super::BuildArgs;
use super::frames::Place;
use crate::error::Error;

/// Why there is nothing to write to `--iidfile`.
pub(super) const NO_ONE_ID: &str = "--iidfile: images for several platforms have an id together only as an index: push them (--push), or \
     have an OCI layout made (-o type=oci,dest=FILE)";

/// What is asked of the daemon, and where what it sends goes.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    asked: Vec<Value>,
    /// For each output; none where nothing comes.
    pub(super) places: Vec<Option<Place>>,
}

impl Outputs {
    /// What the flags say.
    ///
    /// # Errors
    /// They make no sense.
    pub(super) fn of(args: &BuildArgs) -> Result<Outputs, Error> {
        let mut outputs = Outputs::default();
        for text in &args.output {
            outputs.add(text)?;
        }
        if args.push {
            outputs.asked.push(json!({ "Type": "image", "Attrs": { "push": "true" } }));
            outputs.places.push(None);
        }
        if args.load && !outputs.asked.is_empty() {
            outputs.asked.push(json!({ "Type": "image" }));
            outputs.places.push(None);
        }
        let annotations = annotations(&args.annotation)?;
        if !annotations.is_empty() {
            if outputs.asked.is_empty() {
                outputs.asked.push(json!({ "Type": "image", "Attrs": {} }));
                outputs.places.push(None);
            }
            for output in &mut outputs.asked {
                for (name, value) in &annotations {
                    output["Attrs"][name] = value.clone();
                }
            }
        }
        // Where nothing is asked for, the daemon says what there is.
        let goes = !outputs.asked.is_empty() && !args.check;
        if goes
            && args.iidfile.is_some()
            && is_for_several(&args.platform)
            && !outputs.asked.iter().any(has_index)
        {
            return Err(Error::new(NO_ONE_ID));
        }
        if outputs.places.iter().filter(|place| **place == Some(Place::Out)).count() > 1 {
            return Err(Error::new("several outputs go to standard output, which takes one"));
        }
        Ok(outputs)
    }

    /// Where the image's steps are kept for later builds: the image itself, which has them in its history.
    ///
    /// # Errors
    /// A cache is of a kind that there is not.
    pub(super) fn add_caches(&mut self, texts: &[String]) -> Result<(), Error> {
        // Where nothing else is said, the image stays here, too.
        let only = self.asked.is_empty();
        for text in texts {
            let wrong = |why: String| Error::flag(format!("--cache-to {text}: {why}"));
            let Elsewhere { kind, name, dest, mut attrs } = Elsewhere::of(text, &CACHE).map_err(wrong)?;
            let mode = attrs.remove("mode");
            let mode = mode.as_ref().and_then(Value::as_str);
            let cache = match mode {
                None | Some("min") => "true",
                Some("max") if kind == "inline" => {
                    return Err(wrong(
                        "an image has the steps of its own stage: mode=max is of type=registry and local"
                            .to_owned(),
                    ));
                }
                Some("max") => "max",
                Some(other) => return Err(wrong(format!("mode={other}: it is min or max"))),
            };
            attrs.insert("cache".to_owned(), json!(cache));
            let (output, place) = match (kind.as_str(), name, dest) {
                // An image has its steps in its history in any case.
                ("inline", None, None) if attrs.len() == 1 => continue,
                ("registry", Some(name), None) => {
                    attrs.insert("name".to_owned(), json!(name));
                    attrs.insert("push".to_owned(), json!("true"));
                    (json!({ "Type": "image", "Attrs": attrs }), None)
                }
                ("local", None, Some(dest)) => {
                    (json!({ "Type": "oci", "Attrs": attrs }), Some(Place::Folder(PathBuf::from(dest))))
                }
                _ => {
                    return Err(wrong(
                        "there are type=inline, type=registry,ref=NAME and type=local,dest=FOLDER".to_owned(),
                    ));
                }
            };
            self.asked.push(output);
            self.places.push(place);
        }
        self.stays_here(only);
        Ok(())
    }

    /// Where the files of cache mounts are kept for later builds.
    ///
    /// # Errors
    /// There is no such place.
    pub(super) fn add_mounts(&mut self, texts: &[String]) -> Result<(), Error> {
        let only = self.asked.is_empty();
        for text in texts {
            let wrong = |why: String| Error::flag(format!("--cache-mounts-to {text}: {why}"));
            let Elsewhere { kind, name, dest, mut attrs } = Elsewhere::of(text, &MOUNTS).map_err(wrong)?;
            let place = match (kind.as_str(), name, dest) {
                ("registry", Some(name), None) => {
                    attrs.insert("name".to_owned(), json!(name));
                    None
                }
                ("local", None, Some(dest)) => Some(Place::Folder(PathBuf::from(dest))),
                _ => {
                    return Err(wrong(
                        "there are type=registry,ref=NAME and type=local,dest=FOLDER".to_owned(),
                    ));
                }
            };
            self.asked.push(json!({ "Type": "cachemounts", "Attrs": attrs }));
            self.places.push(place);
        }
        self.stays_here(only);
        Ok(())
    }

    /// The image stays here, too, where nothing but caches go elsewhere.
    fn stays_here(&mut self, only: bool) {
        if only && !self.asked.is_empty() {
            self.asked.push(json!({ "Type": "image" }));
            self.places.push(None);
        }
    }

    /// The query's `outputs`; none where the image stays where it is built.
    pub(super) fn query(&self) -> Option<String> {
        (!self.asked.is_empty()).then(|| json!(self.asked).to_string())
    }

    /// Whether archives are in the answer.
    pub(super) fn framed(&self) -> bool {
        self.places.iter().any(Option::is_some)
    }

    fn add(&mut self, text: &str) -> Result<(), Error> {
        let wrong = |why: &str| Error::flag(format!("--output {text}: {why}"));
        let (mut kind, mut dest, mut attrs, mut unpacked) = (String::new(), None, Map::new(), false);
        if !text.contains('=') {
            // A folder, or an archive on standard output.
            kind = if text == "-" { "tar" } else { "local" }.to_owned();
            dest = Some(text.to_owned());
        } else {
            for field in text.split(',') {
                match field.split_once('=') {
                    Some(("type", value)) => kind = value.to_owned(),
                    Some(("dest", value)) => dest = Some(value.to_owned()),
                    Some(("tar", value)) => unpacked = value == "false",
                    Some((name, value)) => drop(attrs.insert(name.to_owned(), json!(value))),
                    None => return Err(wrong(&format!("{field:?} is no NAME=VALUE"))),
                }
            }
        }
        let sent = matches!(kind.as_str(), "local" | "tar" | "oci") || kind == "docker" && dest.is_some();
        if unpacked && !matches!(kind.as_str(), "oci" | "docker") {
            return Err(wrong("tar=false is of type=oci and type=docker"));
        }
        let place = match (kind.as_str(), dest) {
            ("", _) => return Err(wrong("type is required")),
            ("local", None) => return Err(wrong("dest is required for local output")),
            ("local", Some(dest)) => Some(Place::Folder(PathBuf::from(dest))),
            (_, Some(dest)) if sent && unpacked && dest != "-" => Some(Place::Folder(PathBuf::from(dest))),
            (_, None) if sent && unpacked => return Err(wrong("dest is required with tar=false")),
            (_, Some(dest)) if sent && dest != "-" => Some(Place::File(PathBuf::from(dest))),
            _ if sent => {
                if std::io::stdout().is_terminal() {
                    return Err(wrong("dest is required: refusing to write an archive to a terminal"));
                }
                Some(Place::Out)
            }
            (_, Some(_)) => return Err(wrong("dest is of type=local, tar, oci and docker")),
            (_, None) => None,
        };
        // Without a place, a Docker image is the daemon's own.
        let kind = if kind == "docker" && !sent { "image" } else { kind.as_str() };
        self.asked.push(json!({ "Type": kind, "Attrs": attrs }));
        self.places.push(place);
        Ok(())
    }
}

/// What `--cache-to` and `--cache-mounts-to` say beside the place.
const CACHE: [&str; 4] = ["mode", "compression", "compression-level", "force-compression"];
const MOUNTS: [&str; 2] = ["compression", "compression-level"];

/// A place for what later builds use.
struct Elsewhere {
    kind: String,
    name: Option<String>,
    dest: Option<String>,
    attrs: Map<String, Value>,
}

impl Elsewhere {
    fn of(text: &str, known: &[&str]) -> Result<Elsewhere, String> {
        let mut place = Elsewhere { kind: "registry".to_owned(), name: None, dest: None, attrs: Map::new() };
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("type", value)) => place.kind = value.to_owned(),
                Some(("ref", value)) => place.name = Some(value.to_owned()),
                Some(("dest", value)) => place.dest = Some(value.to_owned()),
                Some((name, value)) if known.contains(&name) => {
                    place.attrs.insert(name.to_owned(), json!(value));
                }
                None if !text.contains('=') => place.name = Some(field.to_owned()),
                _ => return Err(format!("unexpected {field:?}")),
            }
        }
        Ok(place)
    }
}

/// The query's `attests`: attributes of attestations by their kinds; none where there are none.
pub(super) fn attestations(args: &BuildArgs) -> Result<Option<String>, Error> {
    let mut asked = Map::new();
    for text in &args.attest {
        let fields: Vec<&str> = text.split(',').collect();
        let kind = fields.iter().find_map(|field| field.strip_prefix("type="));
        let kind = kind.ok_or_else(|| Error::flag(format!("--attest {text}: type is required")))?;
        let rest: Vec<&str> = fields.iter().filter(|field| !field.starts_with("type=")).copied().collect();
        asked.insert(kind.to_owned(), json!(rest.join(",")));
    }
    for (kind, value) in [("provenance", &args.provenance), ("sbom", &args.sbom)] {
        let attributes = match value.as_deref() {
            None => continue,
            Some("true" | "1") => "",
            Some("false" | "0") => "disabled=true",
            Some(attributes) => attributes,
        };
        asked.insert(kind.to_owned(), json!(attributes));
    }
    Ok((!asked.is_empty()).then(|| Value::Object(asked).to_string()))
}

/// Whether several platforms are named, read as the daemon reads them. What `linux` is, the daemon alone knows, and of what is
/// none it says so.
fn is_for_several(platforms: &[String]) -> bool {
    let named = platforms.iter().flat_map(|list| list.split(',')).map(str::trim);
    let named = named.filter(|name| !name.eq_ignore_ascii_case("linux"));
    let parsed: Result<HashSet<Platform>, _> = named.map(str::parse).collect();
    parsed.is_ok_and(|platforms| platforms.len() > 1)
}

/// Whether images for several platforms go to an output in an index.
fn has_index(output: &Value) -> bool {
    let is_pushed = output["Attrs"]["push"].as_str().is_some_and(|push| matches!(push, "" | "true" | "1"));
    is_pushed || matches!(output["Type"].as_str(), Some("oci" | "registry"))
}

/// Annotations as attributes of an output: `[KIND[,KIND]:]KEY=VALUE`.
fn annotations(texts: &[String]) -> Result<Map<String, Value>, Error> {
    let mut attributes = Map::new();
    for text in texts {
        let wrong = |why: String| Error::flag(format!("--annotation {text}: {why}"));
        let (name, value) = text.split_once('=').ok_or_else(|| wrong("expected KEY=VALUE".to_owned()))?;
        // A colon before the key tells what it is of; keys themselves have none.
        let (kinds, key) = name.rsplit_once(':').unwrap_or(("manifest", name));
        if key.is_empty() {
            return Err(wrong("it has no key".to_owned()));
        }
        for kind in kinds.split(',') {
            // Of one platform alone: `manifest[linux/arm64]`.
            let (plain, platform) = kind.split_at(kind.find('[').unwrap_or(kind.len()));
            let kind = match plain {
                "manifest" => "annotation",
                "index" => "annotation-index",
                "manifest-descriptor" => "annotation-manifest-descriptor",
                _ => {
                    return Err(wrong(format!(
                        "{kind:?} is no kind of annotation: there are manifest, index and manifest-descriptor"
                    )));
                }
            };
            attributes.insert(format!("{kind}{platform}.{key}"), json!(value));
        }
    }
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_say_what_they_are_of() {
        let read = |text: &str| annotations(&[text.to_owned()]).map(Value::Object).unwrap();
        assert_eq!(read("a.b=c=d"), json!({ "annotation.a.b": "c=d" }));
        assert_eq!(read("index,manifest:k=v"), json!({ "annotation-index.k": "v", "annotation.k": "v" }));
        assert_eq!(read("manifest[linux/arm64]:k=v"), json!({ "annotation[linux/arm64].k": "v" }));
        for wrong in ["k", "=v", "what:k=v", "index:=v"] {
            assert!(annotations(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_platform_in_two_words_is_one() {
        let several =
            |names: &[&str]| is_for_several(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert!(several(&["linux/amd64,linux/arm64"]) && several(&["amd64", "linux/arm/v7"]));
        assert!(!several(&["amd64,linux/amd64", "linux"]) && !several(&[]));
        assert!(!several(&["amd64,x86_64", "Linux/AMD64"]) && !several(&["linux/arm64,aarch64", "arm64"]));
        assert!(several(&["linux/arm/v6", "linux/arm/7"]));
        // The daemon refuses that, and says why.
        assert!(!several(&["linux/amd64,what"]) && !several(&["linux/amd64,"]));
        assert!(
            has_index(&json!({ "Type": "image", "Attrs": { "push": "true" } }))
                && has_index(&json!({ "Type": "oci" }))
        );
        assert!(
            !has_index(&json!({ "Type": "cacheonly" }))
                && !has_index(&json!({ "Type": "image", "Attrs": {} }))
        );
    }

    #[test]
    fn caches_have_their_modes() {
        let cache = |text: &str| {
            let mut outputs = Outputs::default();
            outputs
                .add_caches(&[text.to_owned()])
                .map(|()| outputs.asked.first().cloned().unwrap_or_default())
        };
        let of = |text: &str, name: &str| cache(text).unwrap()["Attrs"][name].clone();
        assert_eq!(of("type=local,dest=d", "cache"), "true");
        assert_eq!(of("type=registry,ref=r/x,mode=max,compression=zstd", "cache"), "max");
        assert_eq!(of("type=registry,ref=r/x,mode=max,compression=zstd", "compression"), "zstd");
        assert_eq!(cache("type=inline").unwrap(), Value::Null);
        for wrong in ["type=inline,mode=max", "type=local,dest=d,mode=all", "type=local", "type=gha"] {
            assert!(cache(wrong).is_err(), "{wrong}");
        }
        let mut mounts = Outputs::default();
        mounts.add_mounts(&["r/x".to_owned(), "type=local,dest=d,compression=gzip".to_owned()]).unwrap();
        assert_eq!(mounts.asked[0], json!({ "Type": "cachemounts", "Attrs": { "name": "r/x" } }));
        assert_eq!(mounts.places[1], Some(Place::Folder(PathBuf::from("d"))));
        assert_eq!(mounts.asked[2]["Type"], "image");
        assert!(mounts.add_mounts(&["type=inline".to_owned()]).is_err());
    }

    #[test]
    fn outputs_have_their_places() {
        let read = |text: &str| {
            let mut outputs = Outputs::default();
            outputs.add(text).map(|()| (outputs.asked[0]["Type"].clone(), outputs.places[0].clone()))
        };
        let folder = |path: &str| Some(Place::Folder(PathBuf::from(path)));
        assert_eq!(read("out").unwrap(), (json!("local"), folder("out")));
        assert_eq!(read("type=local,dest=o").unwrap(), (json!("local"), folder("o")));
        assert_eq!(read("type=oci,dest=o,tar=false").unwrap(), (json!("oci"), folder("o")));
        assert_eq!(read("type=docker,dest=f.tar").unwrap().1, Some(Place::File(PathBuf::from("f.tar"))));
        assert_eq!(read("type=docker").unwrap(), (json!("image"), None));
        assert_eq!(read("type=registry,name=r/x").unwrap(), (json!("registry"), None));
        for wrong in ["type=local", "dest=x", "type=image,dest=x", "type=tar,tar=false,dest=x", "type=oci,x"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
