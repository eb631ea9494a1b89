//! Streams of the peers, and who takes them.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use core::fmt;
use core::task::{Poll, Waker, ready};

use super::{ConnectionHandle, Endpoint, HandshakePermit};
use crate::code::ErrorCode;
use crate::driver::{Stream, Waiter};
use crate::time::Instant;
use crate::wire::is_name;

/// Streams that a [`ConnectionDriver`] takes before it lets others go on.
const AT_ONCE: usize = 64;

/// The streams of one protocol that wait. Each connection has a queue of its own, and they take turns: a peer that opens many fills its own queue only.
pub(super) struct Queue<C> {
    /// By the connection; none is empty.
    streams: BTreeMap<u64, VecDeque<(Stream, C)>>,
    /// The connections that have streams here, the next one first.
    turns: VecDeque<u64>,
    /// Those of them that are closed.
    closed: BTreeSet<u64>,
    /// Who accepts, while there is none.
    pub(super) waker: Option<Waker>,
}

impl<C> Queue<C> {
    const fn new() -> Self {
        Self { streams: BTreeMap::new(), turns: VecDeque::new(), closed: BTreeSet::new(), waker: None }
    }

    /// Streams of the connection that wait.
    fn len(&self, connection: u64) -> usize {
        self.streams.get(&connection).map_or(0, VecDeque::len)
    }

    fn push(&mut self, connection: u64, stream: Stream, link: C) {
        let queue = self.streams.entry(connection).or_default();
        if queue.is_empty() {
            self.turns.push_back(connection);
        }
        queue.push_back((stream, link));
    }

    fn pop(&mut self) -> Option<(Stream, C)> {
        let turn = self.turns.pop_front()?;
        let queue = self.streams.get_mut(&turn)?;
        let stream = queue.pop_front();
        if queue.is_empty() {
            self.streams.remove(&turn);
            self.closed.remove(&turn);
        } else {
            self.turns.push_back(turn);
        }
        stream
    }

    /// The connection is closed. What its streams have received can still be taken, but all closed connections together keep `most` of them; returns those beyond.
    pub(super) fn closed(&mut self, connection: u64, most: usize) -> VecDeque<(Stream, C)> {
        let kept: usize = self.closed.iter().map(|closed| self.len(*closed)).sum();
        let Some(queue) = self.streams.get_mut(&connection) else { return VecDeque::new() };
        let beyond = queue.split_off(queue.len().min(most.saturating_sub(kept)));
        if queue.is_empty() {
            self.streams.remove(&connection);
            self.turns.retain(|turn| *turn != connection);
        } else {
            self.closed.insert(connection);
        }
        beyond
    }
}

/// Why a protocol could not be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// The name is longer than 64 bytes, or not printable ASCII without space.
    Name,
    /// The protocol has a [`ProtocolListener`] already.
    Taken,
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "a protocol's name is at most 64 bytes of printable ASCII without space",
            Self::Taken => "this protocol has a listener already",
        })
    }
}

impl core::error::Error for RegisterError {}

/// Takes the streams of one protocol. When it is dropped, those that wait are refused with REFUSED, and the protocol is unknown.
pub struct ProtocolListener<C> {
    endpoint: Arc<Endpoint<C>>,
    protocol: Box<str>,
}

impl<C> Endpoint<C> {
    /// Takes the streams that name `protocol`, on whichever connection; those that name none if it is empty.
    ///
    /// # Errors
    /// See [`RegisterError`].
    pub fn register(self: &Arc<Self>, protocol: &str) -> Result<ProtocolListener<C>, RegisterError> {
        if !(protocol.is_empty() || is_name(protocol)) {
            return Err(RegisterError::Name);
        }
        self.act(|state, _| {
            if state.protocols.contains_key(protocol) {
                return Err(RegisterError::Taken);
            }
            state.protocols.insert(protocol.into(), Queue::new());
            Ok(ProtocolListener { endpoint: self.clone(), protocol: protocol.into() })
        })
    }
}

