//! What adapters' endpoints are built on, without sockets, tasks or threads: who is woken, and what is given up.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use peermux_core::code::{ErrorCode, ProtocolErrorCode};
use peermux_core::crypto::{PublicKey, StaticSecret};
use peermux_core::dialing::ConnectError;
use peermux_core::driver::{Driver, ReadBuffer, WakeWriter, WriteAction, WriteBuffer};
use peermux_core::endpoint::{
    ConnectRequest, ConnectStep, ConnectionHandle, DialTask, Endpoint, EndpointLimits, ProtocolListener,
};
use peermux_core::error::{CloseInfo, ConnectionError, Side};
use peermux_core::time::Instant;
use peermux_core::wire::Priority;
use peermux_core::{Config, Connection, ExpectedPeer, Identity, PeerInfo, ResponderKeys, Role, Transmit};
use peermux_tests::{Pair, PairBuilder, initiator_key, responder_key, rng};

/// The time, where it does not matter.
const NOW: Instant = Instant::from_millis(1000);

/// A handle of a connection, as an adapter has one.
#[derive(Clone)]
struct Handle(Arc<(Arc<Driver>, PeerInfo)>);

impl ConnectionHandle for Handle {
    fn driver(&self) -> &Arc<Driver> {
        &self.0.0
    }

    fn peer(&self) -> &PeerInfo {
        &self.0.1
    }
}

type Node = Arc<Endpoint<Handle>>;

fn node(limits: EndpointLimits) -> Node {
    Endpoint::new(limits)
}

fn default() -> Node {
    node(EndpointLimits::default())
}

fn handle(connection: Connection) -> Handle {
    let peer = connection.peer().expect("it is confirmed").clone();
    Handle(Arc::new((Driver::new(connection), peer)))
}

/// One end of a connection that the holder of [`initiator_key`] has dialled, and the other.
fn accepted() -> (Handle, Connection) {
    let Pair { initiator, responder, .. } = Pair::established();
    (handle(responder.conn), initiator.conn)
}

/// One end of a connection to the holder of [`initiator_key`], dialled here, and the other.
fn dialled_with_peer() -> (Handle, Connection) {
    let pair = PairBuilder {
        identity: Identity::Static(responder_key()),
        remote: ExpectedPeer::Key(initiator_key().public_key()),
        responder_keys: initiator_key().into(),
        ..PairBuilder::default()
    };
    let Pair { initiator, responder, .. } = pair.establish();
    (handle(initiator.conn), responder.conn)
}

fn dialled() -> Handle {
    dialled_with_peer().0
}

/// One end of a connection of the holder of the smaller of two keys, who decides, and the other.
fn decides(role: Role) -> (Handle, Connection) {
    let mut keys = [initiator_key(), responder_key()];
    keys.sort_by_key(StaticSecret::public_key);
    let [mut dialer, mut listener] = keys;
    if role == Role::Responder {
        std::mem::swap(&mut dialer, &mut listener);
    }
    let remote = ExpectedPeer::Key(listener.public_key());
    let builder = PairBuilder {
        identity: Identity::Static(dialer),
        remote,
        responder_keys: listener.into(),
        ..PairBuilder::default()
    };
    let Pair { initiator, responder, .. } = builder.establish();
    match role {
        Role::Initiator => (handle(initiator.conn), responder.conn),
        Role::Responder => (handle(responder.conn), initiator.conn),
    }
}

fn is_draining(handle: &Handle) -> bool {
    handle.driver().look(Connection::is_draining)
}

fn peer() -> PublicKey {
    initiator_key().public_key()
}

fn own() -> PublicKey {
    responder_key().public_key()
}

fn addresses(port: u16) -> Arc<[SocketAddr]> {
    Arc::new([SocketAddr::from(([127, 0, 0, 1], port))])
}

/// Counts how often it was woken, and uses the endpoint each time: it hangs if that is under the lock.
#[derive(Default)]
struct Count {
    woken: AtomicUsize,
    node: OnceLock<Node>,
}

impl Count {
    fn of(node: &Node) -> (Arc<Self>, Waker) {
        let count = Arc::<Self>::default();
        assert!(count.node.set(node.clone()).is_ok());
        (count.clone(), count.into())
    }

    fn taken(&self) -> usize {
        self.woken.swap(0, SeqCst)
    }
}

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, SeqCst);
        self.node.get().expect("it is set").connections();
    }
}

