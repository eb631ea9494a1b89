//! What adapters tell subscribers of the crate `tracing`: a span for each connection, and the events of its life. Without the feature `tracing` all of this is nothing.
//!
//! An adapter makes a [`Trace`] when it dials or accepts, starts the connection by [`Trace::start`], and keeps it with its handle. It calls the other methods where what they tell
//! happens. The documentation of the adapters lists the events and their levels.

pub use told::{Trace, in_span, instrument};

#[cfg(not(feature = "tracing"))]
mod told {
    use alloc::sync::Arc;
    use core::net::SocketAddr;
    use std::io;

    use crate::PeerInfo;
    use crate::driver::{Driver, Stream};
    use crate::endpoint::Decision;

    /// What is told of one connection: nothing, without the feature `tracing`.
    #[derive(Clone, Debug)]
    pub struct Trace;

    impl Trace {
        /// Tells that somebody is dialled.
        pub const fn dialing(_: Option<SocketAddr>) -> Self {
            Self
        }

        /// Tells that somebody has dialled.
        pub const fn accepted(_: Option<SocketAddr>) -> Self {
            Self
        }

        /// Calls `start`, and tells from then on what becomes of the connection.
        ///
        /// # Errors
        /// That of `start`.
        pub fn start(&self, _: &Arc<Driver>, start: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
            start()
        }

        /// Tells that early data was accepted.
        pub const fn early_accepted(&self, _: &PeerInfo) {}
        /// Tells what is new, before anything else is told that comes after it.
        pub const fn look(&self) {}
        /// Tells of a stream that was opened here.
        pub const fn opened(&self, _: &Stream) {}
        /// Tells of a stream of the peer that was accepted.
        pub const fn stream_accepted(&self, _: &Stream) {}
        /// Tells that the application drains the connection.
        pub const fn drains(&self, _: &Driver) {}
        /// Tells that an endpoint gives the connection to one more who wants it.
        pub const fn shared(&self) {}
        /// Tells what an endpoint has decided.
        pub const fn decided(&self, _: &Decision) {}
    }

    /// `future`, in the span that this is called in.
    pub fn instrument<F: Future>(future: F) -> F {
        future
    }

    /// `act`, in the span that this is called in.
    pub const fn in_span<F: FnOnce()>(act: F) -> F {
        act
    }
}

#[cfg(feature = "tracing")]
mod told {
    use alloc::string::ToString;
    use alloc::sync::Arc;
    use alloc::task::Wake;
    use core::fmt::{self, Write};
    use core::net::SocketAddr;
    use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use core::task::{Poll, Waker};
    use std::io;
    use std::sync::{Mutex, PoisonError};

    use tracing::field::{Empty, debug, display};
    use tracing::instrument::{Instrument, Instrumented};
    use tracing::{Level, Span, debug, enabled, error_span, info, trace, warn};

    use crate::PeerInfo;
    use crate::code::{Code, ProtocolCode};
    use crate::driver::{Driver, Stream, Waiter};
    use crate::endpoint::Decision;
    use crate::error::ConnectionError;

    /// The number of the last connection, of this process. Some platforms have no atomic numbers of 64 bits.
    static LAST: AtomicUsize = AtomicUsize::new(0);

    /// What is told of one connection, in its span. Clones tell of the same one.
    #[derive(Clone)]
    pub struct Trace(Arc<Life>);

    struct Life {
        span: Span,
        initiator: bool,
        told: Mutex<Told>,
    }

    /// How far it is told.
    #[derive(Default)]
    struct Told {
        /// From the beginning to the end, which is told last.
        waiter: Option<Waiter>,
        established: bool,
        drained: bool,
    }

