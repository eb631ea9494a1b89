//! Endpoints over real sockets: one port, many peers, one connection with each, several protocols.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use peermux_core::error::{ReadError, WriteError};
use peermux_core::{Config, ExpectedPeer, Identity};
use peermux_tests::{initiator_key, responder_key};
use peermux_tokio::{
    Connection, Endpoint, EndpointLimits, ErrorCode, OpenError, Priority, ProtocolListener, PublicKey, RegisterError,
    StaticSecret, Stream, connect,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};

const HOST: &str = "sia/rhp";
const GATEWAY: &str = "sia/gateway";
const LOOPBACK: &str = "127.0.0.1:0";

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts")
}

fn run(test: impl Future<Output = ()>) {
    let runtime = runtime();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), test).await.expect("it takes too long") });
    runtime.shutdown_background();
}

async fn bind(key: StaticSecret) -> Endpoint {
    Endpoint::bind(LOOPBACK, key, Config::default()).await.expect("loopback listens")
}

/// Two endpoints; the key of the first one is the smaller.
async fn two() -> (Endpoint, Endpoint) {
    let mut keys = [initiator_key(), responder_key()];
    keys.sort_by_key(StaticSecret::public_key);
    let [one, two] = keys;
    (bind(one).await, bind(two).await)
}

