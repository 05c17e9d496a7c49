//! From a container to an image.

use std::collections::BTreeMap;
use std::sync::Arc;

use hull_image::ContainerConfig;

use super::freeze::Still;
use super::{Container, Status};
use crate::events::Kind as About;
use crate::model::{Config, Healthcheck};
use crate::{Engine, Error, Result};

/// How an image is made of a container.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    /// The image's name; empty: none.
    pub repository: String,
    /// Its tag; empty: `latest`.
    pub tag: String,
    /// What is said about it.
    pub comment: String,
    /// Who makes it.
    pub author: String,
    /// The container stands still meanwhile.
    pub pause: bool,
    /// Instructions as in a Dockerfile.
    pub changes: Vec<String>,
    /// What of the container's configuration is another in the image.
    pub config: Option<Config>,
}

impl Engine {
    /// Makes an image of what a container changed; returns its id, with `sha256:`. Blocks.
    ///
    /// # Errors
    /// The name or an instruction is malformed, the container is about to be removed, or the disk fails; nothing is
    /// left then.
    pub fn commit(&self, container: &Arc<Container>, options: CommitOptions) -> Result<String> {
        let record = container.record().clone();
        match record.state.status {
            Status::Dead => {
                return Err(Error::conflict(format!(
                    "You cannot commit container {} which is Dead",
                    record.id
                )));
            }
            Status::Removing => {
                return Err(Error::conflict(format!(
                    "You cannot commit container {} which is being removed",
                    record.id
                )));
            }
            _ => {}
        }
        let reference = reference(&options.repository, &options.tag)?;
        let config = match options.config {
            Some(config) => merged(config, &record.config),
            None => record.config.clone(),
        };
        let commit = hull_image::Commit {
            author: options.author,
            comment: options.comment.clone(),
            config: image_config(&config)?,
            changes: options.changes,
            reference: reference.clone(),
            created_by: record.config.cmd.as_deref().unwrap_or_default().join(" "),
            container: record.id.clone(),
            container_config: Some(
                serde_json::to_value(&record.config)
                    .map_err(|error| Error::system("write the configuration", error))?,
            ),
        };
        let parent = match record.image_id.is_empty() {
            true => None,
            false => Some(self.image_of_record(&record).ok_or_else(|| {
                Error::not_found(format!(
                    "the image of container {} is not there any more: {}",
                    record.id, record.image_id
                ))
            })?),
        };
        // Until it is told: it goes on behind the news of its image, as in Docker.
        let still = match options.pause && record.state.status == Status::Running {
            true => Some(Still::of(self, container)?),
            false => None,
        };
        let image =
            self.images.commit(&record.id, parent.as_deref(), commit).map_err(crate::images::error)?;
        let id = image.id.to_string();
        if let Some(name) = &reference {
            let attributes = BTreeMap::from([("name".to_owned(), name.clone())]);
            self.events.publish(About::Image, "tag", &id, attributes);
        }
        self.tell_with(
            container,
            "commit",
            [
                ("comment", options.comment),
                ("imageID", id.clone()),
                ("imageRef", reference.unwrap_or_default()),
            ],
        );
        drop(still);
        Ok(id)
    }
}

/// The name that the image gets, as people write it.
fn reference(repository: &str, tag: &str) -> Result<Option<String>> {
    if repository.is_empty() {
        return Ok(None);
    }
    let text = if tag.is_empty() { repository.to_owned() } else { format!("{repository}:{tag}") };
    let reference = hull_image::reference::Reference::parse_tag(&text).map_err(crate::images::error)?;
    Ok(Some(reference.familiar()))
}

/// A container's configuration as an image's: what only a container has stays behind.
fn image_config(config: &Config) -> Result<ContainerConfig> {
    let json =
        serde_json::to_value(config).map_err(|error| Error::system("write the configuration", error))?;
    let mut config: ContainerConfig =
        serde_json::from_value(json).map_err(|error| Error::system("read the configuration", error))?;
    config.extra.clear();
    Ok(config)
}

