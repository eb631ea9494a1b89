//! A queue of bytes: chunks that are shared, and a tail that small pieces are copied into.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bytes::{Buf, Bytes, BytesMut};

/// Bytes in order, less than 4 GiB. Taking whole chunks copies nothing; small pieces are gathered, so that they pin no larger buffer.
///
/// One that is empty holds no memory.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// There if there are bytes.
    pieces: Option<Box<Pieces>>,
    len: u32,
}

#[derive(Debug, Default)]
struct Pieces {
    queue: VecDeque<Bytes>,
    /// Follows the queue.
    tail: BytesMut,
    /// The buffer that what is left of the first piece keeps, once some of it was read; 0 before that.
    kept: u32,
}

/// What was read to its end, for bytes to come: so bytes that flow steadily need no allocation.
#[derive(Debug, Default)]
pub(super) struct Spares {
    small: Vec<BytesMut>,
    full: Vec<BytesMut>,
    /// So many full ones were not needed since the last [`Spares::shed`].
    unneeded: usize,
    #[allow(clippy::vec_box, reason = "they move into streams")]
    pieces: Vec<Box<Pieces>>,
}

impl Spares {
    /// How many small tails are kept, 32 KiB; and full ones, 1 MiB, as long as they are needed.
    const SMALL_ONES: usize = 64;
    const FULL_ONES: usize = 64;
    /// How many queues are kept, and of how many places each at most: 64 KiB, and 5 KiB for what is around them.
    const QUEUES: usize = 64;
    const PLACES: usize = 32;

    /// A tail that was read to its end.
    fn give(&mut self, mut tail: BytesMut) {
        tail.clear();
        // Its whole capacity again, with what was read.
        let _ = tail.try_reclaim(tail.capacity() + 1);
        match tail.capacity() {
            Chunks::SMALL if self.small.len() < Self::SMALL_ONES => self.small.push(tail),
            Chunks::FULL if self.full.len() < Self::FULL_ONES => self.full.push(tail),
            _ => {}
        }
    }

    /// An empty tail with room for `len` bytes.
    fn take(&mut self, len: usize) -> BytesMut {
        let (spare, capacity) = match len {
            ..=Chunks::SMALL => (self.small.pop(), Chunks::SMALL),
            Chunks::FULL => (self.full.pop(), Chunks::FULL),
            _ => (None, len),
        };
        self.unneeded = self.unneeded.min(self.full.len());
        spare.unwrap_or_else(|| BytesMut::with_capacity(capacity))
    }

    /// Pieces that are all read.
    fn give_pieces(&mut self, pieces: Box<Pieces>) {
        debug_assert!(pieces.queue.is_empty() && pieces.tail.is_empty() && pieces.kept == 0);
        if self.pieces.len() < Self::QUEUES && pieces.queue.capacity() <= Self::PLACES {
            self.pieces.push(pieces);
        }
    }

    /// Drops the full ones that were not needed since this was last called.
    pub(super) fn shed(&mut self) {
        self.full.drain(..self.unneeded);
        self.unneeded = self.full.len();
    }

    /// Drops them all.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Chunks {
    /// A tail that has grown to this is not appended to any more.
    const FULL: usize = 16 * 1024;
    /// The smallest tail.
    const SMALL: usize = 512;

    pub(super) const fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn push_slice(&mut self, bytes: &[u8], spares: &mut Spares) {
        if !bytes.is_empty() {
            self.grow(bytes.len(), spares).push_slice(bytes, spares);
        }
    }

    pub(super) fn push_chunk(&mut self, chunk: Bytes, spares: &mut Spares) {
        if !chunk.is_empty() {
            let pieces = self.grow(chunk.len(), spares);
            pieces.seal_tail();
            pieces.queue.push_back(chunk);
        }
    }

    /// The pieces that `more` bytes are put into.
    fn grow(&mut self, more: usize, spares: &mut Spares) -> &mut Pieces {
        self.len += more as u32;
        self.pieces.get_or_insert_with(|| spares.pieces.pop().unwrap_or_default())
    }

    /// `less` bytes were taken.
    fn shrink(&mut self, less: usize, spares: &mut Spares) {
        self.len -= less as u32;
        if self.len == 0
            && let Some(pieces) = self.pieces.take()
        {
            spares.give_pieces(pieces);
        }
    }