fn key_of(endpoint: &Endpoint) -> StaticSecret {
    let mut keys = [initiator_key(), responder_key()].into_iter();
    keys.find(|key| key.public_key() == endpoint.public_key()).expect("it is one of the two")
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn dial(from: &Endpoint, to: &Endpoint) -> Connection {
    from.connect(to.local_addr(), to.public_key()).await.expect("it listens")
}

/// What both sides of a connection know it by.
fn binding(connection: &Connection) -> [u8; 64] {
    connection.driver().with(|connection| *connection.channel_binding().expect("it is established"))
}

/// Both have one connection, the same one.
async fn one_connection(one: &Endpoint, two: &Endpoint) -> [u8; 64] {
    let mut same = None;
    eventually("both use the same connection", || {
        let (left, right) = (one.connections(), two.connections());
        same = match (&left[..], &right[..]) {
            ([left], [right]) if binding(left) == binding(right) => Some(binding(left)),
            _ => None,
        };
        same.is_some()
    })
    .await;
    same.expect("it is")
}

/// Reads a request and sends it back, and counts how often each came.
async fn echo(acceptor: ProtocolListener, seen: Arc<Mutex<BTreeMap<Vec<u8>, usize>>>) {
    while let Some((stream, _)) = acceptor.accept().await {
        let seen = seen.clone();
        tokio::spawn(async move {
            let _ = answer(stream, &seen).await;
        });
    }
}

async fn answer(mut stream: Stream, seen: &Mutex<BTreeMap<Vec<u8>, usize>>) -> io::Result<()> {
    let mut request = Vec::new();
    stream.read_to_end(&mut request).await?;
    *seen.lock().expect("nobody panics").entry(request.clone()).or_default() += 1;
    stream.write_all(&request).await?;
    stream.shutdown().await
}

fn serve(endpoint: &Endpoint, protocol: &str) -> Arc<Mutex<BTreeMap<Vec<u8>, usize>>> {
    let seen = Arc::<Mutex<BTreeMap<Vec<u8>, usize>>>::default();
    tokio::spawn(echo(endpoint.register(protocol).expect("it is free"), seen.clone()));
    seen
}

/// Asks once; `None` if nothing of it was processed.
async fn try_once(connection: &Connection, protocol: &str, request: &[u8]) -> Option<io::Result<Vec<u8>>> {
    let mut stream = match connection.open_stream((!protocol.is_empty()).then_some(protocol), Priority::default()) {
        Ok(stream) => stream,
        Err(OpenError::Draining) => return None,
        Err(OpenError::Connection(error)) if error.is_orderly() => return None,
        Err(error) => panic!("{error}"),
    };
    let result = async {
        stream.write_all(request).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    };
    let result = result.await;
    match result.as_ref().err().and_then(refusal) {
        Some(()) => None,
        None => Some(result),
    }
}

/// Whether the error says that the stream was not processed.
fn refusal(error: &io::Error) -> Option<()> {
    let inner = error.get_ref()?;
    let refused = match (inner.downcast_ref::<ReadError>(), inner.downcast_ref::<WriteError>()) {
        (Some(ReadError::Reset(code)), _) | (_, Some(WriteError::Stopped(code))) => *code == ErrorCode::REFUSED,
        (Some(ReadError::Connection(error)), _) | (_, Some(WriteError::Connection(error))) => error.is_orderly(),
        _ => false,
    };
    refused.then_some(())
}

async fn ask(from: &Endpoint, to: (SocketAddr, PublicKey), protocol: &str, request: &[u8]) -> Vec<u8> {
    loop {
        let connection = from.connect(to.0, to.1).await.expect("it listens");
        match try_once(&connection, protocol, request).await {
            Some(result) => return result.expect("it is answered"),
            None => tokio::task::yield_now().await,
        }
    }
}

fn code_of(error: &io::Error) -> Option<ErrorCode> {
    let inner = error.get_ref()?;
    // Writing may learn of it first.
    match (inner.downcast_ref::<ReadError>(), inner.downcast_ref::<WriteError>()) {
        (Some(ReadError::Reset(code)), _) | (_, Some(WriteError::Stopped(code))) => Some(*code),
        _ => None,
    }
}

#[test]
fn two_protocols_share_a_port_and_a_connection_whoever_dialled() {
    run(async {
        let (one, two) = two().await;
        let seen = [serve(&two, HOST), serve(&two, GATEWAY)];
        let acceptor = one.register(GATEWAY).expect("it is free");
        let to = (two.local_addr(), two.public_key());
        assert_eq!(ask(&one, to, HOST, b"sectors").await, b"sectors");
        assert_eq!(ask(&one, to, GATEWAY, b"blocks").await, b"blocks");
        assert_eq!(seen.map(|seen| seen.lock().expect("nobody panics").len()), [1, 1]);
        // The other side dials nothing: it has that connection.
        let back = dial(&two, &one).await;
        let mut stream = back.open_stream(Some(GATEWAY), Priority::default()).expect("it is open");
        stream.write_all(b"hello").await.expect("it is read");
        stream.shutdown().await.expect("it is read");
        let (mut stream, from) = acceptor.accept().await.expect("it comes");
        assert_eq!((acceptor.protocol(), from.peer_key()), (GATEWAY, two.public_key()));
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.expect("it ends");
        assert_eq!(heard, b"hello");
        assert_eq!(one_connection(&one, &two).await, binding(&from));
        assert_eq!(binding(&back), binding(&one.connection(&two.public_key()).expect("there is one")));
        assert_eq!(back.driver().with(|connection| connection.role()), peermux_core::Role::Responder);
    });
}

#[test]
fn dials_at_the_same_time_share_one() {
    run(async {
        let (one, two) = two().await;
        let mut dials = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (one, address, key) = (one.clone(), two.local_addr(), two.public_key());
            dials.spawn(async move { one.connect(address, key).await.expect("it listens") });
        }
        let connections = dials.join_all().await;
        let first = binding(&connections[0]);
        assert!(connections.iter().all(|connection| binding(connection) == first));
        assert_eq!(one_connection(&one, &two).await, first);
        // All who wait are told of a failure, and not one after the other.
        let nobody = StaticSecret::from_bytes(&[9; 32]).public_key();
        // It is bound, so nobody else listens there.
        let socket = TcpSocket::new_v4().expect("there is a socket");
        socket.bind(LOOPBACK.parse().expect("it is an address")).expect("it binds");
        let address = socket.local_addr().expect("it is bound");
        let mut dials = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let one = one.clone();
            dials.spawn(async move { one.connect(address, nobody).await.expect_err("nobody listens").kind() });
        }
        assert!(dials.join_all().await.iter().all(|kind| *kind == io::ErrorKind::ConnectionRefused));
        let own = one.connect(two.local_addr(), one.public_key()).await.expect_err("it is its own");
        assert_eq!(own.kind(), io::ErrorKind::InvalidInput);
    });
}

#[test]
fn crossing_dials_end_with_one_connection_and_nothing_is_lost() {
    run(async {
        for round in 0..40_u64 {
            let (one, two) = two().await;
            let seen = [serve(&one, GATEWAY), serve(&two, GATEWAY)];
            let mut requests = tokio::task::JoinSet::new();
            for number in 0..8_u64 {
                for (from, to) in [(&one, &two), (&two, &one)] {
                    let (from, to) = (from.clone(), (to.local_addr(), to.public_key()));
                    requests.spawn(async move {
                        // Some come while the handshakes are under way.
                        tokio::time::sleep(Duration::from_micros(round * number * 50)).await;
                        let request = number.to_be_bytes().repeat(500);
                        assert_eq!(ask(&from, to, GATEWAY, &request).await, request);
                    });
                }
            }
            while let Some(result) = requests.join_next().await {
                result.expect("it is answered");
            }
            one_connection(&one, &two).await;
            for seen in seen {
                let seen = seen.lock().expect("nobody panics");
                assert_eq!(seen.len(), 8);
                assert!(seen.values().all(|times| *times == 1), "a request that was refused was processed");
            }
        }
    });
}

