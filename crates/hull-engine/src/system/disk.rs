//! What takes up the disk: `GET /system/df`.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::engine::Engine;
use crate::volumes::{Size, VolumeUsage};
use crate::{Error, Result};

/// What of the disk's usage is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskQuery {
    /// The containers' writable layers.
    pub containers: bool,
    /// The images' layers.
    pub images: bool,
    /// The volumes.
    pub volumes: bool,
    /// The builder's cache.
    pub build_cache: bool,
    /// Each thing, not sums alone (in the shapes from API 1.52 on).
    pub verbose: bool,
}

impl DiskQuery {
    /// The query for the named types; without any, for all.
    ///
    /// # Errors
    /// A type that is not known.
    pub fn of<'a>(types: impl Iterator<Item = &'a str>, verbose: bool) -> Result<DiskQuery> {
        let mut query =
            DiskQuery { containers: false, images: false, volumes: false, build_cache: false, verbose };
        let mut any = false;
        for kind in types {
            any = true;
            match kind {
                "container" => query.containers = true,
                "image" => query.images = true,
                "volume" => query.volumes = true,
                "build-cache" => query.build_cache = true,
                other => return Err(Error::invalid(format!("unknown object type: {other}"))),
            }
        }
        if any {
            return Ok(query);
        }
        Ok(DiskQuery { containers: true, images: true, volumes: true, build_cache: true, verbose })
    }
}

/// The API version from which on sums are told.
const SUMS: u32 = 52;

impl Engine {
    /// What takes up the disk: the sums of API 1.52 and later, and beside them the lists of those before.
    ///
    /// # Errors
    /// A container's writable layer cannot be looked at.
    pub async fn disk_usage(self: &Arc<Self>, query: DiskQuery, version: u32) -> Result<Value> {
        let volumes = match query.volumes {
            true => self.volume_sizes().await,
            false => Vec::new(),
        };
        let containers = match query.containers {
            true => self.container_disk_usage().await?,
            false => Vec::new(),
        };
        let engine = Arc::clone(self);
        let told =
            tokio::task::spawn_blocking(move || engine.disk_usage_with(query, version, containers, &volumes));
        told.await.unwrap_or_else(|error| Err(Error::system("tell what takes up the disk", error)))
    }

    /// Every volume with its size: counted by the file system, or as it was measured last. None: it has none, or nobody
    /// has come to its end yet.
    async fn volume_sizes(&self) -> Vec<(VolumeUsage, Option<u64>)> {
        let usages = self.volumes.disk_usage();
        let walked = usages.iter().filter(|usage| usage.size == Size::Walked);
        let known = self.volume_sizes.of(walked.map(|usage| usage.volume.mountpoint.clone()).collect()).await;
        let sized = |usage: VolumeUsage| {
            let size = match usage.size {
                Size::Known(bytes) => Some(bytes),
                Size::Walked => known.get(&usage.volume.mountpoint).copied(),
                Size::None => None,
            };
            (usage, size)
        };
        usages.into_iter().map(sized).collect()
    }

    /// The same, where what containers and volumes take is known.
    fn disk_usage_with(
        &self,
        query: DiskQuery,
        version: u32,
        containers: Vec<Value>,
        volumes: &[(VolumeUsage, Option<u64>)],
    ) -> Result<Value> {
        let mut usage = json!({});
        if query.images {
            let layers = self.images.layers_size();
            let (items, active, used) = self.image_usage(version);
            usage["LayersSize"] = json!(layers);
            add(
                &mut usage,
                ("Images", "ImageUsage"),
                items,
                active,
                layers,
                layers.saturating_sub(used),
                query.verbose,
            );
            // No image's and no container's any more: what clients of Docker's do not know is not among what they sum up.
            let lost = self.images.lost().unwrap_or_else(|error| {
                tracing::warn!(%error, "what lost layers take is not told");
                Vec::new()
            });
            if !lost.is_empty() {
                usage["LostLayers"] = json!(lost);
                usage["LostLayersInUse"] = json!(self.runs_on_lost_layers());
            }
        }
        if query.containers {
            let items = containers;
            let size = |item: &Value| item["SizeRw"].as_u64().unwrap_or_default();
            let runs =
                |item: &&Value| matches!(item["State"].as_str(), Some("running" | "paused" | "restarting"));
            let (total, active) = (items.iter().map(size).sum(), items.iter().filter(runs).count());
            let in_use: u64 = items.iter().filter(runs).map(size).sum();
            add(
                &mut usage,
                ("Containers", "ContainerUsage"),
                items,
                active,
                total,
                total - in_use,
                query.verbose,
            );
        }
        if query.volumes {
            let sum = |wanted: &dyn Fn(&VolumeUsage) -> bool| -> u64 {
                volumes.iter().filter(|(usage, _)| wanted(usage)).filter_map(|(_, size)| *size).sum()
            };
            let (total, unused) = (sum(&|_| true), sum(&|usage| usage.users == 0));
            let active = volumes.iter().filter(|(usage, _)| usage.users > 0).count();
            let item = |(usage, size): &(VolumeUsage, Option<u64>)| {
                let mut value = usage.volume.shown();
                // -1 is Docker's word for what is not known.
                let size = size.map_or(json!(-1), |bytes| json!(bytes));
                value["UsageData"] = json!({ "Size": size, "RefCount": usage.users });
                value
            };
            let items = volumes.iter().map(item).collect();
            add(&mut usage, ("Volumes", "VolumeUsage"), items, active, total, unused, query.verbose);
        }
        if query.build_cache {
            let steps = self.images.steps()?;
            let own = |step: &&hull_image::StepUsage| !step.shared;
            let total = steps.iter().filter(own).map(|step| step.size).sum::<u64>();
            usage["BuilderSize"] = json!(total);
            let items = steps.iter().map(step_shown).collect();
            add(&mut usage, ("BuildCache", "BuildCacheUsage"), items, 0, total, total, query.verbose);
        }
        if version < SUMS
            && let Value::Object(members) = &mut usage
        {
            members.retain(|name, _| !name.ends_with("Usage"));
        }
        Ok(usage)
    }