fn begin(want: &mut ConnectRequest<Handle>, waker: &Waker) -> DialTask<Handle> {
    match want.step(NOW, waker) {
        ConnectStep::Dial(dialing) => dialing,
        _ => panic!("it does not dial"),
    }
}

fn waits(want: &mut ConnectRequest<Handle>, waker: &Waker) -> Option<Instant> {
    match want.step(NOW, waker) {
        ConnectStep::Wait(until) => until,
        _ => panic!("it does not wait"),
    }
}

fn failure(want: &mut ConnectRequest<Handle>) -> io::Error {
    match want.step(NOW, Waker::noop()) {
        ConnectStep::Failed(error) => error,
        _ => panic!("it does not fail"),
    }
}

fn found(want: &mut ConnectRequest<Handle>) -> Handle {
    match want.step(NOW, Waker::noop()) {
        ConnectStep::Found(handle) => handle,
        _ => panic!("it is not found"),
    }
}

/// A handshake that is under way.
fn handshake() -> Arc<Driver> {
    let (config, remote) = (Arc::new(Config::default()), ExpectedPeer::Key(peer()));
    let connection = Connection::initiator(config, Identity::Static(responder_key()), remote, NOW, &mut rng(1));
    Driver::new(connection.expect("it is valid"))
}

/// A handshake with a dialer that has said nothing.
fn silent() -> Arc<Driver> {
    let config = Arc::new(Config::default());
    Driver::new(Connection::responder(config, responder_key().into(), NOW, &mut rng(1)).expect("it is valid"))
}

fn code_of(driver: &Driver) -> Option<ErrorCode> {
    driver.with(|connection| connection.close_reason().and_then(|error| error.code()))
}

#[test]
fn all_who_wait_for_a_dial_are_woken_once_and_told_the_same() {
    let node = default();
    let wakers = [Count::of(&node), Count::of(&node), Count::of(&node)];
    let mut wants = [(); 3].map(|()| node.request(own(), peer(), addresses(1)));
    let dialing = begin(&mut wants[0], &wakers[0].1);
    assert_eq!((dialing.peer(), dialing.addresses()), (peer(), &*addresses(1)));
    for (want, (_, waker)) in wants.iter_mut().zip(&wakers) {
        assert_eq!(waits(want, waker), None);
    }
    assert!(dialing.finish(NOW, Err(io::ErrorKind::ConnectionRefused.into())).is_none());
    for (want, (count, _)) in wants.iter_mut().zip(&wakers) {
        assert_eq!(count.taken(), 1);
        assert_eq!(failure(want).kind(), io::ErrorKind::ConnectionRefused);
    }
    // Who asks again dials again.
    drop(begin(&mut wants[1], Waker::noop()));
}

#[test]
fn an_error_stays_what_it_is_for_all_who_wait() {
    let node = default();
    let mut want = node.request(own(), peer(), addresses(1));
    begin(&mut want, Waker::noop()).finish(NOW, Err(io::Error::from_raw_os_error(113)));
    assert_eq!(failure(&mut want).raw_os_error(), Some(113));
    let error = peermux_core::error::ConnectionError::IdleTimeout;
    begin(&mut want, Waker::noop()).finish(NOW, Err(error.clone().into()));
    let told = failure(&mut want);
    assert_eq!(told.get_ref().and_then(|inner| inner.downcast_ref()), Some(&error));
    begin(&mut want, Waker::noop()).finish(NOW, Err(error.into_dial_error()));
    assert_eq!(failure(&mut want).kind(), io::ErrorKind::TimedOut);

    let mut error = ConnectError::default();
    error.push(addresses(1)[0], io::Error::from_raw_os_error(111));
    begin(&mut want, Waker::noop()).finish(NOW, Err(error.into()));
    let told = failure(&mut want);
    assert_eq!(told.kind(), io::ErrorKind::ConnectionRefused);
    let inner = told.get_ref().and_then(|inner| inner.downcast_ref::<ConnectError>()).expect("it is one");
    assert_eq!(inner.attempts().map(|(_, error)| error.raw_os_error()).collect::<Vec<_>>(), [Some(111)]);
}