#[test]
fn a_peer_that_crashed_gets_through_at_once() {
    for crashes_first in [true, false] {
        run(async move {
            let (one, two) = two().await;
            let (stays, crashes) = if crashes_first { (two, one) } else { (one, two) };
            let key = key_of(&crashes);
            serve(&stays, HOST);
            let to = (stays.local_addr(), stays.public_key());
            for _ in 0..3 {
                // Its sockets go with its runtime, and it says no goodbye. This side may believe in the old connection when the next comes.
                let (key, crashing) = (key.clone(), runtime());
                let life = async move {
                    let endpoint = bind(key).await;
                    assert_eq!(ask(&endpoint, to, HOST, b"here I am").await, b"here I am");
                    std::mem::forget(endpoint);
                };
                crashing.spawn(life).await.expect("it gets through");
                crashing.shutdown_background();
            }
        });
    }
}

/// Passes bytes on until it is told to be silent; what both sides have then stays open.
async fn relay(to: SocketAddr, silent: tokio::sync::watch::Receiver<bool>) -> SocketAddr {
    let listener = TcpListener::bind(LOOPBACK).await.expect("loopback listens");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.expect("somebody dials");
            let mut far = TcpStream::connect(to).await.expect("it listens");
            let mut silent = silent.clone();
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
                    _ = silent.wait_for(|silent| *silent) => {}
                }
                std::future::pending::<()>().await;
            });
        }
    });
    address
}

#[test]
fn a_connection_that_is_dead_and_does_not_know_it_locks_nobody_out() {
    run(async {
        let (decides, follows) = two().await;
        serve(&decides, HOST);
        let (silence, silent) = tokio::sync::watch::channel(false);
        let address = relay(decides.local_addr(), silent).await;
        let to = (address, decides.public_key());
        assert_eq!(ask(&follows, to, HOST, b"first").await, b"first");
        silence.send_replace(true);
        // The same peer, anew, by another way, with all that it knew lost.
        let again = bind(key_of(&follows)).await;
        let to = (decides.local_addr(), decides.public_key());
        assert_eq!(ask(&again, to, HOST, b"second").await, b"second");
        one_connection(&decides, &again).await;
    });
}

#[test]
fn one_that_is_drained_off_waits_before_it_dials_again_and_takes_what_comes() {
    run(async {
        let (decides, follows) = two().await;
        let (silence, silent) = tokio::sync::watch::channel(false);
        let address = relay(follows.local_addr(), silent).await;
        let dead = decides.connect(address, follows.public_key()).await.expect("it listens");
        silence.send_replace(true);
        let again = bind(key_of(&follows)).await;
        // The other side takes this for a dial that crossed its own.
        let drained = tokio::time::timeout(Duration::from_secs(1), dial(&again, &decides)).await;
        // If that was so before the dial was over, it waits already.
        if let Ok(drained) = drained {
            let ended = tokio::time::timeout(Duration::from_secs(5), drained.closed()).await;
            assert!(ended.expect("it drains").is_orderly());
            assert!(drained.open_stream(Some(HOST), Priority::default()).is_err());
        }
        let waiting = again.clone();
        let (address, key) = (decides.local_addr(), decides.public_key());
        let waiting = tokio::spawn(async move { waiting.connect(address, key).await });
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!waiting.is_finished(), "it must not dial for 15 s");
        // The other side finds out, and dials: that is taken.
        dead.close(0, "dead");
        dead.transport_closed().await;
        let there = dial(&decides, &again).await;
        let here = waiting.await.expect("no panic").expect("there is a connection");
        assert_eq!(binding(&there), binding(&here));
    });
}

