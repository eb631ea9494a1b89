//! What subscribers of the crate `tracing` are told, with the feature of that name; without it, all of this is nothing. The crate's documentation lists the events.

pub(crate) use told::{Trace, in_span};

#[cfg(not(feature = "tracing"))]
mod told {
    use std::io;
    use std::net::TcpStream;
    use std::sync::Arc;

    use peermux_core::driver::{Driver, Stream};
    use peermux_core::endpoint::Decision;

    /// What is told of one connection: nothing.
    #[derive(Clone)]
    pub(crate) struct Trace;

    impl Trace {
        pub(crate) const fn dialing(_: &TcpStream) -> Self {
            Self
        }

        pub(crate) const fn accepted(_: &TcpStream) -> Self {
            Self
        }

        pub(crate) fn start(&self, start: impl FnOnce() -> io::Result<Arc<Driver>>) -> io::Result<Arc<Driver>> {
            start()
        }

        pub(crate) const fn look(&self) {}
        pub(crate) const fn opened(&self, _: &Stream) {}
        pub(crate) const fn stream_accepted(&self, _: &Stream) {}
        pub(crate) const fn drains(&self, _: &Driver) {}
        pub(crate) const fn shared(&self) {}
        pub(crate) const fn decided(&self, _: &Decision) {}
    }

    pub(crate) const fn in_span<F: FnOnce()>(act: F) -> F {
        act
    }
}

#[cfg(feature = "tracing")]
mod told {
    use std::fmt::{self, Write};
    use std::io;
    use std::net::TcpStream;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::sync::{Arc, Mutex, PoisonError};
    use std::task::{Poll, Wake, Waker};

    use peermux_core::driver::{Driver, Stream, Waiter};
    use peermux_core::endpoint::Decision;
    use tracing::field::{Empty, debug, display};
    use tracing::{Level, Span, debug, enabled, error_span, info, trace, warn};

    use crate::{Code, ConnectionError, PeerInfo, ProtocolCode};

    /// The number of the last connection, of this process.
    static LAST: AtomicU64 = AtomicU64::new(0);

    /// What is told of one connection. Clones tell of the same one.
    #[derive(Clone)]
    pub(crate) struct Trace(Arc<Life>);

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

    impl Trace {
        fn new(socket: &TcpStream, initiator: bool) -> Self {
            let id = LAST.fetch_add(1, Relaxed) + 1;
            let role = if initiator { "initiator" } else { "responder" };
            let address = socket.peer_addr().ok().map(display);
            // Of the highest level, so that it is there for every event that is shown.
            let span = error_span!(target: "peermux", "connection", id, role, address, peer = Empty);
            Self(Arc::new(Life { span, initiator, told: Mutex::default() }))
        }

        pub(crate) fn dialing(socket: &TcpStream) -> Self {
            let this = Self::new(socket, true);
            debug!(target: "peermux", parent: &this.0.span, "dialing");
            this
        }

        pub(crate) fn accepted(socket: &TcpStream) -> Self {
            let this = Self::new(socket, false);
            debug!(target: "peermux", parent: &this.0.span, "accepted");
            this
        }

        /// Calls `start`, and tells from then on what becomes of the connection.
        pub(crate) fn start(&self, start: impl FnOnce() -> io::Result<Arc<Driver>>) -> io::Result<Arc<Driver>> {
            let driver = self.0.span.in_scope(start)?;
            self.0.told.lock().unwrap_or_else(PoisonError::into_inner).waiter = Some(driver.waiter());
            self.look();
            Ok(driver)
        }

        /// Tells what is new, before anything else is told that comes after it.
        pub(crate) fn look(&self) {
            self.0.look();
        }

        pub(crate) fn opened(&self, stream: &Stream) {
            self.stream(stream, "stream opened");
        }

        pub(crate) fn stream_accepted(&self, stream: &Stream) {
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

        /// The application drains the connection.
        pub(crate) fn drains(&self, driver: &Driver) {
            if driver.with(|connection| connection.error().is_none() && !connection.is_draining()) {
                self.0.draining("local", ProtocolCode::GOING_AWAY);
            }
        }

        /// The endpoint gives the connection to one more who wants it.
        pub(crate) fn shared(&self) {
            debug!(target: "peermux", parent: &self.0.span, "used again");
        }

        pub(crate) fn decided(&self, decision: &Decision) {
            match decision {
                Decision::Drain(code) => self.0.draining("local", *code),
                Decision::CloseDuplicate => {
                    debug!(target: "peermux", parent: &self.0.span, "closed as a duplicate");
                }
                Decision::RefuseStream { protocol, code } => {
                    let protocol = protocol.as_deref();
                    debug!(target: "peermux", parent: &self.0.span, protocol, %code, "stream refused");
                }
                other => debug!(target: "peermux", parent: &self.0.span, decision = ?other, "decided"),
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

    /// `act`, in the span that this is called in.
    pub(crate) fn in_span<F: FnOnce()>(act: F) -> impl FnOnce() {
        let span = Span::current();
        move || span.in_scope(act)
    }
}
