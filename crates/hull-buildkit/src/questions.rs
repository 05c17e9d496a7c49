//! What clients ask of a Dockerfile without building it, in the shapes that they read: its targets, and what a target takes.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hull_build::Request;
use hull_build::dockerfile::{Dockerfile, Instruction, Kind, MountKind, Source};
use hull_build::plan::Plan;
use serde_json::{Map, Value, json};

/// What may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Which stages there are.
    Targets,
    /// What the target takes: arguments, secrets, agents, caches.
    Outline,
    /// What may be asked.
    Questions,
}

impl Question {
    /// By the name that clients have for it.
    pub(crate) fn of(name: &str) -> Option<Question> {
        match name {
            "frontend.targets" => Some(Question::Targets),
            "frontend.outline" => Some(Question::Outline),
            "frontend.subrequests.describe" => Some(Question::Questions),
            _ => None,
        }
    }

    /// The answer.
    pub(crate) fn answered(
        self,
        (file, plan): (&Dockerfile, &Plan),
        source: &Source,
        request: &Request,
    ) -> HashMap<String, Vec<u8>> {
        let data = STANDARD.encode(&source.text);
        let (value, text) = match self {
            Question::Targets => targets(file, &data),
            Question::Outline => outline(file, plan, request, &data),
            Question::Questions => questions(),
        };
        HashMap::from([
            ("result.json".to_owned(), value.to_string().into_bytes()),
            ("result.txt".to_owned(), text.into_bytes()),
            ("version".to_owned(), b"1.0.0".to_vec()),
        ])
    }
}

fn location(instruction: &Instruction) -> Value {
    let (first, last) = (instruction.at.line, instruction.last_line);
    json!({ "ranges": [{ "start": { "line": first }, "end": { "line": last.max(first) } }] })
}

/// An object without what is empty.
fn object(fields: &[(&str, Value)]) -> Value {
    let said = |value: &Value| !matches!(value, Value::Null | Value::Bool(false)) && value != "";
    let fields = fields.iter().filter(|(_, value)| said(value));
    Value::Object(fields.map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<Map<_, _>>())
}

fn targets(file: &Dockerfile, data: &str) -> (Value, String) {
    let last = file.stages.len().saturating_sub(1);
    let mut lines = String::from("TARGET\tDESCRIPTION\n");
    let target = |(number, stage): (usize, &hull_build::dockerfile::Stage)| {
        let name = stage.name.as_deref().unwrap_or_default();
        let description = stage.from.description(name).filter(|_| !name.is_empty());
        let default = if number == last { " (default)" } else { "" };
        lines.push_str(&format!("{name}{default}\t{}\n", description.unwrap_or_default()));
        object(&[
            ("name", json!(name)),
            ("default", json!(number == last)),
            ("description", json!(description)),
            ("base", json!(stage.base)),
            ("platform", json!(stage.platform)),
            ("location", location(&stage.from)),
        ])
    };
    let targets: Vec<Value> = file.stages.iter().enumerate().map(target).collect();
    (json!({ "targets": targets, "sources": [data] }), lines)
}