    impl fmt::Debug for Trace {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_tuple("Trace").field(&self.0.span).finish()
        }
    }

    impl Trace {
        fn new(address: Option<SocketAddr>, initiator: bool) -> Self {
            let id = LAST.fetch_add(1, Relaxed) + 1;
            let role = if initiator { "initiator" } else { "responder" };
            let address = address.map(display);
            // Of the highest level, so that it is there for every event that is shown.
            let span = error_span!(target: "peermux", "connection", id, role, address, peer = Empty);
            Self(Arc::new(Life { span, initiator, told: Mutex::default() }))
        }

        /// Tells that somebody is dialled, whose address may be known.
        pub fn dialing(address: Option<SocketAddr>) -> Self {
            let this = Self::new(address, true);
            debug!(target: "peermux", parent: &this.0.span, "dialing");
            this
        }

        /// Tells that somebody has dialled, whose address may be known.
        pub fn accepted(address: Option<SocketAddr>) -> Self {
            let this = Self::new(address, false);
            debug!(target: "peermux", parent: &this.0.span, "accepted");
            this
        }

        /// Calls `start`, and tells from then on what becomes of the connection.
        ///
        /// # Errors
        /// That of `start`.
        pub fn start(&self, driver: &Arc<Driver>, start: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
            self.0.span.in_scope(start)?;
            self.0.told.lock().unwrap_or_else(PoisonError::into_inner).waiter = Some(driver.waiter());
            self.look();
            Ok(())
        }

        /// Tells that early data was accepted, of the peer as it claims to be.
        pub fn early_accepted(&self, peer: &PeerInfo) {
            debug!(target: "peermux", parent: &self.0.span, claimed = %peer.key, "early data accepted");
        }

        /// Tells what is new, before anything else is told that comes after it.
        pub fn look(&self) {
            self.0.look();
        }

        /// Tells of a stream that was opened here.
        pub fn opened(&self, stream: &Stream) {
            self.stream(stream, "stream opened");
        }

        /// Tells of a stream of the peer that was accepted.
        pub fn stream_accepted(&self, stream: &Stream) {
            self.stream(stream, "stream accepted");
        }

        fn stream(&self, stream: &Stream, what: &'static str) {
            // The fields take a lock.
            if !enabled!(target: "peermux", Level::TRACE) {
                return;
            }
            let (protocol, priority) = (stream.protocol(), stream.priority());
            trace!(
                target: "peermux",
                parent: &self.0.span,
                stream = ?stream.id(),
                protocol = protocol.as_deref(),
                urgency = priority.urgency(),
                incremental = priority.incremental(),
                "{what}"
            );
        }

        /// Tells that the application drains the connection.
        pub fn drains(&self, driver: &Driver) {
            if driver.with(|connection| connection.error().is_none() && !connection.is_draining()) {
                self.0.draining("local", ProtocolCode::GOING_AWAY);
            }
        }

        /// Tells that an endpoint gives the connection to one more who wants it.
        pub fn shared(&self) {
            debug!(target: "peermux", parent: &self.0.span, "used again");
        }

        /// Tells what an endpoint has decided.
        pub fn decided(&self, decision: &Decision) {
            match decision {
                Decision::Drain(code) => self.0.draining("local", *code),
                Decision::CloseDuplicate => {
                    debug!(target: "peermux", parent: &self.0.span, "closed as a duplicate");
                }
                Decision::Refuse => debug!(target: "peermux", parent: &self.0.span, "refused while draining"),
                Decision::RefuseStream { protocol, code } => {
                    let protocol = protocol.as_deref();
                    debug!(target: "peermux", parent: &self.0.span, protocol, %code, "stream refused");
                }
            }
        }
    }

    impl Wake for Life {
        fn wake(self: Arc<Self>) {
            self.look();
        }

        fn wake_by_ref(self: &Arc<Self>) {
            self.look();
        }
    }

    impl Life {
        /// Under one lock, so that all is told in the order in which it happened.
        fn look(self: &Arc<Self>) {
            let waker = Waker::from(self.clone());
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let Told { waiter, established, drained } = &mut *told;
            let Some(poll) = waiter else { return };
            if !*established && let Poll::Ready(Ok(peer)) = poll.poll_confirmed(&waker) {
                *established = true;
                self.established(&peer);
            }
            if !*drained && let Poll::Ready(code) = poll.poll_drained(&waker) {
                *drained = true;
                self.draining("peer", code);
            }
            if let Poll::Ready(error) = poll.poll_ended(&waker) {
                // What it holds would hold this.
                *waiter = None;
                self.ended(&error, *established);
            }
        }

        fn established(&self, peer: &PeerInfo) {
            self.span.record("peer", display(&peer.key));
            info!(
                target: "peermux",
                parent: &self.span,
                version = peer.version,
                suite = ?peer.suite,
                mode = ?peer.mode,
                anonymous = peer.anonymous,
                "established"
            );
        }

        fn draining(&self, by: &'static str, code: ProtocolCode) {
            debug!(target: "peermux", parent: &self.span, by, %code, "draining");
        }

        fn ended(&self, error: &ConnectionError, established: bool) {
            let reason = debug(Clean(error));
            match error {
                _ if is_expected(error) => info!(target: "peermux", parent: &self.span, reason, "closed"),
                // Everybody can dial, and fail.
                _ if !established && !self.initiator => {
                    debug!(target: "peermux", parent: &self.span, reason, "closed");
                }
                _ => warn!(target: "peermux", parent: &self.span, reason, "closed"),
            }
        }
    }

    /// Whether a side has ended the connection of its own will.
    fn is_expected(error: &ConnectionError) -> bool {
        let ConnectionError::Closed { closed, .. } = error else { return false };
        match closed.code {
            Code::Application(_) => true,
            Code::Protocol(code) => {
                [ProtocolCode::NO_ERROR, ProtocolCode::GOING_AWAY, ProtocolCode::DUPLICATE, ProtocolCode::CANCELLED]
                    .contains(&code)
            }
        }
    }

    /// Without control characters: a peer's reason stands in it.
    struct Clean<'a>(&'a ConnectionError);

    impl fmt::Debug for Clean<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let is_plain = |c: &char| !c.is_control();
            self.0
                .to_string()
                .chars()
                .map(|c| Some(c).filter(is_plain).unwrap_or('.'))
                .try_for_each(|c| f.write_char(c))
        }
    }

    /// `future`, in the span that this is called in.
    pub fn instrument<F: Future>(future: F) -> Instrumented<F> {
        future.in_current_span()
    }

    /// `act`, in the span that this is called in.
    pub fn in_span<F: FnOnce()>(act: F) -> impl FnOnce() {
        let span = Span::current();
        move || span.in_scope(act)
    }
}
