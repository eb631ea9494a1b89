//! One side of a simulated connection: the connection itself, and what its application was told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Wake, Waker};

use bytes::BytesMut;
use peermux_core::error::{ConnectionError, ReadError, WriteError};
use peermux_core::time::Instant;
use peermux_core::{Connection, Event, StreamId};

use super::heal::Plan;
use super::model::{Check, ensure};

/// A waker that counts.
#[derive(Debug, Default)]
pub struct Count(AtomicU32);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether an application waits to be told that a half is ready.
#[derive(Debug, Default)]
pub struct Waiter {
    waits: bool,
    told: bool,
    count: Arc<Count>,
}

impl Waiter {
    /// It was told "not now", and waits; the waker to register.
    pub fn wait(&mut self) -> Waker {
        if !self.waits {
            (self.waits, self.told) = (true, false);
        }
        Waker::from(self.count.clone())
    }

    /// It got what it wanted otherwise.
    pub fn got_it(&mut self) {
        self.waits = false;
    }

    fn tell(&mut self) {
        self.told = true;
    }

    /// Whether it sleeps.
    pub fn sleeps(&mut self) -> bool {
        self.told |= self.count.0.swap(0, Ordering::Relaxed) > 0;
        self.waits && !self.told
    }

    /// Whether it may try, as far as it knows: it never asked, or it was told.
    pub fn may_try(&mut self) -> bool {
        !self.sleeps()
    }
}

/// A stream as one application holds it.
#[derive(Debug)]
pub struct Handle {
    pub uid: usize,
    pub id: StreamId,
    pub reader: Waiter,
    pub writer: Waiter,
    /// How the application goes on with it when everything is healed.
    pub plan: Plan,
}

/// One side.
pub struct End {
    pub conn: Connection,
    pub input: BytesMut,
    /// In the order in which the application got them.
    pub handles: Vec<Handle>,
    pub by_id: BTreeMap<StreamId, usize>,
    pub released: Vec<StreamId>,
    /// It was told that there are streams to accept.
    pub incoming: bool,
    pub asked: bool,
    pub early_offered: bool,
    pub told_closed: u32,
    pub finished: bool,
    /// The latest moment that it knows.
    pub now: Instant,
    pub records: usize,
    error: Option<ConnectionError>,
}

impl End {
    pub fn new(conn: Connection) -> Self {
        Self {
            conn,
            input: BytesMut::new(),
            handles: Vec::new(),
            by_id: BTreeMap::new(),
            released: Vec::new(),
            incoming: false,
            asked: false,
            early_offered: false,
            told_closed: 0,
            finished: false,
            now: Instant::ZERO,
            records: 0,
            error: None,
        }
    }

    pub fn hold(&mut self, uid: usize, id: StreamId) {
        self.by_id.insert(id, uid);
        self.handles.push(Handle {
            uid,
            id,
            reader: Waiter::default(),
            writer: Waiter::default(),
            plan: Plan::default(),
        });
    }

    /// The application lets go of the stream at `index`.
    pub fn let_go(&mut self, index: usize) -> Handle {
        let handle = self.handles.remove(index);
        self.released.push(handle.id);
        handle
    }

    /// Takes events and wakers.
    pub fn take_notices(&mut self) -> Check {
        while let Some(event) = self.conn.poll_event() {
            match event {
                Event::Readable(id) => {
                    self.handles.iter_mut().filter(|handle| handle.id == id).for_each(|handle| handle.reader.tell())
                }
                Event::Writable(id) => {
                    self.handles.iter_mut().filter(|handle| handle.id == id).for_each(|handle| handle.writer.tell())
                }
                Event::StreamOpened => self.incoming = true,
                Event::ApprovePeer(_) => self.asked = true,
                Event::EarlyData(_) => self.early_offered = true,
                Event::Closed(error) => {
                    self.told_closed += 1;
                    ensure!(self.told_closed == 1, "a second end was told: {error}");
                    ensure!(self.conn.close_reason().is_some(), "an end was told, and there is none");
                }
                _ => {}
            }
        }
        while let Some(waker) = self.conn.poll_waker() {
            waker.wake();
        }
        Ok(())
    }

    /// What holds after every step, whatever happened.
    pub fn check(&mut self) -> Check {
        self.take_notices()?;
        let Self { conn, handles, error, .. } = self;
        ensure!(conn.next_transmit_len() % 1408 == 0, "a write of {} bytes is announced", conn.next_transmit_len());
        let now_ended = conn.close_reason().cloned();
        match (&error, &now_ended) {
            (Some(ConnectionError::Closed { closed, .. }), Some(ConnectionError::Closed { closed: again, .. })) => {
                ensure!(closed == again, "another end than before");
            }
            (Some(before), after) => ensure!(Some(before) == after.as_ref(), "first {before}, then {after:?}"),
            (None, _) => {}
        }
        ensure!(now_ended.is_none() || self.told_closed == 1, "it ended, and nobody was told");
        *error = now_ended;
        let mut unread = 0;
        for handle in handles.iter_mut() {
            let id = handle.id;
            unread += conn.recv_stream(id).readable_len() as u64;
            let readable = conn.recv_stream(id).read_chunk(0).map(|_| 0_usize);
            let blocked_on = conn.send_stream(id).blocked_on();
            ensure!(blocked_on.is_some(), "stream {} is held and unknown", handle.uid);
            if handle.reader.sleeps() {
                ensure!(
                    readable == Err(ReadError::Blocked),
                    "stream {}: a reader sleeps over {readable:?}",
                    handle.uid
                );
            }
            if handle.writer.sleeps() {
                ensure!(
                    blocked_on != Some(peermux_core::error::BlockedOn::Ended),
                    "stream {}: a writer sleeps over an end",
                    handle.uid
                );
            }
            if let Some(error) = &*error {
                let writable = conn.send_stream(id).write(&[]);
                let ended = match &writable {
                    Err(WriteError::Connection(told)) => told == error,
                    Err(WriteError::Closed | WriteError::Stopped(_)) => true,
                    _ => false,
                };
                ensure!(ended, "stream {}: a write says {writable:?} after {error}", handle.uid);
            }
        }
        // Streams that wait to be accepted have no handle yet.
        ensure!(unread <= conn.unread(), "{unread} bytes can be read and {} are unread", conn.unread());
        if !conn.has_incoming() && conn.is_established() {
            ensure!(unread == conn.unread(), "{unread} bytes can be read and {} are unread", conn.unread());
        }
        ensure!(handles.len() <= conn.stream_count(), "fewer streams than are held");
        let (queued, most) = (conn.queued(), conn.config().send_buffer + conn.stream_count() * 2048);
        ensure!(queued <= most, "{queued} bytes are queued, beyond {most}");
        if let Some(id) = self.released.last().filter(|id| conn.has_stream(**id)) {
            return Err(format!("{id:?} was let go of and is still there"));
        }
        Ok(())
    }
}
