//! What Dockerfiles make: every instruction, stages, contexts, mounts.

use hull_tests::{Daemon, Engine, private_files};

#[test]
fn instructions_make_an_image() {
    Daemon::start().session(
        r#"
        $ mkdir ctx ctx/dir t; echo f >ctx/file; echo d >ctx/dir/inner; echo in >t/packed; tar -C t -czf ctx/archive.tar.gz packed
        $ printf '%s\n' 'FROM busybox' 'ARG NAME=nobody' 'ENV A=1 B="two words" C=$NAME D=${NO:-else} PATH=/opt:$PATH' 'LABEL l="x y"' 'RUN mkdir /opt && echo "$A-$B-$C-$D-$NAME" >/opt/out' 'WORKDIR /srv' 'WORKDIR app' 'COPY --chown=12:34 --chmod=0640 file dir/ ./c/' 'ADD archive.tar.gz /un/' 'EXPOSE 80 53/udp' 'VOLUME /vol' 'USER 12:34' 'STOPSIGNAL USR1' 'ENTRYPOINT ["sh", "-c"]' 'CMD ["cat /opt/out /un/packed; pwd; id -u; stat -c %u:%g:%a:%n c/*"]' >ctx/Dockerfile
        $ hull build -q -t made --build-arg NAME=some --label extra=1 ctx
        sha256:<id>
        $ hull run --rm made
        1-two words-some-else-some
        in
        /srv/app
        12
        12:34:640:c/file
        12:34:640:c/inner
        $ hull image inspect -f '{{json .Config.ExposedPorts}} {{.Config.User}} {{.Config.StopSignal}} {{json .Config.Volumes}} {{.Config.Labels.l}} {{.Config.Labels.extra}}' made
        {"53/udp":{},"80/tcp":{}} 12:34 USR1 {"/vol":{}} x y 1
        $ hull history --no-trunc --format '{{.CreatedBy}}' made | head -3
        /bin/sh -c #(nop)  LABEL extra=1
        /bin/sh -c #(nop)  CMD ["cat /opt/out /un/packed; pwd; id -u; stat -c %u:%g:%a:%n c/*"]
        /bin/sh -c #(nop)  ENTRYPOINT ["sh" "-c"]
        $ hull save made >made.tar; hull rmi -f made >/dev/null; hull builder prune -af >/dev/null; hull load -qi made.tar; hull run --rm made >all; head -1 all
        Loaded image: made:latest
        1-two words-some-else-some
        $ hull ps -aq
        "#,
    );
}

#[test]
fn stages_are_built_as_far_as_they_are_needed() {
    Daemon::start().session(
        r#"
        $ mkdir ctx; printf '%s\n' 'FROM busybox AS one' 'RUN echo one >/f; chown 5:6 /f' 'FROM one AS two' 'RUN echo two >>/f' 'FROM busybox AS unused' 'RUN exit 1' 'FROM scratch' 'COPY --from=0 /f /first' 'COPY --from=two /f /second' 'COPY --from=busybox /bin/busybox /bin/busybox' 'ENTRYPOINT ["/bin/busybox"]' 'CMD ["cat", "/first", "/second"]' >ctx/Dockerfile
        $ hull build -q -t last ctx >/dev/null; hull run --rm last; hull run --rm last stat -c %u:%g /first
        one
        one
        two
        5:6
        $ hull build -q -t mid --target two ctx >/dev/null; hull run --rm mid cat /f
        one
        two
        $ hull build --target towo ctx 2>&1 | tail -1
        Error response from daemon: target stage "towo" could not be found (did you mean two?)
        $ printf 'FROM busybox\nONBUILD RUN echo triggered >/t\nONBUILD COPY file /copied\n' | hull build -q -t parent - >/dev/null; echo x >ctx/file; printf 'FROM parent\n' >ctx/Child
        $ hull build -q -t child -f ctx/Child ctx >/dev/null; hull run --rm child cat /t /copied; hull image inspect -f '{{json .Config.OnBuild}}' child
        triggered
        x
        []
        $ hull ps -aq
        "#,
    );
}

#[test]
fn stages_that_do_not_need_each_other_run_at_the_same_time() {
    // Each waits for what the other makes, and would wait for ever.
    Daemon::start().session(
        r#"
        $ mkdir ctx; printf '%s\n' 'FROM busybox AS a' 'RUN --mount=type=cache,id=meet,target=/m touch /m/a; until test -e /m/b; do usleep 1000; done; echo a >/made' 'FROM busybox AS b' 'RUN --mount=type=cache,id=meet,target=/m touch /m/b; until test -e /m/a; do usleep 1000; done; echo b >/made' 'FROM busybox' 'COPY --from=a /made /a' 'COPY --from=b /made /b' >ctx/Dockerfile
        $ timeout 60 hull build -q -t both ctx >/dev/null; hull run --rm both cat /a /b
        a
        b
        $ hull run --rm both ls /m 2>/dev/null
        [1]
        "#,
    );
}

