//! One connection per counterparty (`docs/spec.md` section 16): two endpoints in virtual time, with real connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use peermux_core::code::{ErrorCode, ProtocolErrorCode};
use peermux_core::crypto::{PublicKey, StaticSecret};
use peermux_core::error::{ConnectionError, OpenError, ReadError, Side};
use peermux_core::time::Instant;
use peermux_core::wire::Priority;
use peermux_core::{Config, Connection, Event, ExpectedPeer, Identity, PeerTable, Role, StreamId, Transmit, Verdict};
use peermux_tests::{Pair, PairBuilder, rng};

const TICK: Duration = Duration::from_millis(1);
const LATENCY: Duration = Duration::from_millis(10);

/// The endpoint whose key is smaller decides.
const DECIDES: usize = 0;
const FOLLOWS: usize = 1;

/// A request: eight bytes that come back.
struct Request {
    number: u64,
    stream: Option<(usize, StreamId)>,
    answered: bool,
}

/// An endpoint. It knows a connection by the number of its link, and so does the other one.
struct Node {
    secret: StaticSecret,
    table: PeerTable<usize>,
    requests: Vec<Request>,
    /// Streams of the other side that are read, and what came so far.
    reading: Vec<(usize, StreamId, Vec<u8>)>,
    /// How often each request was delivered here.
    delivered: BTreeMap<u64, usize>,
    drained: Vec<(usize, ProtocolErrorCode)>,
    ended: BTreeMap<usize, ConnectionError>,
}

impl Node {
    fn new(secret: StaticSecret) -> Self {
        Self {
            table: PeerTable::new(secret.public_key()),
            secret,
            requests: Vec::new(),
            reading: Vec::new(),
            delivered: BTreeMap::new(),
            drained: Vec::new(),
            ended: BTreeMap::new(),
        }
    }

    fn key(&self) -> PublicKey {
        self.secret.public_key()
    }
}

/// A connection between both.
struct Link {
    pair: Pair,
    start: Instant,
    dialer: usize,
    /// One side has crashed, or the way is cut: nothing happens any more.
    cut: bool,
}

struct World {
    now: Instant,
    nodes: [Node; 2],
    links: Vec<Link>,
}

impl World {
    fn new() -> Self {
        let mut secrets = [[0x33; 32], [0x44; 32]].map(|bytes| StaticSecret::from_bytes(&bytes));
        secrets.sort_by_key(StaticSecret::public_key);
        Self { now: Instant::ZERO, nodes: secrets.map(Node::new), links: Vec::new() }
    }

    fn dial(&mut self, dialer: usize) -> usize {
        self.dial_as(dialer, Identity::Static(self.nodes[dialer].secret.clone()))
    }

    fn dial_as(&mut self, dialer: usize, identity: Identity) -> usize {
        let other = &self.nodes[1 - dialer].secret;
        let builder = PairBuilder {
            identity,
            remote: ExpectedPeer::Key(other.public_key()),
            responder_keys: other.clone().into(),
            latency: LATENCY,
            seed: 1 + self.links.len() as u64,
            ..Default::default()
        };
        self.links.push(Link { pair: builder.build(), start: self.now, dialer, cut: false });
        self.links.len() - 1
    }

    fn role(&self, node: usize, link: usize) -> Role {
        if self.links[link].dialer == node { Role::Initiator } else { Role::Responder }
    }

    fn conn(&mut self, node: usize, link: usize) -> &mut Connection {
        let role = self.role(node, link);
        &mut self.links[link].pair.side(role).conn
    }

    /// The link that `node` uses.
    fn current(&self, node: usize) -> Option<usize> {
        self.nodes[node].table.current(&self.nodes[1 - node].key())
    }

