//! What is attested of a build on demand: how it was made (SLSA's provenance), and what packages the image has (SPDX).

mod packages;
mod rpm;
mod sqlite;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use hull_engine::model::CreateBody;
use hull_image::dress::Statement;
use hull_image::{Draft, Platform};
use serde_json::{Map, Value, json};

use self::packages::{Package, found};
use crate::build::Build;
use crate::copying::blocking;
use crate::failure::{Failure, Result};

/// What is to be attested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attest {
    /// How it was made.
    pub provenance: Option<Mode>,
    /// Its packages.
    pub sbom: bool,
    /// Where an output has no place for it, it is left out without an error.
    pub where_possible: bool,
}

/// How much is told of how something was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// What it stands on.
    Min,
    /// Also the build's arguments and the Dockerfile.
    Max,
}

impl Attest {
    /// Of BuildKit's attributes by their kinds: `provenance` is `mode=min`, `mode=max` or empty, `sbom` empty.
    ///
    /// # Errors
    /// There is none of that kind, or an attribute is not known.
    pub fn of(kinds: &BTreeMap<String, String>) -> Result<Attest> {
        let mut attest = Attest::default();
        for (kind, attributes) in kinds {
            let wrong = |field: &str| {
                Failure::invalid(format!("the attestation type={kind},{field}: hull has no such attribute"))
            };
            let mut mode = Mode::Min;
            let mut wanted = true;
            for field in attributes.split(',').filter(|field| !field.is_empty()) {
                match (kind.as_str(), field) {
                    (_, field) if field.strip_prefix("type=") == Some(kind) => {}
                    (_, "disabled=true") => wanted = false,
                    ("provenance", "inline-only=true") => attest.where_possible = true,
                    (_, "disabled=false") | ("provenance", "version=v1" | "mode=min") => {}
                    ("provenance", "mode=max") => mode = Mode::Max,
                    _ => return Err(wrong(field)),
                }
            }
            match kind.as_str() {
                "provenance" => attest.provenance = wanted.then_some(mode),
                "sbom" => attest.sbom = wanted,
                other => {
                    return Err(Failure::invalid(format!(
                        "the attestation type={other}: there are provenance and sbom"
                    )));
                }
            }
        }
        Ok(attest)
    }

    /// Whether there is anything.
    pub fn any(&self) -> bool {
        self.sbom || self.provenance.is_some()
    }
}

impl Build {
    /// What is attested of what was made.
    pub(crate) async fn statements(self: &Arc<Build>, draft: &Draft) -> Result<Vec<Statement>> {
        let mut statements = Vec::new();
        if self.request.attest.sbom {
            let predicate = Box::pin(self.sbom(draft)).await?;
            statements.push(Statement { predicate_type: "https://spdx.dev/Document".to_owned(), predicate });
        }
        if let Some(mode) = self.request.attest.provenance {
            let predicate = self.provenance(mode, draft);
            statements
                .push(Statement { predicate_type: "https://slsa.dev/provenance/v1".to_owned(), predicate });
        }
        Ok(statements)
    }

    fn provenance(&self, mode: Mode, draft: &Draft) -> Value {
        let request = &self.request;
        let mut arguments = Map::new();
        if !request.target.is_empty() {
            arguments.insert("target".to_owned(), json!(request.target));
        }
        if mode == Mode::Max {
            for (name, value) in &request.build_args {
                arguments.insert(format!("build-arg:{name}"), json!(value));
            }
            for (name, value) in &request.labels {
                arguments.insert(format!("label:{name}"), json!(value));
            }
        }
        // That a secret was given is part of how it was made; what it is, is nobody's.
        let secrets: Vec<Value> =
            request.secrets.keys().map(|id| json!({ "id": id, "optional": true })).collect();
        let mut external = json!({
            "configSource": { "path": self.source.name },
            "request": { "frontend": "dockerfile.v0", "args": arguments, "secrets": secrets },
        });
        if let Some((address, commit)) = request.sources.iter().next() {
            external["configSource"]["uri"] = json!(address);
            external["configSource"]["digest"] = json!({ "sha1": commit });
        }
        let materials = self.materials.lock().unwrap_or_else(PoisonError::into_inner);
        let images =
            materials.iter().map(|(uri, digest)| json!({ "uri": uri, "digest": { "sha256": digest } }));
        let repositories =
            request.sources.iter().map(|(uri, commit)| json!({ "uri": uri, "digest": { "sha1": commit } }));
        let dependencies: Vec<Value> = images.chain(repositories).collect();
        let host = Platform::host();
        let mut metadata = json!({
            "invocationId": draft.image.id.hex(),
            "startedOn": self.started,
            "finishedOn": self.now(),
            "hull_reproducible": self.epoch.is_some(),
        });
        if mode == Mode::Max {
            metadata["hull_source"] = json!({ "name": self.source.name, "text": self.source.text });
        }
        json!({
            "buildDefinition": {
                "buildType": "urn:hull:build:dockerfile:1",
                "externalParameters": external,
                "internalParameters": { "builderPlatform": format!("{}/{}", host.os, host.architecture) },
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": { "id": concat!("urn:hull:", env!("CARGO_PKG_VERSION")) },
                "metadata": metadata,
            },
        })
    }

