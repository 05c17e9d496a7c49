//! What builds told stays to be read.

use hull_tests::{Daemon, Engine};

#[test]
fn logs_of_builds_are_kept() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.session(
        r#"
        $ mkdir ctx; printf 'FROM busybox\nRUN echo words; seq 3000; echo more >&2\n' >ctx/Dockerfile; hull build -q -t a:1 -t b ctx >/dev/null; printf 'FROM busybox\nRUN echo why; exit 4\n' >ctx/Bad; hull build -q -f ctx/Bad --target 0 ctx 2>/dev/null
        [1]
        $ hull builder logs --format '{{.Status}} {{.Dockerfile}} {{.Names}}'
        failed Bad 
        built Dockerfile a:1,b
        $ id() { hull builder logs --format '{{.ID}}' | tail -$1 | head -1; }; plain() { sed -E 's/^(#[0-9]+) [0-9.]+ /\1 T /; s/DONE [0-9.]+s/DONE/'; }; hull build logs $(id 1) >log; plain <log | sed '/^#2 T [0-9]*$/d'; grep -c '^#2 [0-9.]* [0-9]*$' log
        #1 [stage-0 1/2] FROM busybox
        #1 DONE

        #2 [stage-0 2/2] RUN echo words; seq 3000; echo more >&2
        #2 T words
        #2 T more
        #2 DONE

        Built sha256:<id>
        3000
        $ hull builder logs $(id 2) | plain | sed -n '/why$/p; /^#2 ERROR/,$p' | sed '/^#2 \[/d'
        #2 T why
        #2 ERROR

        Bad:2:1
        --------------------
           1 |     FROM busybox
           2 | >>> RUN echo why; exit 4
        --------------------
        failed to build: process "/bin/sh -c echo why; exit 4" did not complete successfully: exit code: 4
        $ hull build logs zzz
        Error response from daemon: no such build: zzz: `hull builder logs` lists those whose logs are kept
        [1]
        $ hull build ctx more 2>&1 | head -1
        build takes one PATH, URL or -: "more" is one more
        $ mkdir logs; cp ctx/Dockerfile logs; hull build -q logs; rm -r logs; hull build logs | head -1
        sha256:<id>
        BUILD ID       STARTED                  STATUS    DURATION   SIZE      DOCKERFILE   NAMES
        "#,
    );
    daemon.kill();
    daemon.begin();
    daemon.session(
        r#"
        $ hull builder logs --format '{{.Status}}'; hull builder prune -f >/dev/null; hull builder logs --format '{{.Status}}' | wc -l; hull builder prune -af >/dev/null; hull builder logs --format '{{.Status}}'
        built
        failed
        built
        3
        "#,
    );
}

#[test]
fn a_shell_is_opened_where_a_command_failed() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    Daemon::start().session(
        r#"
        $ mkdir ctx; printf '%s\n' 'FROM busybox' 'ARG A=arg' 'ENV E=env' 'WORKDIR /w' 'RUN --mount=type=secret,id=s echo made >here; exit 3' >ctx/Dockerfile; hull build -q ctx 2>/dev/null
        [1]
        $ echo 'cat here; echo $E $A; pwd; ls /run/secrets 2>/dev/null; exit 5' | hull build shell
        made
        env arg
        /w
        [5]
        $ printf 'FROM busybox\nRUN echo second >/here; exit 1\n' >ctx/Dockerfile; hull build -q ctx 2>/dev/null; echo 'cat /here' | hull build shell; echo 'cat here' | hull build shell $(hull builder logs --format '{{.ID}}' | tail -1)
        second
        made
        $ hull images -aq --filter dangling=true; hull ps -aq; hull builder prune -af >/dev/null; hull build shell
        Error response from daemon: no files of a command that failed are kept of it: those of a RUN are, up to a gigabyte, if hull build built it
        [1]
        "#,
    );
}
