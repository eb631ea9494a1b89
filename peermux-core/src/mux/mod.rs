//! Streams: opening, states, credit, priorities, budgets ([spec](crate::spec) sections 9 to 12 and 18).
//!
//! This machine knows plaintext frames only. Frames come in by [`Mux::on_frame`] and its kin, and leave by [`Mux::fill`], when the connection makes a record.
//!
//! - `app`: what the application asks for; `ingress`: frames that arrive; `egress`: frames that leave; `draining`: the orderly end;
//! - `stream`, `halves`, `chunks`: a stream, its two halves and their bytes; `credit`, `budget`, `names`: one invariant each;
//! - `windows`, `peer_streams`: which windows streams have, and how many the peer may open;
//! - `schedule`: which stream goes next; `queue`: streams that wait for something;
//! - `invariants`: what must hold of all streams together.

mod app;
mod budget;
mod chunks;
mod credit;
mod draining;
mod egress;
mod halves;
mod ingress;
#[cfg(any(test, debug_assertions))]
mod invariants;
mod names;
mod peer_streams;
mod queue;
mod schedule;
mod stream;
mod windows;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::num::NonZeroU64;
use core::task::Waker;
use core::time::Duration;

use slab::Slab;

pub(crate) use budget::Budget;
pub(crate) use ingress::{Opened, Source};
pub(crate) use windows::{Division, LEAST_WINDOW};

use crate::code::ProtocolCode;
use crate::error::{ConnectionError, Violation};
use crate::id::{Role, StreamId};
use crate::stats::{Stats, StreamStats, WaitTimes, Waited};
use crate::time::Instant;
use crate::wakers::Notices;
use crate::wire::{Priority, Settings};
use chunks::Spares;
use credit::{RecvCredit, SendCredit};
use draining::Drains;
use halves::{RecvHalf, SendHalf, SendState};
use names::Names;
use peer_streams::PeerStreams;
use queue::SlotQueue;
use schedule::{Need, Schedule};
use stream::{Pending, Stream};
use windows::Windows;

/// What the application may want to know of its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamEvent {
    /// The peer opened one.
    Opened,
    /// There may be something to read, or an end or an error to learn of.
    Readable(StreamId),
    /// There may be room to write, or an end or an error to learn of.
    Writable(StreamId),
    /// The sending half has ended, by the peer's STOP or otherwise.
    Stopped(StreamId),
}

/// How much a mux may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Settings that the peer was told.
    pub(crate) ours: Settings,
    /// Bytes that may be received and unread, in all.
    pub(crate) receive_window: u64,
    /// Streams that either side may have open at once.
    pub(crate) max_streams: u64,
    /// Bytes that one stream queues for sending at most.
    pub(crate) stream_send_buffer: usize,
    /// Bytes that all streams queue for sending, but for a small reserve of each.
    pub(crate) send_buffer: usize,
}

/// Bytes that each stream may queue even when the others fill the connection's send buffer.
pub(crate) const SEND_RESERVE: usize = 2048;

pub(crate) struct Mux {
    role: Role,
    limits: Limits,
    now: Instant,
    round_trip: Duration,

    /// Each in a place of its own: so a table that has just grown is half empty of pointers, and not of streams.
    streams: Slab<Box<Stream>>,
    /// The places of streams that are over, for those to come.
    #[allow(clippy::vec_box, reason = "they move into the table")]
    places: Vec<Box<Stream>>,
    by_wire: BTreeMap<u64, u32>,
    next_serial: u64,
    /// Streams that the peer opened and that were not yet accepted.
    incoming: VecDeque<u32>,
    /// Streams that this side opened on the wire, how many of them are not over, and how many it may open in all.
    opened: u64,
    open_here: u64,
    may_open: u64,
    peer_streams: PeerStreams,

    credit_out: SendCredit,
    credit_in: RecvCredit,
    /// What streams of either side have for receiving.
    division: Division,
    /// What the peer gives the streams that this side may open.
    windows: Windows,

    names_out: Names,
    names_in: Names,
    schedule: Schedule,
    pub(crate) budget: Budget,
    /// Streams with a PRIORITY that waits for the restraint, and when the wait is over.
    restrained: SlotQueue,
    restrained_until: Instant,

    control: VecDeque<u32>,
    riders: SlotQueue,
    room: SlotQueue,
    drains: Drains,
    /// Streams whose OPEN is still to be sent; and streams that the application holds, or that wait to be accepted.
    unopened: usize,
    held: usize,
    /// Before the peer is accepted only early streams may send.
    accepted: bool,

    spares: Spares,
    /// Bytes queued for sending, in all; and of these the bytes of streams whose next frame is payload.
    queued: usize,
    ready: usize,