#[test]
fn who_is_drained_off_before_the_dial_is_over_takes_the_other_connection_or_waits() {
    let node = default();
    let (count, waker) = Count::of(&node);
    let mut want = node.request(own(), peer(), addresses(1));
    let closed = CloseInfo { code: ErrorCode::NO_ERROR, reason: "".into() };
    let error = ConnectionError::Closed { by: Side::Peer, closed, answer: None };
    begin(&mut want, &waker).finish(NOW, Err(error.into()));
    assert_eq!(count.taken(), 1);
    let until = NOW + Duration::from_secs(15);
    assert_eq!(waits(&mut want, &waker), Some(until));
    let (link, _peer) = accepted();
    let _serving = node.adopt(NOW, &link, None);
    assert_eq!(count.taken(), 1);
    assert!(Arc::ptr_eq(found(&mut want).driver(), link.driver()));
    // Where none comes, it dials again.
    link.driver().handle_transport_error(NOW, "it is gone");
    assert!(matches!(want.step(until, &waker), ConnectStep::Dial(_)));
}

#[test]
fn another_address_is_dialled_at_once_and_the_first_connection_is_for_all() {
    let node = default();
    let (count, waker) = Count::of(&node);
    let [mut first, mut second] = [1, 2].map(|port| node.request(own(), peer(), addresses(port)));
    let dead = begin(&mut first, &waker);
    let dialing = begin(&mut second, &waker);
    assert_eq!(dialing.addresses(), &*addresses(2));
    // Who has no address of its own joins.
    let mut third = node.request(own(), peer(), addresses(1));
    assert_eq!(waits(&mut third, &waker), None);
    let both: Arc<[SocketAddr]> = addresses(1).iter().chain(&*addresses(2)).copied().collect();
    let _both = begin(&mut node.request(own(), peer(), both), Waker::noop());
    let ours = dialled();
    let _serving = dialing.finish(NOW, Ok(ours.clone())).expect("it is a connection");
    assert_eq!(count.taken(), 3);
    for want in [&mut first, &mut second, &mut third] {
        assert!(Arc::ptr_eq(found(want).driver(), ours.driver()));
    }
    assert!(dead.poll_unwanted(Waker::noop()).is_ready(), "it is given up");
}

#[test]
fn a_dial_that_has_failed_leaves_those_at_other_addresses_alone() {
    let node = default();
    let [mut first, mut second] = [1, 2].map(|port| node.request(own(), peer(), addresses(port)));
    let (dead, _other) = (begin(&mut first, Waker::noop()), begin(&mut second, Waker::noop()));
    dead.finish(NOW, Err(io::ErrorKind::ConnectionRefused.into()));
    failure(&mut first);
    assert_eq!(waits(&mut second, Waker::noop()), None);
}

#[test]
fn a_dial_that_is_lost_fails_those_who_wait() {
    let node = default();
    let (count, waker) = Count::of(&node);
    let mut want = node.request(own(), peer(), addresses(1));
    let dialing = begin(&mut want, &waker);
    drop(dialing);
    assert_eq!((count.taken(), failure(&mut want).kind()), (1, io::ErrorKind::Other));
}

#[test]
fn a_dial_is_given_up_when_the_last_one_leaves_and_nobody_joins_it_then() {
    let node = default();
    let (count, waker) = Count::of(&node);
    let [mut first, mut second, mut third] = [(); 3].map(|()| node.request(own(), peer(), addresses(1)));
    let dialing = begin(&mut first, Waker::noop());
    assert_eq!(waits(&mut second, Waker::noop()), None);
    let driver = handshake();
    dialing.begin(&driver);
    drop(first);
    assert!(dialing.poll_unwanted(&waker).is_pending());
    assert_eq!((count.taken(), code_of(&driver)), (0, None));
    drop(second);
    assert_eq!((count.taken(), code_of(&driver)), (1, Some(ErrorCode::CANCELLED)));
    assert!(dialing.poll_unwanted(&waker).is_ready());
    // One that comes too late to be told of its handshake gives it up as well.
    let late = handshake();
    dialing.begin(&late);
    assert_eq!(code_of(&late), Some(ErrorCode::CANCELLED));
    let again = begin(&mut third, Waker::noop());
    drop(dialing);
    assert_eq!(waits(&mut third, Waker::noop()), None);
    let serving = again.finish(NOW, Ok(dialled())).expect("it is a connection");
    assert_eq!(found(&mut third).peer().key, peer());
    drop(serving);
}

