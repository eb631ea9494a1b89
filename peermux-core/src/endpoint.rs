//! What an adapter's endpoint is built on, as its connections are on a [`Driver`]: which connection with a peer is used (`docs/spec.md` section 16), dials that
//! several wait for, streams by the protocol that they name, and places for those who are not yet anybody.
//!
//! An adapter listens, dials, and runs handshakes. It gives each connection to the [`Endpoint`], in exchange for a [`Serving`] that it polls in a task or thread of its own. No call
//! here waits, and no waker is woken under the lock.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::task::{Poll, Waker};
use std::sync::{Mutex, PoisonError};

use crate::code::{Code, ProtocolCode};
use crate::connection::PeerInfo;
use crate::crypto::PublicKey;
use crate::driver::{Driver, Stream};
use crate::error::{ConnectionError, Side};
use crate::id::Role;
use crate::peers::{PeerTable, Verdict};
use crate::time::Instant;

mod dials;
mod places;
mod streams;

use dials::Dial;
pub use dials::{Dialing, Next, Want};
pub use places::Place;
use streams::Queue;
pub use streams::{Acceptor, RegisterError, Serving};

/// How much an endpoint takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointLimits {
    /// Accepted sockets at once whose peer is not confirmed, or whose handshake failed and which are not closed yet; more dialers wait in the kernel's queue.
    /// 1024 by default; with 0 nobody who dials gets in.
    pub unconfirmed: usize,
    /// Those of them from one IPv4 address, or one IPv6 network of 64 bits. The socket of a dialer beyond that is closed at once. 16 by default.
    pub unconfirmed_per_address: usize,
    /// Streams of one protocol that wait for their acceptor; those beyond are refused with REFUSED. 128 by default; at least 1.
    pub queued_streams: usize,
}

impl Default for EndpointLimits {
    fn default() -> Self {
        Self { unconfirmed: 1024, unconfirmed_per_address: 16, queued_streams: 128 }
    }
}

/// An adapter's handle of a connection whose peer is confirmed. Clones are handles to the same one.
pub trait Link: Clone {
    /// The connection.
    fn driver(&self) -> &Arc<Driver>;

    /// Whom it is with.
    fn peer(&self) -> &PeerInfo;

    /// The endpoint has decided something about the connection, and does it next: for adapters that log. Does nothing by default.
    fn decided(&self, decision: &Decision) {
        let _ = decision;
    }
}

/// What an endpoint decides about one of its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// It drains: with DUPLICATE since there is another one with the same peer, with GOING_AWAY since the endpoint does.
    Drain(ProtocolCode),
    /// It is closed with DUPLICATE, since the peer has another one with this side.
    CloseDuplicate,
    /// A stream of the peer is refused.
    RefuseStream {
        /// The protocol that the stream names, if it does.
        protocol: Option<Arc<str>>,
        /// What the peer is told.
        code: Code,
    },
}

/// What the handles of an endpoint share with its tasks or threads. It holds its connections until they are closed.
pub struct Endpoint<C> {
    limits: EndpointLimits,
    state: Mutex<State<C>>,
}

struct State<C> {
    own: PublicKey,
    table: PeerTable<u64>,
    /// Those that are not closed, by what the table knows them by.
    links: BTreeMap<u64, C>,
    dials: BTreeMap<u64, Dial<C>>,
    /// Dials that others can join.
    joinable: BTreeMap<PublicKey, u64>,
    protocols: BTreeMap<Box<str>, Queue<C>>,
    places: places::Places,
    /// Those that wait for a connection to come or to go, each under its own key.
    watchers: BTreeMap<u64, Waker>,
    /// The last id or key that was given.
    last: u64,
    drains: bool,
}

/// [`Link::decided`].
type Tell<C> = fn(&C, &Decision);

/// What is done when the lock is gone.
struct After<C> {
    ends: Vec<(Arc<Driver>, End)>,
    refused: Vec<(Stream, Code)>,
    /// Who is told of which decision, and by what.
    decided: Vec<(C, Decision, Tell<C>)>,
    wake: Vec<Waker>,
    /// The last to hold a task, or a connection, may be among these.
    former: Vec<Waker>,
    links: Vec<C>,
}

/// How a connection is ended.
enum End {
    Drain(ProtocolCode),
    /// Closed with DUPLICATE.
    Duplicate,
    /// A handshake is given up. Once established, the peer may use it, and it is a connection like any other one.
    GiveUp,
}

