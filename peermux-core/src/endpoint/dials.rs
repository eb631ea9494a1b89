//! Dialling for all who want the same peer.

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::sync::Arc;
use core::net::SocketAddr;
use core::task::{Poll, Waker};
use std::io;

use super::{After, ConnectionDriver, ConnectionHandle, End, Endpoint, State};
use crate::config::ConfigError;
use crate::crypto::PublicKey;
use crate::dialing::ConnectError;
use crate::driver::Driver;
use crate::error::{ConnectionError, Side};
use crate::time::Instant;

/// What came of a dial.
type Outcome<C> = Result<C, Arc<io::Error>>;

/// A dial, while it is under way or somebody has yet to be told of it.
pub(super) struct Dial<C> {
    peer: PublicKey,
    addresses: Arc<[SocketAddr]>,
    under_way: bool,
    /// Its handshake.
    driver: Option<Arc<Driver>>,
    /// Who wait, each under its own key.
    waiting: BTreeMap<u64, Option<Waker>>,
    outcome: Option<Outcome<C>>,
    /// The dialer, until nobody waits.
    dialer: Option<Waker>,
}

/// Somebody who wants the connection with a peer. When this is dropped, its dial is given up unless somebody else waits for it.
pub struct ConnectRequest<C> {
    endpoint: Arc<Endpoint<C>>,
    own: PublicKey,
    peer: PublicKey,
    addresses: Arc<[SocketAddr]>,
    key: u64,
    joined: Option<u64>,
}

/// What there is to do for somebody who wants a connection.
pub enum ConnectStep<C> {
    /// This is it.
    Found(C),
    /// Dial, in another task or thread, and ask again at once.
    Dial(DialTask<C>),
    /// Wait to be woken, at the latest until then, and ask again.
    Wait(Option<Instant>),
    /// There is none.
    Failed(io::Error),
}

impl<C: ConnectionHandle> ConnectRequest<C> {
    pub(super) fn new(
        endpoint: &Arc<Endpoint<C>>,
        own: PublicKey,
        peer: PublicKey,
        addresses: Arc<[SocketAddr]>,
    ) -> Self {
        let key = endpoint.act(|state, _| state.number());
        Self { endpoint: endpoint.clone(), own, peer, addresses, key, joined: None }
    }