    waited: Waited,
    ended: Option<ConnectionError>,
    notices: Notices<StreamEvent>,
    /// `Opened` waits to be told: a peer that opens and resets for ever does not make the queue grow.
    opened_waits: bool,
    #[cfg(any(test, debug_assertions))]
    checks: invariants::Checks,
}

/// Whether the stream that `serial` belongs to is still in `slot`.
fn exists(streams: &Slab<Box<Stream>>, slot: u32, serial: u64) -> bool {
    streams.get(slot as usize).is_some_and(|stream| stream.serial == serial)
}

impl Mux {
    /// How many places of streams that are over are kept.
    const PLACES: usize = 32;

    pub(crate) fn new(role: Role, limits: Limits, now: Instant) -> Self {
        let (theirs, ours) = (Settings::default(), limits.ours);
        let mut division = Division::new(limits.receive_window, limits.max_streams);
        division.begin(ours.initial_max_streams, ours.initial_max_stream_data);
        Self {
            role,
            limits,
            now,
            round_trip: Duration::ZERO,
            streams: Slab::new(),
            places: Vec::new(),
            by_wire: BTreeMap::new(),
            next_serial: 0,
            incoming: VecDeque::new(),
            opened: 0,
            open_here: 0,
            may_open: theirs.initial_max_streams,
            peer_streams: PeerStreams {
                opened: 0,
                closed: 0,
                granted: ours.initial_max_streams,
                most: limits.max_streams,
                ahead: ours.initial_max_streams,
                windows: Windows::new(ours.initial_max_streams, ours.initial_max_stream_data),
                cooling: 0,
                cools_at: now,
            },
            credit_out: SendCredit::new(theirs.initial_max_data),
            credit_in: RecvCredit::new(ours.initial_max_data),
            division,
            windows: Windows::new(theirs.initial_max_streams, theirs.initial_max_stream_data),
            names_out: Names::default(),
            names_in: Names::default(),
            schedule: Schedule::default(),
            budget: Budget::new(now),
            restrained: SlotQueue::default(),
            restrained_until: now,
            control: VecDeque::new(),
            riders: SlotQueue::default(),
            room: SlotQueue::default(),
            drains: Drains::default(),
            unopened: 0,
            held: 0,
            accepted: false,
            spares: Spares::default(),
            queued: 0,
            ready: 0,
            waited: Waited::default(),
            ended: None,
            notices: Notices::default(),
            opened_waits: false,
            #[cfg(any(test, debug_assertions))]
            checks: invariants::Checks::default(),
        }
    }

    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = now;
        if self.places_at().is_some_and(|at| at <= now) {
            self.cool();
        }
        if self.restraint_at().is_some_and(|at| at <= now) {
            self.end_restraint();
        }
    }

    /// When [`Mux::set_now`] is to be called, for places of cancelled streams that come back, or for frames that wait.
    pub(crate) fn timeout(&self) -> Option<Instant> {
        [self.places_at(), self.restraint_at()].into_iter().flatten().min()
    }

    fn restraint_at(&self) -> Option<Instant> {
        (!self.restrained.is_empty() && self.ended.is_none()).then_some(self.restrained_until)
    }

    /// The stream's PRIORITY waits for the restraint.
    fn restrain(&mut self, slot: u32) {
        if self.restrained.is_empty() {
            self.restrained_until = self.now + Budget::COOLS;
        }
        let stream = &mut self.streams[slot as usize];
        stream.restrained = true;
        self.restrained.push(slot, stream.serial);
    }

    /// Sends what waited for the restraint, as far as there is room again.
    fn end_restraint(&mut self) {
        self.restrained_until = self.now + Budget::COOLS;
        let mut room = 10;
        while room > 0 && self.budget.allows(self.now) {
            let Some(slot) = self.restrained.pop(|slot, serial| exists(&self.streams, slot, serial)) else { return };
            self.streams[slot as usize].restrained = false;
            self.want_control(slot);
            room -= 1;
        }
    }

    pub(crate) const fn set_round_trip(&mut self, round_trip: Duration) {
        self.round_trip = round_trip;
    }

    /// The peer's settings are known.
    pub(crate) fn set_peer(&mut self, settings: &Settings) {
        self.credit_out.raise(settings.initial_max_data);
        self.may_open = self.may_open.max(settings.initial_max_streams);
        self.windows = Windows::new(settings.initial_max_streams, settings.initial_max_stream_data);
        // Those that this side has opened so far are among the first.
        for slot in self.slots() {
            let stream = &mut self.streams[slot as usize];
            if stream.opened_here && stream.send.credit.raise(settings.initial_max_stream_data) {
                self.tell_writable(slot);
            }
        }
    }

    /// The peer is accepted: all streams may send.
    pub(crate) fn accept_peer(&mut self) {
        self.accepted = true;
        for slot in self.slots() {
            self.refresh(slot);
            self.want_control(slot);
        }
    }

    /// The connection is over: every stream that had not finished learns of it, and nothing more is sent.
    pub(crate) fn end(&mut self, error: ConnectionError) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(error);
        self.control.clear();
        self.riders.clear();
        for slot in self.slots() {
            let stream = &mut self.streams[slot as usize];
            stream.in_control = false;
            stream.in_riders = false;
            stream.pending = Pending::default();
            stream.send.queue.clear();
            self.refresh(slot);
            self.tell(slot);
            self.tell_stopped(slot);
            self.try_free(slot);
        }
        self.tell_opened();
    }

    /// The error of a connection that is over. The answer of the other side may come later than the error.
    pub(crate) fn update_end(&mut self, error: ConnectionError) {
        self.ended = Some(error);
    }

    fn slots(&self) -> Vec<u32> {
        self.streams.iter().map(|(slot, _)| slot as u32).collect()
    }

    /// There is nothing to send: gives memory back that was kept for what might come, and did not.
    pub(crate) fn shed(&mut self) {
        self.spares.shed();
    }

    /// Gives all memory back that is kept for what may come.
    pub(crate) fn shed_all(&mut self) {
        self.spares.clear();
        self.places = Vec::new();
    }

    /// Streams that exist here.
    pub(crate) fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// What the streams have done and hold.
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            payload_sent: self.credit_out.sent(),
            payload_received: self.credit_in.received(),
            streams_opened: self.opened,
            streams_accepted: self.peer_streams.opened,
            streams: self.streams.len(),
            queued: self.queued,
            unread: self.credit_in.unread(),
            credit: self.credit_out.left(),
            waited: self.waited.times(),
            ..Stats::default()
        }
    }

    pub(crate) fn stream_stats(&self, id: StreamId) -> Option<StreamStats> {
        let stream = &self.streams[self.slot(id)? as usize];
        Some(StreamStats {
            sent: stream.send.credit.sent(),
            received: stream.recv.credit.received(),
            queued: stream.send.queue.len(),
            unread: stream.recv.queue.len(),
            credit: stream.send.credit.left(),
            receive_window: stream.recv.credit.window(),
            waited: stream.rare.as_ref().map_or_else(WaitTimes::default, |rare| rare.waited.times()),
        })
    }

    /// Bytes that wait to be sent.
    pub(crate) const fn queued(&self) -> usize {
        self.queued
    }

    /// Bytes that were received and not yet read.
    pub(crate) const fn unread(&self) -> u64 {
        self.credit_in.unread()
    }

    /// A stream of the peer, which begins with these windows, or one of this side's, whose window for receiving is known when its OPEN is sent.
    fn insert(
        &mut self,
        wire: Option<u64>,
        (sends, receives): (u64, u64),
        protocol: Option<Arc<str>>,
        priority: Priority,
    ) -> u32 {
        let serial = self.next_serial;
        self.next_serial += 1;
        let mut place = self.places.pop();
        let stream = Stream {
            serial,
            wire_plus_one: wire.and_then(|wire| NonZeroU64::new(wire + 1)),
            protocol,
            priority,
            send: SendHalf::new(sends),
            recv: RecvHalf::new(receives, self.now),
            pending: Pending::default(),
            in_control: false,
            in_riders: false,
            in_room: false,
            restrained: false,
            opened_here: wire.is_none(),
            early: false,
            again: false,
            cancelled: false,
            held: true,
            counted: 0,
            counted_ready: 0,
            rare: place.as_mut().and_then(|place| place.rare.take()),
        };
        let place = match place {
            Some(mut place) => {
                *place = stream;
                place
            }
            None => Box::new(stream),
        };
        let slot = self.streams.insert(place) as u32;
        self.held += 1;
        match wire {
            Some(wire) => {
                self.by_wire.insert(wire, slot);
            }
            None => self.unopened += 1,
        }
        self.schedule.insert(slot, priority);
        slot
    }

    /// What `slot` needs next is computed anew, and the counts that depend on its queue.
    fn refresh(&mut self, slot: u32) {
        let stream = &mut self.streams[slot as usize];
        let (queued, may_send) = (stream.send.queue.len(), stream.send.may_send());
        let need = match stream.send.state {
            SendState::Finished | SendState::Reset | SendState::Stopped => Need::Nothing,
            _ if self.ended.is_some() || !(self.accepted || stream.early) => Need::Nothing,
            _ if stream.wire().is_none() => Need::Open,
            // What was queued before OPEN may be more than the stream has credit for.
            _ if queued > 0 && may_send > 0 => Need::Data,
            SendState::Finishing if queued == 0 => Need::Fin,
            _ => Need::Nothing,
        };
        let ready = if need == Need::Data { may_send } else { 0 };
        self.queued = self.queued - stream.counted as usize + queued;
        self.ready = self.ready - stream.counted_ready as usize + ready;
        // A stream's queue is bounded by its send buffer, which is less than 4 GiB.
        stream.counted = queued as u32;
        stream.counted_ready = ready as u32;
        self.schedule.set_need(slot, stream.serial, need);
    }

    /// `slot` has control frames to write. One that is not yet open on the wire keeps them until it is.
    fn want_control(&mut self, slot: u32) {
        let says = self.says(slot);
        let stream = &mut self.streams[slot as usize];
        if stream.wire().is_some() && says && !stream.in_control && self.ended.is_none() {
            stream.in_control = true;
            self.control.push_back(slot);
        }
    }

    /// Whether `slot` has control frames that may be sent.
    fn says(&self, slot: u32) -> bool {
        let stream = &self.streams[slot as usize];
        let priority = self.accepted && !stream.restrained && stream.pending.priority.is_some();
        stream.pending.answers() || priority
    }

    fn tell_opened(&mut self) {
        if !core::mem::replace(&mut self.opened_waits, true) {
            self.notices.push(StreamEvent::Opened);
        }
    }

    /// What is to be told next.
    pub(crate) fn next_event(&mut self) -> Option<StreamEvent> {
        let event = self.notices.pop()?;
        self.opened_waits &= event != StreamEvent::Opened;
        Some(event)
    }

    /// Whom to wake next.
    pub(crate) fn next_waker(&mut self) -> Option<Waker> {
        self.notices.pop_waker()
    }

    fn id(&self, slot: u32) -> StreamId {
        StreamId { serial: self.streams[slot as usize].serial, slot }
    }

    fn tell_readable(&mut self, slot: u32) {
        let id = self.id(slot);
        let stream = &mut self.streams[slot as usize];
        self.notices.tell(&mut stream.recv.interest, || StreamEvent::Readable(id));
    }

    fn tell_writable(&mut self, slot: u32) {
        let id = self.id(slot);
        let stream = &mut self.streams[slot as usize];
        if let Some(rare) = &mut stream.rare
            && let Some((since, wait)) = rare.blocked.take()
        {
            let time = self.now.saturating_since(since);
            rare.waited.add(wait, time);
            self.waited.add(wait, time);
        }
        self.notices.tell(&mut stream.send.interest, || StreamEvent::Writable(id));
    }

    /// The sending half has ended.
    fn tell_stopped(&mut self, slot: u32) {
        let id = self.id(slot);
        if let Some(rare) = &mut self.streams[slot as usize].rare {
            self.notices.tell(&mut rare.stop_interest, || StreamEvent::Stopped(id));
        }
    }

    fn tell(&mut self, slot: u32) {
        self.tell_readable(slot);
        self.tell_writable(slot);
    }

    /// Discarded bytes go back to the connection's credit at once.
    fn credit_back(&mut self, bytes: usize) {
        self.credit_in.consume(bytes);
    }

    /// Forgets a stream that has ended, that the application let go of, and of which nothing is queued.
    fn try_free(&mut self, slot: u32) {
        let stream = &self.streams[slot as usize];
        let over = stream.has_ended() || self.ended.is_some();
        if stream.held || !over || stream.in_control || stream.pending.any() && self.ended.is_none() {
            return;
        }
        self.refresh(slot);
        self.schedule.set_need(slot, self.streams[slot as usize].serial, Need::Nothing);
        let mut stream = self.streams.remove(slot as usize);
        let streams = &self.streams;
        let exists = |slot, serial| exists(streams, slot, serial);
        if stream.in_riders {
            self.riders.forget_one(exists);
        }
        if stream.in_room {
            self.room.forget_one(exists);
        }
        if stream.restrained {
            self.restrained.forget_one(exists);
        }
        self.queued -= stream.counted as usize;
        self.ready -= stream.counted_ready as usize;
        // The connection has ended before it was opened.
        self.unopened -= usize::from(stream.wire().is_none() && stream.send.is_open());
        if let Some(wire) = stream.wire() {
            self.by_wire.remove(&wire);
            let (credit, first_growth) = (&stream.recv.credit, u64::from(stream.recv.first_growth));
            let first = credit.first_window();
            self.division.give_back(first, credit.window() - first, first_growth);
            self.open_here -= u64::from(stream.opened_here);
        }
        self.budget.stream_over();
        if !stream.opened_here && stream.cancelled {
            self.peer_streams.cooling += 1;
            if self.peer_streams.cooling == 1 {
                self.cool();
            }
        } else if !stream.opened_here {
            self.peer_streams.closed += 1;
            self.budget.stream_worked();
        }
        if self.places.len() < Self::PLACES {
            stream.let_go();
            self.places.push(stream);
        }
    }

    fn violation(code: ProtocolCode, what: &'static str, stream: u64) -> Violation {
        Violation::on(code, what, stream)
    }
}