/// What was asked for, and where it says nothing what the container has.
fn merged(mut asked: Config, container: &Config) -> Config {
    if asked.user.is_empty() {
        asked.user.clone_from(&container.user);
    }
    if asked.working_dir.is_empty() {
        asked.working_dir.clone_from(&container.working_dir);
    }
    if asked.stop_signal.is_empty() {
        asked.stop_signal.clone_from(&container.stop_signal);
    }
    asked.stop_timeout = asked.stop_timeout.or(container.stop_timeout);
    asked.shell = asked.shell.or_else(|| container.shell.clone());
    asked.on_build = asked.on_build.or_else(|| container.on_build.clone());
    add_missing(&mut asked.exposed_ports, &container.exposed_ports);
    add_missing(&mut asked.volumes, &container.volumes);
    add_missing(&mut asked.labels, &container.labels);
    let mut env = asked.env.unwrap_or_default();
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    for entry in container.env.iter().flatten() {
        if !env.iter().any(|own| name(own) == name(entry)) {
            env.push(entry.clone());
        }
    }
    asked.env = Some(env);
    if asked.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if asked.cmd.as_ref().is_none_or(Vec::is_empty) {
            asked.cmd.clone_from(&container.cmd);
        }
        if asked.entrypoint.is_none() {
            asked.entrypoint.clone_from(&container.entrypoint);
        }
    }
    asked.healthcheck = match (asked.healthcheck, &container.healthcheck) {
        (Some(asked), Some(container)) => Some(merged_healthcheck(asked, container)),
        (asked, container) => asked.or_else(|| container.clone()),
    };
    asked
}

fn merged_healthcheck(mut asked: Healthcheck, container: &Healthcheck) -> Healthcheck {
    if asked.test.as_ref().is_none_or(Vec::is_empty) {
        asked.test.clone_from(&container.test);
    }
    let numbers = [
        (&mut asked.interval, container.interval),
        (&mut asked.timeout, container.timeout),
        (&mut asked.start_period, container.start_period),
        (&mut asked.start_interval, container.start_interval),
        (&mut asked.retries, container.retries),
    ];
    for (asked, container) in numbers {
        if *asked == 0 {
            *asked = container;
        }
    }
    asked
}

fn add_missing<V: Clone>(asked: &mut Option<BTreeMap<String, V>>, container: &Option<BTreeMap<String, V>>) {
    let Some(container) = container else { return };
    let asked = asked.get_or_insert_default();
    for (name, value) in container {
        asked.entry(name.clone()).or_insert_with(|| value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Option<Vec<String>> {
        Some(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn what_is_asked_for_wins() {
        let container = Config {
            user: "web".to_owned(),
            env: words(&["A=1", "B=2"]),
            cmd: words(&["sh"]),
            entrypoint: words(&["entry"]),
            labels: Some(BTreeMap::from([
                ("a".to_owned(), "old".to_owned()),
                ("b".to_owned(), "kept".to_owned()),
            ])),
            ..Config::default()
        };
        let asked = Config {
            env: words(&["A=9"]),
            cmd: words(&["true"]),
            labels: Some(BTreeMap::from([("a".to_owned(), "new".to_owned())])),
            ..Config::default()
        };
        let merged = merged(asked, &container);
        assert_eq!(merged.user, "web");
        assert_eq!(
            (merged.env, merged.cmd, merged.entrypoint),
            (words(&["A=9", "B=2"]), words(&["true"]), words(&["entry"]))
        );
        let labels = merged.labels.unwrap();
        assert_eq!((labels["a"].as_str(), labels["b"].as_str()), ("new", "kept"));
    }

    #[test]
    fn an_image_has_nothing_of_the_container_alone() {
        let config =
            Config { hostname: "box".to_owned(), tty: true, env: words(&["A=1"]), ..Config::default() };
        let image = image_config(&config).unwrap();
        assert_eq!(image.env, ["A=1"]);
        assert!(image.extra.is_empty());
    }

    #[test]
    fn names_are_whole() {
        assert_eq!(reference("", "x").unwrap(), None);
        assert_eq!(reference("a/b", "").unwrap().as_deref(), Some("a/b:latest"));
        assert_eq!(reference("a", "1").unwrap().as_deref(), Some("a:1"));
        assert!(reference("A B", "").is_err());
    }
}
