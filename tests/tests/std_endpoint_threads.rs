//! The threads of an endpoint of the std adapter: which there are, and that they end. Alone in its process, since it counts them.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use peermux_core::Config;
use peermux_std::{Endpoint, EndpointLimits, Priority, StaticSecret};
use peermux_tests::{initiator_key, responder_key};

/// How many threads there are of each name.
fn threads() -> BTreeMap<String, usize> {
    let mut threads = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").expect("there are threads") {
        let name = std::fs::read_to_string(task.expect("it is listed").path().join("comm"));
        // One may have ended meanwhile.
        if let Some(name) = name.ok().filter(|name| name.starts_with("peermux-")) {
            *threads.entry(name.trim().into()).or_default() += 1;
        }
    }
    threads
}

fn eventually(expected: &[(&str, usize)]) {
    let expected: BTreeMap<_, _> = expected.iter().map(|(name, count)| (String::from(*name), *count)).collect();
    let begin = Instant::now();
    while threads() != expected {
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}, and never {expected:?}", threads());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn threads_are_as_many_as_promised_and_end() {
    let limits = EndpointLimits { max_pending_handshakes: 8, ..EndpointLimits::default() };
    let socket = TcpListener::bind("127.0.0.1:0").expect("loopback listens");
    let host = Endpoint::from_listener(socket, || responder_key().into(), Config::default(), limits, |_| true)
        .expect("it is valid");
    let renter = Endpoint::bind("127.0.0.1:0", initiator_key(), Config::default()).expect("loopback listens");
    eventually(&[("peermux-accept", 2)]);
    // Several who want the same peer, and it has one connection: a thread at each end, with those of its sockets.
    let connections: Vec<_> =
        (0..3).map(|_| renter.connect(host.local_addr(), host.public_key()).expect("it listens")).collect();
    eventually(&[("peermux-accept", 2), ("peermux-peer", 2), ("peermux-read", 2), ("peermux-write", 2)]);
    // More who say nothing than there are places.
    let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(host.local_addr()).expect("it listens")).collect();
    eventually(&[("peermux-accept", 2), ("peermux-peer", 10), ("peermux-read", 10), ("peermux-write", 10)]);
    // A dial that leads nowhere.
    let nobody = TcpListener::bind("127.0.0.1:0").expect("loopback listens");
    let address = nobody.local_addr().expect("it is bound");
    let waiting = renter.clone();
    let key = StaticSecret::from_bytes(&[9; 32]).public_key();
    let waiting = std::thread::spawn(move || waiting.connect_timeout(address, key, Duration::from_secs(2)));
    eventually(&[("peermux-accept", 2), ("peermux-peer", 11), ("peermux-read", 11), ("peermux-write", 11)]);
    waiting.join().expect("no panic").expect_err("nobody answers");

    // A stream that is open keeps its connection when the endpoints go, and nothing else.
    let acceptor = host.register("test").expect("it is free");
    let mut stream = connections[0].open_stream(Some("test"), Priority::default()).expect("it is open");
    stream.flush().expect("it leaves");
    let (mut accepted, _) = acceptor.accept().expect("it comes");
    let begin = Instant::now();
    drop((host, renter, connections));
    assert!(begin.elapsed() < Duration::from_secs(1), "it took {:?}", begin.elapsed());
    drop((silent, nobody));
    eventually(&[("peermux-peer", 2), ("peermux-read", 2), ("peermux-write", 2)]);
    stream.write_all(b"still here").expect("it is open");
    stream.shutdown(Shutdown::Write).expect("it is open");
    let mut heard = Vec::new();
    accepted.read_to_end(&mut heard).expect("it ends");
    assert_eq!(heard, b"still here");
    drop((stream, accepted));
    assert!(acceptor.accept().is_none());
    eventually(&[]);
}