    /// When `node` may dial.
    fn retry_after(&self, node: usize) -> Option<Instant> {
        self.nodes[node].table.retry_after(&self.nodes[1 - node].key())
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + TICK;
            for link in 0..self.links.len() {
                let Link { pair, start, cut: false, .. } = &mut self.links[link] else { continue };
                pair.now = Instant::ZERO + self.now.saturating_since(*start);
                tick(pair);
                for node in [DECIDES, FOLLOWS] {
                    let role = self.role(node, link);
                    while let Some(event) = self.links[link].pair.side(role).events.pop_front() {
                        self.on_event(node, link, event);
                    }
                }
            }
            for node in [DECIDES, FOLLOWS] {
                self.answer(node);
                self.ask(node);
            }
        }
    }

    fn on_event(&mut self, node: usize, link: usize, event: Event) {
        let (now, role) = (self.now, self.role(node, link));
        match event {
            Event::Established(peer) => {
                let verdict = self.nodes[node].table.confirmed(now, link, &peer, role);
                let close = match verdict {
                    Verdict::Keep => None,
                    Verdict::Crowded { close } => Some(close),
                    Verdict::KeepUntilDrained { close } => close,
                    Verdict::Drain { drain, close } => {
                        assert_eq!(node, DECIDES, "only the side with the smaller key decides");
                        self.conn(node, drain).drain(ProtocolErrorCode::DUPLICATE);
                        close
                    }
                };
                if let Some(close) = close {
                    self.conn(node, close).close(ErrorCode::Protocol(ProtocolErrorCode::DUPLICATE), "");
                }
            }
            Event::Draining(code) => {
                let node = &mut self.nodes[node];
                node.drained.push((link, code));
                node.table.draining(now, link, Side::Peer, code);
            }
            Event::Closed(error) => {
                self.nodes[node].table.closed(now, link, &error);
                self.nodes[node].ended.insert(link, error);
            }
            Event::StreamOpened => {
                while let Some(id) = self.conn(node, link).accept_stream() {
                    self.nodes[node].reading.push((link, id, Vec::new()));
                }
            }
            _ => {}
        }
    }

    /// Reads what the other side asks, and sends it back.
    fn answer(&mut self, node: usize) {
        for (link, id, mut bytes) in std::mem::take(&mut self.nodes[node].reading) {
            let conn = self.conn(node, link);
            let mut buffer = [0; 16];
            match conn.recv_stream(id).read(&mut buffer) {
                Ok(0) => {
                    conn.send_stream(id).write(&bytes).expect("there is room");
                    conn.send_stream(id).finish().expect("it is open");
                    conn.release(id);
                    let number = u64::from_be_bytes(bytes.try_into().expect("it is whole"));
                    *self.nodes[node].delivered.entry(number).or_default() += 1;
                }
                Ok(len) => {
                    bytes.extend_from_slice(&buffer[..len]);
                    self.nodes[node].reading.push((link, id, bytes));
                }
                Err(ReadError::Blocked) => self.nodes[node].reading.push((link, id, bytes)),
                // It ends with its connection.
                Err(_) => {}
            }
        }
    }

    /// Sends requests on the connection of the moment, and again what was not processed.
    fn ask(&mut self, node: usize) {
        let current = self.current(node);
        let mut requests = std::mem::take(&mut self.nodes[node].requests);
        for request in requests.iter_mut().filter(|request| !request.answered) {
            let Some((link, id)) = request.stream else {
                let Some(link) = current else { continue };
                let conn = self.conn(node, link);
                let id = conn.open_stream(Some("test"), Priority::default()).expect("the table names none that drains");
                conn.send_stream(id).write(&request.number.to_be_bytes()).expect("there is room");
                conn.send_stream(id).finish().expect("it is open");
                request.stream = Some((link, id));
                continue;
            };
            if self.links[link].cut {
                request.stream = None;
                continue;
            }
            let conn = self.conn(node, link);
            let mut buffer = [0; 8];
            let done = match conn.recv_stream(id).read(&mut buffer) {
                Ok(len) => {
                    assert_eq!((len, u64::from_be_bytes(buffer)), (8, request.number));
                    request.answered = true;
                    true
                }
                Err(ReadError::Blocked) => false,
                // It crossed DRAIN, or the CLOSE that comes when nothing is left.
                Err(ReadError::Reset(code)) => {
                    assert_eq!(code, ErrorCode::REFUSED);
                    true
                }
                Err(ReadError::Connection(error)) => {
                    assert!(error.is_orderly(), "{error}");
                    true
                }
                Err(error) => panic!("{error}"),
            };
            if done {
                conn.release(id);
                request.stream = None;
            }
        }
        self.nodes[node].requests = requests;
    }

    fn request(&mut self, node: usize, number: u64) {
        self.nodes[node].requests.push(Request { number, stream: None, answered: false });
    }

    /// Both have one connection, the same one, and each request was processed once.
    fn assert_one(&self, link: usize) {
        for (node, other) in [(DECIDES, FOLLOWS), (FOLLOWS, DECIDES)] {
            assert_eq!((self.current(node), self.nodes[node].table.len()), (Some(link), 1), "node {node}");
            assert_eq!(self.retry_after(node), None);
            for request in &self.nodes[node].requests {
                assert!(request.answered, "request {}", request.number);
                assert_eq!(self.nodes[other].delivered[&request.number], 1, "request {}", request.number);
            }
        }
    }

    /// `node` loses all that it knows; the other one does not notice.
    fn crash(&mut self, node: usize) {
        self.nodes[node] = Node::new(self.nodes[node].secret.clone());
        self.links.iter_mut().for_each(|link| link.cut = true);
    }
}

