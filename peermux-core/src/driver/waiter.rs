//! Those that wait for something of the whole connection.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::task::{Poll, Waker};

use bytes::Bytes;

use super::{Driver, State, Stream};
use crate::code::ProtocolErrorCode;
use crate::connection::PeerInfo;
use crate::error::ConnectionError;

/// How far the peer is proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The peer claims this; its early streams can be accepted and answered, and nothing else yet. It is told once.
    Claimed(PeerInfo),
    /// The application is asked about the peer: see [`Connection::accept_peer`](crate::Connection::accept_peer).
    ApprovePeer(PeerInfo),
    /// Streams flow.
    Established(PeerInfo),
}

/// One that waits for something of the whole connection. When it is dropped its waker is forgotten, so that a connection that lives long does not
/// keep those of all who ever waited for its end.
pub struct Waiter {
    pub(super) driver: Arc<Driver>,
    pub(super) key: Option<u64>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let mut state = self.driver.lock();
            let wakers = (state.acceptors.remove(&key), state.watchers.remove(&key));
            drop(state);
            // A waker may be the last to hold its task, and the task may hold streams of this connection.
            drop(wakers);
        }
    }
}

impl Waiter {
    /// As `ready` says; where it says nothing, `waker` joins those that `list` picks.
    fn poll<T>(
        &mut self,
        waker: &Waker,
        list: fn(&mut State) -> &mut BTreeMap<u64, Waker>,
        ready: impl FnOnce(&mut State) -> Option<T>,
    ) -> Poll<T> {
        let mut state = self.driver.lock();
        if let Some(value) = ready(&mut state) {
            return Poll::Ready(value);
        }
        let key = *self.key.get_or_insert_with(|| {
            state.next_key += 1;
            state.next_key
        });
        let former = list(&mut state).insert(key, waker.clone());
        drop(state);
        drop(former);
        Poll::Pending
    }

    /// How far the peer is proved; `waker` is woken when that changes. For the one who decides about the peer: a question is told once.
    pub fn poll_handshake(&mut self, waker: &Waker) -> Poll<Result<Progress, ConnectionError>> {
        self.poll(
            waker,
            |state| &mut state.watchers,
            |state| {
                if let Some(error) = state.connection.close_reason() {
                    return Some(Err(error.clone()));
                }
                if let Some(peer) = state.claimed().cloned() {
                    state.claimed = false;
                    return Some(Ok(Progress::Claimed(peer)));
                }
                // With an attestation that has come in a frame meanwhile.
                let asked = core::mem::take(&mut state.asked);
                if let Some(peer) = state.connection.peer().filter(|_| asked) {
                    return Some(Ok(Progress::ApprovePeer(peer.clone())));
                }
                state.established().map(|peer| Ok(Progress::Established(peer)))
            },
        )
    }

    /// Ready once the peer is proved and accepted, with who it is; `waker` is woken then. For all but the one who decides.
    ///
    /// # Errors
    /// Why the connection ended instead.
    pub fn poll_confirmed(&mut self, waker: &Waker) -> Poll<Result<PeerInfo, ConnectionError>> {
        self.poll(
            waker,
            |state| &mut state.watchers,
            |state| match state.connection.close_reason() {
                Some(error) => Some(Err(error.clone())),
                None => state.established().map(Ok),
            },
        )
    }

    /// Ready once the attestation of the confirmed peer has arrived, or once it is certain that none comes (`None`): see [`Connection::attestation`](crate::Connection::attestation). `waker` is woken then.
    /// A peer that attests nothing makes this wait for its sixteenth record.
    ///
    /// # Errors
    /// Why the connection ended before.
    pub fn poll_attestation(&mut self, waker: &Waker) -> Poll<Result<Option<Bytes>, ConnectionError>> {
        self.poll(
            waker,
            |state| &mut state.watchers,
            |state| match (state.connection.attestation(), state.connection.close_reason()) {
                (Poll::Ready(attestation), _) => Some(Ok(attestation.cloned())),
                (Poll::Pending, Some(error)) => Some(Err(error.clone())),
                (Poll::Pending, None) => None,
            },
        )
    }

    /// Why the connection ended, once it has; `waker` is woken then.
    pub fn poll_close_reason(&mut self, waker: &Waker) -> Poll<ConnectionError> {
        self.poll(waker, |state| &mut state.watchers, |state| state.connection.close_reason().cloned())
    }

    /// Ready once the peer wants no more streams ([`Event::Draining`](crate::Event::Draining)), with its reason; `waker` is woken then. Never ready if the connection ends before.
    pub fn poll_peer_draining(&mut self, waker: &Waker) -> Poll<ProtocolErrorCode> {
        self.poll(waker, |state| &mut state.watchers, |state| state.drained)
    }

    /// Ready once nothing is to be sent or received any more, and the transport has this side's last record; `waker` is woken then.
    pub fn poll_transport_closed(&mut self, waker: &Waker) -> Poll<()> {
        self.poll(
            waker,
            |state| &mut state.watchers,
            |state| (state.connection.is_closed() && !state.unwritten).then_some(()),
        )
    }

    /// The next stream that the peer opened; `waker` is woken when there is one.
    ///
    /// # Errors
    /// [`ConnectionError`] once the connection has ended, and all streams that were opened before are accepted.
    pub fn poll_accept(&mut self, waker: &Waker) -> Poll<Result<Stream, ConnectionError>> {
        let id = self.poll(
            waker,
            |state| &mut state.acceptors,
            |state| match state.connection.accept_stream() {
                Some(id) => Some(Ok(id)),
                None => state.connection.close_reason().cloned().map(Err),
            },
        );
        id.map_ok(|id| Stream { driver: self.driver.clone(), id })
    }
}