#[test]
fn unknown_protocols_are_refused_and_names_are_free_again() {
    run(async {
        let (one, two) = two().await;
        let connection = dial(&one, &two).await;
        let error = try_once(&connection, "nobody/knows", b"x").await.expect("it is not REFUSED").expect_err("unknown");
        assert_eq!(code_of(&error), Some(ErrorCode::UNKNOWN_PROTOCOL));
        let acceptor = two.register(HOST).expect("it is free");
        assert_eq!(two.register(HOST).err(), Some(RegisterError::Taken));
        for name in ["with space", "ü", &"x".repeat(65)] {
            assert_eq!(two.register(name).err(), Some(RegisterError::Name));
        }
        drop(acceptor);
        let error = try_once(&connection, HOST, b"x").await.expect("it is not REFUSED").expect_err("unknown");
        assert_eq!(code_of(&error), Some(ErrorCode::UNKNOWN_PROTOCOL));
        serve(&two, HOST);
        assert_eq!(try_once(&connection, HOST, b"x").await.expect("it is taken").expect("it is answered"), b"x");
        // Streams that name nothing can be registered for, too.
        let error = try_once(&connection, "", b"x").await.expect("it is not REFUSED").expect_err("unknown");
        assert_eq!(code_of(&error), Some(ErrorCode::UNKNOWN_PROTOCOL));
        serve(&two, "");
        assert_eq!(try_once(&connection, "", b"y").await.expect("it is taken").expect("it is answered"), b"y");
    });
}

async fn limited(limits: EndpointLimits) -> Endpoint {
    let socket = TcpListener::bind(LOOPBACK).await.expect("loopback listens");
    Endpoint::from_listener(socket, || responder_key().into(), Config::default(), limits, |_| true)
        .expect("it is valid")
}

#[test]
fn a_slow_acceptor_delays_no_other_one() {
    run(async {
        let host = limited(EndpointLimits { max_queued_streams: 4, ..EndpointLimits::default() }).await;
        let slow = host.register("slow").expect("it is free");
        serve(&host, "quick");
        let renter = bind(initiator_key()).await;
        let connection = dial(&renter, &host).await;
        let mut streams = Vec::new();
        for number in 0..10 {
            let mut stream = connection.open_stream(Some("slow"), Priority::default()).expect("it is open");
            stream.write_all(&[number]).await.expect("there is room");
            // Those that are refused may be so before this is over.
            let _ = stream.flush().await;
            streams.push(stream);
        }
        let quick = tokio::time::timeout(Duration::from_secs(5), try_once(&connection, "quick", b"x"));
        assert_eq!(quick.await.expect("it is not delayed").expect("it is taken").expect("it is answered"), b"x");
        for mut stream in streams.split_off(4) {
            let error = stream.read_u8().await.expect_err("it is one too many");
            assert_eq!(code_of(&error), Some(ErrorCode::REFUSED));
        }
        let (mut first, _) = slow.accept().await.expect("it waits");
        assert_eq!(first.read_u8().await.expect("it was sent"), 0);
        // Those that nobody took are told so.
        drop(slow);
        for mut stream in streams.split_off(1) {
            let error = stream.read_u8().await.expect_err("nobody takes it");
            assert_eq!(code_of(&error), Some(ErrorCode::REFUSED));
        }
    });
}