/// What happens at this moment, and no more: the time of all pairs is the same.
fn tick(pair: &mut Pair) {
    let now = pair.now;
    for role in [Role::Initiator, Role::Responder] {
        let conn = &mut pair.side(role).conn;
        if conn.poll_timeout().is_some_and(|at| at <= now) {
            conn.handle_timeout(now);
        }
    }
    loop {
        pair.transmit(Role::Initiator);
        pair.transmit(Role::Responder);
        if !(pair.deliver(Role::Initiator) | pair.deliver(Role::Responder)) {
            return;
        }
    }
}

const SOME: Duration = Duration::from_millis(500);

#[test]
fn crossing_dials_end_with_one_connection_and_nothing_is_lost() {
    // In milliseconds: how much later the side that does not decide dials.
    for later in [0, 1, 5, 9, 10, 11, 15, 20, 25, 29, 30] {
        for first in [DECIDES, FOLLOWS] {
            let mut world = World::new();
            let one = world.dial(first);
            let mut number = 0;
            let mut two = None;
            for milli in 0..200 {
                if milli == later {
                    two = Some(world.dial(1 - first));
                }
                for node in [DECIDES, FOLLOWS] {
                    world.request(node, number);
                    number += 1;
                }
                world.run_for(TICK);
            }
            world.run_for(SOME);
            let two = two.expect("it was dialled");
            let (kept, other) = if first == DECIDES { (one, two) } else { (two, one) };
            world.assert_one(kept);
            assert_eq!(world.nodes[FOLLOWS].drained, [(other, ProtocolErrorCode::DUPLICATE)], "{later} ms later");
            assert_eq!(world.nodes[DECIDES].drained, []);
            assert!(world.nodes.iter().all(|node| node.ended[&other].is_orderly()));
        }
    }
}

#[test]
fn a_stream_on_the_connection_that_is_not_kept_finishes() {
    let mut world = World::new();
    let other = world.dial(FOLLOWS);
    world.run_for(LATENCY * 2);
    let conn = world.conn(FOLLOWS, other);
    let id = conn.open_stream(Some("long"), Priority::default()).expect("it is confirmed on this side");
    conn.send_stream(id).write(&[7; 8]).expect("there is room");
    // The other side confirms this dial, and its own a little later.
    world.run_for(LATENCY / 2);
    let kept = world.dial(DECIDES);
    world.run_for(SOME);
    assert_eq!(world.nodes[FOLLOWS].drained, [(other, ProtocolErrorCode::DUPLICATE)]);
    // It left before the drain came, and goes on for as long as it likes.
    world.run_for(Duration::from_secs(20));
    let conn = world.conn(FOLLOWS, other);
    assert_eq!(conn.close_reason(), None);
    assert_eq!(conn.open_stream(None, Priority::default()), Err(OpenError::Draining));
    conn.send_stream(id).finish().expect("it is open");
    world.run_for(SOME);
    let mut buffer = [0; 16];
    assert_eq!(world.conn(FOLLOWS, other).recv_stream(id).read(&mut buffer), Ok(8));
    world.conn(FOLLOWS, other).release(id);
    world.run_for(SOME);
    world.assert_one(kept);
}

#[test]
fn a_peer_that_crashed_and_dials_again_gets_through_at_once() {
    // Whoever crashes, whoever had dialled, and however soon; but see the next test for dials that seem to cross.
    for crashed in [DECIDES, FOLLOWS] {
        for (dialer, alive) in [(crashed, 1), (crashed, 20), (1 - crashed, 20)] {
            let mut world = World::new();
            world.dial(dialer);
            world.run_for(Duration::from_secs(alive));
            world.crash(crashed);
            let again = world.dial(crashed);
            world.request(crashed, 1);
            world.request(1 - crashed, 2);
            world.run_for(LATENCY * 6);
            assert!(world.nodes[crashed].requests[0].answered, "three round trips, and both have their answers");
            assert!(world.nodes[1 - crashed].requests[0].answered);
            assert_eq!([world.current(DECIDES), world.current(FOLLOWS)], [Some(again); 2]);
        }
    }
}

#[test]
fn a_crash_that_looks_like_crossing_dials_delays_a_peer_and_does_not_lock_it_out() {
    let mut world = World::new();
    world.dial(DECIDES);
    world.run_for(Duration::from_secs(1));
    world.crash(FOLLOWS);
    // The other side takes this for a dial that crossed its own, which nobody answers any more.
    let drained = world.dial(FOLLOWS);
    world.run_for(SOME);
    assert_eq!(world.nodes[FOLLOWS].drained, [(drained, ProtocolErrorCode::DUPLICATE)]);
    assert_eq!(world.current(FOLLOWS), None);
    let until = world.retry_after(FOLLOWS).expect("it waits");
    let wait = until.saturating_since(world.now);
    assert!(wait > Duration::from_secs(14) && wait <= Duration::from_secs(15), "{wait:?}");
    world.run_for(wait);
    let again = world.dial(FOLLOWS);
    world.run_for(LATENCY * 5);
    assert_eq!([world.current(DECIDES), world.current(FOLLOWS)], [Some(again); 2]);
}

