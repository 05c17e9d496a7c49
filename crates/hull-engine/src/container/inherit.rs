//! What a container inherits from its image.

use hull_image::archive::clean;
use hull_image::config::ContainerConfig;

use crate::model::{Config, Healthcheck};

/// What a container inherits from its image, field by field as Docker merges them.
pub(super) fn inherit(config: &mut Config, image: &ContainerConfig) {
    if config.user.is_empty() {
        config.user.clone_from(&image.user);
    }
    for port in image.exposed_ports.keys() {
        config.exposed_ports.get_or_insert_default().entry(port.clone()).or_default();
    }
    config.labels.get_or_insert_default();
    // A user's bare NAME stands for the image's, too: it is shown, and a process has neither (`spec::with_variables`).
    let env = config.env.get_or_insert_default();
    let name_of = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    for entry in &image.env {
        if !env.iter().any(|present| name_of(present) == name_of(entry)) {
            env.push(entry.clone());
        }
    }
    for (label, value) in &image.labels {
        config.labels.get_or_insert_default().entry(label.clone()).or_insert_with(|| value.clone());
    }
    // The image's command belongs to the image's entry point: with another entry point it is forgotten.
    let has = |words: &Option<Vec<String>>| words.as_ref().is_some_and(|words| !words.is_empty());
    if !has(&config.entrypoint) {
        if !has(&config.cmd) {
            config.cmd.clone_from(&image.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&image.entrypoint);
        }
    }
    // `--entrypoint ""` is one empty word: no entry point at all.
    if config.entrypoint.as_ref().is_some_and(|words| !words.is_empty() && words.iter().all(String::is_empty))
    {
        config.entrypoint = None;
    }
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&image.working_dir);
    } else if config.working_dir.starts_with('/') {
        config.working_dir = clean(&config.working_dir);
    }
    for place in image.volumes.keys() {
        config.volumes.get_or_insert_default().entry(place.clone()).or_default();
    }
    if config.stop_signal.is_empty() {
        config.stop_signal.clone_from(&image.stop_signal);
    }
    if config.stop_timeout.is_none() {
        config.stop_timeout = image.stop_timeout;
    }
    if config.shell.is_none() {
        config.shell.clone_from(&image.shell);
    }
    if config.on_build.is_none() && !image.on_build.is_empty() {
        config.on_build = Some(image.on_build.clone());
    }
    if let Some(check) = &image.healthcheck {
        inherit_health(config.healthcheck.get_or_insert_default(), check);
    }
}

fn inherit_health(own: &mut Healthcheck, image: &hull_image::config::Healthcheck) {
    if own.test.as_ref().is_none_or(Vec::is_empty) {
        own.test = Some(image.test.clone());
    }
    let pairs = [
        (&mut own.interval, image.interval),
        (&mut own.timeout, image.timeout),
        (&mut own.start_period, image.start_period),
        (&mut own.start_interval, image.start_interval),
        (&mut own.retries, image.retries),
    ];
    for (own, image) in pairs {
        if *own == 0 {
            *own = image;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ContainerConfig {
        ContainerConfig {
            env: vec!["PATH=/bin".to_owned(), "A=image".to_owned()],
            entrypoint: Some(vec!["entry".to_owned()]),
            cmd: Some(vec!["image-command".to_owned()]),
            ..ContainerConfig::default()
        }
    }

    #[test]
    fn the_users_environment_wins_and_a_bare_name_stands_for_the_images() {
        let mut config =
            Config { env: Some(vec!["A=user".to_owned(), "PATH".to_owned()]), ..Config::default() };
        inherit(&mut config, &image());
        assert_eq!(config.env.unwrap(), ["A=user", "PATH"]);
    }

    #[test]
    fn another_entry_point_forgets_the_images_command() {
        let mut config = Config { entrypoint: Some(vec!["mine".to_owned()]), ..Config::default() };
        inherit(&mut config, &image());
        assert_eq!((config.entrypoint.unwrap(), config.cmd), (vec!["mine".to_owned()], None));
        let mut config = Config { cmd: Some(vec!["mine".to_owned()]), ..Config::default() };
        inherit(&mut config, &image());
        assert_eq!(config.entrypoint.unwrap(), ["entry"]);
        let mut config = Config {
            entrypoint: Some(vec![String::new()]),
            cmd: Some(vec!["mine".to_owned()]),
            ..Config::default()
        };
        inherit(&mut config, &image());
        assert_eq!((config.entrypoint, config.cmd.unwrap()), (None, vec!["mine".to_owned()]));
        let mut config = Config { entrypoint: Some(Vec::new()), ..Config::default() };
        inherit(&mut config, &image());
        assert_eq!(config.entrypoint, Some(Vec::new()), "none, as was asked for");
    }
}
