//! What every threaded or asynchronous adapter is built on: a [`Connection`] behind a lock, who waits for what, and their buffers.
//!
//! An adapter reads and writes, in one task or in two threads, and has no protocol logic. The reader waits until the socket has bytes, reads them into a [`ReadBuffer`], and calls
//! [`Driver::handle_input`]. The writer calls [`Driver::poll_transmit`], writes what stands in the [`WriteBuffer`], and waits until the socket takes more. Everything else is a call with a [`Waker`], which an
//! asynchronous adapter takes from its task and a blocking one makes of its thread. No call here waits, and no waker is woken under the lock.
//!
//! There is one reader and one writer at a time, since records are opened and sealed while the lock is free. Different tasks may take turns at it: see [`Driver::transmit_records`].

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::task::Waker;
use core::time::Duration;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::code::ProtocolErrorCode;
use crate::connection::{Connection, EarlyDataOffer, Event, PeerInfo, Transmit};
use crate::early::StrikeRegister;
use crate::error::{OpenError, TransportError};
use crate::time::Instant;
use crate::wire::Priority;

mod buffers;
mod stream;
mod waiter;

pub use buffers::{ReadBuffer, WriteBuffer};
pub use stream::Stream;
pub use waiter::{Progress, Waiter};

/// How long the transport of a connection that has ended may take to take the last bytes.
const PATIENCE: Duration = Duration::from_secs(3);

/// A connection that several tasks or threads share.
pub struct Driver {
    state: Mutex<State>,
}

struct State {
    connection: Connection,
    /// The writer, while it waits for something to send, and the timer that it was told of.
    writer: Option<Waker>,
    armed: Option<Instant>,
    /// Those that wait for a stream of the peer, each under its own key.
    acceptors: BTreeMap<u64, Waker>,
    /// Those that wait for the connection to move on: to be established, or to end.
    watchers: BTreeMap<u64, Waker>,
    next_key: u64,
    /// The application is to be asked about the peer.
    asked: bool,
    /// Those that wait for the peer's attestation know what to expect.
    attested: bool,
    /// Decides about early data.
    register: Option<Arc<Mutex<StrikeRegister>>>,
    /// Early data was accepted, and nobody was told yet that the peer is claimed.
    claimed: bool,
    /// The peer drains the connection, for this reason.
    drained: Option<ProtocolErrorCode>,
    /// The writer has taken bytes, and has not said since that the transport has them.
    unwritten: bool,
    /// See [`Driver::write_deadline`].
    write_deadline: Option<Instant>,
}

/// What the writer is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAction {
    /// Send what is in the buffer, and then do as the second one says.
    Send(AfterSend),
    /// Wait to be woken, at the latest until the timer, and then call [`Driver::handle_timeout`].
    Wait(Option<Instant>),
    /// Half-close the transport, once; then wait to be woken, at the latest until the timer.
    HalfClose(Option<Instant>),
    /// Close the transport: nothing more is to be sent or received.
    Close,
}

/// What the writer is to do when all is with the transport that it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterSend {
    /// Something else waits already: ask again as soon as the transport takes more.
    PollAgain,
    /// As [`WriteAction::Wait`]; but whoever has to wait until the transport takes it all asks again.
    Idle(Option<Instant>),
}

/// Whether [`Driver::handle_input`] wakes the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeWriter {
    /// The caller is the writer, and calls [`Driver::poll_transmit`] next.
    No,
    /// The writer is another task or thread.
    Yes,
}

impl Driver {
    /// Shares `connection`.
    pub fn new(connection: Connection) -> Arc<Self> {
        Self::with_strike_register(connection, None)
    }

