//! The link between a connection and its transport: everything that an adapter does besides waiting.
//!
//! A [`Link`] reads from a [`Transport`] that never blocks, hands records to the connection, and writes what the connection has to send. One task or thread owns the link. It calls
//! [`Link::poll`] when it is woken, and waits as the returned [`Turn`] says. Any other task that is about to wait for the connection may do some of the owner's work first, by
//! [`Link::help`]: then bulk data needs no switch between tasks.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use core::task::Waker;
use std::io;

use super::handover::{Handover, Helper, Work};
use super::{AfterSend, Driver, ReadBuffer, WakeWriter, WriteAction, WriteBuffer};
use crate::error::TransportError;
use crate::time::Instant;

/// A stream of bytes in both directions whose calls never block.
///
/// A call that would block returns [`io::ErrorKind::WouldBlock`]. The methods with a default are for TCP: other transports need none of them.
pub trait Transport {
    /// Reads into `buffer`, at most once from the system, and returns how many bytes were added. Returns 0 if the peer sends nothing more.
    ///
    /// # Errors
    /// Returns the transport's error, or [`io::ErrorKind::WouldBlock`] if there is nothing to read now.
    fn try_read(&mut self, buffer: &mut ReadBuffer) -> io::Result<usize>;

    /// Writes a part of `bytes`, and returns how many bytes that was. If `more` is true, more bytes follow at once, so the transport may wait for them to fill a packet.
    ///
    /// # Errors
    /// Returns the transport's error, or [`io::ErrorKind::WouldBlock`] if it takes nothing now.
    fn try_write(&mut self, bytes: &[u8], more: bool) -> io::Result<usize>;

    /// Passes on what the transport itself holds back. It is called when nothing more is to be written for now.
    ///
    /// # Errors
    /// Returns the transport's error, or [`io::ErrorKind::WouldBlock`] if it must be called again.
    fn try_flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Ends the direction to the peer, behind everything that was written.
    ///
    /// # Errors
    /// Returns the transport's error, or [`io::ErrorKind::WouldBlock`] if it must be called again.
    fn try_shutdown(&mut self) -> io::Result<()>;

    /// Tells the transport that the owner was woken: what it waited for may have come.
    fn woken(&mut self) {}

    /// Registers the owner's `waker` for the time when the transport can be read from, if `read`, and written to, if `write`. Returns what it is ready for already.
    ///
    /// # Errors
    /// Returns the transport's error.
    fn poll_ready(&mut self, waker: &Waker, read: bool, write: bool) -> io::Result<Ready>;

    /// Returns `false` if [`Transport::try_write`] would block now. `true` is always allowed.
    fn is_writable(&mut self) -> bool {
        true
    }

    /// Limits how many bytes may wait in the system unsent before the transport is not writable any more, so that urgent data does not wait behind them.
    ///
    /// # Errors
    /// Returns the transport's error.
    fn set_unsent_limit(&mut self, bytes: usize) -> io::Result<()> {
        let _ = bytes;
        Ok(())
    }

    /// Returns whether a packet is much shorter than [`Transport::set_unsent_limit`] allows to wait. Only then packets may wait to be filled: otherwise the transport would not
    /// become writable meanwhile.
    fn has_short_packets(&self) -> bool {
        false
    }

    /// Makes packets wait until they are full, or stops that.
    ///
    /// # Errors
    /// Returns the transport's error.
    fn set_corked(&mut self, corked: bool) -> io::Result<()> {
        let _ = corked;
        Ok(())
    }
}

/// What a transport can do now without blocking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// It can be read from.
    pub read: bool,
    /// It can be written to.
    pub write: bool,
}

/// What the owner of a [`Link`] does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Let other tasks run, and then call [`Link::poll`] again.
    Yield,
    /// Wait to be woken, at the latest until this time. When the time has come, call [`Link::handle_timeout`], and then [`Link::poll`].
    Wait(Option<Instant>),
    /// The connection is over, and the transport is closed.
    Over,
}

/// A connection and its transport, which an owner and any number of helpers share.
pub struct Link<T> {
    driver: Arc<Driver>,
    io: Handover<Io<T>>,
    /// The last read filled its buffer: the next one may find more at once.
    has_input: AtomicBool,
    /// See [`WriteBuffer::is_crowded`].
    crowded: AtomicBool,
}