    /// Moves as many bytes as `out` and the queue have, and returns their number.
    pub(super) fn read(&mut self, out: &mut [u8], spares: &mut Spares) -> usize {
        let read = self.pieces.as_mut().map_or(0, |pieces| pieces.read(out, spares));
        self.shrink(read, spares);
        read
    }

    /// Takes the first chunk, or its first `max` bytes. `None` if there is nothing or `max` is 0.
    pub(super) fn pop(&mut self, max: usize, spares: &mut Spares) -> Option<Bytes> {
        let chunk = self.pieces.as_mut()?.pop(max)?;
        self.shrink(chunk.len(), spares);
        Some(chunk)
    }

    /// After a read: what is left of a piece moves to a buffer of its own once it is less than half of the one that it keeps. `whole` is the size of the buffer that
    /// a shared piece of at least `shared_from` bytes came in.
    pub(super) fn trim(&mut self, before: usize, shared_from: usize, whole: usize) {
        let len = self.len();
        if len < before
            && let Some(pieces) = &mut self.pieces
        {
            pieces.trim(before - len, shared_from, whole);
        }
    }

    /// Drops everything, memory included, and returns how many bytes there were.
    pub(super) fn clear(&mut self) -> usize {
        core::mem::take(self).len as usize
    }
}

impl Pieces {
    fn push_slice(&mut self, mut bytes: &[u8], spares: &mut Spares) {
        while !bytes.is_empty() {
            if self.tail.len() >= Chunks::FULL {
                self.seal_tail();
            }
            let (fits, rest) = bytes.split_at(bytes.len().min(Chunks::FULL - self.tail.len()));
            self.reserve(fits.len(), spares);
            self.tail.extend_from_slice(fits);
            bytes = rest;
        }
    }

