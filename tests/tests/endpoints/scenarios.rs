//! What must hold of the endpoints of every adapter: of one as `A` and another as `B`. The key of the first one is the smaller, so it decides about duplicates.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use peermux_core::code::ErrorCode;
use peermux_core::crypto::{PublicKey, StaticSecret};
use peermux_core::endpoint::{EndpointLimits, RegisterError};
use peermux_core::error::{OpenError, ReadError, WriteError};
use peermux_core::wire::Priority;
use peermux_core::{Config, ResponderKeys, Role, is_retryable};
use peermux_tests::{initiator_key, responder_key};

use super::{Accepting, Link, Node, StreamOf, bind, heard, limited, loopback};
use crate::adapter::dialers::{BlackHole, Relay};
use crate::adapter::{Connected, Duplex, eventually};

const HOST: &str = "sia/rhp";
const GATEWAY: &str = "sia/gateway";

type Seen = Arc<Mutex<BTreeMap<Vec<u8>, usize>>>;

fn keys() -> [StaticSecret; 2] {
    let mut keys = [initiator_key(), responder_key()];
    keys.sort_by_key(StaticSecret::public_key);
    keys
}

pub fn two<A: Node, B: Node>() -> (A, B) {
    let [one, two] = keys();
    (bind(one), bind(two))
}

fn some() -> Priority {
    Priority::default()
}

fn dial<A: Node>(from: &A, to: &impl Node) -> A::Connection {
    from.connect(to.address(), to.key()).expect("it listens")
}

/// Both have one connection, the same one.
fn one_connection(one: &impl Node, two: &impl Node) -> [u8; 64] {
    let mut same = None;
    eventually("both use the same connection", || {
        same = match (&one.connections()[..], &two.connections()[..]) {
            ([left], [right]) if left.binding() == right.binding() => Some(left.binding()),
            _ => None,
        };
        same.is_some()
    });
    same.expect("it is")
}

/// Reads requests and sends them back, in a thread for each, and counts how often each came.
fn serve(node: &impl Node, protocol: &str) -> Seen {
    let (acceptor, seen) = (node.register(protocol).expect("it is free"), Seen::default());
    let counted = seen.clone();
    thread::spawn(move || {
        while let Some((mut stream, _)) = acceptor.accept() {
            let seen = counted.clone();
            thread::spawn(move || {
                let Ok(request) = heard(&mut stream) else { return };
                *seen.lock().expect("nobody panics").entry(request.clone()).or_default() += 1;
                let _ = stream.write_all(&request).and_then(|()| stream.finish());
            });
        }
    });
    seen
}

/// Asks once; `None` if nothing of it was processed.
fn try_once(connection: &impl Link, protocol: &str, request: &[u8]) -> Option<io::Result<Vec<u8>>> {
    let mut stream = match connection.open_stream((!protocol.is_empty()).then_some(protocol), some()) {
        Ok(stream) => stream,
        Err(OpenError::Draining) => return None,
        Err(OpenError::Connection(error)) if error.is_orderly() => return None,
        Err(error) => panic!("{error}"),
    };
    let result = stream.write_all(request).and_then(|()| stream.finish()).and_then(|()| heard(&mut stream));
    match &result {
        Err(error) if is_refusal(error) => None,
        _ => Some(result),
    }
}

/// Whether the error says that the stream was not processed.
fn is_refusal(error: &io::Error) -> bool {
    let Some(inner) = error.get_ref() else { return false };
    match (inner.downcast_ref::<ReadError>(), inner.downcast_ref::<WriteError>()) {
        (Some(ReadError::Reset(code)), _) | (_, Some(WriteError::Stopped(code))) => *code == ErrorCode::REFUSED,
        (Some(ReadError::Connection(error)), _) | (_, Some(WriteError::Connection(error))) => error.is_orderly(),
        _ => false,
    }
}

fn ask(from: &impl Node, to: (SocketAddr, PublicKey), protocol: &str, request: &[u8]) -> Vec<u8> {
    loop {
        let connection = from.connect(to.0, to.1).expect("it listens");
        match try_once(&connection, protocol, request) {
            Some(result) => return result.expect("it is answered"),
            None => thread::yield_now(),
        }
    }
}

/// The code of a refusal, which whoever still writes hears of before whoever reads.
fn refused_with(error: &io::Error) -> ErrorCode {
    let inner = error.get_ref().expect("it has a source");
    match (inner.downcast_ref::<ReadError>(), inner.downcast_ref::<WriteError>()) {
        (Some(ReadError::Reset(code)), _) | (_, Some(WriteError::Stopped(code))) => *code,
        _ => panic!("not refused, but {error}"),
    }
}

