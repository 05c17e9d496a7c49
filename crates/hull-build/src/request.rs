//! What is asked of a build.

use std::any::Any;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hull_engine::model::HostConfig;
use hull_image::Platform;

use crate::attest::Attest;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::named::Named;
use crate::output::Output;

/// So many platforms one build may be for.
pub const PLATFORMS: usize = 32;

/// Everything about a build but its context.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Asked of Docker's classic builder: all stages up to the wanted one are built, each step is an image of its own, and
    /// what a command writes to a volume of the image is the volume's, and not the image's.
    pub classic: bool,
    /// Which of the steps' containers stay, asked of the classic builder.
    pub containers: Containers,
    /// The names that the image gets.
    pub tags: Vec<String>,
    /// The Dockerfile's path in the context; empty: `Dockerfile`.
    pub dockerfile: String,
    /// The stage that is wanted; empty: the last.
    pub target: String,
    /// Build arguments; one without a value is as if it were not there.
    pub build_args: BTreeMap<String, Option<String>>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// `os/architecture` of what is built; none: this machine's.
    pub platform: Option<Platform>,
    /// The same, where several are asked for: each is built as by a request of its own ([`Request::each`]).
    pub platforms: Vec<Platform>,
    /// Images leave in an index of platforms, also where there is one.
    pub indexed: bool,
    /// Nothing that was built before is used.
    pub no_cache: bool,
    /// The files of a command that fails are kept, for a shell in them.
    pub keep_failed: bool,
    /// Nothing of these stages that was built before is used.
    pub no_cache_filter: Vec<String>,
    /// Images are looked for anew.
    pub pull: bool,
    /// Images whose steps are used where they are the same.
    pub cache_from: Vec<String>,
    /// Contexts beside the build's own, by their names in lower case.
    pub contexts: BTreeMap<String, Named>,
    /// The same, of images in registries, which are fetched for it and stay nowhere.
    pub cache_from_registry: Vec<String>,
    /// The same, of images that came with the request.
    pub cache_given: Vec<hull_image::Draft>,
    /// OCI layouts with the files of cache mounts, which came with the request.
    pub cache_mounts_given: Vec<Arc<Context>>,
    /// The same, in registries.
    pub cache_mounts_from: Vec<String>,
    /// Where the image goes, beyond this machine.
    pub outputs: Vec<Output>,
    /// What is attested of the image where it goes.
    pub attest: Attest,
    /// The git repositories that the context is of, and their commits.
    pub sources: BTreeMap<String, String>,
    /// The layers of the build become one.
    pub squash: bool,
    /// How the host runs a step: limits, network, hosts. What a policy judges is this very value.
    pub host: HostConfig,
    /// The daemon may fetch files from addresses, from where it is itself.
    pub may_fetch: bool,
    /// The socket with a policy that the build came by. It uses nothing that builds from elsewhere have kept, and what is
    /// kept of it is used by no others.
    pub socket: Option<PathBuf>,
    /// The labels of the steps' containers.
    pub step_labels: BTreeMap<String, String>,
    /// Secrets by their ids.
    pub secrets: BTreeMap<String, Secret>,
    /// Agents that hold keys of who builds, by their ids.
    pub agents: BTreeMap<String, Arc<dyn Agent>>,
    /// Only what is unwise is told, nothing is built.
    pub check_only: bool,
    /// The Dockerfile itself, where it is not in the context.
    pub dockerfile_text: Option<String>,
    /// What the context is said to be without, where its own `.dockerignore` is not in it.
    pub ignore_text: Option<String>,
    /// Credentials for registries, by their addresses.
    pub registries: BTreeMap<String, hull_image::registry::Credentials>,
}

/// Which of the steps' containers stay, as containers like others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Containers {
    /// Those of steps that were done.
    pub stay: bool,
    /// That of a step that failed.
    pub failed_stay: bool,
}

/// An agent that holds keys, and signs with them for who reaches it.
pub trait Agent: std::fmt::Debug + Send + Sync {
    /// Listens at a path of the host, on behalf of the agent, until what is returned is dropped.
    ///
    /// # Errors
    /// Nothing can listen there.
    fn listen(&self, path: &Path) -> std::io::Result<Box<dyn Any + Send + Sync>>;
}

/// What nobody else may see.
#[derive(Clone, Default)]
pub struct Secret(pub Vec<u8>);

