//! Where a network's time goes, in microseconds at the median. As root, in a namespace of its own:
//! `unshare -n target/release/examples/measure [endpoints already there]`

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::Instant;

use hull_network::{Bridge, Endpoint, Fabric, Protocol, Published, dns, mac_of, netns};

fn median(mut times: Vec<u128>) -> String {
    times.sort_unstable();
    format!("{:>8.1} {:>8.1}", times[times.len() / 2] as f64 / 1e3, times[times.len() * 9 / 10] as f64 / 1e3)
}

/// The calling thread's processor time: on a machine that others work on too, what the call itself costs.
fn cpu() -> u128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as u128 * 1_000_000_000 + now.tv_nsec as u128
}

fn measure(name: &str, rounds: u32, mut work: impl FnMut(u32)) {
    let (mut times, mut own) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let (start, before) = (Instant::now(), cpu());
        work(round);
        own.push(cpu() - before);
        times.push(start.elapsed().as_nanos());
    }
    own.sort_unstable();
    println!("{name:<50} {} {:>8.1}", median(times), own[own.len() / 2] as f64 / 1e3);
}

fn endpoint(number: u32) -> Endpoint {
    let address = Ipv4Addr::from_bits(0x0a14_0000 + 2 + number);
    Endpoint {
        bridge: "hull0".into(),
        host_name: format!("v{number:07x}"),
        container_name: "eth0".into(),
        mac: mac_of(address),
        address4: Some((address, 16)),
        gateway4: Some(Ipv4Addr::new(10, 20, 0, 1)),
        ..Endpoint::default()
    }
}

fn port(number: u32) -> Published {
    Published {
        protocol: Protocol::Tcp,
        host_address: None,
        host_port: 1024 + number as u16,
        container_address: Ipv4Addr::new(10, 20, 0, 2).into(),
        container_port: 80,
        bridge: "hull0".into(),
    }
}

/// Waits until the kernel has taken down what was dropped: it does so on its own time, under the lock that making takes.
fn settle(there: usize) {
    let home = netns::current().expect("/proc");
    while netns::interfaces(home.as_fd()).expect("a netlink dump").len() > there + 2 {
        std::thread::yield_now();
    }
}

fn main() -> hull_network::Result<()> {
    let already: u32 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    const ROUNDS: u32 = 200;
    println!(
        "{:<50} {:>8} {:>8} {:>8}   µs, {already} endpoints and ports there",
        "", "median", "90 %", "own cpu"
    );
    let start = Instant::now();
    let fabric = Fabric::open("hull")?;
    println!("{:<50} {:>8.1}", "open", start.elapsed().as_secs_f64() * 1e6);
    let net = Bridge {
        name: "hull0".into(),
        gateway4: Some((Ipv4Addr::new(10, 20, 0, 1), 16)),
        subnets: vec!["10.20.0.0/16".parse()?],
        inter_container: true,
        masquerade: true,
        ..Bridge::default()
    };
    let start = Instant::now();
    fabric.ensure_bridge(&net)?;
    println!("{:<50} {:>8.1}", "ensure_bridge", start.elapsed().as_secs_f64() * 1e6);
    let mut there = Vec::new();
    for number in 0..already {
        there.push(fabric.attach_new(&endpoint(40_000 + number))?);
        fabric.publish("already", &[port(30_000 + number)])?;
    }
    let mut kept = Vec::new();
    measure("new_namespace", ROUNDS, |_| kept.push(fabric.new_namespace().unwrap()));
    let namespaces = std::mem::take(&mut kept);
    measure("attach to an existing namespace", ROUNDS, |round| {
        fabric.attach(namespaces[round as usize].as_fd(), &endpoint(1000 + round)).unwrap();
    });
    measure("dns::listen", ROUNDS, |round| drop(dns::listen(namespaces[round as usize].as_fd()).unwrap()));
    measure("detach from a namespace that lives on", 20, |round| {
        fabric.detach(namespaces[round as usize].as_fd(), &endpoint(1000 + round), &[]).unwrap();
    });
    let mut namespaces = namespaces.into_iter();
    measure("drop a namespace with its interface", ROUNDS, |_| drop(namespaces.next()));
    settle(there.len());
    measure("attach_new, each kept", ROUNDS, |round| {
        kept.push(fabric.attach_new(&endpoint(2000 + round)).unwrap().0);
    });
    kept.clear();
    settle(there.len());
    measure("attach_new and drop, one after the other", ROUNDS, |round| {
        drop(fabric.attach_new(&endpoint(3000 + round)).unwrap());
    });
    settle(there.len());
    let listener = std::net::TcpListener::bind("10.20.0.1:9").expect("the bridge's own address");
    std::thread::spawn(move || while listener.accept().is_ok() {});
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let namespace = fabric.attach_new(&endpoint(4000 + round))?.0;
        let start = Instant::now();
        netns::run(namespace.as_fd(), || std::net::TcpStream::connect("10.20.0.1:9").map(drop))?
            .expect("reaching the bridge");
        times.push(start.elapsed().as_nanos());
        kept.push(namespace);
    }
    println!("{:<50} {}", "first connection from a new container", median(times.clone()));
    println!(
        "{:<50} {:>8}",
        "  of them slower than 10 ms",
        times.iter().filter(|time| **time > 10_000_000).count()
    );
    println!("{:<50} {:>8.1}", "  the slowest", times.iter().max().map_or(0.0, |time| *time as f64 / 1e3));
    kept.clear();
    settle(there.len());
    measure("publish", ROUNDS, |round| fabric.publish("owner", &[port(round)]).unwrap());
    measure("unpublish", ROUNDS, |round| fabric.unpublish("owner", &[port(round)]).unwrap());
    let ten = |round: u32| (0..10).map(|number| port(round * 10 + number)).collect::<Vec<_>>();
    measure("publish ten at once", ROUNDS, |round| fabric.publish("owner", &ten(round)).unwrap());
    measure("unpublish ten at once", ROUNDS, |round| fabric.unpublish("owner", &ten(round)).unwrap());
    drop(there);
    fabric.close()
}
