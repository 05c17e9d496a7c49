//! What is measured: a row of the table each.

use std::process::Stdio;
use std::time::Instant;

use serde_json::{Value, json};

use super::contestants::{Api, Contestant};
use super::report::median;
use super::runtime::Runtime;
use super::{build, registry};
use crate::Result;

/// A row of the table.
pub(crate) struct Row {
    /// As goals and `--only` name it.
    pub(crate) name: &'static str,
    /// As the table names it.
    pub(crate) title: &'static str,
    /// Of the figures.
    pub(crate) unit: &'static str,
    /// Takes minutes: only with `--long`.
    pub(crate) long: bool,
    /// At most this many rounds.
    most: usize,
    /// One measurement; `None` where the row does not apply to the contestant.
    pub(crate) measure: fn(&mut Contestant) -> Result<Option<f64>>,
}

impl Row {
    /// One that takes no minutes.
    const fn of(
        name: &'static str,
        title: &'static str,
        unit: &'static str,
        most: usize,
        measure: fn(&mut Contestant) -> Result<Option<f64>>,
    ) -> Row {
        Row { name, title, unit, long: false, most, measure }
    }

    /// How many rounds this row has, of those asked for.
    pub(crate) fn rounds(&self, asked: usize) -> usize {
        asked.min(self.most)
    }
}

