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
        $ touch key; hull build --ssh other=key ctx 2>&1 | grep -o 'key: it is neither an agent.s socket nor a private key'; env -u SSH_AUTH_SOCK hull build --ssh default ctx 2>&1 | grep -o 'SSH_AUTH_SOCK is not set'
        key: it is neither an agent's socket nor a private key
        SSH_AUTH_SOCK is not set
        $ kill $agents; pgrep -f "$PWD/age[n]t"
        [1]
        "#,
    );
}

#[test]
fn keys_in_files_are_answered_for_as_an_agent_does() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    // ssh-keygen signs what it is given by the agent, and says whether the signature is the key's.
    Daemon::start().session(
        r#"
        $ mkdir -p ctx/root/tmp ctx/root/root; for t in ssh-add ssh-keygen; do f=$(which $t); cp -L --parents $f $(ldd $f | grep -o '/[^ ]*') ctx/root; done; echo 'root:x:0:0::/root:/bin/sh' >passwd; cp --parents passwd ctx/root; mkdir -p ctx/root/etc; mv ctx/root/passwd ctx/root/etc/passwd
        $ for k in ed25519 'ecdsa -b 256' 'ecdsa -b 384' 'rsa -b 2048' 'rsa -b 3072'; do f=key-$(echo $k | tr -d ' -'); ssh-keygen -q -t $k -N '' -C "$f" -f $f; cp $f.pub ctx/root/; keys=$keys,$f; done
        $ printf '%s\n' 'FROM busybox' 'COPY root /' 'RUN --mount=type=ssh export PATH=/bin:/usr/bin; ssh-add -l 2>&1 | sort -k3 >/listed; for k in /key-*.pub; do echo data >/d; ssh-keygen -q -Y sign -n t -f $k /d >/log 2>&1 && ssh-keygen -Y check-novalidate -n t -s /d.sig </d; rm -f /d.sig; done >/signed 2>&1' >ctx/Dockerfile
        $ hull build -q --ssh default=${keys#,} -t s ctx >log 2>&1 || tail -5 log; hull run --rm s cat /listed | cut -d' ' -f1,3,4; hull run --rm s cat /signed | sed 's/ key SHA256.*//'
        256 key-ecdsab256 (ECDSA)
        384 key-ecdsab384 (ECDSA)
        256 key-ed25519 (ED25519)
        2048 key-rsab2048 (RSA)
        3072 key-rsab3072 (RSA)
        Good "t" signature with ECDSA
        Good "t" signature with ECDSA
        Good "t" signature with ED25519
        Good "t" signature with RSA
        Good "t" signature with RSA
        $ ssh-keygen -q -t ed25519 -N secret -f locked; hull build --ssh default=locked ctx 2>&1 | grep -o 'locked: it has a passphrase'
        locked: it has a passphrase
        "#,
    );
}
