//! Each request, by its row in the table of endpoints: let through, refused with the rule that did it, or answered as if
//! what it names were not there.

use std::sync::Arc;

use hull_engine::container::Container;
use hull_engine::{Error, Kind, Result};
use hull_image::Image;
use hull_image::reference::Reference;

use super::{Judge, Rule, pinned};
use crate::http::Query;
use crate::routes::{Class, Of, Route};

impl Judge<'_> {
    /// Judges a request. What it names is named by its id behind this, and lists are asked for what is seen.
    ///
    /// # Errors
    /// It is refused (403), or what it names is not there for this socket.
    pub(crate) fn admit(&self, route: &Route, captures: &mut [String], query: &mut Query) -> Result<()> {
        let (of, writes) = match route.class {
            Class::Read(of) => (of, false),
            Class::Write(of) => (of, true),
        };
        self.check(Rule::ReadOnly, writes, route.name())?;
        let nothing = &mut String::new();
        let named = captures.first_mut().unwrap_or(nothing);
        match of {
            // What is made is judged where the body has been read; what is told is what is seen.
            Of::Greeting | Of::Nothing | Of::Body | Of::Info => Ok(()),
            Of::Machine | Of::NewImage => self.check(Rule::Label, true, route.name()),
            Of::Host => self.admit_to_host(route, writes),
            Of::Events => self.narrow(query),
            Of::Listed => {
                self.look_at_bounds(route, query)?;
                self.narrow(query)
            }
            Of::Container => self.admit_container(route, named, query),
            Of::Inside => {
                let container = self.container(named)?;
                self.reaches_inside(&container)?;
                named.clone_from(&container.id);
                Ok(())
            }
            Of::Exec => self.admit_exec(named, writes),
            Of::Commit => self.admit_commit(query),
            Of::Image => self.pin_image(named).map(drop),
            Of::Tag => {
                self.pin_image(named)?;
                self.names_no_others(query)
            }
            Of::Push => self.admit_push(named, query),
            Of::Images => self.pin_images(query),
            Of::Volume => self.volume(named),
            Of::VolumeFiles => self.volume_files(named),
            Of::Network => self.pin_network(named),
        }
    }

    /// Whoever changes the machine or the daemon makes his own rules.
    fn admit_to_host(&self, route: &Route, writes: bool) -> Result<()> {
        self.check(Rule::Label, true, route.name())?;
        match self.guard.policy.switches.iter().find(|rule| **rule != Rule::ReadOnly) {
            Some(rule) => self.check(*rule, writes, route.name()),
            None => Ok(()),
        }
    }

    fn admit_container(&self, route: &Route, named: &mut String, query: &Query) -> Result<()> {
        if query.flag("link") {
            // It is named by two names, of which neither is the container's that changes.
            return self.check(Rule::Label, true, format_args!("{} of a link", route.name()));
        }
        let container = self.container(named).map_err(|error| match route.name().ends_with("/kill") {
            // As the endpoint words it.
            true => Error { message: format!("cannot kill container: {named}: {}", error.message), ..error },
            false => error,
        })?;
        named.clone_from(&container.id);
        Ok(())
    }

    fn admit_exec(&self, id: &str, writes: bool) -> Result<()> {
        let (container, exec) = self.engine.exec(id)?;
        if !self.sees(&container) {
            return Err(Error::not_found(format!("No such exec instance: {id}")));
        }
        if writes {
            // It may be another's, who had more to say.
            self.check(Rule::NoPrivilege, exec.config.privileged, format_args!("the privileged exec {id}"))?;
            self.reaches_inside(&container)?;
        }
        Ok(())
    }

    fn admit_commit(&self, query: &mut Query) -> Result<()> {
        let container = self.container(query.get("container").unwrap_or_default())?;
        query.set("container", container.id.clone());
        if let Some(label) = self.guard.label_filter() {
            let (key, value) = label.split_once('=').unwrap_or((&label, ""));
            // Behind all that it may say of labels itself. The label is plain words.
            query.add("changes", format!("LABEL {key}=\"{value}\""));
        }
        self.names_no_others(query)
    }

    /// Whether the container has nothing of the host that this socket refuses: to be inside is to have it.
    pub(super) fn reaches_inside(&self, container: &Arc<Container>) -> Result<()> {
        self.judge_existing(container).map_err(|error| match error.kind {
            Kind::Forbidden => {
                let name = container.id.get(..12).unwrap_or_default();
                Error { message: format!("the container {name}: {}", error.message), ..error }
            }
            _ => error,
        })
    }

    /// Asks for what carries the label only.
    fn narrow(&self, query: &mut Query) -> Result<()> {
        let Some(label) = self.guard.label_filter() else { return Ok(()) };
        let mut filters = query.filters()?;
        filters.entry("label".to_owned()).or_default().push(label);
        let text = serde_json::to_string(&filters).map_err(|error| Error::system("narrow a list", error))?;
        query.set("filters", text);
        Ok(())
    }

    /// What a list begins or ends with must be there.
    fn look_at_bounds(&self, route: &Route, query: &Query) -> Result<()> {
        if !self.has(Rule::Label) {
            return Ok(());
        }
        let filters = query.filters()?;
        for name in ["before", "since"] {
            for value in filters.get(name).into_iter().flatten().map(String::as_str).chain(query.text(name)) {
                match route.name().contains("/images/") {
                    true => drop(self.image(value)?),
                    false => drop(self.container(value)?),
                }
            }
        }
        Ok(())
    }

    /// Finds an image among those that are there for this socket.
    pub(super) fn image(&self, name: &str) -> Result<Arc<Image>> {
        let image = self.engine.images.resolve(name)?;
        if self.guard.policy.sees(&image.container_config().labels) {
            return Ok(image);
        }
        Err(Error::not_found(format!("No such image: {name}")))
    }

    pub(super) fn pin_image(&self, name: &mut String) -> Result<Arc<Image>> {
        let image = self.image(name)?;
        *name = pinned(name, &image.id.to_string());
        Ok(image)
    }

    fn pin_images(&self, query: &mut Query) -> Result<()> {
        let mut names: Vec<String> = query.all("names").map(str::to_owned).collect();
        for name in names.iter_mut().filter(|name| !name.is_empty()) {
            self.pin_image(name)?;
        }
        let mut names = names.into_iter();
        if let Some(first) = names.next() {
            query.set("names", first);
        }
        names.for_each(|name| query.add("names", name));
        Ok(())
    }

    /// A name that an image is to get is not taken from another's.
    fn names_no_others(&self, query: &Query) -> Result<()> {
        let Some(repository) = query.text("repo").filter(|_| self.has(Rule::Label)) else { return Ok(()) };
        let name = crate::images::with_tag(repository, query.text("tag"))?;
        match self.engine.images.resolve(&name) {
            Ok(image) => {
                let others = !self.guard.policy.sees(&image.container_config().labels);
                self.check(Rule::Label, others, format_args!("the name {name}, which another image has"))
            }
            // It is free, or none, which the endpoint says better.
            Err(_) => Ok(()),
        }
    }

    /// What is pushed: the tag, or all tags of a repository. It is told by its name, which is therefore not replaced.
    fn admit_push(&self, name: &str, query: &Query) -> Result<()> {
        if !self.has(Rule::Label) {
            return Ok(());
        }
        let Ok(reference) = Reference::parse(&crate::images::with_tag(name, query.text("tag"))?) else {
            // It is none, which the endpoint says better.
            return Ok(());
        };
        for (tagged, id) in self.engine.images.tags_of(&reference) {
            if reference.tag.is_some() && tagged.tag != reference.tag {
                continue;
            }
            let image = self.engine.images.resolve(&id.to_string())?;
            let others = !self.guard.policy.sees(&image.container_config().labels);
            self.check(Rule::Label, others, format_args!("the push of {}", tagged.familiar()))?;
        }
        Ok(())
    }

    /// Whether a volume is there for this socket, and its files are not the host's.
    fn volume_files(&self, name: &str) -> Result<()> {
        self.volume(name)?;
        self.judge_volume_options(name, &self.engine.volumes.get(name)?.options)
    }

    /// Whether a volume is there for this socket.
    pub(super) fn volume(&self, name: &str) -> Result<()> {
        let volume = self.engine.volumes.get(name)?;
        match self.guard.policy.sees(&volume.labels) {
            true => Ok(()),
            false => Err(Error::not_found(format!("get {name}: no such volume"))),
        }
    }

    fn pin_network(&self, name: &mut String) -> Result<()> {
        let network = self.engine.networks.resolve(name)?;
        if !self.guard.policy.sees(&network.labels) {
            return Err(Error::not_found(format!("network {name} not found")));
        }
        self.check(Rule::NoHostNamespaces, network.driver == "host", format_args!("the network {name}"))?;
        *name = pinned(name, &network.id);
        Ok(())
    }
}
