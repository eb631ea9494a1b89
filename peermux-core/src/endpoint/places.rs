//! Those who have dialled an endpoint, until it is known who they are.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::net::{IpAddr, Ipv6Addr};
use core::task::{Poll, Waker};

use super::{After, End, Endpoint};
use crate::driver::Driver;

/// The places that are taken.
#[derive(Default)]
pub(super) struct Places {
    taken: BTreeMap<u64, Option<Arc<Driver>>>,
    networks: BTreeMap<IpAddr, usize>,
    /// Who accepts, while there is no room.
    waker: Option<Waker>,
}

impl Places {
    /// Gives up the handshakes of dialers that have said nothing.
    pub(super) fn give_up_silent<C>(&mut self, after: &mut After<C>) {
        after.ends.extend(self.taken.values().flatten().map(|driver| (driver.clone(), End::GiveUpSilent)));
        after.wake.extend(self.waker.take());
    }

    /// Whether a peer has begun a handshake that has not come to its end.
    pub(super) fn has_handshakes(&self) -> bool {
        let mut drivers = self.taken.values().flatten();
        drivers.any(|driver| {
            driver.look(|connection| connection.close_reason().is_none() && !connection.awaits_first_flight())
        })
    }
}

/// What one dialer is likely to have only one of.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// The permit of an accepted socket, from before its handshake until its peer is confirmed (or, of a peer that has many connections already, until it is closed), or the socket closed. It is free when this is dropped.
pub struct HandshakePermit<C> {
    endpoint: Arc<Endpoint<C>>,
    network: IpAddr,
    id: u64,
}

impl<C> Endpoint<C> {
    /// Whether there is room for one more who dials; false if the endpoint drains, and so for ever. `waker` is woken when that changes; it is one that accepts.
    pub fn poll_capacity(&self, waker: &Waker) -> Poll<bool> {
        self.act(|state, after| {
            if state.drains {
                return Poll::Ready(false);
            }
            if state.places.taken.len() < self.limits.max_pending_handshakes {
                return Poll::Ready(true);
            }
            after.former.extend(state.places.waker.replace(waker.clone()));
            Poll::Pending
        })
    }

    /// A permit for a socket that was just accepted, from `address`. `None` if there is none, or if too many of that address, or of its IPv6 network of 64 bits, have one:
    /// then it is to be closed.
    pub fn try_acquire(self: &Arc<Self>, address: IpAddr) -> Option<HandshakePermit<C>> {
        let network = network(address);
        let id = self.act(|state, _| {
            let count = state.places.networks.get(&network).copied().unwrap_or(0);
            let full = state.places.taken.len() >= self.limits.max_pending_handshakes;
            if state.drains || full || count >= self.limits.max_pending_handshakes_per_addr {
                return None;
            }
            let id = state.number();
            state.places.networks.insert(network, count + 1);
            state.places.taken.insert(id, None);
            Some(id)
        })?;
        Some(HandshakePermit { endpoint: self.clone(), network, id })
    }
}

impl<C> HandshakePermit<C> {
    /// A handshake begins. When the endpoint drains, it is given up if the peer has said nothing yet. Otherwise it goes on, and [`Endpoint::adopt`] tells the peer that it
    /// is refused.
    pub fn begin(&self, driver: &Arc<Driver>) {
        let _former = self.endpoint.act(|state, after| {
            if state.drains {
                after.ends.push((driver.clone(), End::GiveUpSilent));
            }
            state.places.taken.insert(self.id, Some(driver.clone()))
        });
    }

    /// The handshake has failed. The permit stays taken until its socket is closed, but an endpoint that drains does not wait for it.
    pub fn failed(&self) {
        let _former = self.endpoint.act(|state, after| {
            state.tell_all(after);
            state.places.taken.insert(self.id, None)
        });
    }
}

impl<C> Drop for HandshakePermit<C> {
    fn drop(&mut self) {
        // The last to hold a connection may be among what is dropped: not under the lock.
        let _driver = self.endpoint.act(|state, after| {
            match state.places.networks.get_mut(&self.network) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(state.places.networks.remove(&self.network)),
            }
            after.wake.extend(state.places.waker.take());
            state.tell_all(after);
            state.places.taken.remove(&self.id)
        });
    }
}
