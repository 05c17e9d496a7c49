//! Where a build goes: what the flags mean for it, in the words of BuildKit's exporters.

use serde_json::{Map, Value, json};

use super::BuildArgs;
use crate::error::Error;

/// The query's `outputs`; none where the image stays where it is built.
pub(super) fn asked(args: &BuildArgs) -> Result<Option<String>, Error> {
    if !args.push && args.annotation.is_empty() {
        return Ok(None);
    }
    let mut attrs = Map::new();
    if args.push {
        attrs.insert("push".to_owned(), json!("true"));
    }
    attrs.extend(annotations(&args.annotation)?);
    Ok(Some(json!([{ "Type": "image", "Attrs": attrs }]).to_string()))
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
}