#[test]
fn a_peer_that_dials_ends_the_wait_for_a_dial_and_what_is_established_is_not_given_up() {
    let node = default();
    let (count, waker) = Count::of(&node);
    let mut want = node.request(own(), peer(), addresses(1));
    let dialing = begin(&mut want, &waker);
    let ours = dialled();
    dialing.begin(ours.driver());
    let (theirs, _there) = accepted();
    let _serving = node.adopt(NOW, &theirs, None);
    assert_eq!(count.taken(), 1);
    assert!(Arc::ptr_eq(found(&mut want).driver(), theirs.driver()));
    assert!(dialing.poll_unwanted(Waker::noop()).is_ready());
    // From flight 3 on the peer may use it, so it is a connection like any other one, and a duplicate.
    assert_eq!(code_of(ours.driver()), None);
    assert!(dialing.finish(NOW, Ok(ours)).is_some());
    let draining = |handle: &Handle| handle.driver().with(|connection| connection.is_draining());
    let decides = responder_key().public_key() < peer();
    assert_eq!(draining(&theirs), decides);
}

#[test]
fn one_that_was_drained_off_is_told_when_to_dial_and_woken_when_the_peer_comes() {
    let node = default();
    let (ours, mut there) = dialled_with_peer();
    let mut want = node.request(own(), peer(), addresses(1));
    let mut serving = begin(&mut want, Waker::noop()).finish(NOW, Ok(ours.clone())).expect("it is a connection");
    assert!(Arc::ptr_eq(found(&mut want).driver(), ours.driver()));
    let (serves, waker) = Count::of(&node);
    assert!(serving.poll(NOW, &waker).is_pending());
    there.drain(ProtocolErrorCode::DUPLICATE);
    let mut buffer = vec![0; 16 * 1408];
    let Ok(Transmit::Bytes(len)) = there.poll_transmit(NOW, &mut buffer) else { panic!("it says so") };
    ours.driver().with(|connection| connection.handle_slice(NOW, &mut buffer[..len]));
    assert!(serves.taken() > 0);
    let _ = serving.poll(NOW, &waker);
    let (count, waker) = Count::of(&node);
    assert_eq!(waits(&mut want, &waker), Some(NOW + Duration::from_secs(15)));
    assert_eq!(count.taken(), 0);
    let (theirs, _there) = accepted();
    let _serving = node.adopt(NOW, &theirs, None);
    assert_eq!(count.taken(), 1);
    assert!(Arc::ptr_eq(found(&mut want).driver(), theirs.driver()));
}

#[test]
fn places_are_counted_by_network_and_given_back() {
    let limits =
        EndpointLimits { max_pending_handshakes: 4, max_pending_handshakes_per_addr: 2, ..EndpointLimits::default() };
    let node = node(limits);
    let place = |address: &str| node.try_acquire(address.parse::<IpAddr>().expect("it is an address"));
    let [first, second] = ["192.0.2.1", "::ffff:192.0.2.1"].map(|address| place(address).expect("there is one"));
    assert!(place("192.0.2.1").is_none());
    let third = place("2001:db8::1").expect("there is one");
    let (count, waker) = Count::of(&node);
    assert_eq!(node.poll_capacity(&waker), Poll::Ready(true));
    let fourth = place("2001:db8::ffff:1").expect("there is one");
    assert!(node.poll_capacity(&waker).is_pending());
    drop(first);
    assert_eq!((count.taken(), node.poll_capacity(&waker)), (1, Poll::Ready(true)));
    assert!(place("2001:db8::2").is_none(), "it is the same network");
    assert!(node.poll_capacity(&waker).is_ready());
    let fifth = place("2001:db8:0:1::1").expect("it is another network");
    assert!(place("192.0.2.1").is_none(), "all are taken");
    // When the endpoint drains nobody gets in any more, and those who have said nothing are given up, those too that come just then.
    assert!(node.poll_capacity(&waker).is_pending());
    let (early, late) = (silent(), silent());
    second.begin(&early);
    node.drain();
    third.begin(&late);
    assert_eq!([code_of(&early), code_of(&late)], [Some(ErrorCode::CANCELLED); 2]);
    assert_eq!((count.taken(), node.poll_capacity(&waker)), (1, Poll::Ready(false)));
    drop((second, third, fourth, fifth));
    assert!(place("192.0.2.1").is_none());
}

