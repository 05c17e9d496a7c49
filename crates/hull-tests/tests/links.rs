//! Links between containers: on the default network by hosts file and environment, on one's own by private aliases.

use hull_tests::Daemon;

#[test]
fn a_link_on_the_default_network() {
    Daemon::start().session(
        r#"
        $ hull run -d --name db --hostname dbhost --expose 80 -e FOO=bar busybox sleep 600
        <id>
        $ hull run -d --name web --link db:data busybox sleep 600
        <id>
        $ hull inspect -f '{{.HostConfig.Links}}' web
        [/db:/web/data]
        $ hull exec web env | grep DATA | sed 's/172[0-9.]*/IP/'
        DATA_PORT=tcp://IP:80
        DATA_PORT_80_TCP=tcp://IP:80
        DATA_PORT_80_TCP_ADDR=IP
        DATA_PORT_80_TCP_PORT=80
        DATA_PORT_80_TCP_PROTO=tcp
        DATA_NAME=/web/data
        DATA_ENV_FOO=bar
        $ hull exec web grep data /etc/hosts | cut -f 2
        data dbhost db
        $ hull ps --no-trunc --format '{{.Names}}'
        web
        db,web/data
        $ hull inspect -f '{{.Name}}' web/data
        /db
        $ hull rename db base; hull inspect -f '{{.HostConfig.Links}}' web; hull rename base db
        [/base:/web/data]
        $ hull restart -t 0 db; address=$(hull inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' db)
        db
        $ hull exec web grep data /etc/hosts | cut -f 1 | sed "s/^$address$/its new address/"
        its new address
        $ hull rm --link web/data; hull inspect -f '{{.HostConfig.Links}}' web; hull exec web grep -c data /etc/hosts
        web/data
        []
        0
        [1]
        $ hull rm --link web 2>&1 | grep -c 'cannot remove the default link name'
        1
        "#,
    );
}

#[test]
fn links_that_cannot_be() {
    Daemon::start().session(
        r#"
        $ hull run -d --name db busybox sleep 600; hull network create own
        <id>
        <id>
        $ hull run -d --name away --network own busybox sleep 600
        <id>
        $ hull create --link nosuch:x busybox
        Error response from daemon: could not get container for nosuch: No such container: nosuch
        [1]
        $ hull create --network host --link db busybox
        Error response from daemon: conflicting options: host type networking can't be used with links. This would result in undefined behavior
        [1]
        $ hull create --network container:db --link db busybox
        Error response from daemon: conflicting options: container type network can't be used with links. This would result in undefined behavior
        [1]
        $ hull run --name one --link away:a busybox true 2>&1 | head -n 1
        hull: Error response from daemon: Cannot link to /away, as it does not belong to the default network
        $ hull create --name two --link db:d busybox true; hull stop -t 0 db; hull start two
        <id>
        db
        Error response from daemon: Cannot link to a non running container: /db AS /two/d
        Error: failed to start containers: two
        [1]
        "#,
    );
}

#[test]
fn an_alias_of_one_container_alone() {
    Daemon::start().session(
        r#"
        $ hull network create own
        <id>
        $ hull run -d --name web --network own --link db:data busybox sleep 600
        <id>
        $ hull run -d --name db --network own busybox sleep 600
        <id>
        $ hull exec web ping -c 1 -w 2 data >/dev/null && echo reached
        reached
        $ hull exec web ping -c 1 -w 2 data.own >/dev/null && echo reached
        reached
        $ hull exec db ping -c 1 -w 2 data
        ping: bad address 'data'
        [1]
        $ hull run -d --name late busybox sleep 600; hull network connect --link db:other own late
        <id>
        $ hull exec late ping -c 1 -w 2 other >/dev/null && echo reached
        reached
        $ hull inspect -f '{{.NetworkSettings.Networks.own.Links}}' late
        [db:other]
        "#,
    );
}

#[test]
fn links_follow_their_targets_through_renames_ends_and_starts_together() {
    Daemon::start().session(
        r#"
        $ for name in t1 t2 t3 t4; do hull run -d --name $name -e OF=$name busybox sleep 600 >/dev/null; done
        $ hull run -d --name web --link t1 --link t2 --link t3 --link t4:four busybox sleep 600
        <id>
        $ told() { address=$(hull inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' $2); hull exec web grep -cE "^$address.$1 " /etc/hosts; }
        $ hull stop -t 0 t1 t2 t3 t4 >/dev/null
        $ for i in 1 2 3; do hull run -d --name x$i busybox sleep 600 >/dev/null; done
        $ for name in t1 t2 t3 t4; do hull start $name >/dev/null & done; wait
        $ told t1 t1; told t2 t2; told t3 t3; told four t4
        1
        1
        1
        1
        $ hull rename t1 other; hull stop -t 0 other >/dev/null; hull rm -f x2 >/dev/null; hull start other
        other
        $ told t1 other; hull exec web grep t1 /etc/hosts | cut -f 2 | cut -d ' ' -f 3
        1
        other
        $ hull stop -t 0 t2; hull exec web sh -c 'echo $T1_ENV_OF $T2_ENV_OF $FOUR_ENV_OF'
        t2
        t1 t4
        $ hull network create own >/dev/null; hull network connect own web
        $ hull exec web grep -c "$(hull inspect -f '{{.NetworkSettings.Networks.own.IPAddress}}' web)" /etc/hosts
        1
        $ hull exec web grep -cE '[[:blank:]](t1|t2|t3|four) ' /etc/hosts
        4
        $ hull network disconnect own web; hull network disconnect bridge web; hull exec web grep -cE '(t1|four) ' /etc/hosts
        0
        [1]
        $ hull network connect bridge web; hull exec web grep -cE '[[:blank:]](t1|t3|four) ' /etc/hosts
        3
        $ hull exec web sh -c 'head -c 2000000 /dev/zero | tr "\\0" x >>/etc/hosts'; hull restart -t 0 t3
        t3
        $ hull exec web sh -c 'wc -c </etc/hosts' | sed 's/^2000[0-9]*$/as it was/'
        as it was
        $ hull run --network container:web busybox true 2>&1 | head -n 1 | grep -o 'its /etc/hosts has grown over 1048576 bytes'
        its /etc/hosts has grown over 1048576 bytes
        "#,
    );
}
