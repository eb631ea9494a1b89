//! The reference model: what the specification and the contract of `Connection` say, without buffers, records or cryptography.
//!
//! A stream is two halves, one for each direction. A half knows what its application wrote, what of it stands in records, what credit was
//! given, and how it ended. Bytes are a function of their place, so a number of bytes is as good as a vector.

use std::collections::BTreeMap;

use peermux_core::code::ErrorCode;
use peermux_core::error::{ConnectionError, ReadError, WriteError};
use peermux_core::wire::{Frame, Frames, Name, QUANTUM, Settings};

use super::op::Side;

/// What was expected and is not so.
pub type Check = Result<(), String>;

/// Returns an error unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err(format!($($what)+));
        }
    };
}
pub(super) use ensure;

/// The byte at `offset` of what `side` sends on the stream `uid`.
pub fn byte(uid: usize, side: Side, offset: u64) -> u8 {
    let mixed = (offset + 1).wrapping_mul(0x9e37_79b9).wrapping_add((uid as u64 * 2 + side as u64) * 0x85eb);
    (mixed >> 13) as u8
}

/// The direction of a stream that one side sends in.
#[derive(Clone, Debug, Default)]
pub struct Half {
    /// Bytes that the sending application wrote, and that stand in records.
    pub written: u64,
    pub on_wire: u64,
    /// The application has finished, or given it up.
    pub finished: bool,
    pub given_up: bool,
    pub fin: bool,
    pub reset: Option<ErrorCode>,
    /// STOP of the receiving side, on the wire; and whether its application asked for it.
    pub stop: Option<ErrorCode>,
    pub stopped: bool,
    /// Bytes that the receiving application read, and whether it saw an end.
    pub read: u64,
    pub seen_fin: bool,
    pub seen_reset: Option<ErrorCode>,
    /// The stream's limit, as its receiver gave it.
    pub granted: u64,
}

/// A stream, as both sides together see it.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    pub opener: Side,
    pub name: Option<String>,
    pub wire: Option<u64>,
    /// It may travel as early data.
    pub early: bool,
    /// By sending side.
    pub halves: [Half; 2],
}

impl Stream {
    /// Whether OPEN is still to be sent by `side`.
    pub fn awaits_open(&self, side: Side) -> bool {
        self.opener == side && self.wire.is_none() && !self.halves[side].given_up
    }
}

/// What one side sent in all.
#[derive(Clone, Debug, Default)]
pub struct Direction {
    pub sent: u64,
    pub granted: u64,
    pub opened: u64,
    /// The size that the last record announced, in quanta.
    announced: Option<u8>,
    names: Vec<String>,
    drain: bool,
    pub closed: bool,
    pub records: u64,
}

/// What a record held.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// Streams whose payload stands in it.
    pub payload: Vec<usize>,
    pub frames: usize,
    pub next: u8,
}

/// The model of a connection.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub streams: Vec<Stream>,
    pub by_wire: BTreeMap<u64, usize>,
    /// By sending side.
    pub directions: [Direction; 2],
    /// The frame area of P1, while it may have to be sent again; and whether it was accepted.
    pub early: Vec<u8>,
    pub early_accepted: bool,
    /// By receiving side: its receive window, and the settings that it has sent.
    receivers: [(u64, Settings); 2],
    /// By opening side: the streams that it may open, from the end of one range to that of the next, and the window that they begin with.
    allowed: [Vec<(u64, u64)>; 2],
}

impl Model {
    pub fn new(receivers: [(u64, Settings); 2]) -> Self {
        let mut model = Self { receivers, ..Self::default() };
        for side in [0, 1] {
            let (_, settings) = receivers[1 - side];
            model.directions[side].granted = settings.initial_max_data;
            model.allowed[side].push((settings.initial_max_streams, settings.initial_max_stream_data));
        }
        model
    }