#[test]
fn a_peer_with_many_connections_that_are_not_closed_keeps_its_places() {
    let node = node(EndpointLimits { max_pending_handshakes: 4, ..EndpointLimits::default() });
    let place = || node.try_acquire("192.0.2.1".parse().expect("it is an address"));
    let (count, waker) = Count::of(&node);
    let links = [(); 20].map(|()| accepted());
    let mut serving = links.each_ref().map(|(link, _)| node.adopt(NOW, link, place()));
    // The first sixteen have given theirs back.
    assert!(node.poll_capacity(&waker).is_pending());
    links[19].0.driver().handle_transport_error(NOW, "it is gone");
    assert!(serving[19].poll(NOW, Waker::noop()).is_ready());
    assert_eq!((count.taken(), node.poll_capacity(&waker)), (1, Poll::Ready(true)));
    // Another peer is not concerned.
    drop(place().expect("there is one"));
    let other = with_streams_of(StaticSecret::from_bytes(&[7; 32]), 0);
    let _other = node.adopt(NOW, &other, place());
    assert!(node.poll_capacity(&waker).is_ready());
}

#[test]
fn an_endpoint_that_drains_takes_no_connection_and_waits_for_those_that_it_has() {
    let node = default();
    let (theirs, _there) = accepted();
    let mut serving = node.adopt(NOW, &theirs, None);
    let (count, waker) = Count::of(&node);
    node.drain();
    let drained = node.idle_waiter();
    assert!(theirs.driver().with(|connection| connection.is_draining()));
    assert!(drained.poll(&waker).is_pending() && node.connections().is_empty());
    // The peer that comes late learns that nothing was processed.
    let (late, _there) = accepted();
    let mut refused = node.adopt(NOW, &late, None);
    assert_eq!(code_of(late.driver()), Some(ErrorCode::REFUSED));
    late.driver().handle_transport_error(NOW, "it has heard of it");
    assert!(refused.poll(NOW, Waker::noop()).is_ready());
    assert_eq!(failure(&mut node.request(own(), peer(), addresses(1))).kind(), io::ErrorKind::NotConnected);
    let acceptor = node.register("test").expect("it is free");
    let (accepts, accepting) = Count::of(&node);
    assert!(acceptor.poll_accept(&accepting).is_pending());
    // The connection ends.
    theirs.driver().handle_transport_error(NOW, "it is gone");
    assert!(serving.poll(NOW, Waker::noop()).is_ready());
    assert_eq!((count.taken() > 0, drained.poll(&waker)), (true, Poll::Ready(())));
    assert_eq!(accepts.taken(), 1);
    assert!(matches!(acceptor.poll_accept(&accepting), Poll::Ready(None)));
    // As does the wait for a connection that nobody serves any more.
    let node = default();
    let serving = node.adopt(NOW, &accepted().0, None);
    node.drain();
    let drained = node.idle_waiter();
    assert!(drained.poll(Waker::noop()).is_pending());
    drop(serving);
    assert!(drained.poll(Waker::noop()).is_ready());
}

#[test]
fn a_connection_that_has_ended_is_not_given_out_even_before_its_task_has_seen_it() {
    let node = default();
    let (theirs, _there) = accepted();
    let _serving = node.adopt(NOW, &theirs, None);
    assert!(node.connection(NOW, &peer()).is_some());
    theirs.driver().handle_transport_error(NOW, "it is gone");
    assert!(node.connection(NOW, &peer()).is_none() && node.connections().is_empty());
    let mut want = node.request(own(), peer(), addresses(1));
    drop(begin(&mut want, Waker::noop()));
}

/// `count` streams of the peer that name "test" have arrived.
fn with_streams(count: usize) -> Handle {
    with_streams_of(initiator_key(), count)
}

fn with_streams_of(peer: StaticSecret, count: usize) -> Handle {
    let builder = PairBuilder {
        identity: Identity::Static(peer),
        responder_config: Config { max_streams: 1000, ..Config::default() },
        ..PairBuilder::default()
    };
    let mut pair = builder.establish();
    for _ in 0..count {
        let id = pair.initiator.conn.open_stream(Some("test"), Priority::default()).expect("it is open");
        pair.initiator.conn.send_stream(id).write(b"x").expect("there is room");
    }
    pair.settle();
    assert_eq!(pair.responder.conn.has_incoming(), count > 0);
    handle(pair.responder.conn)
}

fn queued(acceptor: &ProtocolListener<Handle>) -> usize {
    std::iter::from_fn(|| match acceptor.poll_accept(Waker::noop()) {
        Poll::Ready(stream) => stream,
        Poll::Pending => None,
    })
    .count()
}

