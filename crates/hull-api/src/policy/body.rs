//! What a request wants made, judged where its body has been read. Whatever a handler reads as JSON is [`Judged`], so that
//! none can be read past a policy.

use std::collections::BTreeMap;

use hull_engine::model::{CreateBody, EndpointSettings, ExecConfig, HostConfig, Resources};
use hull_engine::networks::NetworkCreate;
use hull_engine::volumes::{VolumeClone, VolumeCreate};
use hull_engine::{Error, Kind, Result};

use super::{Judge, Rule, pinned};

/// A body that policies have something to say about, or nothing.
pub(crate) trait Judged {
    /// Refuses what the socket's rules forbid, and puts the label on what is made.
    fn judge(&mut self, judge: &Judge<'_>) -> Result<()>;
}

impl Judged for CreateBody {
    fn judge(&mut self, judge: &Judge<'_>) -> Result<()> {
        judge.image_of(&mut self.config.image)?;
        judge.pin_others(&mut self.host_config)?;
        judge.label(self.config.labels.get_or_insert_default())?;
        judge.judge_host(&self.host_config)?;
        for mount in self.host_config.mounts.iter_mut().flatten().filter(|mount| mount.kind == "image") {
            judge.image_of(&mut mount.source)?;
        }
        judge.networks_of(self)?;
        let mounts = judge.engine.mounts_asked_for(&self.config, &self.host_config)?;
        judge.judge_mounts(&mounts)?;
        // Last: a volume that carries the label may be made for it.
        for mount in mounts.iter().filter(|mount| mount.kind == hull_engine::container::MountKind::Volume) {
            if !mount.anonymous && !mount.source.is_empty() {
                judge.volume_of(&mount.source, &mount.options)?;
            }
        }
        Ok(())
    }
}

impl Judge<'_> {
    fn image_of(&self, name: &mut String) -> Result<()> {
        if name.is_empty() {
            return Ok(());
        }
        let image = self.pin_image(name)?;
        self.check(Rule::NoBinds, image.builtin, "the image hull/host, which is the host's files")
    }

    /// Other containers that it has something of: there for this socket, called by their ids from here on, and with
    /// nothing of the host that it may not have itself.
    fn pin_others(&self, host: &mut HostConfig) -> Result<()> {
        for mode in [
            &mut host.network_mode,
            &mut host.pid_mode,
            &mut host.ipc_mode,
            &mut host.uts_mode,
            &mut host.cgroupns_mode,
            &mut host.userns_mode,
        ] {
            let Some(name) = mode.strip_prefix("container:") else { continue };
            let other = self.container(name)?;
            self.judge_joined(&other)?;
            *mode = format!("container:{}", other.id);
        }
        for specification in host.volumes_from.iter_mut().flatten() {
            let (name, mode) = specification.split_once(':').unwrap_or((specification, ""));
            let other =
                self.container(name).map_err(|error| Error::new(Kind::InvalidParameter, error.message))?;
            *specification = match mode {
                "" => other.id.clone(),
                mode => format!("{}:{mode}", other.id),
            };
        }
        self.links(host.links.as_deref())
    }

    /// A container's place on a network: its links, and what is set of its interface.
    pub(crate) fn place(&self, settings: &EndpointSettings) -> Result<()> {
        self.judge_place(settings)?;
        self.links(settings.links.as_deref())
    }

    /// Links to containers that are there.
    fn links(&self, links: Option<&[String]>) -> Result<()> {
        links.into_iter().flatten().try_for_each(|link| self.linked(link))
    }

    /// The target of a link tells its environment.
    fn linked(&self, link: &str) -> Result<()> {
        if !self.has(Rule::Label) {
            return Ok(());
        }
        let name = link.split_once(':').map_or(link, |(name, _)| name);
        let container = self.container(name).map_err(|_| {
            Error::invalid(format!("could not get container for {name}: No such container: {name}"))
        })?;
        // A link keeps the name that it was made with, so that must be the container's own.
        let ambiguous = pinned(name, "") != name && !container.id.starts_with(name);
        self.check(
            Rule::Label,
            ambiguous,
            format_args!("a link to {name}, which may be the beginning of an id"),
        )
    }

    fn networks_of(&self, body: &mut CreateBody) -> Result<()> {
        let mode = &mut body.host_config.network_mode;
        if !mode.starts_with("container:") && !matches!(mode.as_str(), "" | "default") {
            *mode = self.network_of(mode)?;
        }
        let endpoints = std::mem::take(&mut body.networking_config.endpoints_config);
        for (name, settings) in endpoints {
            self.place(&settings)?;
            // The network's own id, where it is said too, is checked by the engine against its name.
            let name = if name.is_empty() || name == "default" { name } else { self.network_of(&name)? };
            body.networking_config.endpoints_config.insert(name, settings);
        }
        Ok(())
    }

    /// A network that a new container is on. Those that every daemon has are for everyone.
    fn network_of(&self, name: &str) -> Result<String> {
        self.judge_network(name)?;
        match self.engine.networks.resolve(name) {
            Ok(network) => {
                let common = matches!(network.name.as_str(), "bridge" | "host" | "none");
                if !common && !self.guard.policy.sees(&network.labels) {
                    return Err(Error::not_found(format!("network {name} not found")));
                }
                Ok(pinned(name, &network.id))
            }
            // The engine says it better.
            Err(_) => Ok(name.to_owned()),
        }
    }