/// The table. What changes a daemon's memory comes last.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "memory-daemon",
        title: "memory of the daemon at rest",
        unit: "MiB",
        long: false,
        most: 1,
        measure: at_rest,
    },
    Row {
        name: "start-host",
        title: "create + start + wait + remove, the host's network",
        unit: "ms",
        long: false,
        most: usize::MAX,
        measure: |who| start(who, "host"),
    },
    Row {
        name: "start-none",
        title: "create + start + wait + remove, no network",
        unit: "ms",
        long: false,
        most: usize::MAX,
        measure: |who| start(who, "none"),
    },
    Row {
        name: "start-bridge",
        title: "create + start + wait + remove, bridge",
        unit: "ms",
        long: false,
        most: usize::MAX,
        measure: |who| start(who, "bridge"),
    },
    Row { name: "exec", title: "exec", unit: "ms", long: false, most: usize::MAX, measure: exec },
    Row {
        name: "run",
        title: "run --rm as a command",
        unit: "ms",
        long: false,
        most: usize::MAX,
        measure: command,
    },
    Row {
        name: "oci-run",
        title: "oci run of a bundle with true, from its execution to its exit",
        unit: "ms",
        long: false,
        most: usize::MAX,
        measure: bundle,
    },
    Row {
        name: "oci-memory",
        title: "the most memory that this run takes",
        unit: "MiB",
        long: false,
        most: 3,
        measure: |who| runtime_of(who).map(Runtime::peak).transpose(),
    },
    Row { name: "log", title: "100 MB of output, logged", unit: "ms", long: false, most: 3, measure: log },
    Row::of("load", "load of an image of 150 MB", "ms", 5, load),
    Row::of("load-processor", "processor time of that load", "s", 1, |who| {
        registry::spent(who, "load", |spent| spent.processor)
    }),
    Row::of("load-memory", "the most memory of the daemon during that load", "MiB", 1, |who| {
        registry::spent(who, "load", |spent| spent.memory)
    }),
    Row {
        name: "memory-each",
        title: "memory for each of 50 containers",
        unit: "MiB",
        long: false,
        most: 1,
        measure: memory_each,
    },
    Row::of("push", "push of an image of 520 MB in ten layers to docker-registry", "ms", 3, registry::push),
    Row::of("push-processor", "processor time of that push", "s", 1, |who| {
        registry::spent(who, "push", |spent| spent.processor)
    }),
    Row::of("push-memory", "the most memory of the daemon during that push", "MiB", 1, |who| {
        registry::spent(who, "push", |spent| spent.memory)
    }),
    Row::of("pull", "pull of it", "ms", 3, registry::pull),
    Row::of("pull-processor", "processor time of that pull", "s", 1, |who| {
        registry::spent(who, "pull", |spent| spent.processor)
    }),
    Row::of("pull-memory", "the most memory of the daemon during that pull", "MiB", 1, |who| {
        registry::spent(who, "pull", |spent| spent.memory)
    }),
    Row::of("save", "save of it", "ms", 3, registry::save),
    Row::of("save-processor", "processor time of that save", "s", 1, |who| {
        registry::spent(who, "save", |spent| spent.processor)
    }),
    Row::of("save-memory", "the most memory of the daemon during that save", "MiB", 1, |who| {
        registry::spent(who, "save", |spent| spent.memory)
    }),
    Row::of("remove", "removal of it", "ms", 3, registry::remove),
    Row::of("remove-whole", "until its files are gone", "ms", 1, |who| {
        registry::spent(who, "remove", |spent| spent.whole)
    }),
    Row::of("remove-processor", "processor time of that removal", "s", 1, |who| {
        registry::spent(who, "remove", |spent| spent.processor)
    }),
    Row::of("remove-memory", "the most memory of the daemon during that removal", "MiB", 1, |who| {
        registry::spent(who, "remove", |spent| spent.memory)
    }),
    Row::of("import", "import of a root file system of 52 MB", "ms", 3, registry::import),
    Row::of("import-processor", "processor time of that import", "s", 1, |who| {
        registry::spent(who, "import", |spent| spent.processor)
    }),
    Row::of("import-memory", "the most memory of the daemon during that import", "MiB", 1, |who| {
        registry::spent(who, "import", |spent| spent.memory)
    }),
    Row {
        name: "build-steps",
        title: "build of ten RUN steps behind a COPY",
        unit: "ms",
        long: false,
        most: 5,
        measure: build::steps,
    },
    Row {
        name: "build-cached",
        title: "build of the same, everything cached",
        unit: "ms",
        long: false,
        most: 5,
        measure: build::cached,
    },
    Row {
        name: "build-context",
        title: "build of a folder of 100,000 files, unchanged",
        unit: "ms",
        long: true,
        most: 3,
        measure: build::context,
    },
    Row {
        name: "build-stages",
        title: "build of two stages of ten seconds",
        unit: "s",
        long: true,
        most: 2,
        measure: build::stages,
    },
    Row {
        name: "build-copy",
        title: "build with a COPY of 1 GB",
        unit: "ms",
        long: true,
        most: 3,
        measure: build::copy,
    },
    Row {
        name: "log-tail",
        title: "the last line of a log of 1 GB",
        unit: "ms",
        long: true,
        most: 1,
        measure: log_tail,
    },
    Row {
        name: "health",
        title: "processor time of 50 containers checked each second",
        unit: "cores",
        long: true,
        most: 1,
        measure: health,
    },
    Row {
        name: "thousandth",
        title: "the 1000th container's start, in those of the first",
        unit: "times",
        long: true,
        most: 1,
        measure: thousandth,
    },
];

pub(super) fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}

fn start(who: &mut Contestant, network: &str) -> Result<Option<f64>> {
    let begin = Instant::now();
    match who {
        Contestant::Floor(floor) => return floor.container(network != "host").map(Some),
        Contestant::Api(api) => whole_life(
            api,
            &json!({
                "Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": network}
            }),
        )?,
        Contestant::Runtime(runtime) if network == "none" => return runtime.container().map(Some),
        Contestant::Podman(podman) => podman.container(network)?,
        Contestant::Runtime(_) => return Ok(None),
    }
    Ok(Some(milliseconds(begin)))
}

