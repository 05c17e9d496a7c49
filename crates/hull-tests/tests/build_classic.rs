//! Docker's classic builder: `POST /build` with an archive, and what its lines and its images say.

use hull_tests::registry::Registry;
use hull_tests::{Daemon, Engine, Tar, private_network};

/// Builds a context; the lines of the answer, one after the other, ids masked.
fn built(daemon: &Daemon, query: &str, context: Tar) -> String {
    let path = format!("/build?{query}");
    let answer = daemon.api().send("POST", &path, "application/x-tar", &context.finish()).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut said = String::new();
    for line in answer.text().lines().filter(|line| !line.is_empty()) {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        said.extend(["stream", "error"].iter().filter_map(|name| line[name].as_str()));
    }
    let words = said.split_inclusive(char::is_whitespace).map(|word| {
        let id = word.trim_end();
        let is_id = id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_id { word.replace(id, "ID") } else { word.to_owned() }
    });
    words.collect()
}

fn context(dockerfile: &str) -> Tar {
    Tar::new().file("Dockerfile", dockerfile.as_bytes())
}

fn started() -> Option<Daemon> {
    (Engine::under_test() == Engine::Hull).then(Daemon::start)
}

#[test]
fn a_step_of_two_stages_is_done_once_also_without_a_cache() {
    let Some(daemon) = started() else { return };
    let dockerfile = "FROM busybox AS a\nENV A=b\nFROM busybox\nENV A=b\nCOPY --from=a /bin/true /t\n";
    let said = built(&daemon, "nocache=1", context(dockerfile));
    assert_eq!(said.matches(" ---> Using cache\n").count(), 1, "{said}");
    let said = built(&daemon, "nocache=1", context(dockerfile));
    assert_eq!(said.matches(" ---> Using cache\n").count(), 1, "what another build made is not used: {said}");
}

#[test]
fn its_lines_are_dockers() {
    let Some(daemon) = started() else { return };
    let said = built(
        &daemon,
        "t=a&t=b:1",
        context("ARG BASE=busybox\nFROM $BASE\nENV A=b\nRUN echo out; echo err >&2\nCMD echo $A\n"),
    );
    let wanted = "Step 1/5 : ARG BASE=busybox\nStep 2/5 : FROM $BASE\n ---> ID\nStep 3/5 : ENV A=b\n ---> Running in ID\n \
                  ---> Removed intermediate container ID\n ---> ID\nStep 4/5 : RUN echo out; echo err >&2\n ---> Running in ID\n";
    assert!(said.starts_with(wanted), "{said}");
    // The two streams are apart: which comes first is not said.
    for line in ["out\n", "\u{1b}[91merr\n\u{1b}[0m", " ---> Removed intermediate container ID\n ---> ID\n"] {
        assert!(said.contains(line), "{line:?} in {said}");
    }
    assert!(
        said.ends_with(
            "Step 5/5 : CMD echo $A\n ---> Running in ID\n ---> Removed intermediate container ID\n ---> ID\nSuccessfully built ID\nSuccessfully tagged a:latest\nSuccessfully tagged b:1\n"
        ),
        "{said}"
    );
    // Nothing is said beyond that: what is unwise is told by other builders.
    assert!(!said.contains("Warning"), "{said}");
    let said = built(&daemon, "", context("FROM busybox\nCOPY *.none /\n"));
    assert!(said.ends_with("COPY failed: no source files were specified"), "{said}");
    let said = built(&daemon, "", context("FROM scratch\n"));
    assert_eq!(said, "Step 1/1 : FROM scratch\n ---> \nNo image was generated. Is your Dockerfile empty?");
    let said = built(&daemon, "", context("FROM scratch\nLABEL a=b\n"));
    assert!(said.starts_with("Step 1/2 : FROM scratch\n ---> \nStep 2/2"), "{said}");
    let said = built(&daemon, "", context("FROM busybox\nCOPY --from=hull.invalid/nope /a /a\n"));
    assert!(said.contains("invalid from flag value hull.invalid/nope: Get "), "{said}");
    let said = built(&daemon, "", context("FROM busybox\nCOPY --from=5 /a /a\n"));
    assert!(said.ends_with("COPY --from=5 /a /a\ninvalid from flag value 5: index out of bounds"), "{said}");
    let said = built(&daemon, "", context("FROM busybox AS a\nFROM busybox\nCOPY --from=a /nope /a\n"));
    assert!(said.ends_with("COPY failed: stat nope: file does not exist"), "{said}");
    // Labels are steps, and what they say is not expanded.
    let said =
        built(&daemon, "labels=%7B%22a%22:%22it%27s%20$x%22,%22b%22:%22c%22%7D", context("FROM busybox\n"));
    let label = |step: &str| {
        format!("{step}\n ---> Running in ID\n ---> Removed intermediate container ID\n ---> ID\n")
    };
    let steps = label("Step 2/3 : LABEL a=it's $x") + &label("Step 3/3 : LABEL b=c");
    assert!(
        said.starts_with(&format!("Step 1/3 : FROM busybox\n ---> ID\n{steps}Successfully built ID\n")),
        "{said}"
    );
    // A quiet build tells of itself where it fails.
    let said = built(&daemon, "q=1", context("FROM busybox\nRUN echo why; exit 4\n"));
    let wanted = "Step 1/2 : FROM busybox\n ---> ID\nStep 2/2 : RUN echo why; exit 4\n ---> Running in ID\nwhy\n\
                  The command '/bin/sh -c echo why; exit 4' returned a non-zero code: 4";
    assert_eq!(said, wanted);
    assert!(built(&daemon, "q=1", context("FROM busybox\n")).starts_with("sha256:"));
}