    /// Shares `connection`, a responder's, and accepts the early data of first flights that `register` has not seen. The register serves all
    /// connections of a static key.
    pub fn with_strike_register(connection: Connection, register: Option<Arc<Mutex<StrikeRegister>>>) -> Arc<Self> {
        let state = State {
            connection,
            writer: None,
            armed: None,
            acceptors: BTreeMap::new(),
            watchers: BTreeMap::new(),
            next_key: 0,
            asked: false,
            attested: false,
            register,
            claimed: false,
            drained: None,
            unwritten: false,
            write_deadline: None,
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a bug of the core's; the state is no worse to other threads than to the one that met it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `act` on the connection, and wakes whoever has something to do now.
    pub fn with<R>(&self, act: impl FnOnce(&mut Connection) -> R) -> R {
        self.act(true, |state| act(&mut state.connection))
    }

    /// Calls `look` on the connection. Wakes nobody, since it changes nothing: it can be called under another lock.
    pub fn look<R>(&self, look: impl FnOnce(&Connection) -> R) -> R {
        look(&self.lock().connection)
    }

    fn act<R>(&self, wake_writer: bool, act: impl FnOnce(&mut State) -> R) -> R {
        let mut wakers = Wakers::default();
        let result = {
            let mut state = self.lock();
            let result = act(&mut state);
            state.take_events(&mut wakers);
            if wake_writer {
                state.take_writer(&mut wakers);
            }
            result
        };
        wakers.wake();
        result
    }

    /// The transport gave bytes: takes what is whole from the front of `input`.
    pub fn handle_input(&self, now: Instant, input: &mut ReadBuffer, wake_writer: WakeWriter) {
        let wake_writer = wake_writer == WakeWriter::Yes;
        loop {
            // No long record is opened under the lock.
            while input.next >= Connection::LONG_RECORD {
                let begun = self.lock().connection.begin_record(now, &mut input.bytes);
                let Some((mut record, unopened)) = begun else { break };
                let authentic = unopened.open(&mut record);
                input.next = self.act(wake_writer, |state| {
                    state.connection.end_record(now, record, authentic);
                    state.connection.next_input_len()
                });
            }
            self.act(wake_writer, |state| {
                match input.next >= Connection::LONG_RECORD {
                    // It is not whole, or nothing more is opened.
                    true => state.connection.handle_input(now, &mut input.bytes),
                    false => state.connection.handle_short(now, &mut input.bytes),
                }
                input.next = state.connection.next_input_len();
            });
            if input.bytes.len() < input.next {
                return;
            }
        }
    }

    /// The transport says that the peer sends nothing more.
    pub fn handle_eof(&self, now: Instant) {
        self.with(|connection| connection.handle_eof(now));
    }

    /// The transport failed.
    pub fn handle_transport_error(&self, now: Instant, error: impl Into<TransportError>) {
        self.act(true, |state| {
            state.unwritten = false;
            state.connection.handle_transport_error(now, error);
        });
    }

    /// The time is `now`.
    pub fn handle_timeout(&self, now: Instant) {
        self.with(|connection| connection.handle_timeout(now));
    }

    /// The channel binding, for connections that a [`Waiter`] has told the [`Progress`] of; zeros before that.
    pub fn channel_binding(&self) -> [u8; 64] {
        self.look(|connection| connection.channel_binding().copied()).unwrap_or([0; 64])
    }

    /// The connection's next timer.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.lock().connection.poll_timeout()
    }

    /// For the writer, when the transport can take more: the next thing to do. `waker` is woken when that changes. What is to be sent is put
    /// into `buffer`: a flight, a record, or several of a [burst](Connection::burst_len). The call says that the transport has all that was taken before.
    pub fn poll_transmit(&self, now: Instant, buffer: &mut WriteBuffer, waker: &Waker) -> WriteAction {
        let mut former = None;
        let pump = self.act(false, |state| {
            let transmit = buffer.fill(&mut state.connection, now);
            state.unwritten = matches!(transmit, Transmit::Bytes(_));
            if let Transmit::Bytes(_) = transmit {
                // To ask at once saves the writer another call, where nothing else waits.
                let then = match state.connection.poll_transmit(now, &mut []) {
                    Ok(Transmit::Idle) if !state.connection.is_closed() => {
                        AfterSend::Idle(state.wait(waker, &mut former))
                    }
                    _ => AfterSend::PollAgain,
                };
                buffer.followed_by(then == AfterSend::PollAgain);
                return WriteAction::Send(then);
            }
            if state.connection.is_closed() {
                return WriteAction::Close;
            }
            let timer = state.wait(waker, &mut former);
            match transmit {
                Transmit::Finished => WriteAction::HalfClose(timer),
                _ => WriteAction::Wait(timer),
            }
        });
        drop(former);
        if self.seal(buffer) { pump } else { WriteAction::Close }
    }

    /// Seals what is in `buffer`, not under the lock; false if that failed, which ends the connection.
    fn seal(&self, buffer: &mut WriteBuffer) -> bool {
        let sealed = buffer.seal();
        if !sealed {
            self.act(true, |state| {
                state.unwritten = false;
                state.connection.provider_failed();
            });
        }
        sealed
    }

    /// For another than the writer, who would wait otherwise: puts the next records into `buffer`, as [`Driver::poll_transmit`] does, and says whether there are more. `None` if there
    /// is no record to send: all else is left to the writer.
    pub fn transmit_records(&self, now: Instant, buffer: &mut WriteBuffer) -> Option<bool> {
        let more = self.act(true, |state| {
            let filled = state.connection.wants_record()
                && matches!(buffer.fill(&mut state.connection, now), Transmit::Bytes(_));
            state.unwritten |= filled;
            let more = filled && state.connection.wants_record();
            buffer.followed_by(more);
            filled.then_some(more)
        });
        more.filter(|_| self.seal(buffer))
    }

    /// The reason of the peer's DRAIN, if it has arrived.
    pub(crate) fn drained(&self) -> Option<ProtocolErrorCode> {
        self.lock().drained
    }

    /// For the reader: whether it need not read on, since nothing that arrives is looked at any more. The writer may still have something for the transport, this side's last
    /// record for example: it closes the transport when that is done.
    pub fn is_closed(&self) -> bool {
        self.lock().connection.is_closed()
    }

    /// For a writer that waits for the transport: once the connection is [closed](Driver::is_closed), when to give up what the transport has not taken, however
    /// little it takes meanwhile. `None` before that. What was begun is to leave whole, and CLOSE behind it: so the transport has 3 s from the first time that it is waited for
    /// after the connection ended for the application.
    pub fn write_deadline(&self, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        state.connection.close_reason()?;
        let deadline = *state.write_deadline.get_or_insert(now + PATIENCE);
        state.connection.is_closed().then_some(deadline)
    }

    /// For whoever waits for something of the whole connection: one for each future, or each call that blocks.
    pub fn waiter(self: &Arc<Self>) -> Waiter {
        Waiter { driver: self.clone(), key: None }
    }

    /// How many wait for a stream of the peer, or for the connection to move on.
    pub fn waiter_count(&self) -> usize {
        let state = self.lock();
        state.acceptors.len() + state.watchers.len()
    }

    /// Opens a stream. The writer is not woken for it alone: OPEN leaves with the first bytes, or when the stream is finished, flushed or read.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_stream(self: &Arc<Self>, protocol: Option<&str>, priority: Priority) -> Result<Stream, OpenError> {
        let id = self.act(false, |state| state.connection.open_stream(protocol, priority))?;
        Ok(Stream { driver: self.clone(), id })
    }