impl<C> After<C> {
    fn run(self) {
        for (link, decision, tell) in self.decided {
            tell(&link, &decision);
        }
        for (driver, end) in self.ends {
            driver.with(|connection| match end {
                End::Drain(code) => connection.drain(code),
                End::Duplicate => connection.close(Code::Protocol(ProtocolCode::DUPLICATE), ""),
                End::GiveUp if connection.is_established() => {}
                End::GiveUp => connection.close(Code::CANCELLED, ""),
            });
        }
        for (stream, code) in self.refused {
            stream.refuse(code);
        }
        self.wake.into_iter().for_each(Waker::wake);
    }
}

impl<C: Link> After<C> {
    fn decide(&mut self, link: &C, decision: Decision) {
        match decision {
            Decision::Drain(code) => self.ends.push((link.driver().clone(), End::Drain(code))),
            Decision::CloseDuplicate => self.ends.push((link.driver().clone(), End::Duplicate)),
            Decision::RefuseStream { .. } => {}
        }
        self.decided.push((link.clone(), decision, C::decided));
    }

    fn refuse(&mut self, link: &C, stream: Stream, code: Code) {
        self.decide(link, Decision::RefuseStream { protocol: stream.protocol(), code });
        self.refused.push((stream, code));
    }
}

impl<C> Endpoint<C> {
    /// The endpoint of the holder of `own`, without connections.
    pub fn new(own: PublicKey, limits: EndpointLimits) -> Arc<Self> {
        let state = State {
            own,
            table: PeerTable::new(own),
            links: BTreeMap::new(),
            dials: BTreeMap::new(),
            joinable: BTreeMap::new(),
            protocols: BTreeMap::new(),
            places: places::Places::default(),
            watchers: BTreeMap::new(),
            last: 0,
            drains: false,
        };
        Arc::new(Self { limits, state: Mutex::new(state) })
    }

    /// Calls `act` on the state, and does what follows from it when the lock is gone.
    fn act<R>(&self, act: impl FnOnce(&mut State<C>, &mut After<C>) -> R) -> R {
        let mut after = After {
            ends: Vec::new(),
            refused: Vec::new(),
            decided: Vec::new(),
            wake: Vec::new(),
            former: Vec::new(),
            links: Vec::new(),
        };
        let result = act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), &mut after);
        after.run();
        result
    }
}

impl<C: Link> Endpoint<C> {
    /// Takes a connection whose peer was just confirmed, one that was not dialled here (for those see [`Dialing::finish`]), and ends those that it takes the place of. `None` if the endpoint
    /// drains: then so does the connection.
    pub fn adopt(self: &Arc<Self>, now: Instant, link: &C) -> Option<Serving<C>> {
        let id = self.act(|state, after| state.adopt(now, link, after))?;
        Some(Serving::new(self, id, link))
    }

    /// The connection with the holder of `peer`, if there is one that takes new streams.
    pub fn connection(&self, now: Instant, peer: &PublicKey) -> Option<C> {
        self.act(|state, after| state.current(now, peer, after))
    }

    /// The connections that take new streams: one for each peer, and those with anonymous ones.
    pub fn peers(&self) -> Vec<C> {
        self.act(|state, _| {
            let named = state.table.peers().map(|(_, id)| id);
            let links = named.chain(state.table.anonymous()).filter_map(|id| state.links.get(&id));
            links.filter(|link| takes_streams(*link)).cloned().collect()
        })
    }

    /// For somebody who wants the connection with the holder of `peer`, and would dial `addresses`.
    pub fn want(self: &Arc<Self>, peer: PublicKey, addresses: Arc<[SocketAddr]>) -> Want<C> {
        Want::new(self, peer, addresses)
    }

    /// Takes no more connections, gives up handshakes of those who dialled, and drains all connections.
    pub fn drain(self: &Arc<Self>) -> Drained<C> {
        let key = self.act(|state, after| {
            state.drains = true;
            state.links.values().for_each(|link| after.decide(link, Decision::Drain(ProtocolCode::GOING_AWAY)));
            state.places.give_up(after);
            state.tell_all(after);
            state.number()
        });
        Drained { endpoint: self.clone(), key }
    }
}

/// One that waits until an endpoint has drained.
pub struct Drained<C> {
    endpoint: Arc<Endpoint<C>>,
    key: u64,
}

