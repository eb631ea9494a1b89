//! What an adapter's endpoint is built on, as its connections are on a [`Driver`]: which connection with a peer is used ([spec](crate::spec) section 16), dials that
//! several wait for, streams by the protocol that they name, and places for those who are not yet anybody.
//!
//! An adapter listens, dials, and runs handshakes. It gives each connection to the [`Endpoint`], in exchange for a [`Serving`] that it polls in a task or thread of its own. No call
//! here waits, and no waker is woken or dropped under the lock.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::task::{Poll, Waker};
use std::sync::{Mutex, PoisonError};

use crate::code::{Code, ProtocolCode};
use crate::connection::{Connection, PeerInfo};
use crate::crypto::PublicKey;
use crate::driver::{Driver, Stream};
use crate::error::{ConnectionError, Side};
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

/// A peer with more connections than this that are not closed keeps the place of each further one, until that is closed.
const CROWD: usize = 16;

/// How much an endpoint takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointLimits {
    /// Accepted sockets at once whose peer is not confirmed, or whose handshake failed and which are not closed yet, and those of a peer that has many connections already; more dialers wait in the kernel's queue.
    /// 1024 by default; with 0 nobody who dials gets in.
    pub unconfirmed: usize,
    /// Those of them from one IPv4 address, or one IPv6 network of 64 bits. The socket of a dialer beyond that is closed at once. 16 by default.
    pub unconfirmed_per_address: usize,
    /// Streams of one protocol, of one connection, that wait for their acceptor; those beyond are refused with REFUSED. Connections take turns. Of connections that are closed, so many
    /// are kept in all. 128 by default; at least 1.
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
    /// It is closed with DUPLICATE, since the peer has too many with this side.
    CloseDuplicate,
    /// It is closed with REFUSED before anything of it is processed, since the endpoint drains.
    Refuse,
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
    /// The peers of each static key of this side.
    tables: BTreeMap<PublicKey, PeerTable<u64>>,
    /// Those that are not closed, by what the tables know them by.
    links: BTreeMap<u64, Held<C>>,
    dials: BTreeMap<u64, Dial<C>>,
    /// Dials that others can join, by the peer: one for each list of addresses that another one does not hold.
    joinable: BTreeMap<PublicKey, Vec<u64>>,
    protocols: BTreeMap<Box<str>, Queue<C>>,
    places: places::Places,
    /// Those that wait for a connection to come or to go, each under its own key.
    watchers: BTreeMap<u64, Waker>,
    /// The last id or key that was given.
    last: u64,
    drains: bool,
}

/// A connection that is not closed.
struct Held<C> {
    link: C,
    /// This side's static key.
    own: PublicKey,
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
    queued: Vec<(Stream, C)>,
    drivers: Vec<Arc<Driver>>,
}

/// How a connection is ended.
enum End {
    Drain(ProtocolCode),
    /// Closed with DUPLICATE.
    Duplicate,
    /// Closed with REFUSED: nothing of it was processed.
    Refuse,
    /// A handshake is given up. Once established, the peer may use it, and it is a connection like any other one.
    GiveUp,
    /// A handshake is given up, if the peer has not sent its first flight.
    GiveUpSilent,
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
                End::Refuse => connection.close(Code::REFUSED, "the endpoint is draining"),
                End::GiveUp if connection.is_established() => {}
                End::GiveUpSilent if !connection.awaits_first_flight() => {}
                End::GiveUp | End::GiveUpSilent => connection.close(Code::CANCELLED, ""),
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
            Decision::Refuse => self.ends.push((link.driver().clone(), End::Refuse)),
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
    /// An endpoint without connections. What its static keys are, its connections and those who dial say.
    pub fn new(limits: EndpointLimits) -> Arc<Self> {
        let state = State {
            tables: BTreeMap::new(),
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
            queued: Vec::new(),
            drivers: Vec::new(),
        };
        let result = act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), &mut after);
        after.run();
        result
    }
}

impl<C: Link> Endpoint<C> {
    /// Takes a connection whose peer was just confirmed, one that was not dialled here (for those see [`Dialing::finish`]), and ends those that it takes the place of. If the endpoint
    /// drains, the connection is closed with REFUSED: the peer knows then that nothing of it was processed.
    ///
    /// `place` is that of the handshake. It is free again when this returns; but if the peer has many connections that are not closed, it is kept until this one is. So a
    /// peer that dials again and again has to wait.
    pub fn adopt(self: &Arc<Self>, now: Instant, link: &C, place: Option<Place<C>>) -> Serving<C> {
        let (id, is_crowded) = self.act(|state, after| (state.adopt(now, link, after), state.is_crowded(link)));
        Serving::new(self, id, link, place.filter(|_| is_crowded))
    }

    /// Returns the connection with the holder of `peer`, if there is one that takes new streams.
    pub fn connection(&self, now: Instant, peer: &PublicKey) -> Option<C> {
        self.act(|state, _| state.current(now, None, peer))
    }

    /// Returns the connections that take new streams: one for each peer and static key of this side, and those with anonymous peers.
    pub fn peers(&self) -> Vec<C> {
        self.act(|state, _| {
            let tables = state.tables.values();
            let ids = tables.flat_map(|table| table.peers().map(|(_, id)| id).chain(table.anonymous()));
            let links = ids.filter_map(|id| state.links.get(&id)).map(|held| &held.link);
            links.filter(|link| takes_streams(*link)).cloned().collect()
        })
    }