#[test]
fn locked_caches_are_waited_for_by_all_in_one_order() {
    // One that stands there twice waits for no other; of two stages that have two, none has what the other waits for.
    Daemon::start().session(
        r#"
        $ mkdir ctx; a=--mount=type=cache,sharing=locked,id=a,target; b=--mount=type=cache,sharing=locked,id=b,target; printf '%s\n' 'FROM busybox AS one' "RUN $a=/a $a=/again touch /a/x && ls /again >/made" >ctx/Dockerfile
        $ timeout 60 hull build -q -t one ctx >/dev/null; hull run --rm one cat /made
        x
        $ for n in 1 2 3 4 5 6; do printf '%s\n' "FROM one AS s$n" "RUN $a=/a $b=/b echo $n >>/b/n" "FROM one AS t$n" "RUN $b=/b $a=/a echo $n >>/b/n"; done >>ctx/Dockerfile
        $ { echo 'FROM busybox'; for n in 1 2 3 4 5 6; do printf '%s\n' "COPY --from=s$n /made /s$n" "COPY --from=t$n /made /t$n"; done; echo "RUN $b=/b wc -l </b/n >/count"; } >>ctx/Dockerfile
        $ timeout 120 hull build -q -t all ctx >/dev/null; hull run --rm all cat /count
        12
        "#,
    );
}

#[test]
fn a_context_is_what_its_list_leaves() {
    Daemon::start().session(
        r#"
        $ mkdir -p ctx/a/b ctx/node_modules/x; touch ctx/a/keep.md ctx/a/drop.log ctx/a/b/drop.log ctx/node_modules/x/f 'ctx/#strange name' ctx/.hidden
        $ printf '# comment\n**/*.log\nnode_modules\n!a/b/drop.log\nDockerfile\n.dockerignore\n' >ctx/.dockerignore; printf 'FROM busybox\nCOPY . /c/\nCMD ["sh", "-c", "cd /c; find . -type f | sort"]\n' >ctx/Dockerfile
        $ hull build -q -t c ctx >/dev/null; hull run --rm c
        ./#strange name
        ./.hidden
        ./a/b/drop.log
        ./a/keep.md
        $ tar -C ctx -c . | hull build -q -t c - >/dev/null; hull run --rm c | wc -l
        6
        $ printf 'FROM busybox\nRUN echo stdin >/o\n' | hull build -q -t c - >/dev/null; hull run --rm c cat /o
        stdin
        $ printf 'FROM busybox\nCOPY a/keep.md /o\n' | hull build -q -t c -f - ctx >/dev/null; hull run --rm c ls /o
        /o
        $ hull build -q --iidfile id ctx >/dev/null; cat id
        sha256:<id>
        "#,
    );
}

#[test]
fn mounts_are_there_and_are_no_part_of_the_image() {
    Daemon::start().session(
        r#"
        $ mkdir ctx; printf s3cret >token; echo data >ctx/file; printf '%s\n' '# syntax=docker/dockerfile:1' 'FROM busybox AS other' 'RUN mkdir -p /d/e && echo deep >/d/e/f' 'FROM busybox' 'ARG ROUND' 'RUN --mount=type=cache,target=/cache echo $ROUND >>/cache/r && cp /cache/r /rounds' 'RUN --mount=type=secret,id=token cat /run/secrets/token >/sum && stat -c %a /run/secrets/token >>/sum' 'RUN --mount=type=secret,id=token,env=T test "$T" = s3cret' 'RUN --mount=type=bind,target=/ctx cp /ctx/file /seen; ! touch /ctx/x 2>/dev/null' 'RUN --mount=type=bind,rw,target=/ctx touch /ctx/x' 'RUN --mount=from=other,source=/d,target=/o cp /o/e/f /deep' 'RUN --mount=from=other,source=/d/e/f,target=/of cat /of >>/deep' 'RUN --mount=type=tmpfs,target=/scratch grep -q " /scratch tmpfs " /proc/mounts' >ctx/Dockerfile
        $ hull build -q -t m --build-arg ROUND=one --secret id=token,src=token ctx >/dev/null; hull run --rm m cat /rounds /sum /seen /deep
        one
        s3cret400
        data
        deep
        deep
        $ hull build -q -t m --build-arg ROUND=two --secret id=token,src=token ctx >/dev/null; hull run --rm m cat /rounds
        one
        two
        $ hull run --rm m sh -c 'ls -d /cache /run /ctx /o /of /scratch 2>/dev/null'
        [1]
        $ ls ctx; hull save m | grep -c env=s3cret
        Dockerfile
        file
        0
        [1]
        $ hull build ctx 2>&1 | grep -c 'cat: can.t open'
        1
        "#,
    );
}