/// Both directions. The owner, or one helper at a time, works here.
struct Io<T> {
    /// From [`Link::begin`] until the connection is over.
    transport: Option<T>,
    short_packets: bool,
    input: ReadBuffer,
    /// The peer sends nothing more.
    at_end: bool,
    output: WriteBuffer,
    /// How much of `output` is written, and what to do when all of it is.
    written: usize,
    after: Option<AfterSend>,
    /// The transport took no more, and has not become writable since.
    blocked: bool,
    /// Something was written since the transport was last flushed.
    unflushed: bool,
    half_close: HalfClose,
    /// As the transport was told.
    unsent_limit: usize,
    corked: bool,
    /// The owner yields before it goes on, because many streams may be about to write.
    yields: bool,
    /// What a helper has met.
    error: Option<io::Error>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HalfClose {
    No,
    Begun,
    Done,
}

impl<T> Default for Io<T> {
    fn default() -> Self {
        Self {
            transport: None,
            short_packets: false,
            input: ReadBuffer::default(),
            at_end: false,
            output: WriteBuffer::default(),
            written: 0,
            after: None,
            blocked: false,
            unflushed: false,
            half_close: HalfClose::No,
            unsent_limit: 0,
            corked: false,
            yields: false,
            error: None,
        }
    }
}

/// What one step has left to do.
enum Next {
    /// Perhaps more, at once.
    Step,
    /// Nothing before the driver wakes its writer, or the timer expires.
    Idle(Option<Instant>),
    /// Nothing before the transport is writable.
    Blocked,
    /// Nothing any more.
    Over,
}

/// Bytes after which the owner lets others run: so what was read is taken, and what was sent is filled up again, while it is still in the processor's cache.
const TURN: usize = 64 * 1024;

impl<T: Transport> Link<T> {
    /// Creates the link of a connection. Nothing moves before [`Link::begin`].
    pub fn new(driver: Arc<Driver>) -> Arc<Self> {
        Arc::new(Self {
            driver,
            io: Handover::default(),
            has_input: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
        })
    }

    /// Returns the connection's driver.
    pub const fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    /// Starts to read from `transport` and to write to it.
    pub fn begin(&self, transport: T) {
        let mut io = self.io.lock();
        io.short_packets = transport.has_short_packets();
        io.transport = Some(transport);
    }

    /// Closes the transport, for an owner that ends. If the connection is not over, it fails with `error`.
    pub fn end(&self, now: Instant, error: impl Into<TransportError>) {
        let io = core::mem::take(&mut *self.io.lock());
        let is_over = io.is_over();
        // Dropping a transport may run foreign code.
        drop(io);
        self.io.leave();
        if !is_over {
            self.driver.handle_transport_error(now, error);
        }
    }

    /// Returns whether more can be read at once.
    pub fn has_input(&self) -> bool {
        self.has_input.load(Relaxed)
    }

    /// Returns whether the connection has so many streams that a writer who waits a moment sends fewer and fuller records.
    pub fn is_crowded(&self) -> bool {
        self.crowded.load(Relaxed)
    }

    /// Processes timers that have expired at `now`.
    pub fn handle_timeout(&self, now: Instant) {
        self.driver.handle_timeout(now);
    }

    /// For the owner, each time that it is woken: reads and writes until nothing moves, or others should run. `waker` is woken when there is more to do.
    pub fn poll(&self, waker: &Waker, now: impl Fn() -> Instant) -> Turn {
        // A helper that is at work wakes the owner when it leaves.
        let Some(mut io) = self.io.enter(waker) else { return Turn::Wait(None) };
        // Twice as many streams come and go if those that are about to write come into the same record.
        if core::mem::take(&mut io.yields) {
            return Turn::Yield;
        }
        let error = match io.error.take() {
            Some(error) => error,
            None => match io.poll(self, waker, &now) {
                Ok(turn) => return turn,
                Err(error) => error,
            },
        };
        io.receive_last(self, now());
        let ended = core::mem::take(&mut *io);
        drop(io);
        self.driver.handle_transport_error(now(), &error);
        drop(ended);
        Turn::Over
    }

    /// Returns a helper, for a task that would wait for the connection otherwise.
    pub const fn help(&self) -> Help<'_, T> {
        Help { link: self, helper: self.io.help(), moved: 0 }
    }
}