#[test]
fn a_replayed_first_flight_ends_nothing() {
    let mut world = World::new();
    let link = world.dial(FOLLOWS);
    // What goes over the wire first is recorded.
    world.links[link].pair.transmit(Role::Initiator);
    let flight = world.links[link].pair.pipe(Role::Initiator)[0].1.clone();
    world.run_for(Duration::from_secs(20));
    let secret = world.nodes[DECIDES].secret.clone();
    let (mut now, mut rng) = (Instant::ZERO, rng(9));
    let mut victim =
        Connection::responder(Arc::new(Config::default()), secret.into(), now, &mut rng).expect("it is valid");
    victim.handle_input(now, &mut BytesMut::from(&flight[..]));
    let mut buffer = [0; 1408];
    assert_eq!(victim.poll_transmit(now, &mut buffer), Ok(Transmit::Bytes(1408)), "it is answered");
    // All that a table is ever told comes of `Established`, and that never comes.
    while !victim.is_closed() {
        while let Some(event) = victim.poll_event() {
            assert!(!matches!(event, Event::Established(_) | Event::ApprovePeer(_)), "{event:?}");
        }
        now = victim.poll_timeout().expect("it has a deadline");
        victim.handle_timeout(now);
    }
    assert_eq!(victim.peer_key(), None);
    world.request(FOLLOWS, 1);
    world.run_for(SOME);
    world.assert_one(link);
}

#[test]
fn anonymous_peers_are_never_merged() {
    let mut world = World::new();
    let links: Vec<_> = (0..3).map(|_| world.dial_as(FOLLOWS, Identity::Anonymous)).collect();
    let known = world.dial(FOLLOWS);
    world.run_for(SOME);
    assert_eq!(world.nodes[DECIDES].table.anonymous().collect::<Vec<_>>(), links);
    assert_eq!(world.current(DECIDES), Some(known));
    assert!(links.iter().all(|&link| world.conn(DECIDES, link).is_established()));
    assert_eq!(world.nodes[FOLLOWS].drained, []);
}

#[test]
fn flapping_is_bounded() {
    // Two machines with the same key, by mistake: each pushes the other one out.
    let mut world = World::new();
    let other = world.nodes[DECIDES].key();
    let mut decider = PeerTable::new(other);
    let mut now;
    let (mut dials, mut next) = (0_u64, [Instant::ZERO, Instant::from_millis(1)]);
    let mut holder: [Option<u64>; 2] = [None; 2];
    let mut tables = [(); 2].map(|()| PeerTable::new(world.nodes[FOLLOWS].key()));
    let link = world.dial(FOLLOWS);
    world.run_for(SOME);
    let infos = [DECIDES, FOLLOWS].map(|node| world.conn(node, link).peer().cloned().expect("it is confirmed"));
    let day = Instant::ZERO + Duration::from_secs(86_400);
    loop {
        let twin = usize::from(next[1] < next[0]);
        now = next[twin];
        if now >= day {
            break;
        }
        dials += 1;
        assert_eq!(tables[twin].confirmed(now, dials, &infos[FOLLOWS], Role::Initiator), Verdict::Keep);
        holder[twin] = Some(dials);
        next[twin] = day;
        if let Verdict::Drain { drain, .. } = decider.confirmed(now, dials, &infos[DECIDES], Role::Responder) {
            let loser = usize::from(holder[1] == Some(drain));
            assert_ne!(loser, twin, "the later one is kept");
            tables[loser].draining(now, drain, Side::Peer, ProtocolErrorCode::DUPLICATE);
            next[loser] = tables[loser].retry_after(&other).expect("it has no other");
            tables[loser].closed(now, drain, &ConnectionError::Truncated);
            decider.closed(now, drain, &ConnectionError::Truncated);
        }
    }
    // Each of them dials every twenty minutes.
    assert!((140..180).contains(&dials), "{dials} dials in a day");
}

#[test]
fn a_link_that_is_cut_is_replaced_while_the_old_one_is_still_believed_in() {
    let mut world = World::new();
    let mut last = world.dial(FOLLOWS);
    for number in 0..12 {
        world.request(FOLLOWS, number);
        world.run_for(Duration::from_secs(1));
        world.links[last].cut = true;
        last = world.dial(FOLLOWS);
    }
    world.run_for(SOME);
    assert_eq!([world.current(DECIDES), world.current(FOLLOWS)], [Some(last); 2]);
    // Some drain, and those before them are closed.
    assert_eq!(world.nodes[DECIDES].table.len(), 8);
    assert!(world.nodes[FOLLOWS].requests.iter().all(|request| request.answered));
}