pub fn two_protocols_share_a_port_and_a_connection_whoever_dialled<A: Node, B: Node>() {
    let (one, two) = two::<A, B>();
    let seen = [serve(&two, HOST), serve(&two, GATEWAY)];
    let acceptor = one.register(GATEWAY).expect("it is free");
    let to = (two.address(), two.key());
    assert_eq!(ask(&one, to, HOST, b"sectors"), b"sectors");
    assert_eq!(ask(&one, to, GATEWAY, b"blocks"), b"blocks");
    assert_eq!(seen.map(|seen| seen.lock().expect("nobody panics").len()), [1, 1]);
    // The other side dials nothing: it has that connection.
    let back = dial(&two, &one);
    let mut stream = back.open_stream(Some(GATEWAY), some()).expect("it is open");
    stream.write_all(b"hello").expect("it is read");
    stream.finish().expect("it is read");
    let (mut stream, from) = acceptor.accept().expect("it comes");
    assert_eq!((&*acceptor.protocol(), from.peer_key()), (GATEWAY, two.key()));
    assert_eq!(heard(&mut stream).expect("it ends"), b"hello");
    assert_eq!(one_connection(&one, &two), from.binding());
    assert_eq!(back.binding(), one.connection(&two.key()).expect("there is one").binding());
    assert_eq!(back.driver().with(|connection| connection.role()), Role::Responder);
}

pub fn dials_at_the_same_time_share_one<A: Node, B: Node>() {
    let (one, two) = two::<A, B>();
    let all = |count: usize, address: SocketAddr, key: PublicKey| {
        let dials: Vec<_> = (0..count)
            .map(|_| {
                let one = one.clone();
                thread::spawn(move || one.connect(address, key))
            })
            .collect();
        dials.into_iter().map(|dial| dial.join().expect("no panic")).collect::<Vec<_>>()
    };
    let connections = all(30, two.address(), two.key());
    let first = one_connection(&one, &two);
    assert!(connections.into_iter().all(|connection| connection.expect("it listens").binding() == first));
    // All who wait are told of a failure, and not one after the other.
    let nobody = StaticSecret::from_bytes(&[9; 32]).public_key();
    // It is bound, so nobody else listens there.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("there is a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("it binds");
    let address = socket.local_addr().expect("it is bound").as_socket().expect("it is of TCP");
    for result in all(20, address, nobody) {
        assert_eq!(result.err().expect("nobody listens").kind(), ErrorKind::ConnectionRefused);
    }
    let own = one.connect(two.address(), one.key()).err().expect("it is its own");
    assert_eq!(own.kind(), ErrorKind::InvalidInput);
}

pub fn crossing_dials_end_with_one_connection_and_nothing_is_lost<A: Node, B: Node>(rounds: u64) {
    for round in 0..rounds {
        let (one, two) = two::<A, B>();
        let seen = [serve(&one, GATEWAY), serve(&two, GATEWAY)];
        let mut requests = Vec::new();
        for number in 0..6_u64 {
            requests.push(request(&one, &two, number, round));
            requests.push(request(&two, &one, number, round));
        }
        requests.into_iter().for_each(|request| request.join().expect("it is answered"));
        one_connection(&one, &two);
        for seen in seen {
            let seen = seen.lock().expect("nobody panics");
            assert_eq!(seen.len(), 6);
            assert!(seen.values().all(|times| *times == 1), "a request that was refused was processed");
        }
    }
}

fn request(from: &impl Node, to: &impl Node, number: u64, round: u64) -> thread::JoinHandle<()> {
    let (from, to) = (from.clone(), (to.address(), to.key()));
    thread::spawn(move || {
        // Some come while the handshakes are under way.
        thread::sleep(Duration::from_micros(round * number * 100));
        let request = number.to_be_bytes().repeat(500);
        assert_eq!(ask(&from, to, GATEWAY, &request), request);
    })
}

/// `stays` is asked by one peer that crashes again and again: its sockets go, and it says no goodbye.
fn crashes<A: Node, B: Node>(stays: &A, key: &StaticSecret) {
    serve(stays, HOST);
    for _ in 0..3 {
        let crashing: B = bind(key.clone());
        let relay = Relay::to(stays.address());
        assert_eq!(ask(&crashing, (relay.address, stays.key()), HOST, b"here I am"), b"here I am");
        // The other side may believe in this connection when the next comes.
        relay.reset();
    }
}

