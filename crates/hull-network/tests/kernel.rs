//! The fabric against the kernel, each test on a private machine (a network namespace of its own). Needs root.

mod machine;

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

use hull_network::{Error, Fabric, Protocol, Published, netns};
use machine::*;

#[test]
fn two_containers_on_a_bridge_reach_each_other_and_the_host() {
    on_a_machine(|| {
        let fabric = Fabric::open("hull").unwrap();
        let net = bridge("hull0", 20);
        fabric.ensure_bridge(&net).unwrap();
        let (one, two) = (container(&fabric, &net, 2), container(&fabric, &net, 3));
        serve(&two, 80);
        assert_eq!(ask(&one, v4(20, 3), 80).as_deref(), Ok("10.20.0.2"));
        assert_eq!(ask(&one, v6(20, 3), 80).as_deref(), Ok("fd00:20::2"));
        serve(&netns::current().unwrap(), 81);
        assert_eq!(ask(&one, v4(20, 1), 81).as_deref(), Ok("10.20.0.2"));
        assert_eq!(ask(&netns::current().unwrap(), v4(20, 3), 80).as_deref(), Ok("10.20.0.1"));
    });
}
