//! Rules of the Dockerfile reference that only a build shows (`docs/dockerfile.md`).

use hull_tests::Daemon;

#[test]
fn arguments_belong_to_their_stage_and_stand_behind_the_environment() {
    Daemon::start().session(
        r#"
        $ mkdir ctx; printf '%s\n' 'ARG A=global' 'FROM busybox AS one' 'RUN echo "[$A]" >/1' 'ARG A' 'RUN echo "[$A]" >>/1' 'ARG A=own' 'RUN echo "[$A]" >>/1' 'ENV A=env' 'RUN echo "[$A]" >>/1' 'FROM busybox' 'COPY --from=one /1 /' 'RUN echo "[$A]" >>/1' >ctx/Dockerfile
        $ hull build -q -t c ctx >/dev/null; hull run --rm c cat /1
        []
        [global]
        [own]
        [env]
        []
        $ hull build -q -t c --build-arg A=given ctx >/dev/null; hull run --rm c cat /1
        []
        [given]
        [given]
        [env]
        []
        $ hull build --progress plain --build-arg NONE=1 ctx 2>&1 | grep -c 'One or more build-args \[NONE\] were not consumed'
        1
        "#,
    );
}

#[test]
fn predefined_arguments_are_seen_and_are_in_no_key() {
    Daemon::start().session(
        r#"
        $ printf '%s\n' 'FROM busybox' 'RUN echo "$HTTP_PROXY" >/seen' 'CMD cat /seen; echo "[$HTTP_PROXY]"' >Dockerfile
        $ hull build -q -t c --build-arg HTTP_PROXY=http://user:secret@one.invalid . >/dev/null; hull run --rm c
        http://user:secret@one.invalid
        []
        $ hull history --no-trunc c | grep -c secret
        0
        [1]
        $ hull build --progress plain -t c --build-arg HTTP_PROXY=http://two.invalid . 2>&1 | grep -c CACHED
        2
        "#,
    );
}

#[test]
fn a_list_of_the_dockerfiles_own_goes_before_the_folders() {
    Daemon::start().session(
        r#"
        $ mkdir ctx; touch ctx/a ctx/b; printf 'FROM busybox\nCOPY . /c\nCMD ls /c\n' | tee ctx/Other >ctx/Dockerfile; echo a >ctx/.dockerignore; printf '*\n!a\n' >ctx/Other.dockerignore
        $ hull build -q -t c ctx >/dev/null; hull run --rm c
        Dockerfile
        Other
        Other.dockerignore
        b
        $ hull build -q -t c -f ctx/Other ctx >/dev/null; hull run --rm c
        a
        "#,
    );
}

#[test]
fn a_stage_has_what_the_stage_below_it_declared_and_left_for_it() {
    Daemon::start().session(
        r#"
        $ mkdir ctx; printf '%s\n' 'FROM busybox AS below' 'ARG A=one B' 'ONBUILD RUN <<EOF' 'echo "left $A" >/left' 'EOF' 'ONBUILD COPY --from=other /o /o' 'FROM busybox AS other' 'RUN echo o >/o' 'FROM below AS middle' 'RUN echo "[$A$B]" >/seen' 'FROM middle' 'RUN rm /left; echo "[$A]" >>/seen' >ctx/Dockerfile
        $ hull build -q -t c --build-arg B=two ctx >/dev/null; hull run --rm c sh -c 'cat /seen /o; ls /left' 2>/dev/null; hull image inspect -f '{{len .Config.OnBuild}}' c
        [onetwo]
        [one]
        o
        0
        "#,
    );
}

#[test]
fn parents_begin_behind_their_pivot() {
    Daemon::start().session(
        r#"
        $ mkdir -p ctx/a/b/c; touch ctx/a/b/c/f ctx/a/b/g; printf '%s\n' 'FROM busybox' 'COPY --parents ./a/./b/c/f a/b/./g /p/' 'RUN cd /p && find . -type f | sort >/found' >ctx/Dockerfile
        $ hull build -q -t c ctx >/dev/null; hull run --rm c cat /found
        ./b/c/f
        ./g
        $ printf 'FROM busybox\nARG F=busybox\nCOPY --from=$F /bin /b\n' | hull build - 2>&1 | grep -o 'variable expansion is not supported for --from'
        variable expansion is not supported for --from
        $ printf 'FROM busybox AS Foo\nMAINTAINER me\n' >ctx/Dockerfile; hull build --build-arg BUILDKIT_DOCKERFILE_CHECK=error=true ctx 2>&1 | grep -o 'lint violation.*'; hull build --build-arg BUILDKIT_DOCKERFILE_CHECK=skip=all --check ctx
        lint violation found for rules: MaintainerDeprecated, StageNameCasing
        Check complete, no warnings found.
        "#,
    );
}