fn outline(file: &Dockerfile, plan: &Plan, request: &Request, data: &str) -> (Value, String) {
    let mut arguments = BTreeMap::new();
    let (mut secrets, mut agents, mut caches) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let given = |name: &str| request.build_args.get(name).cloned().flatten();
    for (instruction, of_stage) in file.arguments.iter().map(|one| (one, false)).chain(
        plan.needed.iter().flat_map(|stage| plan.stages[*stage].instructions.iter().map(|one| (one, true))),
    ) {
        match &instruction.kind {
            Kind::Arg(list) => {
                for (name, default) in list {
                    let global = plan.globals.get(name).cloned().flatten();
                    // Whoever takes it from before the first stage says nothing new of it.
                    if of_stage && default.is_none() && plan.globals.contains_key(name) {
                        continue;
                    }
                    let value = if of_stage { given(name).or(default.clone()) } else { global };
                    arguments.insert(
                        name.clone(),
                        object(&[
                            ("name", json!(name)),
                            ("description", json!(instruction.description(name))),
                            ("value", json!(value)),
                            ("location", location(instruction)),
                        ]),
                    );
                }
            }
            Kind::Run(run) => {
                for mount in &run.mounts {
                    let from_target = mount.target.rsplit('/').next().unwrap_or_default();
                    let id = match mount.kind {
                        MountKind::Ssh => [mount.id.as_str(), "default"],
                        MountKind::Cache => [mount.id.as_str(), mount.target.as_str()],
                        _ => [mount.id.as_str(), from_target],
                    };
                    let id = id.into_iter().find(|id| !id.is_empty()).unwrap_or_default().to_owned();
                    let told = |name: &str| {
                        object(&[
                            (name, json!(id)),
                            ("required", json!(mount.required)),
                            ("location", location(instruction)),
                        ])
                    };
                    match mount.kind {
                        MountKind::Secret => drop(secrets.insert(id.clone(), told("name"))),
                        MountKind::Ssh => drop(agents.insert(id.clone(), told("name"))),
                        MountKind::Cache => drop(caches.insert(id.clone(), told("ID"))),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let target = &file.stages[plan.target];
    let name = target.name.as_deref().unwrap_or_default();
    let mut text = format!("TARGET:\t{name}\n");
    for (name, argument) in &arguments {
        let value = argument["value"].as_str().unwrap_or_default();
        text.push_str(&format!(
            "{name}\t{value}\t{}\n",
            argument["description"].as_str().unwrap_or_default()
        ));
    }
    let mut value = object(&[
        ("name", json!(name)),
        ("description", json!(target.from.description(name).filter(|_| !name.is_empty()))),
        ("sources", json!([data])),
    ]);
    for (kind, list) in [("args", arguments), ("secrets", secrets), ("ssh", agents), ("cache", caches)] {
        if !list.is_empty() {
            value[kind] = Value::Array(list.into_values().collect());
        }
    }
    (value, text)
}

fn questions() -> (Value, String) {
    let list = [
        ("frontend.lint", "Lint a Dockerfile"),
        ("frontend.outline", "List all parameters current build target supports"),
        ("frontend.targets", "List all targets current build supports"),
        ("frontend.subrequests.describe", "List available subrequest types"),
    ];
    let text = list.iter().map(|(name, description)| format!("{name}\t1.0.0\t{description}\n")).collect();
    let list: Vec<Value> = list
        .iter()
        .map(|(name, description)| {
            json!({
                "name": name,
                "version": "1.0.0",
                "type": "rpc",
                "description": description,
                "metadata": [{ "name": "result.json" }, { "name": "result.txt" }],
            })
        })
        .collect();
    (json!(list), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(question: &str, text: &str) -> Value {
        let file = hull_build::dockerfile::parse(text).unwrap();
        let request = Request::default();
        let plan = hull_build::plan::plan(&file, &request).unwrap();
        let source = Source { name: "Dockerfile".to_owned(), text: text.to_owned() };
        let answer = Question::of(question).unwrap().answered((&file, &plan), &source, &request);
        serde_json::from_slice(&answer["result.json"]).unwrap()
    }

    #[test]
    fn targets_are_told_with_what_their_comments_say() {
        let answer = answer("frontend.targets", "# base what is below\nFROM x AS base\nFROM base\n");
        assert_eq!(answer["targets"][0]["description"], "what is below");
        assert_eq!(answer["targets"][0]["base"], "x");
        assert!(answer["targets"][0]["default"].is_null() && answer["targets"][1]["default"] == true);
        assert_eq!(answer["targets"][1]["location"]["ranges"][0]["start"]["line"], 3);
    }

    #[test]
    fn an_outline_has_what_the_target_takes() {
        let answer = answer(
            "frontend.outline",
            "ARG V=1\nFROM x AS other\nARG NOT\nFROM y:$V AS t\n# W how it is said\nARG W=2\nARG V\nRUN --mount=type=secret,id=s,required \\\n\
             --mount=type=ssh --mount=type=cache,target=/c true\n",
        );
        let names: Vec<&str> =
            answer["args"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
        assert_eq!((answer["name"].as_str(), names), (Some("t"), vec!["V", "W"]));
        assert_eq!(answer["args"][1]["description"], "how it is said");
        assert_eq!(
            (&answer["secrets"][0]["name"], &answer["secrets"][0]["required"]),
            (&json!("s"), &json!(true))
        );
        assert_eq!((&answer["ssh"][0]["name"], &answer["cache"][0]["ID"]), (&json!("default"), &json!("/c")));
    }
}