    /// A named volume carries the label; one that is not there is made with it.
    fn volume_of(&self, name: &str, options: &BTreeMap<String, String>) -> Result<()> {
        if !self.has(Rule::Label) {
            return Ok(());
        }
        if self.engine.volumes.get(name).is_err() {
            let mut create = VolumeCreate {
                name: name.to_owned(),
                driver_opts: options.clone(),
                ..VolumeCreate::default()
            };
            self.label(&mut create.labels)?;
            self.engine.volumes.create(create)?;
        }
        self.others_volume(name)
    }

    /// A volume's name is all there is of it: another's cannot be passed over in silence.
    fn others_volume(&self, name: &str) -> Result<()> {
        let others =
            self.engine.volumes.get(name).is_ok_and(|volume| !self.guard.policy.sees(&volume.labels));
        self.check(Rule::Label, others, format_args!("the volume {name}, which is another's"))
    }
}

impl Judged for ExecConfig {
    fn judge(&mut self, judge: &Judge<'_>) -> Result<()> {
        judge.check(Rule::NoPrivilege, self.privileged, "Privileged of an exec")
    }
}

impl Judged for Resources {
    fn judge(&mut self, judge: &Judge<'_>) -> Result<()> {
        judge.judge_resources(self)
    }
}

impl Judged for VolumeCreate {
    fn judge(&mut self, judge: &Judge<'_>) -> Result<()> {
        judge.label(&mut self.labels)?;
        judge.judge_volume_options(&self.name, &self.driver_opts)?;
        // One that is there already is the answer.
        judge.others_volume(&self.name)
    }
}

impl Judged for VolumeClone {
    fn judge(&mut self, judge: &Judge<'_>) -> Result<()> {
        judge.label(&mut self.labels)?;
        judge.others_volume(&self.name)
    }
}

/// The containers, by id, of which those that run stand still for what is asked.
pub(crate) struct StandStill(pub(crate) Vec<String>);

impl Judged for StandStill {
    fn judge(&mut self, judge: &Judge<'_>) -> Result<()> {
        let mut found = self.0.iter().filter_map(|id| judge.engine.container(id).ok());
        let others = found.any(|container| container.traits().running.0 && !judge.sees(&container));
        judge.check(Rule::Label, others, "holding still a container that uses the volume and is another's")
    }
}

impl Judged for NetworkCreate {
    fn judge(&mut self, judge: &Judge<'_>) -> Result<()> {
        judge.label(&mut self.labels)?;
        let from = &mut self.config_from.network;
        if !from.is_empty() {
            let network = judge.engine.networks.resolve(from)?;
            if !judge.guard.policy.sees(&network.labels) {
                return Err(Error::not_found(format!("network {from} not found")));
            }
            // What it takes over from there is as if it had been said here.
            options_of_a_network(judge, &network.options)?;
        }
        options_of_a_network(judge, &self.options)?;
        let own = matches!(self.driver.as_str(), "" | "default" | "bridge");
        judge.check(Rule::NoHostNamespaces, !own, format_args!("the network driver {}", self.driver))
    }
}

fn options_of_a_network(judge: &Judge<'_>, options: &BTreeMap<String, String>) -> Result<()> {
    for (option, value) in options {
        let asked = format_args!("the network's option {option}={value}");
        judge.check(Rule::NoHostNamespaces, !keeps_to_itself(option), asked)?;
    }
    Ok(())
}

/// Whether a network's option changes nothing but the network itself. A list of what is let through, so that an option
/// that is new is refused until somebody has looked at it. Not in it is what names an interface of the host, or chooses
/// the address that its traffic leaves with, or lets others than its containers come in (routed modes, trusted
/// interfaces).
fn keeps_to_itself(option: &str) -> bool {
    let Some(known) = option.strip_prefix("com.docker.network.") else {
        return false;
    };
    matches!(
        known,
        "bridge.enable_icc"
            | "bridge.enable_ip_masquerade"
            | "bridge.host_binding_ipv4"
            | "bridge.default_bridge"
            | "bridge.inhibit_ipv4"
            | "container_iface_prefix"
            | "driver.mtu"
            | "enable_ipv4"
            | "enable_ipv6"
    )
}

/// The container that a network is given to, or taken from.
pub(crate) fn member(judge: &Judge<'_>, name: &mut String) -> Result<()> {
    let container = judge.container(name)?;
    name.clone_from(&container.id);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::keeps_to_itself;

    #[test]
    fn an_option_that_reaches_the_host_is_none_of_the_network_alone() {
        for of_the_host in [
            "bridge.name",
            "bridge.trusted_host_interfaces",
            "bridge.gateway_mode_ipv4",
            "bridge.gateway_mode_ipv6",
            "host_ipv4",
            "host_ipv6",
            "bridge.one_that_comes_later",
        ] {
            assert!(!keeps_to_itself(&format!("com.docker.network.{of_the_host}")), "{of_the_host}");
        }
        assert!(!keeps_to_itself("parent"));
        for own in ["bridge.enable_icc", "bridge.enable_ip_masquerade", "driver.mtu", "enable_ipv6"] {
            assert!(keeps_to_itself(&format!("com.docker.network.{own}")), "{own}");
        }
    }
}