#[test]
fn the_unauthenticated_of_one_address_are_limited() {
    run(async {
        let host = limited(EndpointLimits::default()).await;
        let mut silent = Vec::new();
        for _ in 0..16 {
            silent.push(TcpStream::connect(host.local_addr()).await.expect("it listens"));
        }
        // Those beyond are closed at once. A socket may be refused before it is told to be connected.
        for _ in 0..4 {
            let Ok(mut socket) = TcpStream::connect(host.local_addr()).await else { continue };
            let read = tokio::time::timeout(Duration::from_secs(5), socket.read(&mut [0; 1])).await;
            assert!(matches!(read.expect("it is closed"), Ok(0) | Err(_)));
        }
        let renter = bind(initiator_key()).await;
        renter.connect(host.local_addr(), host.public_key()).await.expect_err("there is no place");
        // The places of those that go are free again; and whoever is confirmed takes none.
        silent.truncate(15);
        let start = Instant::now();
        for number in 1..=20 {
            let renter = bind(StaticSecret::from_bytes(&[number; 32])).await;
            while renter.connect(host.local_addr(), host.public_key()).await.is_err() {
                assert!(start.elapsed() < Duration::from_secs(10), "there is a place");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            std::mem::forget(renter);
        }
        eventually("all are peers", || host.connections().len() == 20).await;
    });
}

#[test]
fn drain_lets_all_finish() {
    run(async {
        let (one, two) = two().await;
        let acceptor = two.register(HOST).expect("it is free");
        let connection = dial(&one, &two).await;
        let mut open = connection.open_stream(Some(HOST), Priority::default()).expect("it is open");
        open.write_all(b"half").await.expect("there is room");
        open.flush().await.expect("it leaves");
        let (mut accepted, _) = acceptor.accept().await.expect("it comes");
        two.drain();
        let draining = two.clone();
        let draining = tokio::spawn(async move { draining.wait_idle().await });
        eventually("the other side hears of it", || one.connections().is_empty()).await;
        assert!(!draining.is_finished() && two.connections().is_empty());
        let error = two.connect(one.local_addr(), one.public_key()).await.expect_err("it drains");
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        eventually("nobody listens", || std::net::TcpStream::connect(two.local_addr()).is_err()).await;
        open.write_all(b" and half").await.expect("it is open");
        open.shutdown().await.expect("it is open");
        let mut heard = Vec::new();
        accepted.read_to_end(&mut heard).await.expect("it ends");
        assert_eq!(heard, b"half and half");
        accepted.shutdown().await.expect("it is open");
        assert_eq!(open.read(&mut [0; 1]).await.expect("it ends"), 0);
        drop((open, accepted));
        draining.await.expect("no panic");
        assert!(connection.closed().await.is_orderly());
        assert!(acceptor.accept().await.is_none());
        assert!(two.register(GATEWAY).expect("it is free").accept().await.is_none());
    });
}

#[test]
fn the_last_handle_that_is_dropped_drains() {
    run(async {
        let (one, two) = two().await;
        let acceptor = two.register(HOST).expect("it is free");
        let connection = dial(&one, &two).await;
        let other = two.clone();
        drop(two);
        assert!(takes_a_stream(&connection, &acceptor).await);
        drop(other);
        assert!(connection.closed().await.is_orderly());
        assert!(acceptor.accept().await.is_none());
    });
}

async fn takes_a_stream(connection: &Connection, acceptor: &ProtocolListener) -> bool {
    // One who waits and is not polled keeps it from nobody.
    let mut parked = pin!(acceptor.accept());
    assert!(poll_fn(|cx| Poll::Ready(parked.as_mut().poll(cx).is_pending())).await);
    let mut stream = connection.open_stream(Some(HOST), Priority::default()).expect("it is open");
    stream.flush().await.expect("it leaves");
    acceptor.accept().await.is_some()
}

#[test]
fn a_dial_that_nobody_waits_for_is_given_up() {
    run(async {
        let (one, two) = two().await;
        // It accepts, and never says anything.
        let silent = TcpListener::bind(LOOPBACK).await.expect("loopback listens");
        let address = silent.local_addr().expect("it is bound");
        let dial = one.connect(address, two.public_key());
        tokio::time::timeout(Duration::from_millis(200), dial).await.expect_err("nobody answers");
        let dial = one.connect(two.local_addr(), two.public_key());
        tokio::time::timeout(Duration::from_secs(5), dial).await.expect("it is not held up").expect("it listens");
    });
}

#[test]
fn a_dial_that_is_under_way_ends_when_the_peer_has_dialled() {
    run(async {
        let (one, two) = two().await;
        let silent = TcpListener::bind(LOOPBACK).await.expect("loopback listens");
        let (waiting, address, key) = (one.clone(), silent.local_addr().expect("it is bound"), two.public_key());
        let waiting = tokio::spawn(async move { waiting.connect(address, key).await });
        let _held = silent.accept().await.expect("it dials");
        let there = dial(&two, &one).await;
        assert_eq!(binding(&waiting.await.expect("no panic").expect("there is a connection")), binding(&there));
    });
}

#[test]
fn anonymous_peers_are_never_merged() {
    run(async {
        let (host, _) = two().await;
        serve(&host, HOST);
        let mut connections = Vec::new();
        for _ in 0..3 {
            let remote = ExpectedPeer::Key(host.public_key());
            let dialled = connect(host.local_addr(), Identity::Anonymous, remote, Config::default()).await;
            connections.push(dialled.expect("it listens"));
        }
        for connection in &connections {
            assert_eq!(try_once(connection, HOST, b"x").await.expect("it is taken").expect("it is answered"), b"x");
        }
        assert_eq!(host.connections().len(), 3);
        assert!(host.connections().iter().all(|connection| connection.peer().anonymous));
    });
}

#[test]
fn a_peer_that_the_application_refuses_is_no_peer() {
    run(async {
        let socket = TcpListener::bind(LOOPBACK).await.expect("loopback listens");
        let config = Config { approve_peers: true, ..Config::default() };
        let host =
            Endpoint::from_listener(socket, || responder_key().into(), config, EndpointLimits::default(), |_| false);
        let host = host.expect("it is valid");
        let renter = bind(initiator_key()).await;
        // It was not refused when the dial ended, or it was: either way it is told, and nothing is dialled over and over.
        if let Ok(connection) = renter.connect(host.local_addr(), host.public_key()).await {
            assert_eq!(connection.closed().await.code(), Some(ErrorCode::REFUSED));
        }
        assert!(host.connections().is_empty());
    });
}