#[test]
fn many_streams_are_taken_by_and_by_and_the_acceptor_is_woken() {
    let node = node(EndpointLimits { max_queued_streams: 1000, ..EndpointLimits::default() });
    let acceptor = node.register("test").expect("it is free");
    let ((accepts, accepting), (serves, waker)) = (Count::of(&node), Count::of(&node));
    assert!(acceptor.poll_accept(&accepting).is_pending());
    let mut serving = node.adopt(NOW, &with_streams(100), None);
    assert!(serving.poll(NOW, &waker).is_pending());
    // It lets others go on, and is woken for the rest.
    assert_eq!((accepts.taken(), serves.taken()), (1, 1));
    let first = queued(&acceptor);
    assert!((1..100).contains(&first), "{first} at once");
    assert!(serving.poll(NOW, &waker).is_pending());
    assert_eq!((first + queued(&acceptor), serves.taken()), (100, 0));
}

#[test]
fn a_peer_that_opens_many_streams_fills_its_own_queue_only() {
    let node = node(EndpointLimits { max_queued_streams: 8, ..EndpointLimits::default() });
    let acceptor = node.register("test").expect("it is free");
    // The second peer is another one, so its connection is no duplicate.
    let (greedy, modest) = (with_streams(60), with_streams_of(StaticSecret::from_bytes(&[7; 32]), 3));
    let mut serving = [&greedy, &modest].map(|link| node.adopt(NOW, link, None));
    for serving in &mut serving {
        assert!(serving.poll(NOW, Waker::noop()).is_pending());
    }
    let mut turns = Vec::new();
    while let Poll::Ready(Some((_, link))) = acceptor.poll_accept(Waker::noop()) {
        turns.push(Arc::ptr_eq(link.driver(), modest.driver()));
    }
    assert_eq!(turns, [false, true, false, true, false, true, false, false, false, false, false]);
}

#[test]
fn connections_that_are_closed_keep_few_streams_in_all() {
    let node = node(EndpointLimits { max_queued_streams: 8, ..EndpointLimits::default() });
    let acceptor = node.register("test").expect("it is free");
    let mut drivers = Vec::new();
    for _ in 0..100 {
        let link = with_streams(3);
        drivers.push(Arc::downgrade(link.driver()));
        let mut serving = node.adopt(NOW, &link, None);
        assert!(serving.poll(NOW, Waker::noop()).is_pending());
        link.driver().handle_transport_error(NOW, "it is gone");
        assert!(serving.poll(NOW, Waker::noop()).is_ready());
    }
    let alive = drivers.iter().filter(|driver| driver.upgrade().is_some()).count();
    assert_eq!(alive, 3, "three, three and two streams");
    // One that lives has its own queue, and its turn among them.
    let link = with_streams_of(StaticSecret::from_bytes(&[7; 32]), 60);
    let mut serving = node.adopt(NOW, &link, None);
    assert!(serving.poll(NOW, Waker::noop()).is_pending());
    assert_eq!(queued(&acceptor), 8 + 8);
    assert_eq!(drivers.iter().filter(|driver| driver.upgrade().is_some()).count(), 0);
    // What was taken makes room again.
    let again = with_streams(3);
    let mut last = node.adopt(NOW, &again, None);
    assert!(last.poll(NOW, Waker::noop()).is_pending());
    again.driver().handle_transport_error(NOW, "it is gone");
    assert!(last.poll(NOW, Waker::noop()).is_ready());
    assert_eq!(queued(&acceptor), 3);
}

#[test]
fn an_acceptor_that_is_dropped_leaves_its_name_to_another() {
    let node = default();
    let acceptor = node.register("test").expect("it is free");
    assert!(node.register("test").is_err());
    let theirs = with_streams(3);
    let mut serving = node.adopt(NOW, &theirs, None);
    assert!(serving.poll(NOW, Waker::noop()).is_pending());
    drop(acceptor);
    let acceptor = node.register("test").expect("it is free again");
    assert_eq!(queued(&acceptor), 0, "what waited was refused");
    assert!(node.register(&"x".repeat(65)).is_err() && node.register("x y").is_err());
    let strangers = StaticSecret::from_bytes(&[7; 32]).public_key();
    assert!(node.connection(NOW, &strangers).is_none());
}