/// The ids of images, from one with this name down to the one that has no parent here.
fn chain(daemon: &Daemon, name: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut next = name.to_owned();
    while !next.is_empty() {
        let shown = daemon.api().get(&format!("/v1.44/images/{next}/json")).expect("an answer").json();
        ids.push(shown["Id"].as_str().expect("an id").to_owned());
        next = shown["Parent"].as_str().expect("a parent").to_owned();
    }
    ids
}

#[test]
fn each_step_is_an_image() {
    let Some(daemon) = started() else { return };
    let dockerfile = "FROM busybox\nENV A=b\nRUN echo 1 >/f\nCOPY Dockerfile /\nWORKDIR /w\n";
    built(&daemon, "t=made", context(dockerfile));
    let ids = chain(&daemon, "made");
    assert_eq!(ids.len(), 5);
    assert_eq!(ids[4], daemon.ok(&["image", "inspect", "-f", "{{.Id}}", "busybox"]));
    assert_eq!(daemon.ok(&["history", "-q", "--no-trunc", "made"]), ids.join("\n"));
    // Those without a name are there, and are listed where all are asked for.
    let count = |all: &[&str]| {
        daemon.ok(&[&["images", "-q", "--filter", "dangling=true"], all].concat()).lines().count()
    };
    assert_eq!((count(&[]), count(&["-a"])), (0, 3));
    // The step's container and its configuration, for clients that ask as they once did.
    let shown = daemon.api().get("/v1.44/images/made/json").expect("an answer").json();
    assert_eq!(
        shown["ContainerConfig"]["Cmd"].as_array().expect("words").last().expect("one"),
        "#(nop) WORKDIR /w"
    );
    assert_eq!(
        (shown["Config"]["Image"].as_str(), shown["Container"].as_str().map(str::len)),
        (Some(&*ids[1]), Some(64))
    );
    assert_eq!(
        daemon.api().get("/images/made/json").expect("an answer").json()["Config"]["Image"],
        serde_json::Value::Null
    );
    let said = built(&daemon, "t=again", context(dockerfile));
    assert_eq!(said.matches(" ---> Using cache\n ---> ID\n").count(), 4, "{said}");
    assert_eq!(chain(&daemon, "again"), ids);
    // An image goes with those that were made for it alone, and so does what may be used again.
    daemon.ok(&["rmi", "again"]);
    let gone = daemon.ok(&["rmi", "made"]);
    assert_eq!(ids.iter().filter(|id| gone.contains(&format!("Deleted: {id}"))).count(), 4, "{gone}");
    assert_eq!(count(&["-a"]), 0);
    let said = built(&daemon, "t=made", context(dockerfile));
    assert!(!said.contains("Using cache"), "{said}");
}

#[test]
fn what_a_saved_image_has_is_used_again() {
    let Some(daemon) = started() else { return };
    let dockerfile = "FROM busybox\nENV A=b\nRUN echo 1 >/f\nCMD x\n";
    built(&daemon, "t=made", context(dockerfile));
    let id = chain(&daemon, "made")[0].clone();
    daemon.session(
        "$ hull save -o made.tar made; hull rmi made >/dev/null; hull load -q -i made.tar >/dev/null\n",
    );
    assert_eq!(chain(&daemon, "made").len(), 1);
    let said = built(&daemon, "t=again&cachefrom=%5B%22made%22%5D", context(dockerfile));
    assert_eq!(said.matches("Using cache").count(), 3, "{said}");
    assert_eq!(daemon.ok(&["image", "inspect", "-f", "{{.Id}}", "again"]), id);
    let said =
        built(&daemon, "t=more&cachefrom=%5B%22made%22%5D", context(&format!("{dockerfile}RUN echo 2\n")));
    assert_eq!(said.matches("Using cache").count(), 3, "{said}");
}

