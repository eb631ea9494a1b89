//! Memory that records are read into and written from.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use arrayvec::ArrayVec;
use bytes::buf::Limit;
use bytes::{BufMut, Bytes, BytesMut};

use crate::MAX_INPUT_BUFFER;
use crate::connection::{Connection, Transmit};
use crate::error::BufferTooSmall;
use crate::record::Unsealed;
use crate::time::Instant;
use crate::wire::QUANTUM;

/// What a reader reads into: what has arrived of the next record.
///
/// Records are decrypted where they were read, and streams keep parts of it until the application has taken them. The memory comes from a
/// pool that all connections of the process share, of 5.5 MiB at most: an idle connection holds none, and a busy one allocates none.
#[derive(Debug, Default)]
pub struct ReadBuffer {
    pub(super) bytes: BytesMut,
    /// The memory is to go to the pool.
    pooled: bool,
    /// The length of the next record; 0 before it is known.
    pub(super) next: usize,
}

impl ReadBuffer {
    /// From this length on records are read one at a time, so that no part of the next one has to be moved.
    const LONG: usize = 8 * QUANTUM;

    /// How many bytes are worth reading at once.
    pub(super) fn wanted(&self) -> usize {
        let whole = if self.next >= Self::LONG { self.next } else { MAX_INPUT_BUFFER };
        whole.saturating_sub(self.bytes.len())
    }

    /// Where to read to: as much as is worth reading at once.
    pub fn room(&mut self) -> Limit<&mut BytesMut> {
        let wanted = self.wanted();
        if !self.bytes.try_reclaim(wanted) {
            let mut other = take();
            other.extend_from_slice(&self.bytes);
            self.bytes.clear();
            self.release();
            self.bytes = other;
            self.pooled = true;
        }
        (&mut self.bytes).limit(wanted)
    }

    /// As [`ReadBuffer::room`], for a reader that appends to a `Vec`, within its capacity.
    pub fn room_in_vec<T>(&mut self, read: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut vec = Vec::from(core::mem::take(&mut self.bytes));
        if vec.capacity() < MAX_INPUT_BUFFER {
            let mut other = Vec::from(take());
            other.extend_from_slice(&vec);
            vec = other;
        }
        self.pooled = true;
        let result = read(&mut vec);
        self.bytes = BytesMut::from(Bytes::from(vec));
        result
    }

    /// Gives the memory back if nothing is in it. To be called before the reader waits.
    pub fn release(&mut self) {
        if self.bytes.is_empty() && core::mem::take(&mut self.pooled) {
            RECEIVING.give(core::mem::take(&mut self.bytes));
        }
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        self.bytes.clear();
        self.release();
    }
}

/// What a writer has its records made in. Its memory comes from a small pool, as that of a [`ReadBuffer`]; to be dropped before the writer waits for
/// something to send.
#[derive(Debug, Default)]
pub struct WriteBuffer {
    memory: Vec<u8>,
    /// What there is of it, and what of that may be sent.
    len: usize,
    sealed: usize,
    /// Records of it that are still to be sealed.
    unsealed: ArrayVec<(Range<usize>, Unsealed), { Self::RECORDS }>,
    unsent: usize,
    /// The transport is fast; what is here follows something else; and see [`WriteBuffer::fills_packets`].
    fast: bool,
    follows: bool,
    fills_packets: bool,
    crowded: bool,
}

impl WriteBuffer {
    /// Records that are made at once, at most.
    const RECORDS: usize = 16;
    /// Streams that are no crowd.
    const FEW: usize = 8;

    /// What is to be sent: flights and sealed records.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[..self.sealed]
    }

    /// How many bytes may wait in the transport unsent: see [`Connection::unsent_limit`].
    pub const fn unsent_limit(&self) -> usize {
        self.unsent
    }

    /// Whether packets should be full now, since what is here follows something else, more follows it, and the transport is fast: see [`Connection::fills_packets`].
    pub const fn fills_packets(&self) -> bool {
        self.fills_packets
    }

    /// Whether the connection has so many streams that a writer who waits a moment sends fewer and fuller records.
    pub const fn is_crowded(&self) -> bool {
        self.crowded
    }

    /// Takes what `connection` has to send, as much as is worth sending at once.
    pub(super) fn fill(&mut self, connection: &mut Connection, now: Instant) -> Transmit {
        (self.len, self.sealed) = (0, 0);
        self.unsealed.clear();
        self.crowded = connection.stream_count() > Self::FEW;
        self.unsent = connection.unsent_limit();
        self.fast = connection.fills_packets();
        let mut room = if connection.wants_transmit() { connection.burst_len() } else { 0 };
        loop {
            match connection.poll_unsealed(now, self.room(room)) {
                Ok((Transmit::Bytes(len), unsealed)) => {
                    let record = self.len..self.len + len;
                    self.len = record.end;
                    self.unsealed.extend(unsealed.map(|unsealed| (record, unsealed)));
                    if self.len + connection.next_transmit_len() > room || self.unsealed.is_full() {
                        return Transmit::Bytes(self.len);
                    }
                }
                Ok(_) if self.len > 0 => return Transmit::Bytes(self.len),
                Ok((transmit, _)) => return transmit,
                // A timer came due, and has something to say.
                Err(BufferTooSmall { needed }) => room = self.len + needed,
            }
        }
    }

    /// `more` says whether something waits behind what is here.
    pub(super) const fn followed_by(&mut self, more: bool) {
        self.fills_packets = self.follows && more && self.fast;
        self.follows = more;
    }

    /// Seals the records; false, and nothing is to be sent, if that fails.
    pub(super) fn seal(&mut self) -> bool {
        let sealed =
            self.unsealed.drain(..).all(|(record, unsealed)| unsealed.seal(&mut self.memory[record]).is_some());
        if sealed {
            self.sealed = self.len;
        } else {
            self.memory.fill(0);
        }
        sealed
    }

    /// What is behind the bytes, up to `end`.
    fn room(&mut self, end: usize) -> &mut [u8] {
        if self.memory.is_empty() && end > 0 {
            self.memory = SENDING.take(|_| true).unwrap_or_default();
        }
        if self.memory.len() < end {
            self.memory.resize(end, 0);
        }
        &mut self.memory[self.len..end]
    }
}