/// A task that does the work of a link's owner, step by step. When it is dropped, the owner goes on if something is left for it.
pub struct Help<'a, T> {
    link: &'a Link<T>,
    helper: Helper<'a, Io<T>>,
    moved: usize,
}

impl<T: Transport> Help<'_, T> {
    /// Bytes after which the owner goes on: other tasks have their turn then.
    const MOST: usize = 1 << 20;

    /// Reads and sends once, if nobody else is at work, and returns whether anything moved. The owner handles what goes wrong.
    pub fn step(&mut self, now: Instant) -> bool {
        let Some(mut io) = self.helper.enter() else { return false };
        let had_to_wait = io.blocked || io.error.is_some();
        let moved = if self.moved < Self::MOST && io.error.is_none() {
            let step = io.step(self.link, now, None);
            step.map_or_else(
                |error| {
                    io.error = Some(error);
                    0
                },
                |(moved, _)| moved,
            )
        } else {
            0
        };
        self.moved += moved;
        // The owner hears from the transport.
        if self.moved >= Self::MOST || !had_to_wait && (io.blocked || io.error.is_some()) {
            self.helper.call();
        }
        moved > 0
    }
}

impl<T> Work for Io<T> {
    fn panicked(&mut self) {
        (self.input, self.output, self.written, self.after) = Default::default();
        self.error = Some(io::Error::other("a task panicked while it sent or received"));
    }
}

impl<T> Io<T> {
    /// The connection is over, or has never begun.
    const fn is_over(&self) -> bool {
        self.transport.is_none()
    }
}

/// What a call that did not block has returned.
fn unless_blocked<R>(result: io::Result<R>) -> io::Result<Option<R>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

impl<T: Transport> Io<T> {
    fn poll(&mut self, link: &Link<T>, waker: &Waker, now: &impl Fn() -> Instant) -> io::Result<Turn> {
        if let Some(transport) = &mut self.transport {
            transport.woken();
        }
        let mut turn = 0;
        loop {
            let (moved, next) = self.step(link, now(), Some(waker))?;
            turn += moved;
            let timer = match next {
                Next::Over => return Ok(Turn::Over),
                _ if turn >= TURN => return Ok(Turn::Yield),
                Next::Step => continue,
                Next::Idle(timer) => {
                    self.yields = link.is_crowded();
                    timer
                }
                // What was begun leaves whole, and CLOSE behind it, also if the connection has ended meanwhile; but not for ever.
                Next::Blocked => link.driver.poll_blocked(now(), waker)?,
            };
            if link.has_input() || self.poll_ready(waker)? {
                continue;
            }
            self.input.release();
            return Ok(Turn::Wait(timer));
        }
    }

    /// Returns whether the transport is ready for what this link waits for. The owner is woken when it is.
    fn poll_ready(&mut self, waker: &Waker) -> io::Result<bool> {
        let write = self.blocked || self.unflushed || self.half_close == HalfClose::Begun;
        let Some(transport) = &mut self.transport else { return Ok(false) };
        let ready = transport.poll_ready(waker, !self.at_end, write)?;
        if ready.write {
            self.blocked = false;
        }
        Ok(ready.read && !self.at_end || ready.write && write)
    }

    /// Reads and writes once. Returns how many bytes were moved.
    fn step(&mut self, link: &Link<T>, now: Instant, owner: Option<&Waker>) -> io::Result<(usize, Next)> {
        // Reading first: once the driver has the owner's waker, nothing that the owner does itself must wake it.
        let wake_writer = if owner.is_some() { WakeWriter::No } else { WakeWriter::Yes };
        let received = self.receive(link, now, wake_writer)?;
        let (sent, next) = self.send(link, now, owner)?;
        Ok((received + sent, next))
    }

    /// Reads what has arrived, up to a record.
    fn receive(&mut self, link: &Link<T>, now: Instant, wake_writer: WakeWriter) -> io::Result<usize> {
        let Some(transport) = self.transport.as_mut().filter(|_| !self.at_end) else { return Ok(0) };
        let wanted = self.input.wanted();
        let read = unless_blocked(transport.try_read(&mut self.input));
        link.has_input.store(matches!(read, Ok(Some(len)) if len >= wanted), Relaxed);
        match read? {
            None => self.input.release(),
            Some(0) => {
                self.at_end = true;
                link.driver.handle_eof(now);
            }
            Some(len) => {
                link.driver.handle_input(now, &mut self.input, wake_writer);
                return Ok(len);
            }
        }
        Ok(0)
    }