/// Create, start, wait, remove; the status must be 0.
fn whole_life(api: &mut Api, body: &Value) -> Result<()> {
    let id = api.create(body)?;
    api.expect("POST", &format!("/containers/{id}/start"), &Value::Null, 204)?;
    let waited = api.expect("POST", &format!("/containers/{id}/wait"), &Value::Null, 200)?;
    api.expect("DELETE", &format!("/containers/{id}"), &Value::Null, 204)?;
    if waited["StatusCode"] == 0 { Ok(()) } else { Err(format!("the container ended with {waited}").into()) }
}

fn exec(who: &mut Contestant) -> Result<Option<f64>> {
    let Contestant::Api(api) = who else { return Ok(None) };
    let begin = Instant::now();
    let path = format!("/containers/{}/exec", api.sleeper);
    let body = json!({"AttachStdout": true, "AttachStderr": true, "Cmd": ["true"]});
    let id = api.expect("POST", &path, &body, 201)?["Id"].as_str().ok_or("exec answered no id")?.to_owned();
    api.stream(&format!("/exec/{id}/start"), &json!({"Detach": false, "Tty": false}))?;
    let state = api.expect("GET", &format!("/exec/{id}/json"), &Value::Null, 200)?;
    let took = milliseconds(begin);
    if state["ExitCode"] == 0 { Ok(Some(took)) } else { Err(format!("the exec ended with {state}").into()) }
}

/// From the execution of the client to its exit.
fn command(who: &mut Contestant) -> Result<Option<f64>> {
    let begin = Instant::now();
    match who {
        Contestant::Api(api) => {
            let mut client = api.daemon.command(api.engine.client());
            let status = client.args(["run", "--rm", "busybox", "true"]).stdout(Stdio::null()).status()?;
            if !status.success() {
                return Err(format!("run --rm: {status}").into());
            }
        }
        Contestant::Podman(podman) => podman.container("bridge")?,
        Contestant::Floor(_) | Contestant::Runtime(_) => return Ok(None),
    }
    Ok(Some(milliseconds(begin)))
}

/// The OCI runtime of a contestant.
fn runtime_of(who: &mut Contestant) -> Option<&mut Runtime> {
    match who {
        Contestant::Runtime(runtime) => Some(runtime),
        Contestant::Api(api) => api.oci.as_mut(),
        Contestant::Floor(_) | Contestant::Podman(_) => None,
    }
}

/// The same bundle for every runtime.
fn bundle(who: &mut Contestant) -> Result<Option<f64>> {
    if let Contestant::Floor(floor) = who {
        return floor.container(true).map(Some);
    }
    let Some(runtime) = runtime_of(who) else { return Ok(None) };
    runtime.container().map(Some)
}

fn at_rest(who: &mut Contestant) -> Result<Option<f64>> {
    let Contestant::Api(api) = who else { return Ok(None) };
    Ok(Some(api.at_rest))
}

/// What 50 more containers add to the daemon and its helpers; the containers' own processes are not counted.
fn memory_each(who: &mut Contestant) -> Result<Option<f64>> {
    const COUNT: usize = 50;
    let Contestant::Api(api) = who else { return Ok(None) };
    let before = api.daemon.pss();
    let ids = sleepers(api, COUNT)?.0;
    let after = api.daemon.pss();
    remove(api, &ids)?;
    Ok(Some((after as f64 - before as f64) / 1024.0 / COUNT as f64))
}

/// Starts containers that stay; their ids, and how long each took to create and start.
fn sleepers(api: &mut Api, count: usize) -> Result<(Vec<String>, Vec<f64>)> {
    let (mut ids, mut took) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let begin = Instant::now();
        let id = api.create(&json!({"Image": "busybox", "Cmd": ["sleep", "1000000"]}))?;
        api.expect("POST", &format!("/containers/{id}/start"), &Value::Null, 204)?;
        took.push(milliseconds(begin));
        ids.push(id);
    }
    Ok((ids, took))
}

fn remove(api: &mut Api, ids: &[String]) -> Result<()> {
    for id in ids {
        api.expect("DELETE", &format!("/containers/{id}?force=1"), &Value::Null, 204)?;
    }
    Ok(())
}