#[test]
fn a_connection_that_has_ended_is_no_duplicate_even_before_its_task_has_seen_it() {
    // This side decides, and keeps its own of dials that crossed.
    let node = default();
    let (ours, _) = decides(Role::Initiator);
    let (own, peer) = (ours.driver().look(Connection::local_key).expect("it is established"), ours.peer().key);
    let mut want = node.request(own, peer, addresses(1));
    let _ours = begin(&mut want, Waker::noop()).finish(NOW, Ok(ours.clone())).expect("it is a connection");
    ours.driver().handle_transport_error(NOW, "it is gone");
    let (theirs, _there) = decides(Role::Responder);
    let _theirs = node.adopt(NOW, &theirs, None);
    assert!(!is_draining(&theirs));
    let current = node.connection(NOW, &peer).expect("there is one");
    assert!(Arc::ptr_eq(current.driver(), theirs.driver()));
    // One that has not ended is kept, and the other side's drains.
    let node = default();
    let mut want = node.request(own, peer, addresses(1));
    let (ours, _there) = decides(Role::Initiator);
    let _ours = begin(&mut want, Waker::noop()).finish(NOW, Ok(ours)).expect("it is a connection");
    let (theirs, _there) = decides(Role::Responder);
    let _theirs = node.adopt(NOW, &theirs, None);
    assert!(is_draining(&theirs));
}

#[test]
fn drain_lets_a_connection_that_lost_against_a_duplicate_finish() {
    let node = default();
    let links = [(); 3].map(|()| decides(Role::Responder));
    let mut serving: Vec<_> = links.iter().map(|(link, _)| node.adopt(NOW, link, None)).collect();
    assert_eq!(links.each_ref().map(|(link, _)| is_draining(link)), [true, true, false]);
    node.drain();
    let drained = node.idle_waiter();
    assert!(links.iter().all(|(link, _)| is_draining(link) && code_of(link.driver()).is_none()));
    // Their tasks see it, and close none.
    for serving in &mut serving {
        assert!(serving.poll(NOW, Waker::noop()).is_pending());
    }
    assert!(links.iter().all(|(link, _)| code_of(link.driver()).is_none()));
    assert!(drained.poll(Waker::noop()).is_pending());
}

#[test]
fn an_endpoint_that_drains_waits_for_peers_that_are_in_a_handshake_and_not_for_silent_ones() {
    let node = default();
    let place = || node.try_acquire("192.0.2.1".parse().expect("it is an address")).expect("there is one");
    let (quiet, failing, peer) = (place(), place(), place());
    quiet.begin(&silent());
    // M1 is there.
    let begun = || {
        let mut m1 = vec![0; 2816];
        assert!(matches!(
            handshake().with(|connection| connection.poll_transmit(NOW, &mut m1)),
            Ok(Transmit::Bytes(2816))
        ));
        let driver = silent();
        driver.with(|connection| connection.handle_slice(NOW, &mut m1));
        driver
    };
    let (fails, goes_on) = (begun(), begun());
    failing.begin(&fails);
    peer.begin(&goes_on);
    node.drain();
    let drained = node.idle_waiter();
    let (count, waker) = Count::of(&node);
    assert!(drained.poll(&waker).is_pending());
    assert_eq!([code_of(&fails), code_of(&goes_on)], [None; 2]);
    fails.handle_transport_error(NOW, "it is gone");
    failing.failed();
    assert_eq!(count.taken(), 1);
    assert!(drained.poll(&waker).is_pending());
    // It is confirmed, and told.
    let (link, _there) = accepted();
    let mut serving = node.adopt(NOW, &link, Some(peer));
    assert_eq!(code_of(link.driver()), Some(ErrorCode::REFUSED));
    assert!(drained.poll(&waker).is_pending());
    link.driver().handle_transport_error(NOW, "it has heard of it");
    assert!(serving.poll(NOW, Waker::noop()).is_ready());
    assert!(drained.poll(&waker).is_ready());
}

#[test]
fn who_waits_for_a_dial_is_told_when_the_endpoint_drains() {
    let node = default();
    let (count, waker) = Count::of(&node);
    let mut want = node.request(own(), peer(), addresses(1));
    let dialing = begin(&mut want, &waker);
    node.drain();
    assert_eq!((count.taken(), failure(&mut want).kind()), (1, io::ErrorKind::NotConnected));
    assert!(dialing.poll_unwanted(Waker::noop()).is_ready());
}

