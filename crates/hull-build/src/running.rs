//! RUN: a command in a container on what was built so far.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;

use hull_engine::container::Step;
use hull_engine::model::{Config, CreateBody};
use hull_engine::{Error, Kind};
use hull_image::{Digest, ImageConfig, Platform};
use rustix::io::Errno;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::behind::known_by;
use crate::dockerfile::{Command, Run};
use crate::failure::{Failure, Result};
use crate::intermediate::Doing;
use crate::key::Key;
use crate::metadata::shell;
use crate::mounts::Mounts;
use crate::progress::Event;
use crate::stage::{Outcome, Stage};

/// So much of what a command printed last is told when it fails.
const TAIL: usize = 4 << 10;

/// What a command that failed has written is kept up to so many bytes: it may have failed for want of room.
const KEPT_FAILED: u64 = 1 << 30;

/// A frame of output may not be longer than the shim makes one.
const FRAME: usize = 1 << 20;

impl Stage {
    /// Runs a command, unless the same was run before on the same.
    pub(crate) async fn run(&mut self, run: &Run) -> Result<Outcome> {
        refuse(run, &self.build.request.host.network_mode)?;
        for mount in &run.mounts {
            Box::pin(self.wait_for(&mount.from)).await?;
        }
        // What was mounted is this build's: secrets, caches, others' files.
        let may_stay = run.mounts.is_empty() && run.script().is_none();
        let mut mounts = Box::pin(self.mounts(&run.mounts)).await?;
        let words = self.words(run, &mut mounts);
        let shown = words.join(" ");
        let arguments = self.visible_arguments();
        let count = (!arguments.is_empty()).then(|| format!("|{}", arguments.len()));
        let mut doing = self.doing(count.iter().chain(&arguments).chain(&words).cloned().collect());
        let created_by = doing.line();
        let network = run.network.as_deref().filter(|network| *network != "default");
        let key = Key::of("run")
            .with(self.made.key.to_string())
            .with_all(&words)
            .with_all(&arguments)
            .with(network.unwrap_or(&self.build.request.host.network_mode))
            .with_all(self.build.request.host.extra_hosts.iter().flatten())
            .with_all(mounts.keys());
        // What is done to a volume is no part of what this makes.
        let key = if self.volumes() { key.with("volumes").finish() } else { key.finish() };
        if let Some(outcome) = self.found(key, &created_by, |_: &mut ImageConfig| Ok(()))? {
            return Ok(self.after_run(outcome));
        }
        // Another build, or another stage of this one, may be doing it: then it is there when that is through.
        let turn = self.turn(key).await;
        if let Some(outcome) = self.kept(key)? {
            return Ok(outcome);
        }
        let mounts = Box::pin(mounts.acquire()).await?;
        let mut body = self.body(words, &arguments, network);
        mounts.add_to(&mut body);
        let step = Box::pin(self.build.step(&self.made.draft, body)).await?;
        step.id().clone_into(&mut doing.container);
        let stubs = Box::pin(mounts.stubs(&step)).await?;
        self.tell_container(&step);
        let mut tail = Tail::default();
        let output = match Box::pin(step.start()).await {
            Ok(output) => output,
            Err(error) => {
                Box::pin(self.failed_in(step, may_stay)).await;
                return Err(not_started(&shown, error, &Platform::of(&self.made.draft.image.config)));
            }
        };
        Box::pin(self.printed(output, &mut tail)).await?;
        let (status, out_of_memory) = step.ended().await;
        if status != 0 {
            let mut failure = failed(&shown, status, out_of_memory, &tail);
            if self.build.request.keep_failed {
                failure.detail.kept = Box::pin(self.keep_failed(step, &stubs, &doing)).await;
            } else if self.build.request.classic {
                Box::pin(self.failed_in(step, may_stay)).await;
            }
            return Err(failure);
        }
        step.clear_mount_points(&stubs)?;
        let taken = Box::pin(self.taken(step, may_stay)).await?;
        let outcome = self.entered(key, doing, taken, Some(turn), |_: &mut ImageConfig| Ok(()));
        let outcome = Box::pin(outcome).await?;
        Ok(self.after_run(outcome))
    }

