//! What a frontend's run gives back, in the shapes that clients read: what was made, to be built upon, and what is unwise.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard_buildkit_proto::pb;
use hull_build::dockerfile::Source;
use hull_build::dockerfile::lint::Warning;
use hull_image::Digest;
use prost::Message;
use serde_json::{Value, json};

/// How what was made is called in a definition. No other builder takes it.
const MADE: &str = "hull-image://";

/// The definition of an image that was made: clients hand it on to builds that stand on it.
pub(crate) fn definition(id: &str) -> pb::Definition {
    let source = pb::SourceOp { identifier: format!("{MADE}{id}"), attrs: Default::default() };
    let source = pb::Op { op: Some(pb::op::Op::Source(source)), ..pb::Op::default() }.encode_to_vec();
    // The last one only says which of those before it is meant.
    let input = pb::Input { digest: Digest::of(&source).to_string(), index: 0 };
    let last = pb::Op { inputs: vec![input], ..pb::Op::default() }.encode_to_vec();
    let def = vec![source, last];
    let metadata = def.iter().map(|op| (Digest::of(op).to_string(), pb::OpMetadata::default())).collect();
    pb::Definition { def, metadata, ..pb::Definition::default() }
}

/// The image that a definition is of; none: it is another's, or more than that.
pub(crate) fn made_by(definition: &pb::Definition) -> Option<String> {
    let ops: Vec<pb::Op> =
        definition.def.iter().map(|op| pb::Op::decode(&op[..]).ok()).collect::<Option<_>>()?;
    let mut made = ops.into_iter().filter_map(|op| op.op);
    match (made.next()?, made.next()) {
        (pb::op::Op::Source(source), None) => source.identifier.strip_prefix(MADE).map(str::to_owned),
        _ => None,
    }
}

/// What is unwise about a Dockerfile, for who shows it.
pub(crate) fn unwise(warnings: &[Warning], source: &Source) -> HashMap<String, Vec<u8>> {
    let shown = |warning: &Warning| {
        json!({
            "ruleName": warning.rule,
            "description": warning.description,
            "url": warning.url(),
            "detail": warning.message,
            "location": { "ranges": [{ "start": { "line": warning.at.line }, "end": { "line": warning.at.line } }] },
        })
    };
    let warnings: Vec<Value> = warnings.iter().map(shown).collect();
    let sources =
        json!([{ "filename": source.name, "language": "Dockerfile", "data": STANDARD.encode(&source.text) }]);
    let status = if warnings.is_empty() { "0" } else { "1" };
    let text: String = warnings
        .iter()
        .map(|warning| format!("{}: {}\n", warning["ruleName"], warning["detail"]).replace('"', ""))
        .collect();
    let result = json!({ "warnings": warnings, "sources": sources });
    HashMap::from([
        ("result.json".to_owned(), result.to_string().into_bytes()),
        ("result.txt".to_owned(), text.into_bytes()),
        ("result.statuscode".to_owned(), status.as_bytes().to_vec()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_known_again_and_nothing_else_is() {
        assert_eq!(made_by(&definition("sha256:a")).as_deref(), Some("sha256:a"));
        let source = pb::SourceOp { identifier: "docker-image://x".to_owned(), attrs: Default::default() };
        let op = pb::Op { op: Some(pb::op::Op::Source(source)), ..pb::Op::default() }.encode_to_vec();
        let other = pb::Definition { def: vec![op], ..pb::Definition::default() };
        assert_eq!(made_by(&other), None);
        assert_eq!(made_by(&pb::Definition::default()), None);
    }
}