    /// What there is to do now; where that is to wait, `waker` is woken when it is over.
    ///
    /// It joins a dial of the same peer that tries all of its addresses. Otherwise it dials by itself: an address that is dead delays nobody who knows another one. The
    /// first connection that comes of any of them is for all who want the peer.
    ///
    /// It fails with the error of the dial; with [`io::ErrorKind::InvalidInput`] if the peer is the endpoint itself; and with [`io::ErrorKind::NotConnected`] if the
    /// endpoint drains.
    pub fn step(&mut self, now: Instant, waker: &Waker) -> ConnectStep<C> {
        let endpoint = self.endpoint.clone();
        endpoint.act(|state, after| {
            if let Some(next) = self.outcome(state, now, waker, after) {
                return next;
            }
            if self.peer == self.own {
                return ConnectStep::Failed(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "this is the endpoint's own key",
                ));
            }
            if state.drains {
                return ConnectStep::Failed(is_draining());
            }
            if let Some(link) = state.current(now, None, &self.peer) {
                return ConnectStep::Found(link);
            }
            for id in state.joinable.get(&self.peer).into_iter().flatten() {
                let Some(dial) = state.dials.get_mut(id) else { continue };
                if self.addresses.iter().all(|address| dial.addresses.contains(address)) {
                    after.former.extend(dial.waiting.insert(self.key, Some(waker.clone())).flatten());
                    self.joined = Some(*id);
                    return ConnectStep::Wait(None);
                }
            }
            if let Some(until) = state.retry_after(self.own, &self.peer).filter(|until| now < *until) {
                after.former.extend(state.watchers.insert(self.key, waker.clone()));
                return ConnectStep::Wait(Some(until));
            }
            ConnectStep::Dial(self.dial(state, waker))
        })
    }

    /// What has come of the dial that this has joined; `None` if there is none, or if there is to be another one.
    fn outcome(
        &mut self,
        state: &mut State<C>,
        now: Instant,
        waker: &Waker,
        after: &mut After<C>,
    ) -> Option<ConnectStep<C>> {
        let id = self.joined?;
        let dial = state.dials.get_mut(&id)?;
        let Some(outcome) = dial.outcome.clone() else {
            after.former.extend(dial.waiting.insert(self.key, Some(waker.clone())).flatten());
            return Some(ConnectStep::Wait(None));
        };
        self.joined = None;
        state.leave(id, self.key, after);
        match outcome {
            Ok(link) => {
                // If this side was drained off it, there may be another one later. If it has ended meanwhile, it tells why.
                if state.retry_after(self.own, &self.peer).is_some_and(|until| now < until) {
                    after.links.push(link);
                    return None;
                }
                let current = state.current(now, None, &self.peer).unwrap_or_else(|| link.clone());
                after.links.push(link);
                Some(ConnectStep::Found(current))
            }
            // There is another connection, or one comes, or it is time to dial again later.
            Err(error) if was_drained_off(&error) => None,
            Err(error) => Some(ConnectStep::Failed(copy(&error))),
        }
    }

    fn dial(&mut self, state: &mut State<C>, waker: &Waker) -> DialTask<C> {
        let (peer, addresses, id) = (self.peer, self.addresses.clone(), state.number());
        let dial = Dial {
            peer,
            addresses: addresses.clone(),
            under_way: true,
            driver: None,
            waiting: BTreeMap::from([(self.key, Some(waker.clone()))]),
            outcome: None,
            dialer: None,
        };
        state.dials.insert(id, dial);
        state.joinable.entry(peer).or_default().push(id);
        self.joined = Some(id);
        DialTask { endpoint: self.endpoint.clone(), id, own: self.own, peer, addresses }
    }
}

impl<C> Drop for ConnectRequest<C> {
    fn drop(&mut self) {
        self.endpoint.act(|state, after| {
            after.former.extend(state.watchers.remove(&self.key));
            if let Some(id) = self.joined {
                state.leave(id, self.key, after);
            }
        });
    }
}

/// A dial that is under way. If this is dropped before [`DialTask::finish`], as by a panic, those who wait for it fail.
pub struct DialTask<C> {
    endpoint: Arc<Endpoint<C>>,
    id: u64,
    own: PublicKey,
    peer: PublicKey,
    addresses: Arc<[SocketAddr]>,
}

impl<C> DialTask<C> {
    /// Whom to dial.
    pub const fn peer(&self) -> PublicKey {
        self.peer
    }

    /// Where.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Ready once nobody waits for it any more; `waker` is woken then.
    pub fn poll_unwanted(&self, waker: &Waker) -> Poll<()> {
        self.endpoint.act(|state, after| match state.dials.get_mut(&self.id) {
            Some(dial) if !dial.waiting.is_empty() => {
                after.former.extend(dial.dialer.replace(waker.clone()));
                Poll::Pending
            }
            _ => Poll::Ready(()),
        })
    }

    /// The handshake begins. If nobody waits any more before it is done, the connection is closed with CANCELLED.
    pub fn begin(&self, driver: &Arc<Driver>) {
        self.endpoint.act(|state, after| match state.dials.get_mut(&self.id) {
            Some(dial) if !dial.waiting.is_empty() => dial.driver = Some(driver.clone()),
            _ => after.ends.push((driver.clone(), End::GiveUp)),
        });
    }

    /// Ends the dial, if its end is not told yet.
    fn end(&self, state: &mut State<C>, outcome: Outcome<C>, after: &mut After<C>) {
        state.tell(self.id, outcome, after);
        if let Some(dial) = state.dials.get_mut(&self.id) {
            dial.under_way = false;
            after.former.extend(dial.dialer.take());
            after.drivers.extend(dial.driver.take());
            if dial.waiting.is_empty() {
                let outcome = state.dials.remove(&self.id).and_then(|dial| dial.outcome);
                after.links.extend(outcome.and_then(Result::ok));
            }
        }
    }
}