    pub fn open(&mut self, opener: Side, name: Option<String>, early: bool) -> usize {
        let mut stream = Stream { opener, name, early, ..Stream::default() };
        // As much as it may begin with at most; OPEN makes it certain.
        stream.halves[opener].granted = self.receivers[1 - opener].1.initial_max_stream_data;
        self.streams.push(stream);
        self.streams.len() - 1
    }

    /// The application of `side` wrote on `uid`.
    pub fn wrote(
        &mut self,
        side: Side,
        uid: usize,
        len: usize,
        result: &Result<usize, WriteError>,
        ended: Option<&ConnectionError>,
    ) -> Check {
        // Before OPEN the stream's credit is not yet certain.
        let most = self.receivers[1 - side].1.initial_max_stream_data;
        let stream = &mut self.streams[uid];
        let half = &mut stream.halves[side];
        match result {
            Ok(taken) => {
                ensure!(*taken <= len && (*taken > 0 || len == 0), "a write of {len} took {taken}");
                ensure!(!half.finished && !half.given_up, "a write succeeded after the end of the half");
                ensure!(ended.is_none(), "a write succeeded on a connection that has ended");
                half.written += *taken as u64;
                ensure!(
                    half.written <= half.granted.max(most),
                    "{} bytes are queued beyond the stream's credit of {}",
                    half.written,
                    half.granted
                );
            }
            Err(WriteError::Blocked) => ensure!(ended.is_none(), "a write blocks on a connection that has ended"),
            Err(error) => return self.write_failed(side, uid, error, ended),
        }
        Ok(())
    }

    pub fn write_failed(&self, side: Side, uid: usize, error: &WriteError, ended: Option<&ConnectionError>) -> Check {
        let stream = &self.streams[uid];
        let half = &stream.halves[side];
        match error {
            WriteError::Stopped(code) => {
                let refused = stream.wire.is_none() && *code == ErrorCode::REFUSED && self.directions[1 - side].drain;
                ensure!(half.stop == Some(*code) || refused, "stopped with {code}, and the peer said {:?}", half.stop);
            }
            WriteError::Closed => ensure!(half.finished || half.given_up, "finished, and nobody has finished it"),
            WriteError::Connection(error) => {
                ensure!(ended == Some(error), "ended by {error}, and the connection by {ended:?}")
            }
            WriteError::StreamClosed => return Err("a stream that is held is unknown".into()),
            WriteError::Blocked => {}
        }
        Ok(())
    }

    /// The application of `side` read `bytes` of what the other side sends on `uid`; none at the end of the stream.
    pub fn read(
        &mut self,
        side: Side,
        uid: usize,
        result: Result<&[u8], &ReadError>,
        ended: Option<&ConnectionError>,
    ) -> Check {
        let stream = &mut self.streams[uid];
        let wire = stream.wire;
        let half = &mut stream.halves[1 - side];
        ensure!(
            half.seen_reset.is_none() || matches!(result, Err(ReadError::Reset(_) | ReadError::Stopped)),
            "after a reset: {result:?}"
        );
        ensure!(!half.seen_fin || result == Ok(&[]) || half.stopped, "after FIN: {result:?}");
        match result {
            Ok([]) => {
                ensure!(half.fin, "an end of the stream, and there is no FIN");
                ensure!(half.read == half.on_wire, "FIN after {} of {} bytes", half.read, half.on_wire);
                half.seen_fin = true;
            }
            Ok(bytes) => {
                ensure!(!half.stopped, "data after the application stopped it");
                ensure!(half.read + bytes.len() as u64 <= half.on_wire, "more was read than was sent");
                let wrong = (half.read..).zip(bytes).find(|(offset, read)| byte(uid, 1 - side, *offset) != **read);
                ensure!(wrong.is_none(), "another byte than was sent, at {wrong:?}");
                half.read += bytes.len() as u64;
            }
            Err(ReadError::Blocked) => ensure!(ended.is_none(), "a read blocks on a connection that has ended"),
            Err(ReadError::Reset(code)) => {
                ensure!(
                    half.reset == Some(*code) || wire.is_none(),
                    "reset with {code}, and the peer said {:?}",
                    half.reset
                );
                ensure!(
                    half.seen_reset.is_none_or(|seen| seen == *code),
                    "reset with {code} after {:?}",
                    half.seen_reset
                );
                half.seen_reset = Some(*code);
            }
            Err(ReadError::Stopped) => ensure!(half.stopped, "stopped, and the application never stopped it"),
            Err(ReadError::Connection(error)) => {
                ensure!(ended == Some(error), "ended by {error}, and the connection by {ended:?}")
            }
            Err(ReadError::StreamClosed) => return Err("a stream that is held is unknown".into()),
        }
        Ok(())
    }

