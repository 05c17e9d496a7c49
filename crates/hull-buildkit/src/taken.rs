//! Which paths of its context a build takes, as far as its Dockerfile tells: nothing else is asked for.

use std::collections::BTreeSet;

use hull_build::dockerfile::{self, Kind as Instruction, MountKind};
use hull_build::plan::{Base, Plan};
use hull_build::{Named, Request};
use hull_image::Image;

use crate::job::Job;

impl Job {
    /// The paths of the context that plans take files from; none: all of it.
    pub(crate) fn paths(&self, plans: &[(Request, Plan)]) -> Option<BTreeSet<String>> {
        let mut paths = BTreeSet::new();
        for (request, plan) in plans {
            self.add_paths(plan, request, &mut paths)?;
        }
        Some(paths)
    }

    fn add_paths(&self, plan: &Plan, request: &Request, paths: &mut BTreeSet<String>) -> Option<()> {
        for stage in &plan.needed {
            let stage = &plan.stages[*stage];
            // What an image has for who builds on it may copy anything, and what is not here yet may have such.
            let name = match &stage.base {
                Base::Image(name) => Some(name),
                Base::Context(name) => match request.named(name)? {
                    Named::Folder(_) => None,
                    Named::Image(image) => Some(image),
                    Named::Given(_) => return None,
                },
                Base::Scratch | Base::Stage(_) => None,
            };
            let image = name.map(|name| self.engine.images.resolve(name)).transpose().ok()?;
            let wanted = stage.platform.as_ref().or(request.platform.as_ref());
            let may_copy = |image: &Image| {
                // One for another platform says nothing of the one that is fetched.
                !image.container_config().on_build.is_empty()
                    || wanted.is_some_and(|platform| !image.is_for(platform))
            };
            if image.is_some_and(|image| may_copy(&image)) {
                return None;
            }
            for instruction in &stage.instructions {
                taken(&instruction.kind, paths)?;
            }
        }
        Some(())
    }
}

/// The paths of the context that an instruction takes; none: what it takes is known when it is done.
fn taken(instruction: &Instruction, paths: &mut BTreeSet<String>) -> Option<()> {
    let copied = |copy: &dockerfile::Copy, is_add: bool, paths: &mut BTreeSet<String>| {
        if copy.from.as_ref().is_some_and(|from| !from.is_empty()) {
            return Some(());
        }
        for source in copy.sources.iter().filter(|source| !(is_add && source.contains("://"))) {
            paths.insert(plain(source)?);
        }
        Some(())
    };
    match instruction {
        Instruction::Copy(copy) => copied(copy, false, paths),
        Instruction::Add(add) => copied(&add.copy, true, paths),
        Instruction::Run(run) => {
            let binds =
                run.mounts.iter().filter(|mount| mount.kind == MountKind::Bind && mount.from.is_empty());
            for mount in binds {
                paths.insert(plain(&mount.source)?);
            }
            Some(())
        }
        _ => Some(()),
    }
}

/// A path as it is in the context; none: it is all of it, leads out, or has variables.
fn plain(source: &str) -> Option<String> {
    let parts: Vec<&str> = source.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let known = !parts.is_empty() && !source.contains(['$', '\\', '"', '\'', '`']) && !parts.contains(&"..");
    known.then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths_of(text: &str) -> Option<BTreeSet<String>> {
        let file = dockerfile::parse(text).unwrap();
        let mut paths = BTreeSet::new();
        for instruction in &file.stages[0].instructions {
            taken(&instruction.kind, &mut paths)?;
        }
        Some(paths)
    }

    #[test]
    fn what_a_dockerfile_takes_of_its_context_is_known() {
        let paths = paths_of(
            "FROM x\nCOPY ./a b/*.c /\nCOPY --from=y /z /\nADD https://e/x /\nRUN --mount=source=m,target=/m true\n",
        );
        assert_eq!(paths.unwrap().into_iter().collect::<Vec<_>>(), ["a", "b/*.c", "m"]);
        assert_eq!(paths_of("FROM x\nRUN true\n"), Some(BTreeSet::new()));
        for whole in ["COPY . /", "COPY / /x", "COPY $A /", "COPY ../x /", "RUN --mount=target=/ctx true"] {
            assert_eq!(paths_of(&format!("FROM x\n{whole}\n")), None, "{whole}");
        }
    }
}
