//! What applications do with streams, and what the model says of it.

use bytes::Bytes;
use peermux_core::code::ErrorCode;
use peermux_core::error::{ConnectionError, OpenError, ReadError, WriteError};
use peermux_core::wire::Priority;

use super::model::{Check, byte, ensure};
use super::op::{Op, Side};
use super::world::World;

impl World {
    pub fn ended(&self, side: Side) -> Option<ConnectionError> {
        self.ends[side].conn.close_reason().cloned()
    }

    /// Opens a stream; its index among those that the side holds.
    pub fn open(&mut self, side: Side, name: u8, priority: Priority) -> Result<Option<usize>, String> {
        let taken = |name: &Option<String>| {
            self.model.streams.iter().any(|stream| stream.awaits_open(side) && stream.name == *name)
        };
        let name = match name % 4 {
            0 => None,
            1 => Some("test/often".to_owned()),
            _ => Some(format!("test/{}", self.model.streams.len())),
        };
        let name = if taken(&name) { Some(format!("test/{}", self.model.streams.len())) } else { name };
        let ended = self.ended(side);
        let end = &mut self.ends[side];
        let draining = end.conn.is_draining();
        let early = side == 0 && self.setup.early.is_some() && self.model.streams.len() % 3 < 2;
        let opened = if early {
            end.conn.open_early(name.as_deref(), priority)
        } else {
            end.conn.open_stream(name.as_deref(), priority)
        };
        match opened {
            Ok(id) => {
                ensure!(ended.is_none() && !draining, "a stream opens after the end");
                end.hold(self.model.open(side, name, early), id);
                Ok(Some(end.handles.len() - 1))
            }
            Err(OpenError::Connection(error)) => {
                ensure!(ended.as_ref() == Some(&error), "no stream for {error}, and the end is {ended:?}");
                Ok(None)
            }
            Err(OpenError::Draining) => {
                ensure!(draining, "nobody drains");
                Ok(None)
            }
            Err(OpenError::Name) => Err("the name is valid".into()),
        }
    }

    /// Accepts a stream; its index among those that the side holds.
    pub fn accept(&mut self, side: Side) -> Result<Option<usize>, String> {
        let end = &mut self.ends[side];
        let promised = end.conn.has_incoming();
        let Some(id) = end.conn.accept_stream() else {
            ensure!(!promised, "a stream was promised");
            end.incoming = false;
            return Ok(None);
        };
        ensure!(promised && end.incoming, "a stream that nobody told of");
        let wire = end.conn.recv_stream(id).wire_id().ok_or("an accepted stream has no id")?;
        ensure!(wire & 1 != side as u64, "an accepted stream has the wrong parity");
        let uid = *self.model.by_wire.get(&wire).ok_or("an accepted stream was never opened")?;
        ensure!(
            end.conn.recv_stream(id).protocol().as_deref() == self.model.streams[uid].name.as_deref(),
            "another name than was sent"
        );
        end.hold(uid, id);
        Ok(Some(end.handles.len() - 1))
    }

    pub fn let_go(&mut self, side: Side, uid: usize) {
        let stream = &mut self.model.streams[uid];
        stream.halves[side].given_up |= !stream.halves[side].finished;
        stream.halves[1 - side].stopped = true;
    }

    /// Something about one stream.
    pub fn on_stream(&mut self, op: Op) -> Check {
        let (side, stream) = match op {
            Op::Write { side, stream, .. }
            | Op::WriteChunk { side, stream, .. }
            | Op::Read { side, stream, .. }
            | Op::ReadChunk { side, stream, .. }
            | Op::Finish { side, stream }
            | Op::Flush { side, stream }
            | Op::Reset { side, stream, .. }
            | Op::Cancel { side, stream }
            | Op::Stop { side, stream, .. }
            | Op::Release { side, stream }
            | Op::SetPriority { side, stream, .. }
            | Op::RequestPriority { side, stream, .. }
            | Op::WaitsFor { side, stream } => (side, usize::from(stream)),
            _ => return Ok(()),
        };
        let held = self.ends[side].handles.len();
        if held == 0 {
            return Ok(());
        }
        let at = stream % held;
        match op {
            Op::Write { len, .. } => self.write(side, at, len, false).map(drop),
            Op::WriteChunk { len, .. } => self.write(side, at, len, true).map(drop),
            Op::Read { len, .. } => self.read(side, at, len.max(1), false).map(drop),
            Op::ReadChunk { max, .. } => self.read(side, at, max.max(1), true).map(drop),
            Op::Finish { .. } => self.finish(side, at),
            Op::Flush { .. } => self.flush(side, at).map(drop),
            Op::Release { .. } => {
                self.release(side, at);
                Ok(())
            }
            _ => {
                let handle = &self.ends[side].handles[at];
                let (uid, id) = (handle.uid, handle.id);
                let conn = &mut self.ends[side].conn;
                let stream = &mut self.model.streams[uid];
                match op {
                    Op::Reset { code, .. } => {
                        conn.send_stream(id).reset(ErrorCode::Application(code.into()));
                        stream.halves[side].given_up |= !stream.halves[side].fin;
                    }
                    Op::Cancel { .. } => {
                        conn.send_stream(id).cancel();
                        stream.halves[side].given_up |= !stream.halves[side].finished;
                    }
                    Op::Stop { code, .. } => {
                        conn.recv_stream(id).stop(ErrorCode::Application(code.into()));
                        stream.halves[1 - side].stopped = true;
                    }
                    Op::SetPriority { priority, .. } => {
                        conn.send_stream(id).set_priority(priority);
                        ensure!(conn.recv_stream(id).priority() == Some(priority), "the priority is not what was set");
                    }
                    Op::RequestPriority { priority, .. } => conn.recv_stream(id).request_priority(priority),
                    _ => {
                        let _ = (
                            conn.send_stream(id).blocked_on(),
                            conn.rtt(),
                            conn.record_counts(),
                            conn.wants_transmit(),
                        );
                    }
                }
                Ok(())
            }
        }
    }