    /// The images with what they share and how many containers use them; how many are used; the bytes which are
    /// theirs alone of those that are used.
    fn image_usage(&self, version: u32) -> (Vec<Value>, usize, u64) {
        let shared: HashMap<_, _> = self
            .images
            .disk_usage()
            .images
            .into_iter()
            .map(|usage| (usage.id, (usage.shared, usage.unique)))
            .collect();
        let (mut items, mut active, mut used) = (Vec::new(), 0, 0);
        let listed =
            |image: &Arc<hull_image::Image>| !image.is_dangling() || !self.images.has_children(&image.id);
        for image in self.images.images().into_iter().filter(listed) {
            let users = self.containers_using(&image.id.to_string()).len();
            let (shares, own) = shared.get(&image.id).copied().unwrap_or_default();
            if users > 0 {
                active += 1;
                used += own;
            }
            items.push(crate::images::used(&image, shares, users, version));
        }
        (items, active, used)
    }
}

/// Adds one kind of thing, in both shapes.
fn add(
    usage: &mut Value,
    (list, sums): (&str, &str),
    items: Vec<Value>,
    active: usize,
    total: u64,
    reclaimable: u64,
    verbose: bool,
) {
    usage[sums] = json!({
        "ActiveCount": active,
        "TotalCount": items.len(),
        "TotalSize": total,
        "Reclaimable": reclaimable,
    });
    if verbose {
        usage[sums]["Items"] = json!(items);
    }
    usage[list] = Value::Array(items);
}

/// A step that a build made, in the API's shape.
fn step_shown(step: &hull_image::StepUsage) -> Value {
    let time = |seconds: i64| crate::container::rfc3339(seconds.saturating_mul(1_000_000_000));
    json!({
        "ID": step.key.hex(),
        "Type": "regular",
        "Description": step.description,
        "InUse": false,
        "Shared": step.shared,
        "Size": step.size,
        "CreatedAt": time(step.created),
        "LastUsedAt": time(step.used),
        "UsageCount": step.uses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_named_or_all() {
        let all = DiskQuery::of(std::iter::empty(), false).unwrap();
        assert!(all.containers && all.images && all.volumes && all.build_cache);
        let some = DiskQuery::of(["volume", "image"].into_iter(), true).unwrap();
        assert!(!some.containers && some.images && some.volumes && !some.build_cache && some.verbose);
        assert_eq!(DiskQuery::of(["x"].into_iter(), false).unwrap_err().message, "unknown object type: x");
    }

    #[test]
    fn both_shapes_are_there() {
        let mut usage = json!({});
        add(&mut usage, ("Volumes", "VolumeUsage"), vec![json!({"Name": "a"})], 1, 10, 4, false);
        assert_eq!(usage["Volumes"][0]["Name"], "a");
        assert_eq!(
            usage["VolumeUsage"],
            json!({"ActiveCount": 1, "TotalCount": 1, "TotalSize": 10, "Reclaimable": 4})
        );
        add(&mut usage, ("Volumes", "VolumeUsage"), vec![json!({"Name": "a"})], 1, 10, 4, true);
        assert_eq!(usage["VolumeUsage"]["Items"][0]["Name"], "a");
    }
}
