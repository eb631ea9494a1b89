//! Links between network namespaces, made with `ip` and `tc`, and removed when they are dropped.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::time::Duration;

use tun_rs::DeviceBuilder;

use crate::carry::carry;
use crate::metric::{Place, ROUND_TRIP, Rate};

/// What the names of namespaces begin with; the process follows.
const PREFIX: &str = "peermux-compare-";

/// The address of the client's end.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);

/// The address of the server's end.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 1);

/// The name of the interface at each end.
const INTERFACE: &str = "mux0";

/// Packets that a host may have sent before they are carried, on a link with a delay.
const HOST_QUEUE: usize = 20_000;

/// What TCP may use on a link with a delay: Linux's own settings, but as much memory for a connection as a long fat link needs; and no connection
/// begins with what another one has learnt.
const TCP_SETTINGS: &str = "cd /proc/sys/net/ipv4
    echo 4096 131072 67108864 > tcp_rmem
    echo 4096 16384 67108864 > tcp_wmem
    echo 1 > tcp_slow_start_after_idle
    echo 1 > tcp_no_metrics_save";

/// Two namespaces and what is between them.
pub(crate) struct Link {
    client: String,
    server: String,
    router: String,
}

/// Runs a command; its error is what it wrote.
fn run(program: &str, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("{program} {}: {}", arguments.join(" "), said.trim())))
    }
}

/// Runs a command with the arguments of one line.
fn line(command: &str) -> io::Result<String> {
    let mut words = command.split_whitespace();
    let program = words.next().unwrap_or_default();
    run(program, &words.collect::<Vec<_>>())
}

/// Removes what runs that were killed have left.
pub(crate) fn sweep() {
    let Ok(listed) = line("ip netns list") else { return };
    for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !std::path::Path::new("/proc").join(process).exists()) {
            // Another run may be sweeping too.
            let _ = run("ip", &["netns", "delete", name]);
        }
    }
}

impl Link {
    /// Makes the link for metrics at `place`; `None` on loopback.
    pub(crate) fn for_place(place: Place) -> io::Result<Option<Self>> {
        match place {
            Place::Loopback => Ok(None),
            Place::Limited(rate) => Self::limited(rate).map(Some),
            Place::Delayed(round_trip, rate) => Self::delayed(round_trip, rate).map(Some),
        }
    }

    fn namespaces() -> io::Result<Self> {
        let name = |end| format!("{PREFIX}{}-{end}", std::process::id());
        let link = Self { client: name("client"), server: name("server"), router: name("router") };
        for name in link.names() {
            line(&format!("ip netns add {name}"))?;
            line(&format!("ip -n {name} link set lo up"))?;
        }
        Ok(link)
    }

    fn names(&self) -> [&str; 3] {
        [&self.client, &self.server, &self.router]
    }

    /// A router between two pairs of virtual Ethernet interfaces, which limits the rate both ways: the queue is not in the host that sends, as it
    /// mostly is not. Packets leave the router one by one, so what its interfaces count is what would be on a wire, headers of Ethernet included.
    fn limited(rate: Rate) -> io::Result<Self> {
        let link = Self::namespaces()?;
        let router = &link.router;
        // About two milliseconds of queue at 1 Gbit/s, ten at 100 Mbit/s.
        let limit = match rate {
            Rate::Gigabit => "256kb",
            Rate::Tenth => "128kb",
        };
        let rate = rate.tc();
        for (name, address, to) in [(&link.client, CLIENT, "client"), (&link.server, SERVER, "server")] {
            let [a, b, c, _] = address.octets();
            let gateway = Ipv4Addr::new(a, b, c, 2);
            line(&format!("ip -n {name} link add {INTERFACE} type veth peer name {to} netns {router}"))?;
            line(&format!("ip -n {name} address add {address}/24 dev {INTERFACE}"))?;
            line(&format!("ip -n {name} link set {INTERFACE} mtu 1500 up"))?;
            line(&format!("ip -n {router} address add {gateway}/24 dev {to}"))?;
            line(&format!("ip -n {router} link set {to} mtu 1500 gso_max_segs 1 up"))?;
            line(&format!("ip -n {name} route add default via {gateway}"))?;
            line(&format!("tc -n {router} qdisc add dev {to} root tbf rate {rate} burst 16kb limit {limit}"))?;
        }
        // The first CPU is the router's, as if it were a machine of its own. Without that what waits for a CPU would not wait in the router's queue.
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward
            for end in client server; do echo 1 > /sys/class/net/$end/queues/rx-0/rps_cpus; done";
        run("ip", &["netns", "exec", router, "sh", "-c", forward])?;
        Ok(link)
    }

    /// A pair of TUN interfaces, between which this process carries packets: see [`carry`].
    fn delayed(round_trip: Duration, rate: Option<Rate>) -> io::Result<Self> {
        let link = Self::namespaces()?;
        // Where many are on their way, some go as one, as network cards do it too: 0.1 ms of them at 1 Gbit/s.
        let together = if round_trip > ROUND_TRIP { 8 } else { 1 };
        let end = |name, address| {
            let device = DeviceBuilder::new().mtu(1500).offload(true).enable(false).build_sync()?;
            let made = device.name()?;
            line(&format!("ip link set {made} netns {name} name {INTERFACE}"))?;
            line(&format!("ip -n {name} address add {address}/24 dev {INTERFACE}"))?;
            // What is sent at once waits to be carried, and is not lost.
            line(&format!(
                "ip -n {name} link set {INTERFACE} mtu 1500 txqueuelen {HOST_QUEUE} gso_max_segs {together} up"
            ))?;
            line(&format!("ip -n {name} route add default dev {INTERFACE}"))?;
            run("ip", &["netns", "exec", name, "sh", "-c", TCP_SETTINGS])?;
            Ok::<_, io::Error>(device)
        };
        carry([end(&link.client, CLIENT)?, end(&link.server, SERVER)?], round_trip, rate)?;
        Ok(link)
    }

    /// A command that runs `program` at the client's end, or at the server's.
    pub(crate) fn command(&self, server: bool, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", if server { &self.server } else { &self.client }]).arg(program);
        command
    }

    /// Bytes that have left the router for the server.
    pub(crate) fn sent(&self) -> io::Result<u64> {
        let router = &self.router;
        let count = line(&format!("ip netns exec {router} cat /sys/class/net/server/statistics/tx_bytes"))?;
        count.trim().parse().map_err(io::Error::other)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for name in self.names() {
            // It may not have been made.
            let _ = run("ip", &["netns", "delete", name]);
        }
    }
}

/// The address that a server binds to.
pub(crate) fn server_address(link: Option<&Link>) -> IpAddr {
    if link.is_some() { SERVER.into() } else { Ipv4Addr::LOCALHOST.into() }
}