    /// For somebody who wants the connection with the holder of `peer`, and would dial `addresses` as the holder of `own`.
    pub fn want(self: &Arc<Self>, own: PublicKey, peer: PublicKey, addresses: Arc<[SocketAddr]>) -> Want<C> {
        Want::new(self, own, peer, addresses)
    }

    /// Takes no more connections, and drains those that it has. Handshakes that the peer has begun go on, so that the peer can be told that it is refused;
    /// those of silent dialers are given up, and so are dials.
    pub fn drain(self: &Arc<Self>) -> Drained<C> {
        let key = self.act(|state, after| {
            state.drains = true;
            for held in state.links.values() {
                after.decide(&held.link, Decision::Drain(ProtocolCode::GOING_AWAY));
            }
            state.places.give_up_silent(after);
            let error = Arc::new(dials::is_draining());
            for dial in core::mem::take(&mut state.joinable).into_values().flatten() {
                state.tell(dial, Err(error.clone()), after);
            }
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
    /// Ready once all connections are closed, and all peers that were in a handshake are refused; `waker` is woken then.
    pub fn poll(&self, waker: &Waker) -> Poll<()> {
        self.endpoint.act(|state, after| {
            if state.links.is_empty() && !state.places.has_handshakes() {
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
    link.driver().look(|connection| connection.is_established() && !connection.is_draining())
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
    fn forget(&mut self, id: u64, queued: usize, after: &mut After<C>) {
        let Some(Held { link, own }) = self.links.remove(&id) else { return };
        // The time changes nothing: it is no duplicate, or the table was told of that already.
        self.table(own).closed(Instant::ZERO, id, &ConnectionError::Truncated);
        after.links.push(link);
        after.queued.extend(self.protocols.values_mut().flat_map(|queue| queue.closed(id, queued)));
        self.tell_all(after);
    }

    fn table(&mut self, own: PublicKey) -> &mut PeerTable<u64> {
        self.tables.entry(own).or_insert_with(|| PeerTable::new(own))
    }
}

impl<C: Link> State<C> {
    /// The connection with `peer` that takes new streams: the last one, where there are several static keys of this side; or the one of `own`.
    fn current(&mut self, now: Instant, own: Option<PublicKey>, peer: &PublicKey) -> Option<C> {
        let mut former = None;
        loop {
            let tables = self.tables.iter().filter(|(key, _)| own.is_none_or(|own| own == **key));
            let id = tables.filter_map(|(_, table)| table.current(peer)).max();
            let id = id.filter(|id| former != Some(*id))?;
            if let Some(Held { link, .. }) = self.links.get(&id).filter(|held| takes_streams(&held.link)) {
                return Some(link.clone());
            }
            self.update(now, id);
            former = Some(id);
        }
    }

    /// Tells the table what has become of a connection, as soon as it matters: its own task may be late.
    fn update(&mut self, now: Instant, id: u64) {
        let Some(Held { link, own }) = self.links.get(&id) else { return };
        let (driver, own) = (link.driver().clone(), *own);
        let table = self.table(own);
        // An end that comes with DRAIN is one of a connection that was drained.
        match driver.drained() {
            Some(code) => table.draining(now, id, Side::Peer, code),
            None if driver.look(Connection::is_draining) => {
                table.draining(now, id, Side::Local, ProtocolCode::GOING_AWAY);
            }
            None => {}
        }
        if let Some(error) = driver.look(|connection| connection.error().cloned()) {
            table.closed(now, id, &error);
        }
    }

    /// Takes a connection whose peer is confirmed, and does what the table says.
    fn adopt(&mut self, now: Instant, link: &C, after: &mut After<C>) -> u64 {
        let (driver, peer, id) = (link.driver(), link.peer(), self.number());
        let (role, own) = driver.look(|connection| (connection.role(), connection.local_key()));
        // It is known, since the peer is confirmed.
        let own = own.unwrap_or_else(|| PublicKey::from_bytes([0; 32]));
        self.links.insert(id, Held { link: link.clone(), own });
        if self.drains {
            after.decide(link, Decision::Refuse);
            return id;
        }
        // One that has ended, or drains, is no duplicate.
        let current = self.current(now, Some(own), &peer.key);
        after.links.extend(current);
        match self.table(own).confirmed(now, id, peer, role) {
            Verdict::Keep => {}
            Verdict::Crowded { close } => self.close(close, after),
            Verdict::UntilTold { close } => close.into_iter().for_each(|close| self.close(close, after)),
            Verdict::Drain { drain, close } => {
                if let Some(held) = self.links.get(&drain) {
                    after.decide(&held.link, Decision::Drain(ProtocolCode::DUPLICATE));
                }
                close.into_iter().for_each(|close| self.close(close, after));
            }
        }
        if !peer.anonymous {
            // Whoever waits for a dial to this peer needs it no more, wherever it leads.
            for dial in self.joinable.remove(&peer.key).unwrap_or_default() {
                self.tell(dial, Ok(link.clone()), after);
            }
        }
        self.tell_all(after);
        id
    }

    /// Whether there are more connections with the peer of `link` than an honest one has.
    fn is_crowded(&self, link: &C) -> bool {
        let peer = link.peer();
        let same = self.links.values().filter(|held| held.link.peer().key == peer.key);
        !peer.anonymous && same.count() > CROWD
    }

    fn close(&self, id: u64, after: &mut After<C>) {
        if let Some(held) = self.links.get(&id) {
            after.decide(&held.link, Decision::CloseDuplicate);
        }
    }
}