pub fn a_peer_that_crashed_gets_through_at_once<A: Node, B: Node>() {
    let [smaller, greater] = keys();
    crashes::<A, B>(&bind(smaller.clone()), &greater);
    crashes::<A, B>(&bind(greater), &smaller);
}

pub fn a_connection_that_is_dead_and_does_not_know_it_locks_nobody_out<A: Node, B: Node>() {
    let (decides, follows) = two::<A, B>();
    serve(&decides, HOST);
    let relay = Relay::to(decides.address());
    assert_eq!(ask(&follows, (relay.address, decides.key()), HOST, b"first"), b"first");
    relay.pause();
    // The same peer, anew, by another way, with all that it knew lost.
    let again: B = bind(keys()[1].clone());
    assert_eq!(ask(&again, (decides.address(), decides.key()), HOST, b"second"), b"second");
    one_connection(&decides, &again);
}

pub fn one_that_is_drained_off_waits_before_it_dials_again_and_takes_what_comes<A: Node, B: Node>() {
    let (decides, follows) = two::<A, B>();
    let relay = Relay::to(follows.address());
    let dead = decides.connect(relay.address, follows.key()).expect("it listens");
    relay.pause();
    let again: B = bind(keys()[1].clone());
    // The other side takes this for a dial that crossed its own.
    let drained = again.connect_within(decides.address(), decides.key(), Duration::from_secs(1));
    // If that was so before the dial was over, it waits already.
    if let Some(drained) = drained {
        let drained = drained.expect("it listens");
        assert!(drained.closed().is_orderly());
        assert!(drained.open_stream(Some(HOST), some()).is_err());
    }
    let waits = again.connect_within(decides.address(), decides.key(), Duration::from_millis(500));
    assert!(waits.is_none(), "it must not dial for 15 s");
    let (waiting, address, key) = (again.clone(), decides.address(), decides.key());
    let waiting = thread::spawn(move || waiting.connect(address, key));
    // The other side finds out, and dials: that is taken.
    dead.close(0, "dead");
    let there = dial(&decides, &again);
    let here = waiting.join().expect("no panic").expect("there is a connection");
    assert_eq!(there.binding(), here.binding());
}

pub fn unknown_protocols_are_refused_and_names_are_free_again<A: Node, B: Node>() {
    let (one, two) = two::<A, B>();
    let connection = dial(&one, &two);
    let unknown = |protocol: &str| {
        let error = try_once(&connection, protocol, b"x").expect("it is not REFUSED").expect_err("it is unknown");
        assert_eq!(refused_with(&error), ErrorCode::UNKNOWN_PROTOCOL);
    };
    unknown("nobody/knows");
    let acceptor = two.register(HOST).expect("it is free");
    assert_eq!(two.register(HOST).err(), Some(RegisterError::Taken));
    for name in ["with space", "ü", &"x".repeat(65)] {
        assert_eq!(two.register(name).err(), Some(RegisterError::Name));
    }
    drop(acceptor);
    unknown(HOST);
    serve(&two, HOST);
    assert_eq!(try_once(&connection, HOST, b"x").expect("it is taken").expect("it is answered"), b"x");
    // Streams that name nothing can be registered for, too.
    unknown("");
    serve(&two, "");
    assert_eq!(try_once(&connection, "", b"y").expect("it is taken").expect("it is answered"), b"y");
}

pub fn a_slow_acceptor_delays_no_other_one<A: Node, B: Node>() {
    let host: A = limited(responder_key(), EndpointLimits { max_queued_streams: 4, ..EndpointLimits::default() });
    let slow = host.register("slow").expect("it is free");
    serve(&host, "quick");
    let renter: B = bind(initiator_key());
    let connection = dial(&renter, &host);
    let mut streams = Vec::new();
    for number in 0..10 {
        let mut stream = connection.open_stream(Some("slow"), some()).expect("it is open");
        stream.write_all(&[number]).expect("there is room");
        // Those that are refused may be so before this is over.
        let _ = stream.flush();
        streams.push(stream);
    }
    assert_eq!(try_once(&connection, "quick", b"x").expect("it is taken").expect("it is answered"), b"x");
    let refused = |stream: &mut StreamOf<B>| {
        let error = stream.read(&mut [0; 1]).expect_err("nobody takes it");
        assert_eq!(refused_with(&error), ErrorCode::REFUSED);
    };
    streams.split_off(4).iter_mut().for_each(refused);
    let (mut first, _) = slow.accept().expect("it waits");
    let mut byte = [9];
    first.read_exact(&mut byte).expect("it was sent");
    assert_eq!(byte, [0]);
    // Those that nobody took are told so.
    drop(slow);
    streams.split_off(1).iter_mut().for_each(refused);
}