    /// `side` sealed a record of `plain`, a header and a frame area of at most `area` bytes.
    pub fn record(&mut self, side: Side, plain: &[u8], area: usize) -> Result<Held, String> {
        let quanta = (plain.len() + 16).div_ceil(QUANTUM) as u8;
        let direction = &mut self.directions[side];
        ensure!(!direction.closed, "a record after the last one");
        let first = direction.announced.unwrap_or(quanta);
        ensure!(quanta == first, "a record of {quanta} quanta where {first} were announced");
        let next = (plain[0] & 0x0f) + 1;
        ensure!(next <= self.receivers[1 - side].1.max_record, "{next} quanta are announced, beyond MAX_RECORD");
        direction.announced = Some(next);
        direction.records += 1;
        let (frames, zeros) = plain[1..].split_at(area.min(plain.len() - 1));
        ensure!(zeros.iter().all(|byte| *byte == 0), "frames stand beyond the frame area");
        self.frames(side, frames, plain[0] & 0x20 != 0, next)
    }

    /// The initiator sealed P1 with early data.
    pub fn early(&mut self, area: Vec<u8>) -> Check {
        let mut held = Held::default();
        for frame in Frames::new(&area) {
            let frame = frame.map_err(|error| format!("early data that does not decode: {error}"))?;
            ensure!(matches!(frame, Frame::Open(_) | Frame::Stream(_) | Frame::Skipped(_)), "{frame:?} in early data");
            self.frame(0, frame, &mut held).map_err(|error| format!("early data: {error}"))?;
        }
        ensure!(
            self.by_wire.values().all(|uid| self.streams[*uid].early),
            "a stream that must not travels as early data"
        );
        ensure!(self.directions[0].sent <= 2048, "{} bytes of early data", self.directions[0].sent);
        self.early = area;
        Ok(())
    }

    /// Whether what the responder sealed before flight 3 arrived is answers to early data and nothing else.
    pub fn check_answers(&self, area: &[u8]) -> Check {
        for frame in Frames::new(area).flatten() {
            let stream = match frame {
                Frame::Stream(data) => data.stream,
                Frame::Reset(reset) => reset.stream,
                Frame::Stop(stop) => stop.stream,
                Frame::MaxStreamData(max) => max.stream,
                frame => return Err(format!("{frame:?} before flight 3")),
            };
            ensure!(
                self.streams[self.found(stream)?].early && self.early_accepted,
                "an answer on a stream that was not early"
            );
        }
        Ok(())
    }