    /// Room for `more` bytes in the tail: doubled, but never beyond a full one, and without what was read from it.
    fn reserve(&mut self, more: usize, spares: &mut Spares) {
        let (len, capacity) = (self.tail.len(), self.tail.capacity());
        if len + more > capacity {
            let mut grown = spares.take((len + more).max(2 * len).min(Chunks::FULL));
            grown.extend_from_slice(&self.tail);
            spares.give(core::mem::replace(&mut self.tail, grown));
        }
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            if self.queue.is_empty() {
                self.kept = 0;
            }
            self.queue.push_back(core::mem::take(&mut self.tail).freeze());
        }
    }

    fn read(&mut self, out: &mut [u8], spares: &mut Spares) -> usize {
        let mut read = 0;
        while read < out.len() {
            let rest = &mut out[read..];
            if let Some(front) = self.queue.front_mut() {
                let n = front.len().min(rest.len());
                rest[..n].copy_from_slice(&front[..n]);
                front.advance(n);
                if front.is_empty() {
                    if let Some(Ok(tail)) = self.queue.pop_front().map(Bytes::try_into_mut) {
                        spares.give(tail);
                    }
                    self.kept = 0;
                }
                read += n;
            } else {
                let n = self.tail.len().min(rest.len());
                rest[..n].copy_from_slice(&self.tail[..n]);
                self.tail.advance(n);
                if self.tail.is_empty() {
                    spares.give(core::mem::take(&mut self.tail));
                    self.kept = 0;
                }
                read += n;
                break;
            }
        }
        read
    }

    fn pop(&mut self, max: usize) -> Option<Bytes> {
        if max == 0 {
            return None;
        }
        if self.queue.is_empty() {
            self.seal_tail();
        }
        let front = self.queue.front_mut()?;
        if front.len() > max {
            return Some(front.split_to(max));
        }
        self.kept = 0;
        self.queue.pop_front()
    }

    /// After `taken` bytes were taken from the front.
    fn trim(&mut self, taken: usize, shared_from: usize, whole: usize) {
        let front = self.queue.front().map_or(self.tail.len(), Bytes::len);
        if self.kept == 0 {
            let kept = match self.queue.front() {
                Some(_) if front + taken >= shared_from => whole,
                Some(_) => (front + taken).min(Chunks::FULL),
                None => Chunks::FULL.min(self.tail.capacity() + taken),
            };
            self.kept = u32::try_from(kept).unwrap_or(u32::MAX);
        }
        if 2 * front < self.kept as usize {
            match self.queue.front_mut() {
                Some(front) => *front = Bytes::copy_from_slice(front),
                None => self.tail = BytesMut::from(&self.tail[..]),
            }
            self.kept = front as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(chunks: &Chunks) -> Option<*const u8> {
        chunks.pieces.as_ref().map(|pieces| pieces.tail.as_ptr())
    }

    #[test]
    fn order_is_kept_through_chunks_and_tail() {
        let (mut chunks, spares) = (Chunks::default(), &mut Spares::default());
        chunks.push_slice(b"ab", spares);
        chunks.push_chunk(Bytes::from_static(b"cdef"), spares);
        chunks.push_slice(b"gh", spares);
        chunks.push_slice(b"ij", spares);
        assert_eq!(chunks.len(), 10);
        let mut out = [0; 3];
        assert_eq!(chunks.read(&mut out, spares), 3);
        assert_eq!(&out, b"abc");
        assert_eq!(chunks.pop(2, spares).as_deref(), Some(&b"de"[..]));
        assert_eq!(chunks.pop(9, spares).as_deref(), Some(&b"f"[..]));
        assert_eq!(chunks.pop(9, spares).as_deref(), Some(&b"ghij"[..]));
        assert_eq!(chunks.pop(9, spares), None);
        chunks.push_slice(b"k", spares);
        assert_eq!(chunks.clear(), 1);
        assert_eq!(chunks.len(), 0);
    }

    #[test]
    fn a_large_slice_is_cut_into_tails() {
        let (mut chunks, spares) = (Chunks::default(), &mut Spares::default());
        chunks.push_slice(&[7; 40_000], spares);
        assert_eq!(chunks.len(), 40_000);
        assert_eq!(chunks.pop(usize::MAX, spares).map(|chunk| chunk.len()), Some(Chunks::FULL));
    }

    #[test]
    fn tails_are_taken_again() {
        let (mut chunks, spares) = (Chunks::default(), &mut Spares::default());
        let mut out = [0; 1000];
        chunks.push_slice(&[1; 40_000], spares);
        for _ in 0..40 {
            chunks.read(&mut out, spares);
        }
        assert_eq!((spares.small.len(), spares.full.len()), (0, 2), "the last tail was not full");
        let full = spares.full[1].as_ptr();
        chunks.push_slice(&[2; Chunks::FULL], spares);
        assert_eq!((tail(&chunks), spares.full.len()), (Some(full), 1));
        assert_eq!(chunks.read(&mut out, spares), 1000);
        assert_eq!(out, [2; 1000]);
        chunks.clear();
        chunks.push_slice(b"a", spares);
        chunks.read(&mut out, spares);
        assert_eq!(spares.small.len(), 1);
        // What the application keeps is its own.
        chunks.push_chunk(Bytes::from(alloc::vec![3; Chunks::FULL]), spares);
        let kept = chunks.pieces.as_ref().expect("it has bytes").queue[0].clone();
        while chunks.read(&mut out, spares) > 0 {}
        assert_eq!(spares.full.len(), 1);
        assert_eq!(kept, [3; Chunks::FULL][..]);
    }

    #[test]
    fn what_is_empty_holds_nothing_and_its_places_are_taken_again() {
        let (mut chunks, spares) = (Chunks::default(), &mut Spares::default());
        for round in 0..3 {
            chunks.push_chunk(Bytes::from_static(b"abc"), spares);
            chunks.push_slice(b"de", spares);
            assert_eq!((chunks.pieces.is_some(), spares.pieces.len()), (true, 0), "round {round}");
            assert_eq!(chunks.read(&mut [0; 3], spares), 3);
            assert_eq!(chunks.pop(9, spares).as_deref(), Some(&b"de"[..]));
            assert_eq!((chunks.pieces.is_none(), spares.pieces.len()), (true, 1), "round {round}");
        }
        // A long queue is not kept.
        for _ in 0..=Spares::PLACES {
            chunks.push_chunk(Bytes::from_static(b"abc"), spares);
        }
        while chunks.pop(9, spares).is_some() {}
        assert_eq!((chunks.pieces.is_none(), spares.pieces.len()), (true, 0));
    }
}