impl<C: ConnectionHandle> DialTask<C> {
    /// Tells all who wait what came of it. The connection is taken as by [`Endpoint::adopt`].
    pub fn finish(self, now: Instant, result: io::Result<C>) -> Option<ConnectionDriver<C>> {
        let link = result.as_ref().ok().cloned();
        let id = self.endpoint.act(|state, after| {
            let id = link.as_ref().map(|link| state.adopt(now, link, after));
            if result.as_ref().is_err_and(was_drained_off) {
                state.table(self.own).dial_drained_off(now, self.peer);
            }
            // Who comes from now on finds the connection, or dials anew.
            self.end(state, result.map_err(Arc::new), after);
            id
        });
        Some(ConnectionDriver::new(&self.endpoint, id?, &link?, None))
    }
}

impl<C> Drop for DialTask<C> {
    fn drop(&mut self) {
        self.endpoint.act(|state, after| {
            let error = io::Error::other("the dial has ended by a panic, or with the runtime that it ran in");
            self.end(state, Err(Arc::new(error)), after);
        });
    }
}

impl<C> State<C> {
    /// Nobody waits under `key` any more.
    fn leave(&mut self, id: u64, key: u64, after: &mut After<C>) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        after.former.extend(dial.waiting.remove(&key).flatten());
        if !dial.waiting.is_empty() {
            return;
        }
        after.wake.extend(dial.dialer.take());
        after.ends.extend(dial.driver.take().map(|driver| (driver, End::GiveUp)));
        let (peer, over) = (dial.peer, !dial.under_way);
        self.close_to_others(&peer, id);
        if over {
            let outcome = self.dials.remove(&id).and_then(|dial| dial.outcome);
            after.links.extend(outcome.and_then(Result::ok));
        }
    }

    /// Nobody joins the dial any more.
    fn close_to_others(&mut self, peer: &PublicKey, id: u64) {
        if let Some(dials) = self.joinable.get_mut(peer) {
            dials.retain(|dial| *dial != id);
            if dials.is_empty() {
                self.joinable.remove(peer);
            }
        }
    }

    /// Before this moment the holder of `own` must not dial `peer`.
    fn retry_after(&self, own: PublicKey, peer: &PublicKey) -> Option<Instant> {
        self.tables.get(&own)?.retry_after(peer)
    }

    /// Tells those who wait for the dial, unless they were told before. Nobody joins it any more.
    pub(super) fn tell(&mut self, id: u64, outcome: Outcome<C>, after: &mut After<C>) {
        let Some(dial) = self.dials.get(&id) else { return after.links.extend(outcome.ok()) };
        let peer = dial.peer;
        self.close_to_others(&peer, id);
        let Some(dial) = self.dials.get_mut(&id) else { return };
        if dial.outcome.is_some() {
            return after.links.extend(outcome.ok());
        }
        dial.outcome = Some(outcome);
        after.wake.extend(dial.waiting.values_mut().filter_map(Option::take));
    }
}

/// What those are told who want a connection of an endpoint that drains.
pub(super) fn is_draining() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "endpoint is draining: no new connections")
}

/// Whether the peer has closed the connection in good order before anybody here saw that it was established: it has another one with us.
fn was_drained_off(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ConnectionError>());
    inner.is_some_and(|error| matches!(error, ConnectionError::Closed { by: Side::Peer, .. }) && error.is_orderly())
}

/// The same error for another one who waited.
fn copy(error: &io::Error) -> io::Error {
    fn inner<E: std::error::Error + Clone + Send + Sync + 'static>(error: &io::Error) -> Option<io::Error> {
        let inner = error.get_ref()?.downcast_ref::<E>()?;
        Some(io::Error::new(error.kind(), inner.clone()))
    }
    let system = error.raw_os_error().map(io::Error::from_raw_os_error);
    system
        .or_else(|| inner::<ConnectionError>(error))
        .or_else(|| inner::<ConnectError>(error))
        .or_else(|| inner::<ConfigError>(error))
        .unwrap_or_else(|| io::Error::new(error.kind(), error.to_string()))
}
