//! Threads of the std adapter: connections and handshakes need none of their own, and a thread that the system does not
//! give harms only the call that needs it. Alone in its process, since it counts threads and limits memory.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use peermux_core::{Config, Remote};
use peermux_std::{Connection, Endpoint, EndpointLimits, Listener, Priority, Transport, connect};
use peermux_tests::{initiator_key, responder_key};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const COUNT: usize = 1000;

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

fn set(resource: Resource, current: Option<u64>) {
    let Rlimit { maximum, .. } = getrlimit(resource);
    setrlimit(resource, Rlimit { current, maximum }).expect("it is within the hard limit");
}

fn dial(address: std::net::SocketAddr) -> std::io::Result<Connection> {
    connect(address, initiator_key(), Remote::Key(responder_key().public_key()), Config::default())
}

fn echo(one: &Connection, other: &Connection) {
    let mut stream = one.open_stream(None, Priority::default()).expect("it is open");
    stream.write_all(b"hello").expect("there is room");
    stream.shutdown(Shutdown::Write).expect("it leaves");
    let mut heard = Vec::new();
    other.accept_stream().expect("it comes").read_to_end(&mut heard).expect("it ends");
    assert_eq!(heard, b"hello");
}

/// Calls `act` while the system has no memory for the stack of a thread.
fn without_threads<R>(act: impl FnOnce() -> R) -> R {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("the system tells");
    let pages: u64 = statm.split_whitespace().next().and_then(|pages| pages.parse().ok()).expect("a number");
    let before = getrlimit(Resource::As).current;
    set(Resource::As, Some(pages * 4096 + (1 << 20)));
    let result = act();
    set(Resource::As, before);
    result
}

fn a_thread_that_cannot_start_harms_nobody() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("loopback listens");
    let address = nobody.local_addr().expect("it is bound");
    // The first connection of the process would start the thread that serves all of them.
    without_threads(|| dial(address).expect_err("there is no thread"));
    let listener = Listener::bind("127.0.0.1:0", responder_key(), Config::default()).expect("there are threads");
    let address = listener.local_addr().expect("it is bound");
    let (dialer, accepted) = (dial(address).expect("there are threads"), listener.accept().expect("it dials"));
    without_threads(|| {
        Listener::bind("127.0.0.1:0", responder_key(), Config::default()).map(drop).expect_err("there is no thread");
        Endpoint::bind("127.0.0.1:0", responder_key(), Config::default()).map(drop).expect_err("there is no thread");
        Transport::from_pair(std::io::empty(), std::io::sink()).map(drop).expect_err("there is no thread");
        // What there is goes on, and so do handshakes.
        echo(&dialer, &accepted);
        let (dialer, accepted) = (dial(address).expect("it listens"), listener.accept().expect("it dials"));
        echo(&dialer, &accepted);
    });
    echo(&dialer, &accepted);
}

fn connections_and_handshakes_add_no_thread() {
    set(Resource::Nofile, Some(5 * COUNT as u64));
    let listener = Listener::bind("127.0.0.1:0", responder_key(), Config::default()).expect("loopback listens");
    let address = listener.local_addr().expect("it is bound");
    let limits = EndpointLimits { unconfirmed_per_address: COUNT, ..EndpointLimits::default() };
    let socket = TcpListener::bind("127.0.0.1:0").expect("loopback listens");
    let keys = || responder_key().into();
    let endpoint =
        Endpoint::from_listener(socket, keys, Config::default(), limits, |_| true).expect("there is a thread");
    let before = threads();
    let pairs: Vec<_> = (0..COUNT)
        .map(|_| {
            let dialer = dial(address).expect("it listens");
            (dialer, listener.accept().expect("it dials"))
        })
        .collect();
    assert!(threads() <= before, "{} threads, and {before} before", threads());
    // Half of the handshakes are of each.
    let endpoint_address = endpoint.local_addr().expect("it listens");
    let silent: Vec<_> = (0..COUNT)
        .map(|number| {
            let address = if number % 2 == 0 { address } else { endpoint_address };
            let mut socket = TcpStream::connect(address).expect("it listens");
            socket.write_all(&[1]).expect("it is connected");
            socket
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    assert!(threads() <= before, "{} threads, and {before} before", threads());
    let begin = Instant::now();
    for (dialer, accepted) in [&pairs[0], &pairs[COUNT / 2], &pairs[COUNT - 1]] {
        echo(dialer, accepted);
        echo(accepted, dialer);
    }
    assert!(begin.elapsed() < Duration::from_secs(2), "it took {:?}", begin.elapsed());
    // They were in their handshakes all the time.
    for mut socket in silent {
        socket.set_nonblocking(true).expect("a socket");
        let error = socket.read(&mut [0]).expect_err("nothing is said, and nothing is closed");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }
    assert!(threads() <= before, "{} threads, and {before} before", threads());
}

#[test]
fn threads_are_few_and_may_be_missing() {
    a_thread_that_cannot_start_harms_nobody();
    connections_and_handshakes_add_no_thread();
}