    async fn sbom(self: &Arc<Build>, draft: &Draft) -> Result<Value> {
        let step = Box::pin(self.step(draft, CreateBody::default())).await?;
        let view = Box::pin(step.view()).await?;
        let (view, packages) = blocking("read the packages of the image", move || {
            let packages = found(view.root())?;
            Ok((view, packages))
        })
        .await?;
        view.close().await;
        step.remove().await;
        Ok(document(&packages, &draft.image.id.hex(), &self.now()))
    }
}

/// Packages as SPDX has them.
fn document(packages: &[Package], image: &str, created: &str) -> Value {
    let id = |package: &Package| {
        let plain = |text: &str| -> String {
            text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
        };
        format!(
            "SPDXRef-Package-{}-{}-{}-{}",
            package.kind,
            plain(&package.name),
            plain(&package.version),
            plain(&package.architecture)
        )
    };
    let listed: Vec<Value> = packages
        .iter()
        .map(|package| {
            json!({
                "SPDXID": id(package),
                "name": package.name,
                "versionInfo": package.version,
                "supplier": "NOASSERTION",
                "downloadLocation": "NOASSERTION",
                "filesAnalyzed": false,
                "licenseConcluded": "NOASSERTION",
                "licenseDeclared": package.licence.as_deref().unwrap_or("NOASSERTION"),
                "copyrightText": "NOASSERTION",
                "externalRefs": [{
                    "referenceCategory": "PACKAGE-MANAGER",
                    "referenceType": "purl",
                    "referenceLocator": package.url(),
                }],
            })
        })
        .collect();
    let relationships: Vec<Value> = packages
        .iter()
        .map(|package| {
            json!({
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": id(package),
            })
        })
        .collect();
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("sha256:{image}"),
        "documentNamespace": format!("urn:hull:sbom:{image}"),
        "creationInfo": { "created": created, "creators": [concat!("Tool: hull-", env!("CARGO_PKG_VERSION"))] },
        "packages": listed,
        "relationships": relationships,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attestations_are_asked_for_in_buildkits_words() {
        let of =
            |kind: &str, attributes: &str| Attest::of(&[(kind.to_owned(), attributes.to_owned())].into());
        assert_eq!(of("provenance", "mode=max").unwrap().provenance, Some(Mode::Max));
        assert_eq!(of("provenance", "").unwrap().provenance, Some(Mode::Min));
        assert!(!of("provenance", "disabled=true").unwrap().any() && of("sbom", "").unwrap().sbom);
        for (kind, attributes) in [("sbom", "generator=x"), ("what", ""), ("provenance", "mode=all")] {
            assert!(of(kind, attributes).is_err());
        }
    }

    #[test]
    fn a_document_names_each_package() {
        let package = Package {
            kind: "deb",
            name: "lib+x".to_owned(),
            version: "1:2~a".to_owned(),
            architecture: "amd64".to_owned(),
            licence: None,
            distribution: ("debian".to_owned(), "12".to_owned()),
        };
        let document = document(&[package], "00", "2024-01-01T00:00:00Z");
        let listed = &document["packages"][0];
        assert_eq!(listed["SPDXID"], "SPDXRef-Package-deb-lib-x-1-2-a-amd64");
        assert_eq!(
            listed["externalRefs"][0]["referenceLocator"],
            "pkg:deb/debian/lib%2Bx@1%3A2~a?arch=amd64&distro=debian-12"
        );
        assert_eq!(document["relationships"][0]["relatedSpdxElement"], listed["SPDXID"]);
    }
}