pub fn the_unauthenticated_of_one_address_are_limited<A: Node, B: Node>() {
    let host: A = bind(responder_key());
    let mut silent: Vec<_> = (0..16).map(|_| TcpStream::connect(host.address()).expect("it listens")).collect();
    // Those beyond are closed at once. A socket may be refused before it is told to be connected.
    for _ in 0..4 {
        let Ok(mut socket) = TcpStream::connect(host.address()) else { continue };
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("it is a socket");
        match socket.read(&mut [0; 1]) {
            Ok(read) => assert_eq!(read, 0),
            Err(error) => assert!(![ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()), "{error}"),
        }
    }
    let renter: B = bind(initiator_key());
    assert!(renter.connect(host.address(), host.key()).is_err(), "there is no place");
    // The places of those that go are free again; and whoever is confirmed takes none.
    silent.truncate(15);
    let renters: Vec<B> = (1..=20).map(|number| bind(StaticSecret::from_bytes(&[number; 32]))).collect();
    for renter in &renters {
        eventually("there is a place", || renter.connect(host.address(), host.key()).is_ok());
    }
    eventually("all are peers", || host.connections().len() == 20);
}

pub fn when_no_place_is_left_dialers_wait_for_one<A: Node, B: Node>() {
    let host: A = limited(responder_key(), EndpointLimits { max_pending_handshakes: 2, ..EndpointLimits::default() });
    let silent: Vec<_> = (0..2).map(|_| TcpStream::connect(host.address()).expect("it listens")).collect();
    let renter: B = bind(initiator_key());
    let (waiting, address, key) = (renter.clone(), host.address(), host.key());
    assert!(renter.connect_within(address, key, Duration::from_millis(300)).is_none(), "there is no place");
    let waiting = thread::spawn(move || waiting.connect(address, key));
    drop(silent);
    waiting.join().expect("no panic").expect("there is a place");
}

pub fn drain_lets_all_finish<A: Node, B: Node>() {
    let (one, two) = two::<A, B>();
    let acceptor = two.register(HOST).expect("it is free");
    let connection = dial(&one, &two);
    let mut open = connection.open_stream(Some(HOST), some()).expect("it is open");
    open.write_all(b"half").expect("there is room");
    open.flush().expect("it leaves");
    let (mut accepted, _) = acceptor.accept().expect("it comes");
    let draining = two.clone();
    let draining = thread::spawn(move || draining.drain());
    eventually("the other side hears of it", || one.connections().is_empty());
    assert!(!draining.is_finished() && two.connections().is_empty());
    let error = two.connect(one.address(), one.key()).err().expect("it drains");
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    eventually("nobody listens", || TcpStream::connect(two.address()).is_err());
    open.write_all(b" and half").expect("it is open");
    open.finish().expect("it is open");
    assert_eq!(heard(&mut accepted).expect("it ends"), b"half and half");
    accepted.finish().expect("it is open");
    assert_eq!(open.read(&mut [0; 1]).expect("it ends"), 0);
    drop((open, accepted));
    draining.join().expect("no panic");
    assert!(connection.closed().is_orderly());
    assert!(acceptor.accept().is_none());
    assert!(two.register(GATEWAY).expect("it is free").accept().is_none());
}

pub fn the_last_handle_that_is_dropped_drains<A: Node, B: Node>() {
    let (one, two) = two::<A, B>();
    let acceptor = two.register(HOST).expect("it is free");
    let connection = dial(&one, &two);
    let other = two.clone();
    drop(two);
    let mut stream = connection.open_stream(Some(HOST), some()).expect("it is open");
    stream.flush().expect("it leaves");
    drop(acceptor.accept().expect("it comes"));
    drop((other, stream));
    assert!(connection.closed().is_orderly());
    assert!(acceptor.accept().is_none());
}