fn thousandth(who: &mut Contestant) -> Result<Option<f64>> {
    let Contestant::Api(api) = who else { return Ok(None) };
    if api.name != "hull" {
        // A thousand containers take dockerd seven minutes, and no goal is set against it.
        return Ok(None);
    }
    let (ids, mut took) = sleepers(api, 1000)?;
    remove(api, &ids)?;
    let mut last = took.split_off(took.len() - 50);
    took.truncate(50);
    Ok(Some(median(&mut last) / median(&mut took)))
}

/// From start to the container's end, when all is in the log.
fn log(who: &mut Contestant) -> Result<Option<f64>> {
    let Contestant::Api(api) = who else { return Ok(None) };
    let bind = format!("{}:/log.txt:ro", api.log_file.display());
    let host = json!({"NetworkMode": "none", "Binds": [bind]});
    let begin = Instant::now();
    whole_life(api, &json!({"Image": "busybox", "Cmd": ["cat", "/log.txt"], "HostConfig": host}))?;
    Ok(Some(milliseconds(begin)))
}

fn load(who: &mut Contestant) -> Result<Option<f64>> {
    let Contestant::Api(api) = who else { return Ok(None) };
    let archive = std::fs::read(&api.image)?;
    let took = registry::measured(api, "load", |api| {
        api.upload("/images/load?quiet=1", "application/x-tar", &archive).map(drop)
    })?;
    api.expect("DELETE", "/images/bench/load:latest", &Value::Null, 200)?;
    Ok(Some(took))
}

/// How long the last line of a large log takes, at the median.
fn log_tail(who: &mut Contestant) -> Result<Option<f64>> {
    let Contestant::Api(api) = who else { return Ok(None) };
    let bind = format!("{}:/log.txt:ro", api.log_file.display());
    let options = json!({"Type": "json-file", "Config": {"max-size": "4g", "max-file": "2"}});
    let host = json!({"NetworkMode": "none", "Binds": [bind], "LogConfig": options});
    let script = "n=0; while [ $n -lt 10 ]; do cat /log.txt; n=$((n+1)); done";
    let id = api.create(&json!({"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": host}))?;
    api.expect("POST", &format!("/containers/{id}/start"), &Value::Null, 204)?;
    api.expect("POST", &format!("/containers/{id}/wait"), &Value::Null, 200)?;
    let mut took = Vec::new();
    for _ in 0..20 {
        let begin = Instant::now();
        let line = api.download(&format!("/containers/{id}/logs?stdout=1&tail=1"))?;
        took.push(milliseconds(begin));
        if line.len() != 108 {
            return Err(format!("the last line of the log has {} bytes", line.len()).into());
        }
    }
    remove(api, &[id])?;
    Ok(Some(median(&mut took)))
}

/// What the daemon and its helpers use while they check 50 idle containers, for ten seconds.
#[expect(clippy::disallowed_methods, reason = "the time that is measured")]
fn health(who: &mut Contestant) -> Result<Option<f64>> {
    const SPAN: std::time::Duration = std::time::Duration::from_secs(10);
    let Contestant::Api(api) = who else { return Ok(None) };
    let check = json!({"Test": ["CMD", "true"], "Interval": 1_000_000_000u64});
    let body = json!({"Image": "busybox", "Cmd": ["sleep", "1000000"], "Healthcheck": check});
    let mut ids = Vec::new();
    for _ in 0..50 {
        let id = api.create(&body)?;
        api.expect("POST", &format!("/containers/{id}/start"), &Value::Null, 204)?;
        ids.push(id);
    }
    let before = api.daemon.processor_time();
    std::thread::sleep(SPAN);
    let spent = api.daemon.processor_time().saturating_sub(before);
    remove(api, &ids)?;
    Ok(Some(spent.as_secs_f64() / SPAN.as_secs_f64()))
}