impl Drop for WriteBuffer {
    fn drop(&mut self) {
        if !self.memory.is_empty() {
            SENDING.give(core::mem::take(&mut self.memory));
        }
    }
}

/// Buffers whose memory is free once no stream keeps a part of it: 5.5 MiB at most.
static RECEIVING: Pool<BytesMut, 256> = Pool::new();

/// Buffers that records are made in: at most 352 KiB.
static SENDING: Pool<Vec<u8>, 4> = Pool::new();

fn take() -> BytesMut {
    let free = RECEIVING.take(|buffer| buffer.try_reclaim(MAX_INPUT_BUFFER));
    free.unwrap_or_else(|| BytesMut::with_capacity(MAX_INPUT_BUFFER))
}

/// At most `N` buffers that nobody uses.
struct Pool<B, const N: usize>(Mutex<Buffers<B>>);

struct Buffers<B> {
    /// The oldest first.
    queue: VecDeque<B>,
    /// How often one was taken since some were last given up, and how many were there all the time.
    taken: usize,
    unneeded: usize,
}

impl<B, const N: usize> Pool<B, N> {
    /// How many are looked at for one that will do.
    const LOOKS: usize = 8;
    /// What is not needed while so many are taken is given up.
    const WHILE: usize = 1 << 12;

    const fn new() -> Self {
        Self(Mutex::new(Buffers { queue: VecDeque::new(), taken: 0, unneeded: 0 }))
    }

    fn lock(&self) -> MutexGuard<'_, Buffers<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, will_do: impl Fn(&mut B) -> bool) -> Option<B> {
        let mut pool = self.lock();
        let mut found = None;
        for _ in 0..Self::LOOKS.min(pool.queue.len()) {
            let mut buffer = pool.queue.pop_front()?;
            if will_do(&mut buffer) {
                found = Some(buffer);
                break;
            }
            pool.queue.push_back(buffer);
        }
        let left = if found.is_some() { pool.queue.len() } else { 0 };
        pool.unneeded = pool.unneeded.min(left);
        pool.taken += 1;
        if pool.taken >= Self::WHILE {
            let unneeded = pool.unneeded;
            let kept = pool.queue.split_off(unneeded);
            (pool.taken, pool.unneeded) = (0, kept.len());
            let unneeded = core::mem::replace(&mut pool.queue, kept);
            drop(pool);
            drop(unneeded);
        }
        found
    }

    /// The oldest makes room: a stream may keep a part of it for long.
    fn give(&self, buffer: B) {
        let mut pool = self.lock();
        let oldest = if pool.queue.len() >= N { pool.queue.pop_front() } else { None };
        pool.queue.push_back(buffer);
        drop(pool);
        drop(oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_record_is_read_alone_and_short_ones_together() {
        let mut buffer = ReadBuffer::default();
        assert_eq!(buffer.room().remaining_mut(), MAX_INPUT_BUFFER);
        buffer.next = 8 * QUANTUM;
        assert_eq!(buffer.room().remaining_mut(), 8 * QUANTUM);
        buffer.room().put_slice(&[1; 1000]);
        assert_eq!(buffer.room().remaining_mut(), 8 * QUANTUM - 1000);
        buffer.next = MAX_INPUT_BUFFER;
        assert_eq!(buffer.room().remaining_mut(), MAX_INPUT_BUFFER - 1000);
    }

    #[test]
    fn what_is_not_needed_for_a_while_is_given_up() {
        const WHILE: usize = Pool::<u8, 8>::WHILE;
        let pool = Pool::<u8, 8>::new();
        (0..8).for_each(|buffer| pool.give(buffer));
        let use_two = |times| {
            for _ in 0..times / 2 {
                let two = [pool.take(|_| true), pool.take(|_| true)];
                two.into_iter().flatten().for_each(|buffer| pool.give(buffer));
            }
            pool.lock().queue.len()
        };
        assert_eq!(use_two(WHILE), 8, "they were just given");
        assert_eq!(use_two(WHILE - 2), 8, "not yet");
        assert_eq!(use_two(2), 2, "six were there all the time");
        assert_eq!(use_two(2 * WHILE), 2);
    }

    #[test]
    fn what_streams_keep_is_not_written_over() {
        let mut buffer = ReadBuffer::default();
        let mut kept = Vec::new();
        for round in 0..100 {
            buffer.room().put_slice(&[round; 20_000]);
            kept.push(buffer.bytes.split().freeze());
            buffer.room_in_vec(|vec| vec.extend_from_slice(&[round; 10_000]));
            kept.push(buffer.bytes.split().freeze());
            buffer.release();
            for chunk in &kept {
                assert!(chunk.iter().all(|byte| *byte == chunk[0]), "round {round}");
            }
            if round % 3 == 0 {
                kept.clear();
            }
        }
    }
}