#[test]
fn connections_of_a_previous_key_live_beside_those_of_the_current_one() {
    let previous = StaticSecret::from_bytes(&[0x55; 32]);
    let keys = || ResponderKeys { current: responder_key(), previous: Some(previous.clone()) };
    let dial = |known: PublicKey| {
        let builder =
            PairBuilder { remote: ExpectedPeer::Key(known), responder_keys: keys(), ..PairBuilder::default() };
        let Pair { initiator, responder, .. } = builder.establish();
        (handle(responder.conn), initiator.conn)
    };
    let node = default();
    let (old, _there) = dial(previous.public_key());
    assert_eq!(old.driver().look(Connection::local_key), Some(previous.public_key()));
    let _old = node.adopt(NOW, &old, None);
    // The peer's connection is used, whichever key it was made to.
    assert!(Arc::ptr_eq(found(&mut node.request(own(), peer(), addresses(1))).driver(), old.driver()));
    let (new, _there) = dial(own());
    assert_eq!(new.driver().look(Connection::local_key), Some(own()));
    let _new = node.adopt(NOW, &new, None);
    assert_eq!([&old, &new].map(is_draining), [false; 2], "they are no duplicates");
    assert_eq!(node.connections().len(), 2);
    assert!(Arc::ptr_eq(node.connection(NOW, &peer()).expect("there is one").driver(), new.driver()));
    // Two of the same key are.
    let (again, _there) = dial(previous.public_key());
    let _again = node.adopt(NOW, &again, None);
    let decides = previous.public_key() < peer();
    assert_eq!([&old, &again, &new].map(is_draining), [decides, false, false]);
}

/// A waker that uses a connection and an endpoint when it is woken, and when it is dropped: it hangs if that is under the lock of either.
struct Reenters(Arc<Driver>, Node);

impl Reenters {
    fn enter(&self) {
        self.0.with(|_| ());
        self.1.connections();
    }
}

impl Wake for Reenters {
    fn wake(self: Arc<Self>) {
        self.enter();
    }
}

impl Drop for Reenters {
    fn drop(&mut self) {
        self.enter();
    }
}

#[test]
fn no_waker_is_woken_or_dropped_under_a_lock() {
    let done = std::thread::spawn(|| {
        let node = default();
        let (link, mut there) = accepted();
        let _serving = node.adopt(NOW, &link, None);
        let driver = link.driver();
        let waker = || Waker::from(Arc::new(Reenters(driver.clone(), node.clone())));
        let again = || [waker(), waker()];
        let stream = driver.open_stream(Some("test"), Priority::default()).expect("it is open");
        // Each of two takes the place of the other; and the last ones go with the stream.
        again().iter().for_each(|waker| assert!(stream.poll_read(waker, &mut [0; 9]).is_pending()));
        again().iter().for_each(|waker| assert!(stream.poll_stopped(waker).is_pending()));
        while stream.poll_write(Waker::noop(), &[0; 60_000]).is_ready() {}
        again().iter().for_each(|waker| assert!(stream.poll_flush(waker).is_pending()));
        drop(stream);
        let stream = driver.open_stream(Some("test"), Priority::default()).expect("it is open");
        assert!(stream.poll_read(&waker(), &mut [0; 9]).is_pending());
        stream.refuse(ErrorCode::REFUSED);
        let mut waiter = driver.waiter();
        again().iter().for_each(|waker| assert!(waiter.poll_close_reason(waker).is_pending()));
        drop(waiter);
        // The writer, with nothing to send.
        let mut buffer = WriteBuffer::default();
        for waker in again() {
            while let WriteAction::Send(_) = driver.poll_transmit(NOW, &mut buffer, &waker) {}
        }
        // CLOSE is to be answered, and the writer is not told of it: who looks at the endpoint's connections does not do it either, under the lock.
        there.close(ErrorCode::NO_ERROR, "");
        let mut record = vec![0; 16 * 1408];
        while let Ok(Transmit::Bytes(len)) = there.poll_transmit(NOW, &mut record) {
            let mut input = ReadBuffer::default();
            input.room_in_vec(|room| room.extend_from_slice(&record[..len]));
            driver.handle_input(NOW, &mut input, WakeWriter::No);
        }
        node.connections();
        node.connection(NOW, &peer());
    });
    let begin = std::time::Instant::now();
    while !done.is_finished() {
        assert!(begin.elapsed() < Duration::from_secs(20), "it hangs");
        std::thread::sleep(Duration::from_millis(5));
    }
    done.join().expect("no panic");
}
