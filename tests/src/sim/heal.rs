//! The second phase of a run: nothing goes wrong any more, applications act only when they are told to, and everything must come to its end.

use std::time::Duration;

use peermux_core::code::{ErrorCode, ProtocolErrorCode};
use peermux_core::error::{ConnectionError, ReadError, Side as Who};
use peermux_core::time::Instant;
use peermux_core::wire::Priority;

use super::model::{Check, ensure};
use super::op::{Cut, Side};
use super::world::World;

/// Steps within which anything that can happen has happened.
const STEPS: usize = 300_000;

/// How one application goes on with one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Bytes that it still writes.
    pub extra: usize,
    pub read_done: bool,
    pub write_done: bool,
    /// It does not read for now.
    pub unread: bool,
}

impl World {
    /// Heals, drains and ends the connection.
    pub fn heal(&mut self) -> Check {
        self.plan_all();
        if !self.pipes.iter().any(|pipe| pipe.is_tampered()) {
            for side in [0, 1] {
                let unread = self.setup.unread[side];
                self.ends[side].handles.iter_mut().take(unread).for_each(|handle| handle.plan.unread = true);
            }
            self.run("with some streams unread", |world| world.is_done(true))?;
            self.ends.iter_mut().flat_map(|end| &mut end.handles).for_each(|handle| handle.plan.unread = false);
            self.run("with all streams read", |world| world.is_done(false))?;
            if self.is_draining() {
                self.run("draining", |world| world.ended(0).is_some() && world.ended(1).is_some())?;
            }
            self.probe_credit()?;
            self.idle()?;
        }
        self.end()
    }

    fn is_draining(&self) -> bool {
        self.ends.iter().any(|end| end.conn.is_draining() && end.conn.close_reason().is_none())
    }

    fn has_ended(&self) -> bool {
        self.ends.iter().any(|end| end.conn.close_reason().is_some())
    }

    /// Each stream gets a bit more to do.
    fn plan_all(&mut self) {
        for (side, end) in self.ends.iter_mut().enumerate() {
            for handle in &mut end.handles {
                handle.plan.extra = (handle.uid * 7919 + side * 104_729 + self.setup.seed as usize % 1000) % 9000;
            }
        }
    }

    /// Whether nothing is left to do, besides what concerns unread streams.
    fn is_done(&self, but_unread: bool) -> bool {
        let unread = |uid: usize| {
            self.ends.iter().flat_map(|end| &end.handles).any(|handle| handle.uid == uid && handle.plan.unread)
        };
        let established = self.ends.iter().all(|end| end.conn.is_established());
        let handles = self.ends.iter().flat_map(|end| &end.handles);
        established
            && handles.filter(|handle| !but_unread || !unread(handle.uid)).count() == 0
            && (but_unread || self.ends.iter().all(|end| end.conn.stream_count() == 0))
    }