impl Request {
    /// Asks for these platforms. One that is named twice is built once.
    ///
    /// # Errors
    /// They are more than one build may be for: each has steps, and containers for them, of its own.
    pub fn build_for(&mut self, platforms: Vec<Platform>) -> Result<()> {
        let mut seen = HashSet::new();
        let mut platforms: Vec<Platform> =
            platforms.into_iter().filter(|platform| seen.insert(platform.clone())).collect();
        match platforms.len() {
            0 => {}
            1 => self.platform = platforms.pop(),
            count if count > PLATFORMS => {
                return Err(Failure::invalid(format!(
                    "one build is for {PLATFORMS} platforms at most, and {count} are asked for: build for the others ({} and what \
                     follows) by another",
                    platforms[PLATFORMS]
                )));
            }
            _ => (self.platforms, self.indexed) = (platforms, true),
        }
        Ok(())
    }

    /// The request of each platform, in their order. A context of the name `NAME::PLATFORM` is there for that one alone, in the
    /// place of `NAME`.
    pub fn each(&self) -> Vec<Request> {
        let own = match &self.platforms[..] {
            [] => vec![self.platform.clone()],
            several => several.iter().cloned().map(Some).collect(),
        };
        own.into_iter()
            .map(|platform| {
                let shown = platform.clone().unwrap_or_else(Platform::host).to_string();
                let mut contexts = BTreeMap::new();
                let (for_one, for_all): (Vec<_>, Vec<_>) =
                    self.contexts.iter().partition(|(name, _)| name.contains("::"));
                contexts.extend(for_all.into_iter().map(|(name, named)| (name.clone(), named.clone())));
                contexts.extend(for_one.into_iter().filter_map(|(name, named)| {
                    let (name, of) = name.split_once("::")?;
                    (of == shown).then(|| (name.to_owned(), named.clone()))
                }));
                Request { platform, platforms: Vec::new(), contexts, ..self.clone() }
            })
            .collect()
    }

    /// The platforms whose images are taken from an archive that has those of several; none: this machine's.
    pub fn all_platforms(&self) -> Vec<Platform> {
        self.platform.iter().chain(&self.platforms).cloned().collect()
    }

    /// The time that what is built gets, in seconds since 1970; none: the time at which it is built.
    ///
    /// # Errors
    /// `SOURCE_DATE_EPOCH` is no such time.
    pub fn epoch(&self) -> Result<Option<i64>> {
        let asked = self.build_args.get("SOURCE_DATE_EPOCH").and_then(Option::as_deref);
        let Some(text) = asked.filter(|text| !text.is_empty()) else { return Ok(None) };
        let is_time = |seconds: &i64| *seconds >= 0 && jiff::Timestamp::from_second(*seconds).is_ok();
        let seconds = text.parse().ok().filter(is_time);
        let wrong = || format!("invalid SOURCE_DATE_EPOCH: {text:?} is no number of seconds since 1970");
        seconds.map(Some).ok_or_else(|| Failure::invalid(wrong()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_platform_has_a_request_of_its_own() {
        let parsed = |text: &str| text.parse::<Platform>().unwrap();
        let mut request = Request::default();
        request
            .build_for(vec![parsed("linux/amd64"), parsed("linux/arm/v7"), parsed("linux/amd64")])
            .unwrap();
        assert!(request.indexed && request.platform.is_none());
        let image = |name: &str| Named::Image(name.to_owned());
        for name in ["base::linux/arm/v7", "base", "only::linux/amd64"] {
            request.contexts.insert(name.to_owned(), image(name));
        }
        let each = request.each();
        let stands_for = |request: &Request, name: &str| match request.contexts.get(name) {
            Some(Named::Image(image)) => image.clone(),
            _ => String::new(),
        };
        assert_eq!(each.len(), 2);
        assert_eq!(each[1].platform, Some(parsed("linux/arm/v7")));
        assert_eq!(stands_for(&each[0], "base"), "base");
        assert_eq!(stands_for(&each[1], "base"), "base::linux/arm/v7");
        assert_eq!(
            (stands_for(&each[0], "only").as_str(), stands_for(&each[1], "only").as_str()),
            ("only::linux/amd64", "")
        );
        let mut one = Request::default();
        one.build_for(vec![parsed("linux/arm64"), parsed("linux/arm64")]).unwrap();
        assert!(!one.indexed && one.each()[0].platform == Some(parsed("linux/arm64")));
        assert_eq!(Request::default().each().len(), 1);
    }

    #[test]
    fn one_build_is_for_so_many_platforms() {
        let many =
            |count: usize| (0..count).map(|number| format!("linux/a{number}").parse().unwrap()).collect();
        let mut request = Request::default();
        let refused = request.build_for(many(PLATFORMS + 1)).unwrap_err();
        assert!(
            refused.message.contains("33 are asked for") && refused.message.contains("linux/a32"),
            "{refused}"
        );
        assert!(request.platforms.is_empty() && !request.indexed);
        // The same again is no further one.
        request.build_for([many(PLATFORMS), many(PLATFORMS)].concat()).unwrap();
        assert_eq!(request.platforms.len(), PLATFORMS);
    }
}
