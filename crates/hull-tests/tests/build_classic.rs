//! Docker's classic builder: `POST /build` with an archive, and what its lines and its images say.

use hull_tests::{Daemon, Engine, Tar};

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
    (Engine::under_test() == Engine::Hull).then(|| {
        let daemon = Daemon::start();
        daemon.import_busybox();
        daemon
    })
}

#[test]
fn its_lines_are_dockers() {
    let Some(daemon) = started() else { return };
    let said = built(
        &daemon,
        "t=a&t=b:1",
        context("ARG BASE=busybox\nFROM $BASE\nENV A=b\nRUN echo out; echo err >&2\nCMD echo $A\n"),
    );
    let wanted = "Step 1/5 : ARG BASE=busybox\nStep 2/5 : FROM $BASE\n ---> ID\nStep 3/5 : ENV A=b\n ---> ID\n\
                  Step 4/5 : RUN echo out; echo err >&2\n ---> Running in ID\n";
    assert!(said.starts_with(wanted), "{said}");
    // The two streams are apart: which comes first is not said.
    for line in ["out\n", "\u{1b}[91merr\n\u{1b}[0m", " ---> Removed intermediate container ID\n ---> ID\n"] {
        assert!(said.contains(line), "{line:?} in {said}");
    }
    assert!(
        said.ends_with(
            "Step 5/5 : CMD echo $A\n ---> ID\nSuccessfully built ID\nSuccessfully tagged a:latest\nSuccessfully tagged b:1\n"
        ),
        "{said}"
    );
    // Nothing is said beyond that: what is unwise is told by other builders.
    assert!(!said.contains("Warning"), "{said}");
    let said = built(&daemon, "", context("FROM busybox\nCOPY *.none /\n"));
    assert!(said.ends_with("COPY failed: no source files were specified"), "{said}");
    let said = built(&daemon, "", context("FROM scratch\n"));
    assert_eq!(said, "No image was generated. Is your Dockerfile empty?");
    let said = built(&daemon, "", context("FROM scratch\nLABEL a=b\n"));
    assert!(said.starts_with("Step 1/2 : FROM scratch\n ---> \nStep 2/2"), "{said}");
    let said = built(&daemon, "", context("FROM busybox\nCOPY --from=hull.invalid/nope /a /a\n"));
    assert!(said.contains("invalid from flag value hull.invalid/nope: "), "{said}");
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