    /// Goes on until `done`, or an end of the connection.
    fn run(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Check {
        for _ in 0..STEPS {
            if done(self) || self.has_ended() && !what.starts_with("drain") {
                return Ok(());
            }
            let moved = self.round()?;
            if moved {
                continue;
            }
            match self.pipes.iter().filter_map(|pipe| pipe.next_arrival()).min() {
                Some(arrival) => self.advance_to(arrival)?,
                None if done(self) => return Ok(()),
                None => return Err(format!("stuck {what}: {}", self.describe())),
            }
        }
        Err(format!("no end after {STEPS} steps {what}: {}", self.describe()))
    }

    /// Everybody does what there is to do now; whether there was anything.
    fn round(&mut self) -> Result<bool, String> {
        let mut moved = false;
        for side in [0, 1] {
            moved |= self.drive(side)?;
            let open = !self.pipes[side].ended;
            while self.pipes[side].has_room() && self.transmit_one(side)?.is_some() {
                moved = true;
            }
            moved |= open && self.pipes[side].ended;
            if self.pipes[1 - side].is_due(self.now) {
                self.deliver(side, Cut::All, Cut::All)?;
                moved = true;
            }
        }
        self.check()?;
        Ok(moved)
    }

    fn advance_to(&mut self, to: Instant) -> Check {
        self.now = self.now.max(to);
        for side in [0, 1] {
            if self.ends[side].conn.poll_timeout().is_some_and(|at| at <= self.now) {
                self.timeout(side, Duration::ZERO)?;
            }
        }
        Ok(())
    }

    /// The application of `side` does what it was told that it can do, and nothing else.
    fn drive(&mut self, side: Side) -> Result<bool, String> {
        let mut moved = false;
        if std::mem::take(&mut self.ends[side].asked) {
            self.ends[side].conn.accept_peer();
            self.take_sealed(side)?;
            moved = true;
        }
        while self.ends[side].incoming {
            moved |= self.accept(side)?.is_some();
        }
        for at in (0..self.ends[side].handles.len()).rev() {
            moved |= self.drive_reader(side, at)? | self.drive_writer(side, at)?;
            let plan = self.ends[side].handles[at].plan;
            if plan.read_done && plan.write_done {
                self.release(side, at);
                moved = true;
            }
        }
        self.ends[side].take_notices()?;
        Ok(moved)
    }

    fn drive_reader(&mut self, side: Side, at: usize) -> Result<bool, String> {
        let mut moved = false;
        loop {
            let handle = &mut self.ends[side].handles[at];
            if handle.plan.read_done || handle.plan.unread || !handle.reader.may_try() {
                return Ok(moved);
            }
            match self.read(side, at, 7000, at.is_multiple_of(2))? {
                Err(ReadError::Blocked) => return Ok(moved),
                Ok(n) if n > 0 => {}
                _ => self.ends[side].handles[at].plan.read_done = true,
            }
            moved = true;
        }
    }

    fn drive_writer(&mut self, side: Side, at: usize) -> Result<bool, String> {
        let mut moved = false;
        loop {
            let handle = &mut self.ends[side].handles[at];
            if handle.plan.write_done || !handle.writer.may_try() {
                return Ok(moved);
            }
            if handle.plan.extra > 0 {
                let len = handle.plan.extra.min(3000);
                match self.write(side, at, len, at.is_multiple_of(2))? {
                    Some(taken) => self.ends[side].handles[at].plan.extra -= taken,
                    None if self.ends[side].handles[at].writer.sleeps() => return Ok(moved),
                    None => self.ends[side].handles[at].plan.extra = 0,
                }
                moved = true;
                continue;
            }
            self.finish(side, at)?;
            if !self.flush(side, at)? {
                return Ok(moved);
            }
            let handle = &mut self.ends[side].handles[at];
            handle.writer.got_it();
            handle.plan.write_done = true;
            moved = true;
        }
    }

    /// More than a window goes each way: had any credit been lost, it would not.
    fn probe_credit(&mut self) -> Check {
        if self.has_ended() || self.is_draining() {
            return Ok(());
        }
        for side in [0, 1] {
            let window = self.setup.configs[1 - side].receive_window as usize;
            if let Some(at) = self.open(side, 0, Priority::default())? {
                self.ends[side].handles[at].plan.extra = (window + window / 4).min(200_000);
            }
        }
        self.run("with more than a window on its way", |world| world.is_done(false))
    }

    /// Nobody says anything: only what timers ask for is sent.
    fn idle(&mut self) -> Check {
        self.run("settling", |world| world.pipes.iter().all(|pipe| pipe.next_arrival().is_none()))?;
        if self.has_ended() {
            return Ok(());
        }
        let span = Duration::from_secs(20);
        let (start, horizon) = (self.now, self.now + span);
        let before = self.ends[0].records + self.ends[1].records;
        while let Some(next) =
            self.next_timer().into_iter().chain(self.pipes.iter().filter_map(|pipe| pipe.next_arrival())).min()
        {
            if next > horizon || self.has_ended() {
                break;
            }
            self.advance_to(next)?;
            self.round()?;
        }
        let records = self.ends[0].records + self.ends[1].records - before;
        let idle = self.setup.configs.iter().filter_map(|config| config.max_idle_timeout).min();
        let pings: u128 = self
            .setup
            .configs
            .iter()
            .filter_map(|config| config.keep_alive_interval)
            .map(|every| idle.map_or(every, |idle| every.min(idle / 2)))
            .map(|every| 2 * span.as_micros() / every.as_micros() + 1)
            .sum();
        // Each PING has a PONG, which may carry a PING of its own where that costs nothing.
        let most = 3 * pings + 2;
        ensure!(records as u128 <= most, "{records} records in {span:?} of silence after {start:?}, at most {most}");
        ensure!(pings > 0 || records == 0 || self.has_ended(), "{records} records, and no timer asks for any");
        Ok(())
    }

    /// The connection ends, and both sides come to know of it.
    fn end(&mut self) -> Check {
        let side = (self.setup.seed % 2) as usize;
        match self.setup.seed % 5 {
            0 | 1 => self.ends[side].conn.drain(ProtocolErrorCode::GOING_AWAY),
            2 => {
                self.ends[0].conn.close(ErrorCode::Application(1), "");
                self.ends[1].conn.close(ErrorCode::Application(2), "é");
            }
            _ => self.ends[side].conn.close(ErrorCode::Application(3), "done"),
        }
        for _ in 0..STEPS {
            if self.ends.iter().all(|end| end.conn.is_closed()) {
                break;
            }
            if self.round()? {
                continue;
            }
            let arrivals = self.pipes.iter().filter_map(|pipe| pipe.next_arrival());
            match arrivals.chain(self.next_timer()).min() {
                Some(moment) => self.advance_to(moment)?,
                None => {
                    // Without any timer a side may wait for ever only if it is established: the other one is gone, and a real transport would say so.
                    for side in [0, 1] {
                        self.pipes[side].cut |= self.pipes[side].ended
                            || self.pipes[side].is_tampered()
                            || self.ends[side].conn.is_closed();
                    }
                    if !self.round()? {
                        // Tampering may have left both sides waiting for the rest of a record.
                        let waits = self.pipes.iter().any(|pipe| pipe.is_tampered());
                        ensure!(waits, "stuck ending: {}", self.describe());
                        self.ends.iter_mut().for_each(|end| end.conn.handle_transport_error(end.now, "reset"));
                    }
                }
            }
        }
        for side in [0, 1] {
            let end = &self.ends[side];
            ensure!(end.conn.is_closed(), "side {side} is not closed: {}", self.describe());
            ensure!(end.conn.close_reason().is_some(), "side {side} is closed, and nobody says why");
        }
        for side in [0, 1] {
            // Invariant 8. A side that had ended before may have been spared.
            let told = self.ended(side);
            let noticed = !matches!(told, Some(ConnectionError::Closed { by: Who::Peer, .. }) | None);
            ensure!(
                noticed || !self.pipes[1 - side].is_forged(),
                "side {side} was told {told:?}, and read what nobody wrote"
            );
        }
        if !self.pipes.iter().any(|pipe| pipe.is_tampered()) {
            self.check_agreement()?;
        }
        self.poke()
    }

    /// Whoever is closed takes any call, and says nothing more.
    fn poke(&mut self) -> Check {
        for side in [0, 1] {
            let conn = &mut self.ends[side].conn;
            conn.handle_input(self.now, &mut bytes::BytesMut::from(&[1; 5000][..]));
            conn.handle_eof(self.now);
            conn.close(ErrorCode::NO_ERROR, "");
            conn.drain(ProtocolErrorCode::GOING_AWAY);
            conn.accept_peer();
            self.timeout(side, Duration::ZERO)?;
            ensure!(self.transmit_one(side)?.is_none(), "side {side} writes after it closed");
            ensure!(self.ends[side].conn.poll_timeout().is_none(), "side {side} has a timer after it closed");
        }
        self.check()
    }

    /// Invariant 17, where nobody tampered.
    fn check_agreement(&self) -> Check {
        let errors = [0, 1].map(|side| self.ended(side));
        for (mine, theirs) in [(&errors[0], &errors[1]), (&errors[1], &errors[0])] {
            let (Some(mine), Some(theirs)) = (mine, theirs) else { continue };
            let wrong = match mine {
                ConnectionError::Protocol(_) | ConnectionError::DecryptError => true,
                ConnectionError::Closed { by: Who::Peer, closed, .. } => match theirs {
                    ConnectionError::Closed { by: Who::Local, closed: said, .. } => closed != said,
                    ConnectionError::Closed { by: Who::Peer, .. } => true,
                    _ => Some(closed.code) != theirs.code(),
                },
                ConnectionError::Closed { by: Who::Local, answer: Some(answer), .. } => match theirs {
                    ConnectionError::Closed { by: Who::Local, closed, .. } => answer != closed,
                    ConnectionError::Closed { by: Who::Peer, .. } => answer.code != ErrorCode::NO_ERROR,
                    _ => false,
                },
                _ => false,
            };
            ensure!(!wrong, "the sides disagree: {mine:?} and {theirs:?}");
        }
        Ok(())
    }

    /// What the two sides wait for.
    pub fn describe(&mut self) -> String {
        let mut text = String::new();
        for side in [0, 1] {
            let end = &mut self.ends[side];
            let (count, queued, unread) = (end.conn.stream_count(), end.conn.queued(), end.conn.unread());
            text += &format!(
                "\n  side {side}: {:?}, {count} streams, {queued} queued, {unread} unread",
                end.conn.close_reason()
            );
            for handle in &mut end.handles {
                let waits = end.conn.send_stream(handle.id).blocked_on();
                text += &format!("\n    stream {}: {waits:?}, {:?}", handle.uid, handle.plan);
                text += &format!("{:?}", self.model.streams[handle.uid].halves);
            }
        }
        text
    }
}