    /// As [`Driver::open_stream`], for a stream that may travel as early data: see [`Connection::open_early`].
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_early(self: &Arc<Self>, protocol: Option<&str>, priority: Priority) -> Result<Stream, OpenError> {
        let id = self.act(false, |state| state.connection.open_early(protocol, priority))?;
        Ok(Stream { driver: self.clone(), id })
    }
}

impl State {
    fn established(&self) -> Option<PeerInfo> {
        self.connection.peer().filter(|_| self.connection.is_established()).cloned()
    }

    /// The peer that is claimed, if nobody was told yet and there are keys: M2 is made after the early data is accepted.
    fn claimed(&self) -> Option<&PeerInfo> {
        self.connection.claimed_peer().filter(|_| self.claimed && self.connection.channel_binding().is_some())
    }

    fn wake_watchers(&mut self, wakers: &mut Wakers) {
        wakers.many.extend(core::mem::take(&mut self.watchers).into_values());
    }

    fn take_events(&mut self, wakers: &mut Wakers) {
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::StreamOpened => wakers.many.extend(core::mem::take(&mut self.acceptors).into_values()),
                Event::ApprovePeer(_) => {
                    self.asked = true;
                    self.wake_watchers(wakers);
                }
                Event::Established(_) | Event::Closed(_) => {
                    self.wake_watchers(wakers);
                    wakers.many.extend(core::mem::take(&mut self.acceptors).into_values());
                }
                Event::EarlyData(offer) => {
                    if self.strikes(&offer) && self.connection.accept_early() {
                        self.claimed = true;
                    }
                }
                Event::Draining(code) => {
                    self.drained = Some(code);
                    self.wake_watchers(wakers);
                }
                Event::Readable(_) | Event::Writable(_) | Event::Stopped(_) | Event::Attestation(_) => {}
            }
        }
        if !self.attested && self.connection.attestation().is_ready() {
            self.attested = true;
            self.wake_watchers(wakers);
        }
        if self.claimed().is_some() || self.connection.is_closed() {
            self.wake_watchers(wakers);
        }
        while let Some(waker) = self.connection.poll_waker() {
            wakers.add(waker);
        }
    }

    /// Whether early data is seen for the first time.
    fn strikes(&self, offer: &EarlyDataOffer) -> bool {
        let Some(register) = &self.register else { return false };
        let mut register = register.lock().unwrap_or_else(PoisonError::into_inner);
        register.strike(&offer.ephemeral, offer.timestamp, offer.now).is_ok()
    }

    /// The writer waits for something to do, and for the timer that this returns. A waker that waited before goes to `former`, to be dropped when the lock
    /// is gone.
    fn wait(&mut self, waker: &Waker, former: &mut Option<Waker>) -> Option<Instant> {
        if !self.writer.as_ref().is_some_and(|writer| writer.will_wake(waker)) {
            *former = self.writer.replace(waker.clone());
        }
        self.armed = self.connection.poll_timeout();
        self.armed
    }

    /// The writer has something to do: bytes, an end, or a timer that is earlier than the one it was told of.
    fn take_writer(&mut self, wakers: &mut Wakers) {
        if self.writer.is_none() {
            return;
        }
        if self.connection.wants_transmit() || self.connection.is_closed() || self.is_early() {
            wakers.take(&mut self.writer);
        }
    }

    /// There is a timer, and the writer knows of none or of a later one.
    fn is_early(&self) -> bool {
        let Some(timeout) = self.connection.poll_timeout() else { return false };
        self.armed.is_none_or(|armed| timeout < armed)
    }
}

/// Wakers that are woken when the lock is gone. One, as a rule, which needs no allocation.
#[derive(Default)]
struct Wakers {
    one: Option<Waker>,
    many: Vec<Waker>,
}

impl Wakers {
    fn add(&mut self, waker: Waker) {
        match &self.one {
            None => self.one = Some(waker),
            Some(_) => self.many.push(waker),
        }
    }

    fn take(&mut self, waker: &mut Option<Waker>) {
        if let Some(waker) = waker.take() {
            self.add(waker);
        }
    }

    fn wake(self) {
        if let Some(waker) = self.one {
            waker.wake();
        }
        self.many.into_iter().for_each(Waker::wake);
    }
}