impl<C> ProtocolListener<C> {
    /// The next stream, and the connection that it came on; `None` once the endpoint has drained. `waker` is woken when there is one. Only the last waker is kept: several that wait
    /// have to share one, or to take turns.
    pub fn poll_accept(&self, waker: &Waker) -> Poll<Option<(Stream, C)>> {
        self.endpoint.act(|state, after| {
            let over = state.over();
            let Some(queue) = state.protocols.get_mut(&self.protocol) else { return Poll::Ready(None) };
            match queue.pop() {
                Some(stream) => Poll::Ready(Some(stream)),
                None if over => Poll::Ready(None),
                None => {
                    after.former.extend(queue.waker.replace(waker.clone()));
                    Poll::Pending
                }
            }
        })
    }

    /// The protocol's name.
    pub fn protocol(&self) -> &str {
        &self.protocol
    }
}

impl<C> Drop for ProtocolListener<C> {
    fn drop(&mut self) {
        self.endpoint.act(|state, after| {
            let Some(queue) = state.protocols.remove(&self.protocol) else { return };
            after.former.extend(queue.waker);
            for (stream, link) in queue.streams.into_values().flatten() {
                after.refused.push((stream, ErrorCode::REFUSED));
                after.links.push(link);
            }
        });
    }
}

/// What is to be polled for a connection of an endpoint, until it is closed: gives the peer's streams to the [`ProtocolListener`]s of their protocols. Dropping it before makes the endpoint forget the connection.
pub struct ConnectionDriver<C> {
    endpoint: Arc<Endpoint<C>>,
    id: u64,
    link: C,
    streams: Waiter,
    drained: Waiter,
    closed: Waiter,
    /// The peer's DRAIN was seen.
    drains: bool,
    /// There are no more streams.
    ended: bool,
    /// The place that this connection keeps until it is closed.
    place: Option<HandshakePermit<C>>,
}

impl<C: ConnectionHandle> ConnectionDriver<C> {
    pub(super) fn new(endpoint: &Arc<Endpoint<C>>, id: u64, link: &C, place: Option<HandshakePermit<C>>) -> Self {
        let driver = link.driver();
        let (streams, drained, closed) = (driver.waiter(), driver.waiter(), driver.waiter());
        Self {
            endpoint: endpoint.clone(),
            id,
            link: link.clone(),
            streams,
            drained,
            closed,
            drains: false,
            ended: false,
            place,
        }
    }

    /// Ready once the connection is closed; `waker` is woken when there is something to do.
    pub fn poll(&mut self, now: Instant, waker: &Waker) -> Poll<()> {
        for _ in 0..AT_ONCE {
            if !self.drains && self.drained.poll_peer_draining(waker).is_ready() {
                self.drains = true;
                self.update(now);
            }
            if self.ended {
                ready!(self.closed.poll_transport_closed(waker));
                self.forget();
                self.place = None;
                return Poll::Ready(());
            }
            match ready!(self.streams.poll_accept(waker)) {
                Ok(stream) => self.dispatch(stream),
                Err(_) => {
                    self.ended = true;
                    self.update(now);
                }
            }
        }
        waker.wake_by_ref();
        Poll::Pending
    }

    fn update(&self, now: Instant) {
        self.endpoint.act(|state, after| {
            state.update(now, self.id);
            state.tell_all(after);
        });
    }

    fn dispatch(&self, stream: Stream) {
        let name = stream.protocol();
        self.endpoint.act(|state, after| match state.protocols.get_mut(name.as_deref().unwrap_or_default()) {
            None => after.refuse(&self.link, stream, ErrorCode::UNKNOWN_PROTOCOL),
            Some(queue) if queue.len(self.id) >= self.endpoint.limits.max_queued_streams.max(1) => {
                after.refuse(&self.link, stream, ErrorCode::REFUSED);
            }
            Some(queue) => {
                queue.push(self.id, stream, self.link.clone());
                after.wake.extend(queue.waker.take());
            }
        });
    }
}

impl<C> ConnectionDriver<C> {
    fn forget(&self) {
        let queued = self.endpoint.limits.max_queued_streams.max(1);
        self.endpoint.act(|state, after| state.forget(self.id, queued, after));
    }
}

impl<C> Drop for ConnectionDriver<C> {
    fn drop(&mut self) {
        self.forget();
    }
}