    /// Keeps the files of a command that failed, as it left them, with the variables that it saw. Where they cannot be kept
    /// the failure is told all the same.
    async fn keep_failed(&mut self, step: Step, stubs: &[String], doing: &Doing) -> Option<Digest> {
        if is_short_of_room(&self.build.places.temporary) {
            // What it left may be why.
            return None;
        }
        step.clear_mount_points(stubs).ok()?;
        self.settle().await.ok()?;
        let sealed = Box::pin(step.seal(self.build.epoch)).await.ok()?;
        let layer = sealed.as_ref().map(|(layer, _)| layer);
        let size = layer.map_or(0, |layer| layer.size);
        if size > KEPT_FAILED {
            return None;
        }
        let seen: Vec<String> =
            self.visible_arguments().into_iter().chain(self.predefined_arguments()).collect();
        let next = crate::stage::next(&self.build, &self.made.draft, doing, layer, |config| {
            config.config.get_or_insert_default().env.extend(seen);
            Ok(())
        });
        // The same command that fails again takes the place of what it left before.
        let created_by = doing.line();
        let key = Key::of("failed").with(self.made.key.to_string()).with(&created_by).finish();
        let images = &self.build.engine.images;
        images.keep_step(&key, &next.ok()?, &format!("(failed) {created_by}"), size).ok()?;
        Some(key)
    }

    /// What follows a command is known by what that made, and not by the command alone: where it is run anew
    /// (`--no-cache-filter`, `--target`) and makes something else, what was built on its former layer is not used.
    fn after_run(&self, mut outcome: Outcome) -> Outcome {
        let new = known_by(&self.made.draft.image.config, &outcome.made.draft.image.config);
        outcome.made.key = Key::of("ran").with(outcome.made.key.to_string()).with_all(new).finish();
        outcome
    }

    /// Whether the image's volumes are mounted where it runs.
    fn volumes(&self) -> bool {
        self.build.request.classic && !self.made.draft.image.container_config().volumes.is_empty()
    }

    /// What is executed.
    fn words(&self, run: &Run, mounts: &mut Mounts) -> Vec<String> {
        let shell = shell(&self.made.draft.image.container_config());
        match (&run.command, run.script()) {
            (Command::Exec(words), _) => words.clone(),
            // What its first line names executes it.
            (_, Some(script)) if script.content.starts_with("#!") => {
                vec![mounts.add_script(&script.name, script.content.clone())]
            }
            (_, Some(script)) => shell.into_iter().chain([script.content.clone()]).collect(),
            _ => shell.into_iter().chain(run.line()).collect(),
        }
    }

    pub(crate) fn body(&self, words: Vec<String>, arguments: &[String], network: Option<&str>) -> CreateBody {
        let image = self.made.draft.image.container_config();
        let mut env = image.env.clone();
        env.extend(arguments.iter().cloned());
        env.extend(self.predefined_arguments());
        let mut host = self.build.request.host.clone();
        if let Some(network) = network {
            network.clone_into(&mut host.network_mode);
        }
        let volumes = self
            .volumes()
            .then(|| image.volumes.keys().map(|place| (place.clone(), Default::default())).collect());
        let config = Config {
            volumes,
            cmd: Some(words),
            env: Some(env),
            user: image.user.clone(),
            working_dir: if image.working_dir.is_empty() {
                "/".to_owned()
            } else {
                image.working_dir.clone()
            },
            ..Config::default()
        };
        CreateBody { config, host_config: host, ..CreateBody::default() }
    }

    /// Tells what the command prints, until it has closed its streams.
    async fn printed(&self, output: OwnedFd, tail: &mut Tail) -> Result<()> {
        let failed = |error: std::io::Error| Failure::system("read what a command prints", error);
        let socket = std::os::unix::net::UnixStream::from(output);
        socket.set_nonblocking(true).map_err(failed)?;
        let mut socket = UnixStream::from_std(socket).map_err(failed)?;
        let mut texts = [Text::default(), Text::default()];
        loop {
            let mut head = [0; 8];
            match socket.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(failed(error)),
            }
            let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
            if length > FRAME {
                return Err(Failure::system("read what a command prints", "a frame is too long"));
            }
            let mut bytes = vec![0; length];
            socket.read_exact(&mut bytes).await.map_err(failed)?;
            let error = head[0] == 2;
            tail.add(&bytes);
            let text = texts[usize::from(error)].add(bytes);
            if !text.is_empty() {
                self.build.say(Event::Output { step: self.step, text, error });
                self.build.tell.room().await;
            }
        }
        for (index, text) in texts.into_iter().enumerate() {
            let text = text.finish();
            if !text.is_empty() {
                self.build.say(Event::Output { step: self.step, text, error: index == 1 });
            }
        }
        Ok(())
    }
}