    /// `side` sealed a frame area.
    pub fn frames(&mut self, side: Side, area: &[u8], end: bool, next: u8) -> Result<Held, String> {
        let mut held = Held { next, ..Held::default() };
        let early = if side == 0 { std::mem::take(&mut self.early) } else { Vec::new() };
        let mut again = Frames::new(if self.early_accepted { &[] } else { &early }).flatten();
        for frame in Frames::new(area) {
            let frame = frame.map_err(|error| format!("a frame that does not decode: {error}"))?;
            // What was refused comes again first, unless a CLOSE stands in its place.
            if !matches!(frame, Frame::Close(_))
                && let Some(expected) = again.next()
            {
                ensure!(frame == expected, "{frame:?} where {expected:?} was to be sent again");
                held.frames += 1;
                continue;
            }
            ensure!(!self.directions[side].closed, "a frame after CLOSE");
            held.frames += 1;
            self.frame(side, frame, &mut held).map_err(|error| match frame {
                Frame::Stream(data) => {
                    format!("STREAM of {} bytes on {}, FIN {}: {error}", data.payload.len(), data.stream, data.fin)
                }
                frame => format!("{frame:?}: {error}"),
            })?;
        }
        ensure!(again.next().is_none() || self.directions[side].closed, "refused early data is not sent again");
        ensure!(self.directions[side].closed == end, "CLOSE and the end bit do not come together");
        Ok(held)
    }

    fn found(&self, wire: u64) -> Result<usize, String> {
        self.by_wire.get(&wire).copied().ok_or_else(|| "for a stream that was never opened".into())
    }

