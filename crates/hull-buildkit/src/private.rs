//! What a build asks of its client that nobody else may see: secrets, agents, and who it is to registries and git servers.

use std::collections::{BTreeSet, HashSet};

use hull_build::dockerfile::{Kind as Instruction, MountKind};
use hull_build::plan::{Base, Plan};
use hull_build::{Failure, Named, Request, Secret, shown};
use hull_image::reference::Reference;
use hull_image::{Image, Platform};

use crate::failing::failed;
use crate::job::Job;
use crate::ssh::Forwarded;

impl Job {
    /// Asks for what tells a git server who asks, by the names that BuildKit has for it.
    pub(crate) async fn ask_for_git(&self, request: &mut Request, address: &str) -> Result<(), Failure> {
        let url = shown(address);
        let host = url.split_once("://").map(|(_, rest)| rest.split(['/', '#']).next().unwrap_or(rest));
        for name in ["GIT_AUTH_TOKEN", "GIT_AUTH_HEADER"] {
            for id in host.map(|host| format!("{name}.{host}")).into_iter().chain([name.to_owned()]) {
                if let Some(bytes) = self.session.secret(&id).await.map_err(failed)? {
                    request.secrets.insert(id, Secret(bytes));
                }
            }
        }
        Ok(())
    }

    /// Asks for secrets and credentials: those that the plan names.
    pub(crate) async fn ask_for_what_is_private(
        &self,
        request: &mut Request,
        plans: &[(Request, Plan)],
    ) -> Result<(), Failure> {
        let caches = request.cache_from.iter().chain(&request.cache_from_registry);
        let mut images: BTreeSet<String> = caches.cloned().collect();
        images.extend(request.contexts.values().filter_map(|named| match named {
            Named::Image(image) => Some(image.clone()),
            _ => None,
        }));
        let pushed: BTreeSet<String> = {
            let outputs = request.outputs.iter().filter(|output| output.push);
            outputs.flat_map(|output| &output.names).map(Reference::to_string).collect()
        };
        images.extend(pushed.iter().cloned());
        let (mut secrets, mut agents) = (BTreeSet::new(), BTreeSet::new());
        let needed = plans
            .iter()
            .flat_map(|(request, plan)| plan.needed.iter().map(move |stage| (request, plan, stage)));
        for (request, plan, index) in needed {
            let stage = &plan.stages[*index];
            if let Base::Image(name) = &stage.base {
                images.insert(name.clone());
            }
            for instruction in &stage.instructions {
                let named = hull_build::plan::named_stages(instruction);
                let elsewhere =
                    |name: &String| plan.earlier(*index, name).is_none() && request.named(name).is_none();
                images.extend(named.into_iter().filter(elsewhere));
                let Instruction::Run(run) = &instruction.kind else { continue };
                let agents_ = run.mounts.iter().filter(|mount| mount.kind == MountKind::Ssh);
                agents.extend(agents_.map(|mount| match mount.id.is_empty() {
                    true => "default".to_owned(),
                    false => mount.id.clone(),
                }));
                let mounts = run.mounts.iter().filter(|mount| mount.kind == MountKind::Secret);
                secrets.extend(mounts.filter_map(|mount| {
                    let from_target = mount.target.rsplit('/').next().unwrap_or_default();
                    let ids = [mount.id.as_str(), mount.source.as_str(), from_target];
                    ids.into_iter().find(|id| !id.is_empty()).map(str::to_owned)
                }));
            }
        }
        for id in agents {
            if let Some(agent) = Forwarded::find(&self.session, &id).await {
                request.agents.insert(id, agent);
            }
        }
        for id in secrets {
            if let Some(bytes) = self.session.secret(&id).await.map_err(failed)? {
                request.secrets.insert(id, Secret(bytes));
            }
        }
        let platforms = plans.iter().flat_map(|(request, plan)| {
            let of_stages = plan.needed.iter().filter_map(|stage| plan.stages[*stage].platform.as_ref());
            of_stages.chain(&request.platform)
        });
        let platforms: HashSet<&Platform> = platforms.collect();
        let fits = |image: &Image| platforms.iter().all(|platform| image.is_for(platform));
        for name in images {
            let Ok(reference) = Reference::parse(&name) else { continue };
            // One that is here for another machine is asked for again.
            let is_here = self.engine.images.resolve(&name).is_ok_and(|image| fits(&image));
            let wanted = request.pull || pushed.contains(&name) || !is_here;
            if !wanted || request.registries.contains_key(&reference.domain) {
                continue;
            }
            // Whoever cannot say who he is may be let in all the same.
            if let Some(who) = self.session.credentials(&reference.domain).await.unwrap_or_default() {
                request.registries.insert(reference.domain, who);
            }
        }
        Ok(())
    }
}