#[test]
fn documents_and_copies_in_every_form() {
    Daemon::start().session(
        r#"
        $ mkdir -p ctx/x/y ctx/z; echo 1 >ctx/x/y/one.txt; echo 2 >ctx/x/two.md; echo 3 >ctx/z/three.txt
        $ printf '%s\n' 'FROM busybox' 'RUN <<EOT' 'set -e' 'echo one >/h' 'echo two >>/h' 'EOT' 'COPY <<EOT /written' 'value $NO-$PATH' 'EOT' "COPY --chmod=u=rwx,go=x --link <<'EOT' /script" '#!/bin/sh' 'echo $0' 'EOT' 'RUN <<EOT' '#!/bin/cat' 'shown' 'EOT' 'COPY --parents x/*/*.txt z /p/' 'COPY --exclude=*.md x /e' 'COPY x/./y/one.txt /f/' >ctx/Dockerfile
        $ hull build --progress plain -t d ctx 2>&1 | grep -c shown
        1
        $ hull run --rm d sh -c 'cat /h /written; stat -c %a /script; /script; cd /; find p e f -type f | sort'
        one
        two
        value -/bin
        711
        /script
        e/y/one.txt
        f/one.txt
        p/x/y/one.txt
        p/z/three.txt
        $ printf '%s\n' 'FROM busybox' 'RUN mkdir /real; ln -s real /l; ln -s real /m' 'COPY x/two.md /l/' 'COPY --link x/two.md /m/' >ctx/Dockerfile; hull build -q -t d ctx >/dev/null; hull run --rm d sh -c 'cd /; ls -d real/* l/* m/*; test -L l && ! test -L m'
        l/two.md
        m/two.md
        real/two.md
        "#,
    );
}

#[test]
fn files_are_fetched() {
    Daemon::start().session(
        r#"
        $ mkdir www t; echo one >www/file; echo in >t/packed; tar -C t -czf www/a.tar.gz packed; hull run -d --name web -p 127.0.0.1:8091:80 -v ./www:/www busybox httpd -f -p 80 -h /www >/dev/null; eventually curl -sf http://127.0.0.1:8091/file
        $ sum=$(sha256sum <www/file | cut -d' ' -f1); printf '%s\n' 'FROM busybox' "ADD --checksum=sha256:$sum http://127.0.0.1:8091/file /d/" 'ADD --chmod=644 http://127.0.0.1:8091/file /named' 'ADD http://127.0.0.1:8091/a.tar.gz /kept/' 'ADD --unpack=true http://127.0.0.1:8091/a.tar.gz /un/' >Dockerfile; hull build -q -t f . >/dev/null; hull run --rm f sh -c 'cat /d/file /named /un/packed; ls /kept; stat -c %a /d/file /named'
        one
        one
        in
        a.tar.gz
        600
        644
        $ hull build --progress plain . 2>&1 | grep -c CACHED; echo two >www/file; hull build . 2>&1 | grep -c 'digest mismatch'
        4
        1
        $ printf 'FROM busybox\nADD http://127.0.0.1:8091/none /x\n' | hull build - 2>&1 | tail -1; printf 'FROM busybox\nADD http://127.0.0.1:8091/ /x/\n' | hull build - 2>&1 | tail -1
        failed to build: ADD failed: http://127.0.0.1:8091/none: the server answered 404 Not Found
        failed to build: cannot determine filename from url: http://127.0.0.1:8091/: name the file in the destination
        $ hull system socket add $PWD/p.sock no-host-namespaces >/dev/null; printf 'FROM busybox\nADD http://127.0.0.1:8091/file /x\n' | hull -H unix://$PWD/p.sock build - 2>&1 | grep -c 'which this socket refuses'
        1
        "#,
    );
}

#[test]
fn steps_are_in_user_namespaces_where_containers_are() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    private_files(&[("/etc/subuid", "hull:300000:65536\n"), ("/etc/subgid", "hull:300000:65536\n")]);
    Daemon::with(&["--userns-remap=default"]).session(
        r#"
        $ mkdir ctx; echo f >ctx/f; echo sec >sec; printf '%s\n' 'FROM busybox AS a' 'RUN cut -c 1-24 /proc/self/uid_map >/map; chown 5:6 /map' 'COPY --chown=7:8 f /f' 'FROM busybox' 'COPY --from=a /map /f /w/' 'RUN --mount=type=cache,target=/c echo 1 >>/c/r && cat /c/r >/w/c' 'RUN --mount=type=secret,id=s cat /run/secrets/s >/w/s' 'RUN --mount=type=bind,target=/ctx cat /ctx/f >/w/x' >ctx/Dockerfile
        $ hull build -q --secret id=s,src=sec -t u ctx >/dev/null; hull run --rm u sh -c 'cd /w; stat -c %u:%g:%n *; cat c s x; tr -s " " <map'
        0:0:c
        7:8:f
        5:6:map
        0:0:s
        0:0:x
        1
        sec
        f
         0 300000
        $ printf 'FROM busybox\nRUN --mount=from=busybox,target=/o,rw touch /o/x; stat -c %%u /o/bin /o/x >/u\n' | hull build -q -t v - >/dev/null; hull run --rm v cat /u
        0
        0
        "#,
    );
}
