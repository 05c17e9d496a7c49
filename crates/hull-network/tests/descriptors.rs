//! Alone in its process, because it counts the process's descriptors and threads. Needs root.

mod machine;

use std::os::fd::AsFd;

use hull_network::{Endpoint, Fabric, Protocol, Published, dns, netns};
use machine::*;

#[test]
fn a_hundred_endpoints_leave_no_descriptor_and_no_thread() {
    on_a_machine(|| {
        let fabric = Fabric::open("hull").unwrap();
        let net = bridge("hull0", 20);
        fabric.ensure_bridge(&net).unwrap();
        let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
        let round = |host: u8| {
            let namespace = container(&fabric, &net, host);
            let second = Endpoint {
                container_name: "eth1".into(),
                host_name: "second".into(),
                gateway4: None,
                gateway6: None,
                ..endpoint(&net, 200)
            };
            fabric.attach(namespace.as_fd(), &second).unwrap();
            drop(dns::listen(namespace.as_fd()).unwrap());
            netns::interfaces(namespace.as_fd()).unwrap();
            let port = [Published {
                protocol: Protocol::Tcp,
                host_address: None,
                host_port: 8080,
                container_address: v4(20, host).into(),
                container_port: 80,
                bridge: "hull0".into(),
            }];
            fabric.publish("c", &port).unwrap();
            fabric.unpublish("c", &port).unwrap();
            fabric.detach(namespace.as_fd(), &second, &[]).unwrap();
        };
        round(2);
        // The thread that makes namespaces may be making its spare one: wait until it is there.
        let settled = || {
            drop(fabric.new_namespace().unwrap());
            (0..3).map(|_| (count("fd"), count("task"))).max().unwrap()
        };
        let before = settled();
        (3..103).for_each(round);
        let after = settled();
        assert!(after.0 <= before.0 + 3, "{} descriptors, then {}", before.0, after.0);
        assert!(after.1 <= before.1 + 1, "{} threads, then {}", before.1, after.1);
    });
}