    fn frame(&mut self, side: Side, frame: Frame<'_>, held: &mut Held) -> Check {
        match frame {
            Frame::Open(open) => {
                let direction = &mut self.directions[side];
                ensure!(!direction.drain, "OPEN after DRAIN");
                ensure!(open.stream == direction.opened << 1 | side as u64, "not the next id");
                direction.opened += 1;
                let name = match open.name {
                    Name::None => None,
                    Name::Entered(name) => {
                        direction.names.push(name.into());
                        Some(name.to_owned())
                    }
                    Name::Literal(name) => Some(name.to_owned()),
                    Name::Index(index) => Some(direction.names.get(index as usize).ok_or("no such name")?.clone()),
                };
                // No two streams that wait to be opened have the same name.
                let unopened = |(_, stream): &(usize, &Stream)| stream.awaits_open(side) && stream.name == name;
                let uid = self.streams.iter().enumerate().find(unopened).map(|(uid, _)| uid);
                let uid = uid.ok_or("no application opened it")?;
                let number = open.stream >> 1;
                let range =
                    self.allowed[side].iter().find(|(end, _)| number < *end).ok_or("more streams than allowed")?;
                let stream = &mut self.streams[uid];
                stream.wire = Some(open.stream);
                // What was queued before is queued; no more of it may be sent.
                stream.halves[side].granted = range.1;
                stream.halves[1 - side].granted = open.window;
                let most = self.receivers[side].1.initial_max_stream_data;
                ensure!((2048..=most).contains(&open.window), "OPEN with a window of {}", open.window);
                self.by_wire.insert(open.stream, uid);
            }
            Frame::Stream(data) => {
                let uid = self.found(data.stream)?;
                let half = &mut self.streams[uid].halves[side];
                let len = data.payload.len() as u64;
                ensure!(!half.fin && half.reset.is_none(), "data after FIN or RESET");
                ensure!(half.on_wire + len <= half.written, "more than was written");
                let wrong =
                    (half.on_wire..).zip(data.payload).find(|(offset, sent)| byte(uid, side, *offset) != **sent);
                ensure!(wrong.is_none(), "another byte than was written, at {wrong:?}");
                half.on_wire += len;
                ensure!(half.on_wire <= half.granted, "beyond the stream's credit of {}", half.granted);
                if data.fin {
                    ensure!(half.finished && !half.given_up && half.on_wire == half.written, "FIN before the end");
                    half.fin = true;
                }
                let direction = &mut self.directions[side];
                direction.sent += len;
                ensure!(direction.sent <= direction.granted, "beyond the connection's credit of {}", direction.granted);
                if len > 0 {
                    held.payload.push(uid);
                }
            }
            Frame::Reset(reset) => {
                let uid = self.found(reset.stream)?;
                let half = &mut self.streams[uid].halves[side];
                ensure!(!half.fin && half.reset.is_none(), "RESET after FIN or RESET");
                half.reset = Some(reset.code);
            }
            Frame::Stop(stop) => {
                let uid = self.found(stop.stream)?;
                let half = &mut self.streams[uid].halves[1 - side];
                ensure!(half.stop.is_none(), "a second STOP");
                // A side that drains refuses early data before it can say DRAIN.
                ensure!(half.stopped || stop.code == ErrorCode::REFUSED, "nobody stopped it");
                half.stop = Some(stop.code);
            }
            Frame::MaxData(max) => {
                let sent = self.directions[1 - side].sent;
                let window = self.receivers[side].1.initial_max_data;
                let granted = &mut self.directions[1 - side].granted;
                ensure!(max.0 > *granted, "it does not raise the limit");
                ensure!(max.0 <= sent + window, "more than a window beyond the {sent} that were sent");
                *granted = max.0;
            }
            Frame::MaxStreamData(max) => {
                let uid = self.found(max.stream)?;
                let (window, settings) = self.receivers[side];
                let half = &mut self.streams[uid].halves[1 - side];
                ensure!(max.maximum > half.granted, "it does not raise the limit");
                let consumed = if half.stopped { half.on_wire } else { half.read };
                let most = consumed + settings.initial_max_stream_data + window;
                ensure!(max.maximum <= most, "beyond {most}, the window and all growth");
                half.granted = max.maximum;
            }
            Frame::Priority(priority) => {
                self.found(priority.stream)?;
            }
            Frame::Drain(_) => {
                ensure!(!std::mem::replace(&mut self.directions[side].drain, true), "a second DRAIN");
                let opens = self.streams.iter().any(|stream| stream.awaits_open(side));
                ensure!(!opens || self.directions[1 - side].drain, "DRAIN before the OPEN of a stream that was opened");
            }
            Frame::Close(_) => self.directions[side].closed = true,
            Frame::MaxStreams(max) => {
                ensure!(!self.directions[side].drain, "MAX_STREAMS after DRAIN");
                let most = self.receivers[side].1.initial_max_stream_data;
                ensure!((2048..=most).contains(&max.window), "MAX_STREAMS with a window of {}", max.window);
                let allowed = &mut self.allowed[1 - side];
                ensure!(allowed.last().is_none_or(|(end, _)| *end < max.maximum), "it does not raise the limit");
                allowed.push((max.maximum, max.window));
            }
            Frame::Ping(_) | Frame::Pong(_) | Frame::Skipped(_) => {}
            // By which a responder that asks its application says that it has accepted.
            Frame::Settings([]) if side == 1 => {}
            Frame::Settings(_) | Frame::Attestation(_) => return Err("nobody sends this".into()),
        }
        Ok(())
    }

    /// Payload that `side` holds and may send, and on how many streams, as far as credit that was given and may not have arrived allows.
    pub fn sendable(&self, side: Side) -> (u64, u64) {
        let queued = self.streams.iter().filter(|stream| stream.wire.is_some()).map(|stream| &stream.halves[side]);
        let queued = queued
            .filter(|half| !half.given_up && half.reset.is_none())
            .map(|half| half.written.min(half.granted) - half.on_wire);
        let queued: Vec<u64> = queued.filter(|bytes| *bytes > 0).collect();
        let credit = self.directions[side].granted - self.directions[side].sent;
        (queued.iter().sum::<u64>().min(credit), queued.len() as u64)
    }

    /// Spec 8.2, rule 4, after the record that announced `next` quanta.
    pub fn check_size(&self, side: Side, next: u8) -> Check {
        let (payload, streams) = self.sendable(side);
        ensure!(next == 1 || payload > 0, "{next} quanta are announced, and no payload can be sent");
        let most = payload + payload.min(streams) * 8 + 17;
        ensure!(
            u64::from(next) <= most.div_ceil(QUANTUM as u64),
            "{next} quanta are announced for {payload} bytes on {streams} streams"
        );
        Ok(())
    }
}