pub fn a_dropped_endpoint_gives_up_what_is_not_yet_a_connection<A: Node, B: Node>() {
    let (one, two) = two::<A, B>();
    let address = one.address();
    let mut silent: Vec<_> = (0..5).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    // It has accepted all of them when the one that came last is a peer.
    dial(&two, &one);
    // It accepts, and never says anything.
    let nobody = loopback();
    let dialled = nobody.local_addr().expect("it is bound");
    assert!(one.connect_within(dialled, PublicKey::from_bytes([7; 32]), Duration::from_millis(100)).is_none());
    let begin = Instant::now();
    drop(one);
    assert!(begin.elapsed() < Duration::from_secs(1), "it took {:?}", begin.elapsed());
    eventually("nobody listens", || TcpStream::connect(address).is_err());
    // Those who dialled are let go of, and told nothing.
    for socket in &mut silent {
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("it is a socket");
        match socket.read(&mut [0; 1]) {
            Ok(read) => assert_eq!(read, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
}

pub fn a_dial_that_nobody_waits_for_is_given_up<A: Node, B: Node>() {
    let (one, two) = two::<A, B>();
    // It accepts, and never says anything.
    let silent = loopback();
    let address = silent.local_addr().expect("it is bound");
    assert!(one.connect_within(address, two.key(), Duration::from_millis(200)).is_none(), "nobody answers");
    let dialled = one.connect_within(two.address(), two.key(), Duration::from_secs(5));
    dialled.expect("it is not held up").expect("it listens");
}

pub fn a_dial_that_is_under_way_ends_when_the_peer_has_dialled<A: Node, B: Node>() {
    let (one, two) = two::<A, B>();
    let silent = loopback();
    let (waiting, address, key) = (one.clone(), silent.local_addr().expect("it is bound"), two.key());
    let waiting = thread::spawn(move || waiting.connect(address, key));
    let _held = silent.accept().expect("it dials");
    let there = dial(&two, &one);
    assert_eq!(waiting.join().expect("no panic").expect("there is a connection").binding(), there.binding());
}

pub fn a_dead_address_delays_nobody_who_knows_another_one<A: Node, B: Node>() {
    let (one, two) = two::<A, B>();
    let hole = BlackHole::new();
    let (waiting, address, key) = (one.clone(), hole.address, two.key());
    let waiting = thread::spawn(move || waiting.connect(address, key));
    thread::sleep(Duration::from_millis(100));
    let begin = Instant::now();
    let there = dial(&one, &two);
    assert!(begin.elapsed() < Duration::from_secs(2), "it took {:?}", begin.elapsed());
    // It is for those who wait as well.
    assert_eq!(waiting.join().expect("no panic").expect("there is a connection").binding(), there.binding());
    assert!(begin.elapsed() < Duration::from_secs(2), "it took {:?}", begin.elapsed());
}

/// Dials come at every moment of the drain. Each of them fails, or gives a connection on which all that fails can be tried again.
pub fn a_dial_into_an_endpoint_that_drains_is_refused_and_can_be_tried_again<A: Node, B: Node>() {
    let (mut served, mut failed) = (0, 0);
    // Later and later, until some came in time.
    for round in 0.. {
        if round >= 60 && served > 0 && failed > 0 {
            return;
        }
        let wait = Duration::from_micros(if round < 60 { 50 * round } else { 3_000 << (round - 60) });
        assert!(wait < Duration::from_secs(10), "{served} were served, {failed} failed");
        let host: A = bind(responder_key());
        serve(&host, HOST);
        let renter: B = bind(initiator_key());
        let (address, key) = (host.address(), host.key());
        let asking = thread::spawn(move || {
            let connection = renter.connect(address, key).ok()?;
            let mut stream = match connection.open_stream(Some(HOST), some()) {
                Ok(stream) => stream,
                Err(error) => {
                    assert!(error.is_retryable(), "{error:?}");
                    return None;
                }
            };
            let result = stream.write_all(b"x").and_then(|()| stream.finish()).and_then(|()| heard(&mut stream));
            match result {
                Ok(answer) => Some(answer),
                Err(error) => {
                    assert!(is_retryable(&error), "{error:?}");
                    None
                }
            }
        });
        let begin = Instant::now();
        while begin.elapsed() < wait {
            thread::yield_now();
        }
        host.drain();
        match asking.join().expect("what fails can be tried again") {
            Some(_) => served += 1,
            None => failed += 1,
        }
    }
}

pub fn a_key_that_was_rotated_works_beside_the_new_one<A: Node, B: Node>() {
    let previous = StaticSecret::from_bytes(&[0x55; 32]);
    let keys = ResponderKeys { current: responder_key(), previous: Some(previous.clone()) };
    let host =
        A::from_listener(loopback(), keys, Config::default(), EndpointLimits::default(), true).expect("it is valid");
    serve(&host, HOST);
    assert_eq!(host.key(), responder_key().public_key());
    let renter: B = bind(initiator_key());
    for key in [previous.public_key(), host.key()] {
        assert_eq!(ask(&renter, (host.address(), key), HOST, b"x"), b"x");
    }
    eventually("both live", || host.connections().len() == 2);
    assert_eq!(renter.connections().len(), 2);
}

/// A request is open on a connection that has lost against another one, when the side that decides drains.
pub fn drain_lets_a_connection_that_lost_finish<A: Node, B: Node>() {
    let (decides, follows) = two::<A, B>();
    let acceptor = decides.register(HOST).expect("it is free");
    let first = dial(&follows, &decides);
    let mut stream = first.open_stream(Some(HOST), some()).expect("it is open");
    stream.write_all(b"request").expect("there is room");
    stream.finish().expect("it leaves");
    let (mut served, _) = acceptor.accept().expect("it comes");
    // The same peer dials again, and the second connection is kept. (A third would be as well.)
    let again: B = bind(keys()[1].clone());
    dial(&again, &decides);
    eventually("the first one drains", || first.is_draining());
    let draining = decides.clone();
    let draining = thread::spawn(move || draining.drain());
    eventually("it drains", || again.connections().is_empty());
    assert_eq!(heard(&mut served).expect("it is not cut"), b"request");
    served.write_all(b"answer").expect("it is not cut");
    served.finish().expect("it is not cut");
    drop(served);
    assert_eq!(heard(&mut stream).expect("it is not cut"), b"answer");
    drop(stream);
    draining.join().expect("no panic");
}

pub fn anonymous_peers_are_never_merged<A: Node, B: Node>() {
    let host: A = bind(responder_key());
    serve(&host, HOST);
    let dial = || B::dial_anonymously(host.address(), host.key()).expect("it listens");
    let connections = [dial(), dial(), dial()];
    for connection in &connections {
        assert_eq!(try_once(connection, HOST, b"x").expect("it is taken").expect("it is answered"), b"x");
    }
    let peers = host.connections();
    assert_eq!(peers.len(), 3);
    let anonymous = |peer: &A::Connection| peer.driver().with(|peer| peer.peer().is_some_and(|peer| peer.anonymous));
    assert!(peers.iter().all(anonymous));
}

pub fn a_peer_that_the_application_refuses_is_no_peer<A: Node, B: Node>() {
    let config = Config { approve_peers: true, ..Config::default() };
    let host =
        A::from_listener(loopback(), responder_key(), config, EndpointLimits::default(), false).expect("it is valid");
    let renter: B = bind(initiator_key());
    // It was not refused when the dial ended, or it was: either way it is told, and nothing is dialled over and over.
    if let Ok(connection) = renter.connect(host.address(), host.key()) {
        assert_eq!(connection.closed().code(), Some(ErrorCode::REFUSED));
    }
    assert!(host.connections().is_empty());
}

pub fn limits_beyond_all_numbers_and_of_nothing_do_no_harm<A: Node, B: Node>() {
    let most = EndpointLimits {
        max_pending_handshakes: usize::MAX,
        max_pending_handshakes_per_addr: usize::MAX,
        max_queued_streams: usize::MAX,
    };
    let none = EndpointLimits { max_pending_handshakes: 0, max_pending_handshakes_per_addr: 0, max_queued_streams: 0 };
    let [smaller, greater] = keys();
    let (one, two): (A, B) = (limited(smaller, none), limited(greater, most));
    // Nobody gets in who dials; but it can dial, and one stream waits.
    assert!(two.connect_within(one.address(), one.key(), Duration::from_millis(200)).is_none());
    serve(&one, HOST);
    dial(&one, &two);
    assert_eq!(ask(&two, (one.address(), one.key()), HOST, b"x"), b"x");
}

/// One test function for each scenario: an endpoint of the first adapter and one of the second.
#[macro_export]
macro_rules! endpoint_scenarios {
    ($one:ty, $two:ty: $($name:ident($($argument:expr),*) within $seconds:literal;)*) => {
        $(
            #[test]
            fn $name() {
                $crate::adapter::within($seconds, || {
                    $crate::endpoints::scenarios::$name::<$one, $two>($($argument),*)
                });
            }
        )*
    };
}
