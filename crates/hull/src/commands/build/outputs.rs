//! Where a build goes: what the flags mean for it, in the words of BuildKit's exporters.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::BuildArgs;
use super::frames::Place;
use crate::error::Error;

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
            let (mut kind, mut name, mut dest) = ("registry", None, None);
            for field in text.split(',') {
                match field.split_once('=') {
                    Some(("type", value)) => kind = value,
                    Some(("ref", value)) => name = Some(value),
                    Some(("dest", value)) => dest = Some(value),
                    Some(("mode", "min")) => {}
                    Some(("mode", "max")) => {
                        return Err(wrong(
                            "mode=max is not supported yet: the steps of the target are kept".to_owned(),
                        ));
                    }
                    None if !text.contains('=') => name = Some(field),
                    _ => return Err(wrong(format!("unexpected {field:?}"))),
                }
            }
            let (output, place) = match (kind, name, dest) {
                // An image has its steps in its history in any case.
                ("inline", None, None) => continue,
                ("registry", Some(name), None) => (
                    json!({ "Type": "image", "Attrs": { "name": name, "push": "true", "cache": "true" } }),
                    None,
                ),
                ("local", None, Some(dest)) => {
                    let place = Place::Folder(PathBuf::from(dest));
                    (json!({ "Type": "oci", "Attrs": { "cache": "true" } }), Some(place))
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
        if only && !self.asked.is_empty() {
            self.asked.push(json!({ "Type": "image" }));
            self.places.push(None);
        }
        Ok(())
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
            let plain = kind.split('[').next().unwrap_or(kind);
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
            attributes.insert(format!("{kind}.{key}"), json!(value));
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
        for wrong in ["k", "=v", "what:k=v", "index:=v"] {
            assert!(annotations(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
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