#[test]
fn containers_of_steps_stay_where_they_are_wanted() {
    let Some(daemon) = started() else { return };
    let containers = || daemon.ok(&["ps", "-a", "--format", "{{.Command}} {{.State}}", "--no-trunc"]);
    let failing = "FROM busybox\nENV A=b\nRUN echo 1 >/f\nRUN exit 3\n";
    built(&daemon, "forcerm=1&rm=1", context(failing));
    assert_eq!(containers(), "");
    built(&daemon, "rm=1", context(failing));
    assert_eq!(containers(), "\"/bin/sh -c 'exit 3'\" exited");
    daemon.session("$ hull rm $(hull ps -aq) >/dev/null\n");
    let said = built(
        &daemon,
        "rm=0&nocache=1&t=made",
        context("FROM busybox\nENV A=b\nRUN echo 1 >/f\nWORKDIR /w\n"),
    );
    assert!(!said.contains("Removed"), "{said}");
    let kept = "\"/bin/sh -c '#(nop) WORKDIR /w'\" created\n\"/bin/sh -c 'echo 1 >/f'\" exited\n\"/bin/sh -c '#(nop) ' 'ENV A=b'\" created";
    assert_eq!(containers(), kept);
    // They are containers like others, with what they did; and the image has it too.
    daemon.session(
        r#"
        $ id=$(hull ps -aq --filter status=exited); hull diff $id; hull commit $id >/dev/null; hull start -a $id; hull rm $id >/dev/null; hull run --rm made cat /f
        A /f
        1
        "#,
    );
}

#[test]
fn stages_are_built_up_to_the_one_that_is_wanted() {
    let Some(daemon) = started() else { return };
    let dockerfile =
        "FROM busybox AS a\nENV A=1\nFROM busybox AS tests\nRUN echo tested\nFROM busybox AS c\nFROM x\n";
    let answer =
        daemon.api().send("POST", "/build?target=c", "application/x-tar", &context(dockerfile).finish());
    let text = answer.expect("an answer").text();
    assert!(text.contains("tested"), "{text}");
    // Each stage tells its image.
    assert_eq!(text.matches("{\"aux\":{\"ID\":\"sha256:").count(), 3, "{text}");
}

#[test]
fn what_is_asked_for_wrongly_is_refused_in_dockers_words() {
    let Some(daemon) = started() else { return };
    let refused = |query: &str| {
        let context = context("FROM busybox\n").finish();
        let path = format!("/build?{query}");
        let answer = daemon.api().send("POST", &path, "application/x-tar", &context).expect("an answer");
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
        answer.json()["message"].as_str().unwrap_or_default().to_owned()
    };
    for (query, message) in [
        ("dockerfile=../Dockerfile", "forbidden path outside the build context: ../Dockerfile ()"),
        ("dockerfile=nope", "Cannot locate specified Dockerfile: nope"),
        ("remote=nonsense", "remoteURL (nonsense) could not be recognized as URL"),
        ("version=3", "invalid version \"3\""),
        ("isolation=hyperv", "Unsupported isolation: \"hyperv\""),
        ("securityopt=a", "The daemon on this platform does not support setting security options on build"),
        (
            "t=a@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "build tag cannot contain a digest",
        ),
    ] {
        assert_eq!(refused(query), message);
    }
    assert!(refused("buildargs=x").starts_with("error reading build args: "));
}

#[test]
fn its_images_have_dockers_history() {
    let Some(daemon) = started() else { return };
    let dockerfile = "FROM scratch\nEXPOSE 80 81/udp\nVOLUME [\"/a\", \"/b\"]\nWORKDIR /w\nSHELL [\"/bin/sh\", \"-ec\"]\n\
                      HEALTHCHECK --interval=5s --retries=3 CMD true\n";
    built(&daemon, "t=c", context(dockerfile));
    daemon.session(
        r##"
        $ hull history --no-trunc --format '{{.CreatedBy}}' c
        /bin/sh -ec #(nop)  HEALTHCHECK &{["CMD-SHELL" "true"] "5s" "0s" "0s" "0s" '\x03'}
        /bin/sh -ec #(nop)  SHELL [/bin/sh -ec]
        /bin/sh -c #(nop) WORKDIR /w
        /bin/sh -c #(nop)  VOLUME [/a /b]
        /bin/sh -c #(nop)  EXPOSE 80 81/udp
        $ hull inspect -f '{{json .Config.Env}}' c
        ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        "##,
    );
}

#[test]
fn what_is_written_to_a_volume_is_the_volumes() {
    let Some(daemon) = started() else { return };
    let before = daemon.ok(&["volume", "ls", "-q"]);
    let dockerfile = "FROM busybox\nRUN mkdir /v; echo before >/v/f\nVOLUME /v\nCOPY Dockerfile /v/copied\n\
                      RUN cat /v/f; echo late >/v/g\nRUN ls /v\n";
    let said = built(&daemon, "t=c", context(dockerfile));
    assert!(said.contains("before\n") && said.contains("copied\nf\n"), "{said}");
    daemon.session(
        r#"
        $ hull run --rm c ls /v
        copied
        f
        $ mkdir ctx; printf '%s\n' 'FROM busybox' 'RUN mkdir /v' 'VOLUME /v' 'RUN echo late >/v/g' >ctx/Dockerfile; hull build -q -t d ctx >/dev/null; hull run --rm d cat /v/g
        late
        "#,
    );
    assert_eq!(daemon.ok(&["volume", "ls", "-q"]), before);
}

