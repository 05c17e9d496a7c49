#!/bin/bash
# On the second disk: looks whether all is whole that was there before the reset, then works until the plug is pulled.
# Its argument, FIRST-LAST: the containers that an earlier run said were made, and did not begin to remove; with "-look"
# behind it, it ends after the look.
IFS=- read first last look <<<$1
socket=unix:///run/hull/hull.sock
export HULL_HOST=$socket
# In the machine itself, on the same disk.
registry=127.0.0.1:5000 remote=127.0.0.1:5000/layers:3

bad() { echo "bad: $*"; failed=1; }

mkdir -p /data && mount -t ext4 /dev/vdb /data || exit 1
exec 2>/run/errors
hull daemon -H $socket --data-root /data/hull >/run/daemon.log 2>&1 &
for n in {1..600}; do hull version >/dev/null 2>&1 && break; sleep 0.1; done
hull version >/dev/null || { cat /run/daemon.log; bad "the daemon does not start"; exit 1; }

# Each image holds the sums of its files; one whose layers are not whole would not know itself.
whole='md5sum -cs /sums && cat /layer*/number'
while read -r image name; do
    check=$whole
    test "$name" != hull/host:latest || check=true
    said=$(hull run --rm "$image" sh -c "$check" 2>&1 </dev/null) || bad "image $name $image: $said"
done <<<"$(hull images --no-trunc --format '{{.ID}} {{.Repository}}:{{.Tag}}' | sort -u -k1,1)"
for ((n = first; n <= last; n++)); do
    said=$(hull inspect -f '{{.State.Status}}' box-$n 2>&1) || bad "box-$n was made and is gone: $said"
done
for box in $(hull ps -a --format '{{.Names}}'); do
    said=$(hull start -a "$box" 2>&1)
    case $said in
        made*) ;;
        *"image that it was made of was lost"*) echo "$box: $said" && lost+=" $box " ;;
        # What it wrote when the plug was pulled was promised by nobody; that it can be started, was.
        *) [[ $box == maker && $said != *"Error response"* ]] || bad "$box: $said" ;;
    esac
    [[ $box != box-* ]] || ((${box#box-} <= last)) || last=${box#box-}
done
grep -hE 'WARN|ERROR' /run/daemon.log
# What a removal left to be done is done behind it.
for n in {1..50}; do said=$(hull system fsck 2>&1) && break; sleep 0.2; done
# What is told of a container whose image was lost is told rightly: it stays until somebody removes it.
while read -r line; do
    case $line in
        *": nothing is wrong" | *" findings" | *" 1 finding") echo "fsck: $line" ;;
        "missing: the writable layer of the container "*)
            box=${line#*of the container } && [[ $lost == *" ${box%% *} "* ]] || bad "fsck: $line" ;;
        *) bad "fsck: $line" ;;
    esac
done <<<"$said"
echo "looked: $(hull images -q | wc -l) images, $(hull ps -aq | wc -l) containers, failed: ${failed-0}"
test -z "$failed" || exit 1
test -z "$look" || exit 0

serve() {
    printf '%s\n' "version: 0.1" "storage: {filesystem: {rootdirectory: /data/registry}}" \
        "http: {addr: $registry}" >/run/registry.yml
    docker-registry serve /run/registry.yml >/run/registry.log 2>&1 &
    for n in {1..300}; do (: </dev/tcp/${registry/:/\/}) 2>/dev/null && return; sleep 0.1; done
    bad "the registry does not start: $(</run/registry.log)"
}

# An archive of an image of several layers, in a registry too where there is one, made once and kept outside of hull.
if ! test -e /data/complete; then
    rm -rf /data/tree && mkdir -p /data/tree/bin && cp /usr/bin/busybox /data/tree/bin/
    for applet in sh cat md5sum sleep; do ln -s busybox /data/tree/bin/$applet; done
    (cd /data/tree && md5sum bin/busybox >sums)
    tar -C /data/tree -c . | hull import - layers:0 >/dev/null
    for layer in 1 2 3; do
        hull run --name maker layers:$((layer - 1)) sh -c "
            cd / && mkdir layer$layer && echo $layer >layer$layer/number
            for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do cat bin/busybox sums >layer$layer/\$n; done
            md5sum layer$layer/* >>sums"
        hull commit maker layers:$layer >/dev/null && hull rm maker >/dev/null
    done
    hull save layers:3 -o /data/layers.tar
    hull rmi -f layers:0 layers:1 layers:2 layers:3 >/dev/null
    if command -v docker-registry >/dev/null; then
        serve && hull load -i /data/layers.tar >/dev/null && hull tag layers:3 $remote && hull push -q $remote >/dev/null
        hull rmi -f layers:3 $remote >/dev/null
    fi
    sync && touch /data/complete && sync
fi
if test -d /data/registry && ! (: </dev/tcp/${registry/:/\/}) 2>/dev/null; then serve; fi
# What is committed: a layer more, with its sums.
work='cd / && mkdir -p layer4 && echo 4 >layer4/number && cat bin/busybox sums >layer4/1 &&
    md5sum layer4/* >more && cat more >>sums && md5sum -cs sums && echo made'
while :; do
    # Each comes to a store without the layers, one time after the other.
    if test -d /data/registry && ! ((last / 6 % 2)); then
        echo "pulling" && hull pull -q $remote >/dev/null || echo "bad: pull"
        hull tag $remote layers:3
    else
        echo "loading" && hull load -i /data/layers.tar >/dev/null || echo "bad: load"
    fi
    for n in 1 2 3; do
        last=$((last + 1))
        hull create --name box-$last layers:3 sh -c 'md5sum -cs /sums && echo made' >/dev/null
    done
    # On the disk a moment later: these three must be there after the reset.
    sleep 1 && echo "made $last"
    # The first of two images loses its name to the second, and a prune takes both, but nothing that a container is of.
    for n in 1 2; do
        hull rm -f maker >/dev/null 2>&1
        hull run --name maker layers:3 sh -c "$work" >/dev/null || echo "bad: work"
        echo "committing" && hull commit maker committed:1 >/dev/null || echo "bad: commit"
    done
    hull rm maker >/dev/null
    if ((last % 2)); then echo "pruning" && hull image prune -f >/dev/null || echo "bad: prune"; fi
    echo "pruning" && hull image prune -af >/dev/null || echo "bad: prune"
    test -z "$(hull images -q committed)" && hull image inspect layers:3 >/dev/null || echo "bad: a prune took too much, or too little"
    # Every other time the layers go and come again.
    if ((last % 2)); then
        echo "removing $last"
        hull rm -f $(hull ps -aq) >/dev/null; hull rmi -f layers:3 $remote >/dev/null
    fi
done
