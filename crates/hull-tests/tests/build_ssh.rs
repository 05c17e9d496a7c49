//! `hull build --ssh`: keys stay with their agent, which a step reaches while it runs.

use hull_tests::{Daemon, Engine};

#[test]
fn a_step_reaches_the_agents_that_the_client_has() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    Daemon::start().session(
        r#"
        $ mkdir -p ctx/root; socat=$(which socat); cp -L --parents $socat $(ldd $socat | grep -o '/[^ ]*') ctx/root; agent() { printf 'head -c 5 >/dev/null; printf "\\000\\000\\000\\005\\014\\000\\000\\000\\00'$1'"\n' >keys$1; socat UNIX-LISTEN:$PWD/agent$1,fork EXEC:"sh keys$1" & agents="$agents $!"; eventually test -S agent$1; }; agent 1; agent 2
        $ cat >ctx/Dockerfile <<'EOT'
        > FROM busybox
        > COPY root /
        > RUN --mount=type=ssh,required=true printf '\000\000\000\001\013' | /usr/bin/socat -t 9 - UNIX-CONNECT:$SSH_AUTH_SOCK,shut-none,readbytes=9 | od -An -tx1 >/said
        > RUN --mount=type=ssh,id=other,target=/o.sock,mode=0600,uid=7 stat -c %a:%u /o.sock >>/said; printf '\000\000\000\001\013' | /usr/bin/socat -t 9 - UNIX-CONNECT:/o.sock,shut-none,readbytes=9 | od -An -tx1 >>/said
        > RUN test -z "$SSH_AUTH_SOCK" && test ! -S /o.sock
        > EOT
        $ SSH_AUTH_SOCK=$PWD/agent1 hull build -q --ssh default --ssh other=$PWD/agent2 -t s ctx >log 2>&1 || tail -5 log; hull run --rm s cat /said
         00 00 00 05 0c 00 00 00 01
        600:7
         00 00 00 05 0c 00 00 00 02
        $ hull build --no-cache ctx 2>&1 | grep -o 'no SSH key "default" forwarded from the client' | head -1
        no SSH key "default" forwarded from the client
        $ touch key; hull build --ssh other=key ctx 2>&1 | grep -o 'key is no agent.s socket: hull reads no keys itself'; env -u SSH_AUTH_SOCK hull build --ssh default ctx 2>&1 | grep -o 'SSH_AUTH_SOCK is not set'
        key is no agent's socket: hull reads no keys itself
        SSH_AUTH_SOCK is not set
        $ kill $agents; pgrep -f "$PWD/age[n]t"
        [1]
        "#,
    );
}