#[test]
fn mount_points_are_no_part_of_a_stage() {
    let Some(daemon) = started() else { return };
    daemon.session(
        r#"
        $ mkdir ctx; printf '%s\n' 'FROM busybox AS a' 'RUN mkdir /etc/own; echo 1 >/etc/own/f' 'FROM scratch' 'COPY --from=a / /' 'FROM busybox' 'COPY --from=1 /etc /etc2' 'COPY --from=1 / /all' >ctx/Dockerfile
        $ hull build -q -t c ctx >/dev/null; hull run --rm c sh -c 'ls -A /etc2 | grep -v passwd | grep -v group; ls -A /all | grep -c -e dockerenv -e proc -e sys -e dev; test -d /all/bin'
        own
        0
        $ printf '%s\n' 'FROM busybox' 'COPY --from=busybox /.dockerenv /x' >ctx/Dockerfile; hull build ctx 2>&1 | grep -c 'not found'
        1
        "#,
    );
}

#[test]
fn archives_of_every_kind_are_unpacked() {
    let Some(daemon) = started() else { return };
    daemon.session(
        r#"
        $ mkdir -p ctx in/d; echo 1 >in/d/f; tar -C in -cf t.tar d; for how in gzip bzip2 xz; do $how -k t.tar; done; mv t.tar* ctx; printf '%s\n' 'FROM busybox' 'ADD t.tar /0/' 'ADD t.tar.gz /1/' 'ADD t.tar.bz2 /2/' 'ADD t.tar.xz /3/' 'RUN cat /[0-3]/d/f | wc -l >/n' >ctx/Dockerfile
        $ hull build -q -t c ctx >/dev/null; hull run --rm c cat /n
        4
        $ for how in gzip bzip2 xz; do tar -C ctx -c . | $how | hull build -q -; done | uniq | wc -l
        1
        "#,
    );
}

#[test]
fn a_base_that_is_pulled_is_told_of() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    private_network();
    let registry = Registry::start();
    let daemon = Daemon::with(&[]);
    registry.image("1", &[1 << 20]);
    let image = format!("{}/a/b:1", registry.address);
    let build = |query: &str| {
        let context = context(&format!("FROM {image}\nENV a=b\n")).finish();
        let answer = daemon.api().send("POST", &format!("/build?{query}"), "application/x-tar", &context);
        answer.expect("an answer").text()
    };
    let text = build("t=made");
    assert!(text.contains(r#"{"status":"Pulling from a/b","id":"1"}"#), "{text}");
    assert!(text.contains(&format!("Status: Downloaded newer image for {image}")), "{text}");
    assert!(text.contains("Successfully tagged made:latest"), "{text}");
    assert!(!build("t=made").contains("Pulling"));
    assert!(build("t=made&pull=1").contains(&format!("Status: Image is up to date for {image}")));
    let quiet = build("q=1&pull=1");
    assert!(quiet.lines().count() == 1 && quiet.starts_with(r#"{"stream":"sha256:"#), "{quiet}");
}

#[test]
fn an_archive_may_end_behind_its_last_file() {
    let Some(daemon) = started() else { return };
    // As Docker's client sends one that it has put a Dockerfile of elsewhere into.
    let text = "FROM busybox\nCOPY last /\nCMD x\n";
    let whole = context(text).file("last", b"abc").finish();
    let end = whole.windows(3).rposition(|bytes| bytes == b"abc").expect("its contents") + 3;
    let send = |length: usize| {
        let answer = daemon.api().send("POST", "/build", "application/x-tar", &whole[..length]);
        answer.expect("an answer").text()
    };
    assert!(send(end).contains("Successfully built"), "{}", send(end));
    assert!(send(end - 1).contains("invalid tar archive: it is truncated"), "{}", send(end - 1));
}

#[test]
fn what_only_has_files_is_no_container_to_anybody() {
    let Some(daemon) = started() else { return };
    let text = "FROM busybox\nCOPY Dockerfile /\nLABEL a=b\n";
    built(&daemon, "t=made", context(text));
    let events = daemon.api().get("/events?since=1&until=0s").expect("events").text();
    let of = |action: &str| events.matches(&format!("\"Action\":\"{action}\"")).count();
    // The label's alone.
    assert_eq!((of("create"), of("destroy")), (1, 1), "{events}");
}