    /// Writes `len` bytes as far as there is room; how many were taken, if it may go on.
    pub fn write(&mut self, side: Side, at: usize, len: usize, chunk: bool) -> Result<Option<usize>, String> {
        let ended = self.ended(side);
        let end = &mut self.ends[side];
        let handle = &mut end.handles[at];
        let (uid, id) = (handle.uid, handle.id);
        let written = self.model.streams[uid].halves[side].written;
        let bytes: Vec<u8> = (written..written + len as u64).map(|offset| byte(uid, side, offset)).collect();
        let result = if chunk {
            let mut chunk = Bytes::from(bytes);
            let result = end.conn.send_stream(id).write_chunk(&mut chunk);
            ensure!(
                chunk.len() + *result.as_ref().unwrap_or(&0) == len,
                "a chunk of {len} bytes has {} left",
                chunk.len()
            );
            result
        } else {
            end.conn.send_stream(id).write(&bytes)
        };
        if result == Err(WriteError::Blocked) {
            let waker = handle.writer.wait();
            if self.setup.wakers[side] {
                end.conn.send_stream(id).register(&waker);
            }
        } else {
            handle.writer.got_it();
        }
        self.model
            .wrote(side, uid, len, &result, ended.as_ref())
            .map_err(|error| format!("side {side}, stream {uid}: {error}"))?;
        Ok(result.ok())
    }

    /// Reads up to `len` bytes; how many there were, if it may go on: 0 at the end.
    pub fn read(&mut self, side: Side, at: usize, len: usize, chunk: bool) -> Result<Result<usize, ReadError>, String> {
        let ended = self.ended(side);
        let end = &mut self.ends[side];
        let handle = &mut end.handles[at];
        let (uid, id) = (handle.uid, handle.id);
        let ready = end.conn.recv_stream(id).readable_len();
        let result = if chunk {
            end.conn.recv_stream(id).read_chunk(len).map(|chunk| chunk.map_or(Vec::new(), |chunk| chunk.to_vec()))
        } else {
            let mut buffer = vec![0; len];
            end.conn.recv_stream(id).read(&mut buffer).map(|n| buffer[..n].to_vec())
        };
        if let Ok(bytes) = &result {
            let expected = if chunk { bytes.len() } else { ready.min(len) };
            ensure!(
                bytes.len() == expected && bytes.is_empty() == (ready == 0),
                "{} of {ready} bytes were read",
                bytes.len()
            );
        }
        if result == Err(ReadError::Blocked) {
            let waker = handle.reader.wait();
            if self.setup.wakers[side] {
                end.conn.recv_stream(id).register(&waker);
            }
        } else {
            handle.reader.got_it();
        }
        let seen = result.as_ref().map(|bytes| &bytes[..]);
        self.model
            .read(side, uid, seen, ended.as_ref())
            .map_err(|error| format!("side {side}, stream {uid}: {error}"))?;
        Ok(result.map(|bytes| bytes.len()))
    }

    pub fn finish(&mut self, side: Side, at: usize) -> Check {
        let ended = self.ended(side);
        let handle = &self.ends[side].handles[at];
        let (uid, id) = (handle.uid, handle.id);
        match self.ends[side].conn.send_stream(id).finish() {
            Ok(()) => {
                let half = &mut self.model.streams[uid].halves[side];
                // After STOP nothing was lost, and nothing follows: to give the half up then changes nothing.
                ensure!(!half.given_up || half.stop.is_some(), "stream {uid} was given up and finishes");
                half.finished |= !half.given_up;
                Ok(())
            }
            Err(error) => self.model.write_failed(side, uid, &error, ended.as_ref()),
        }
    }

    /// Whether all that was written is in records; an error counts as done.
    pub fn flush(&mut self, side: Side, at: usize) -> Result<bool, String> {
        let ended = self.ended(side);
        let end = &mut self.ends[side];
        let handle = &mut end.handles[at];
        let (uid, id) = (handle.uid, handle.id);
        let half = &self.model.streams[uid].halves[side];
        match end.conn.send_stream(id).is_flushed() {
            Ok(flushed) => {
                let sent = half.written == half.on_wire && self.model.streams[uid].wire.is_some();
                let expected = sent && (half.finished == half.fin || half.reset.is_some());
                // After STOP, which may not have arrived, what was written counts alone: the peer asked for nothing more to follow.
                let stopped = sent && half.stop.is_some();
                ensure!(flushed == expected || flushed && stopped, "stream {uid}: flushed is {flushed}");
                if !flushed {
                    let waker = handle.writer.wait();
                    if self.setup.wakers[side] {
                        end.conn.send_stream(id).register(&waker);
                    }
                }
                Ok(flushed)
            }
            Err(error) => {
                self.model.write_failed(side, uid, &error, ended.as_ref())?;
                Ok(true)
            }
        }
    }

    pub fn release(&mut self, side: Side, at: usize) {
        let handle = self.ends[side].let_go(at);
        self.ends[side].conn.release(handle.id);
        self.let_go(side, handle.uid);
    }
}
