//! What a solve asks: what there is not is refused, and the rest is an order.

use std::collections::HashMap;

use bollard_buildkit_proto::moby::buildkit::v1::{CacheOptionsEntry, SolveRequest};
use bollard_buildkit_proto::pb;
use hull_build::{Failure, Request};
use hull_engine::Kind;
use hull_image::Platform;

use crate::order::{Order, grant};
use crate::results::made_by;
use crate::{BuildKit, Guard};

/// The frontend that there is.
pub(crate) const FRONTEND: &str = "dockerfile.v0";

/// The longest name of a build, in bytes.
const NAME: usize = 256;

/// What a solve asks for that there is not.
pub(crate) fn refuse(asked: &SolveRequest) -> std::result::Result<(), Failure> {
    let unsupported =
        |what: String| Err(Failure::new(Kind::NotImplemented, format!("{what} is not supported by hull")));
    match asked.frontend.as_str() {
        "" | FRONTEND | "gateway.v0" => {}
        other => return unsupported(format!("the frontend {other}")),
    }
    if asked.r#ref.len() > NAME {
        return Err(Failure::invalid(format!("the name of a build (ref) has more than {NAME} bytes")));
    }
    if asked.definition.as_ref().is_some_and(|definition| !definition.def.is_empty()) {
        return unsupported("a build that is described in LLB, and not in a Dockerfile,".to_owned());
    }
    if asked.source_policy.as_ref().is_some_and(|policy| !policy.rules.is_empty()) {
        return unsupported("a policy of sources".to_owned());
    }
    let cache = asked.cache.clone().unwrap_or_default();
    if !cache.export_ref_deprecated.is_empty() || !cache.import_refs_deprecated.is_empty() {
        return unsupported("a cache in the words of BuildKit before 0.4".to_owned());
    }
    Ok(())
}

/// Where the result goes: kinds with their attributes, each with the number that the client knows it by.
fn exporters(asked: &SolveRequest) -> Vec<(usize, &str, &HashMap<String, String>)> {
    let listed = asked.exporters.iter().map(|exporter| (exporter.r#type.as_str(), &exporter.attrs));
    let old = (asked.exporter_deprecated.as_str(), &asked.exporter_attrs_deprecated);
    let old = Some(old).filter(|_| asked.exporters.is_empty());
    let all = listed.chain(old).enumerate().map(|(number, (kind, attributes))| (number, kind, attributes));
    all.filter(|(_, kind, _)| !kind.is_empty()).collect()
}

/// What the attributes and the solve itself ask, judged.
pub(crate) fn order(
    buildkit: &BuildKit,
    guard: &dyn Guard,
    asked: &SolveRequest,
    (attributes, inputs, imports): (
        &HashMap<String, String>,
        &HashMap<String, pb::Definition>,
        &[CacheOptionsEntry],
    ),
) -> std::result::Result<Order, Failure> {
    let mut order = Order::of(attributes)?;
    for (name, value) in attributes {
        let (Some(name), Some(input)) = (name.strip_prefix("context:"), value.strip_prefix("input:")) else {
            continue;
        };
        let made = inputs.get(input).and_then(made_by).ok_or_else(|| {
            let what = "is not what another build has made, which is all that hull takes as an input";
            Failure::new(Kind::NotImplemented, format!("the context {name} {what}"))
        })?;
        let draft = buildkit.builds.made(guard.socket(), &made).ok_or_else(|| {
            Failure::invalid(format!("the context {name} is of a build that goes on no more"))
        })?;
        order.request.contexts.insert(name.to_ascii_lowercase(), hull_build::Named::Given(draft));
    }
    let exporters = exporters(asked);
    for (number, kind, attributes) in &exporters {
        order.export(kind, attributes, *number)?;
    }
    if exporters.is_empty() {
        order.keep_only();
    }
    let cache = asked.cache.iter();
    for import in cache.clone().flat_map(|cache| &cache.imports).chain(imports) {
        order.import(&import.r#type, &import.attrs)?;
    }
    for export in cache.flat_map(|cache| &cache.exports) {
        order.export_cache(&export.r#type, &export.attrs)?;
    }
    let request = &mut order.request;
    take_what_is_here(request, |name, platform| {
        let image = buildkit.engine.images.resolve(name);
        image.is_ok_and(|image| platform.is_none_or(|platform| image.is_for(platform)))
    });
    grant(request, &asked.entitlements)?;
    guard.judge(request).map_err(Failure::from)?;
    request.socket = guard.socket();
    Ok(order)
}

/// Caches that are here need not be fetched, but for those platforms of the build that they are not for: a name means one image
/// here, and another in its registry for each.
fn take_what_is_here(request: &mut Request, is_here: impl Fn(&str, Option<&Platform>) -> bool) {
    let platforms = request.all_platforms();
    for name in std::mem::take(&mut request.cache_from_registry) {
        let is_one_here = is_here(&name, None);
        let is_for_all = || platforms.iter().all(|platform| is_here(&name, Some(platform)));
        let is_fetched = !is_one_here || !is_for_all();
        if is_one_here {
            request.cache_from.push(name.clone());
        }
        if is_fetched {
            request.cache_from_registry.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::moby::buildkit::v1::Exporter;

    use super::*;

    #[test]
    fn a_cache_that_is_here_for_one_platform_is_fetched_for_the_others() {
        let [amd64, arm64] = ["linux/amd64", "linux/arm64"].map(|name| name.parse::<Platform>().unwrap());
        let taken = |platforms: &[&Platform]| {
            let mut request = Request::default();
            request.build_for(platforms.iter().map(|&platform| platform.clone()).collect()).unwrap();
            request.cache_from_registry = ["here", "there"].map(str::to_owned).into();
            take_what_is_here(&mut request, |name, platform| {
                name == "here" && platform.is_none_or(|platform| *platform == amd64)
            });
            (request.cache_from, request.cache_from_registry)
        };
        let own = (vec!["here".to_owned()], vec!["there".to_owned()]);
        assert_eq!(taken(&[]), own);
        assert_eq!(taken(&[&amd64]), own);
        let fetched = (vec!["here".to_owned()], vec!["here".to_owned(), "there".to_owned()]);
        assert_eq!(taken(&[&arm64]), fetched);
        assert_eq!(taken(&[&amd64, &arm64]), fetched);
    }

    #[test]
    fn exporters_keep_the_numbers_that_the_client_knows_them_by() {
        let exporter = |kind: &str| Exporter { r#type: kind.to_owned(), ..Exporter::default() };
        let asked = SolveRequest {
            exporters: ["", "tar", "", "oci"].map(exporter).into(),
            ..SolveRequest::default()
        };
        let numbers: Vec<_> = exporters(&asked).into_iter().map(|(number, kind, _)| (number, kind)).collect();
        assert_eq!(numbers, [(1, "tar"), (3, "oci")]);
    }
}