impl<C> Drained<C> {
    /// Ready once all connections are closed; `waker` is woken then.
    pub fn poll(&self, waker: &Waker) -> Poll<()> {
        self.endpoint.act(|state, after| {
            if state.links.is_empty() {
                return Poll::Ready(());
            }
            after.former.extend(state.watchers.insert(self.key, waker.clone()));
            Poll::Pending
        })
    }
}

impl<C> Drop for Drained<C> {
    fn drop(&mut self) {
        self.endpoint.act(|state, after| after.former.extend(state.watchers.remove(&self.key)));
    }
}

fn takes_streams<C: Link>(link: &C) -> bool {
    link.driver().with(|connection| connection.is_established() && !connection.is_draining())
}

impl<C> State<C> {
    const fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Whether it has drained.
    fn over(&self) -> bool {
        self.drains && self.links.is_empty()
    }

    /// A connection has come or gone.
    fn tell_all(&mut self, after: &mut After<C>) {
        after.wake.extend(core::mem::take(&mut self.watchers).into_values());
        if self.over() {
            after.wake.extend(self.protocols.values_mut().filter_map(|queue| queue.waker.take()));
        }
    }

    /// The connection is closed, or nobody minds it any more.
    fn forget(&mut self, id: u64, after: &mut After<C>) {
        // The time changes nothing: it is no duplicate, or the table was told of that already.
        self.table.closed(Instant::ZERO, id, &ConnectionError::Truncated);
        if let Some(link) = self.links.remove(&id) {
            after.links.push(link);
            self.tell_all(after);
        }
    }
}

impl<C: Link> State<C> {
    /// The connection with `peer` that takes new streams.
    fn current(&mut self, now: Instant, peer: &PublicKey, after: &mut After<C>) -> Option<C> {
        let mut former = None;
        loop {
            let id = self.table.current(peer).filter(|id| former != Some(*id))?;
            if let Some(link) = self.links.get(&id).filter(|link| takes_streams(*link)) {
                return Some(link.clone());
            }
            self.update(now, id, after);
            former = Some(id);
        }
    }

    /// Tells the table what has become of a connection, as soon as it matters: its own task may be late.
    fn update(&mut self, now: Instant, id: u64, after: &mut After<C>) {
        let Some(link) = self.links.get(&id) else {
            return self.table.closed(now, id, &ConnectionError::Truncated);
        };
        let drained = link.driver().waiter().poll_drained(Waker::noop());
        let (error, drains) = link.driver().with(|connection| (connection.error().cloned(), connection.is_draining()));
        // An end that comes with DRAIN is one of a connection that was drained.
        let close = match drained {
            Poll::Ready(code) => self.table.draining(now, id, Side::Peer, code),
            Poll::Pending if drains => self.table.draining(now, id, Side::Local, ProtocolCode::GOING_AWAY),
            Poll::Pending => None,
        };
        if let Some(error) = error {
            self.table.closed(now, id, &error);
        }
        self.close(close, after);
    }

    /// Takes a connection whose peer is confirmed, and does what the table says.
    fn adopt(&mut self, now: Instant, link: &C, after: &mut After<C>) -> Option<u64> {
        let (driver, peer) = (link.driver(), link.peer());
        if self.drains {
            after.decide(link, Decision::Drain(ProtocolCode::GOING_AWAY));
            return None;
        }
        // One that has ended, or drains, is no duplicate.
        let current = self.current(now, &peer.key, after);
        after.links.extend(current);
        let (id, role) = (self.number(), driver.with(|connection| connection.role()));
        let verdict = self.table.confirmed(now, id, peer, role);
        self.links.insert(id, link.clone());
        match verdict {
            Verdict::Keep => {}
            Verdict::UntilTold { close } => self.close(close, after),
            Verdict::Drain { drain, close } => {
                if let Some(link) = self.links.get(&drain) {
                    after.decide(link, Decision::Drain(ProtocolCode::DUPLICATE));
                }
                self.close(close, after);
            }
        }
        if role == Role::Responder && !peer.anonymous {
            // Whoever waits for a dial to this peer needs it no more.
            self.joinable.get(&peer.key).copied().into_iter().for_each(|dial| self.tell(dial, Ok(link.clone()), after));
        }
        self.tell_all(after);
        Some(id)
    }

    fn close(&self, id: Option<u64>, after: &mut After<C>) {
        if let Some(link) = id.and_then(|id| self.links.get(&id)) {
            after.decide(link, Decision::CloseDuplicate);
        }
    }
}