    /// After a failure: the peer may have said why, before it went. The end of the transport is not one of the peer's.
    fn receive_last(&mut self, link: &Link<T>, now: Instant) {
        let Some(transport) = self.transport.as_mut().filter(|_| !self.at_end) else { return };
        while let Ok(1..) = transport.try_read(&mut self.input) {
            link.driver.handle_input(now, &mut self.input, WakeWriter::No);
        }
    }

    /// Writes what there is to send. What goes into a record is decided when the transport can take it.
    fn send(&mut self, link: &Link<T>, now: Instant, owner: Option<&Waker>) -> io::Result<(usize, Next)> {
        let Some(transport) = &mut self.transport else { return Ok((0, Next::Idle(None))) };
        if self.blocked {
            return Ok((0, Next::Blocked));
        }
        if self.written == self.output.bytes().len() {
            if self.after == Some(AfterSend::PollAgain) && !transport.is_writable() {
                self.blocked = true;
                return Ok((0, Next::Blocked));
            }
            let action = link.driver.poll_transmit(now, &mut self.output, owner);
            link.crowded.store(self.output.is_crowded(), Relaxed);
            match action {
                WriteAction::Send(after) => self.prepare(after)?,
                WriteAction::Wait(timer) => {
                    self.rest()?;
                    return Ok((0, Next::Idle(timer)));
                }
                WriteAction::HalfClose(timer) => {
                    if self.half_close == HalfClose::No {
                        self.half_close = HalfClose::Begun;
                    }
                    self.rest()?;
                    return Ok((0, Next::Idle(timer)));
                }
                WriteAction::Close => {
                    self.transport = None;
                    return Ok((0, Next::Over));
                }
            }
        }
        self.write()
    }

    /// The output is new: the transport is told how to send it.
    fn prepare(&mut self, after: AfterSend) -> io::Result<()> {
        (self.written, self.after) = (0, Some(after));
        let Some(transport) = &mut self.transport else { return Ok(()) };
        let corked = self.short_packets && self.output.fills_packets();
        if core::mem::replace(&mut self.corked, corked) != corked {
            transport.set_corked(corked)?;
        }
        let limit = self.output.unsent_limit();
        if core::mem::replace(&mut self.unsent_limit, limit) != limit {
            transport.set_unsent_limit(limit)?;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<(usize, Next)> {
        let Some(transport) = &mut self.transport else { return Ok((0, Next::Idle(None))) };
        let rest = &self.output.bytes()[self.written..];
        let more = self.after == Some(AfterSend::PollAgain) && self.short_packets;
        let whole = rest.len();
        let len = unless_blocked(transport.try_write(rest, more))?;
        if len == Some(0) && whole > 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let written = len.unwrap_or(0);
        self.written += written;
        self.unflushed |= written > 0;
        if written < whole {
            self.blocked = true;
            // Something else may be there when the rest is written: the driver is asked again.
            self.after = self.after.filter(|after| *after == AfterSend::PollAgain);
            return Ok((written, Next::Blocked));
        }
        match self.after {
            Some(AfterSend::Idle(timer)) => {
                self.rest()?;
                Ok((written, Next::Idle(timer)))
            }
            _ => Ok((written, Next::Step)),
        }
    }

    /// There is nothing to send: the link holds no buffer, and the transport holds nothing back.
    fn rest(&mut self) -> io::Result<()> {
        let holds = self.corked || (self.after == Some(AfterSend::PollAgain) && self.short_packets);
        (self.output, self.written, self.after, self.corked) = Default::default();
        let Some(transport) = &mut self.transport else { return Ok(()) };
        if holds {
            transport.set_corked(false)?;
        }
        if self.unflushed {
            self.unflushed = unless_blocked(transport.try_flush())?.is_none();
        }
        // An error of the half-close says that the transport has ended already.
        if self.half_close == HalfClose::Begun && !matches!(unless_blocked(transport.try_shutdown()), Ok(None)) {
            self.half_close = HalfClose::Done;
        }
        Ok(())
    }
}