/// What nobody has granted.
fn refuse(run: &Run, granted: &str) -> Result<()> {
    if run.network.as_deref() == Some("host") && granted != "host" {
        return Err(Failure::new(
            Kind::Forbidden,
            "RUN --network=host: granting entitlement network.host is not allowed: build with --network host to grant it",
        ));
    }
    if run.security.as_deref() == Some("insecure") {
        return Err(Failure::new(
            Kind::NotImplemented,
            "RUN --security=insecure is not supported by hull yet: the entitlement security.insecure cannot be granted",
        ));
    }
    if let Some(device) = run.devices.first() {
        return Err(Failure::new(
            Kind::NotImplemented,
            format!("RUN --device={device} is not supported by hull yet"),
        ));
    }
    Ok(())
}

/// Where the kernel knows nothing that would run the program, and the image is for another machine, what to do is said.
fn not_started(shown: &str, error: Error, platform: &Platform) -> Failure {
    let is_no_program = error.errno == Some(Errno::NOEXEC.raw_os_error());
    let advice = is_no_program.then(|| crate::foreign::advice(platform)).flatten();
    let mut failure = Failure::from(error);
    if let Some(advice) = advice {
        failure.message = format!("{}\n{advice}", failure.message);
    }
    failure.detail.classic = Some(failure.message.clone());
    failure.message = format!("process {shown:?} could not be started: {}", failure.message);
    failure
}

fn failed(shown: &str, status: i32, out_of_memory: bool, tail: &Tail) -> Failure {
    let memory = if out_of_memory { " (it was killed: out of memory)" } else { "" };
    let mut failure = Failure::invalid(format!(
        "process {shown:?} did not complete successfully: exit code: {status}{memory}"
    ));
    failure.kind = Kind::System;
    failure.detail.classic = Some(format!("The command '{shown}' returned a non-zero code: {status}"));
    failure.detail.code = Some(status);
    failure.detail.output = tail.text();
    failure
}

/// The last of what was printed.
#[derive(Default)]
struct Tail(VecDeque<u8>);

impl Tail {
    fn add(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(TAIL)..];
        self.0.extend(bytes);
        let over = self.0.len().saturating_sub(TAIL);
        self.0.drain(..over);
    }

    fn text(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Text that comes in pieces: a letter whose bytes are apart waits for its rest.
#[derive(Default)]
struct Text(Vec<u8>);

impl Text {
    fn add(&mut self, bytes: Vec<u8>) -> String {
        self.0.extend(bytes);
        let end = match std::str::from_utf8(&self.0) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.0.len(),
        };
        let rest = self.0.split_off(end);
        let text = String::from_utf8_lossy(&self.0).into_owned();
        self.0 = rest;
        text
    }

    fn finish(self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

/// Whether a folder's file system has less than a twentieth of its room left.
fn is_short_of_room(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|disk| disk.f_bavail < disk.f_blocks / 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_not_torn() {
        let mut text = Text::default();
        assert_eq!(text.add(vec![b'a', 0xc3]), "a");
        assert_eq!(text.add(vec![0xa9, 0xff, b'b']), "é\u{fffd}b");
        assert_eq!(text.add(vec![0xc3]), "");
        assert_eq!(text.finish(), "\u{fffd}");
    }

    #[test]
    fn the_end_of_the_output_is_kept() {
        let mut tail = Tail::default();
        tail.add(&vec![b'x'; 3 * TAIL]);
        tail.add(b"end");
        assert_eq!(tail.text().len(), TAIL);
        assert!(tail.text().ends_with("xend"));
    }

    #[test]
    fn only_what_cannot_be_executed_wants_an_emulator() {
        let alpha: Platform = "linux/alpha".parse().unwrap();
        let told = |errno: Option<i32>, platform: &Platform| {
            let error = Error { errno, ..Error::invalid("exec /x: no") };
            not_started("/x", error, platform).message.contains("has no emulator")
        };
        assert!(told(Some(Errno::NOEXEC.raw_os_error()), &alpha));
        for other in [None, Some(Errno::NOENT.raw_os_error()), Some(Errno::NOMEM.raw_os_error())] {
            assert!(!told(other, &alpha), "{other:?}");
        }
        assert!(!told(Some(Errno::NOEXEC.raw_os_error()), &Platform::host()));
    }

    #[test]
    fn a_failure_is_told_in_both_words() {
        let failure = failed("/bin/sh -c exit 9", 9, false, &Tail::default());
        assert_eq!(
            failure.message,
            "process \"/bin/sh -c exit 9\" did not complete successfully: exit code: 9"
        );
        assert_eq!(
            failure.detail.classic.unwrap(),
            "The command '/bin/sh -c exit 9' returned a non-zero code: 9"
        );
    }
}
