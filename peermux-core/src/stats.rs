//! What a connection and its streams count: cheap enough to be always on.

use core::time::Duration;

use crate::error::Wait;
use crate::wire::FrameKind;

/// Frames by their kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameCounts([u64; FrameKind::COUNT]);

impl FrameCounts {
    pub(crate) const fn new() -> Self {
        Self([0; FrameKind::COUNT])
    }

    pub(crate) const fn add(&mut self, kind: FrameKind) {
        self.0[kind as usize] += 1;
    }

    /// Adds frames that are counted by the type that they have on the wire.
    pub(crate) fn add_types(&mut self, counts: &[u64]) {
        for (kind, count) in (0..).zip(counts) {
            self.0[FrameKind::of(kind) as usize] += count;
        }
    }

    /// How many frames of this kind there were.
    pub const fn of(&self, kind: FrameKind) -> u64 {
        self.0[kind as usize]
    }

    /// Returns the number of frames of each kind.
    pub fn iter(&self) -> impl Iterator<Item = (FrameKind, u64)> {
        FrameKind::ALL.into_iter().zip(self.0)
    }

    /// How many frames there were.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl Default for FrameCounts {
    fn default() -> Self {
        Self::new()
    }
}

/// A map from each kind to its number.
#[cfg(feature = "serde")]
impl serde::Serialize for FrameCounts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// How long writers were held up, by what they waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct WaitTimes {
    /// For the peer's application to read the stream.
    pub credit: Duration,
    /// For the peer's application to read other streams of the connection.
    pub connection_credit: Duration,
    /// For the transport, or for streams that go first: the stream's send buffer, or the connection's, was full.
    pub transport: Duration,
}

/// The same in microseconds, which is half as large.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Waited {
    credit: u64,
    connection_credit: u64,
    transport: u64,
}

impl Waited {
    pub(crate) fn add(&mut self, wait: Wait, time: Duration) {
        let total = match wait {
            Wait::Credit => &mut self.credit,
            Wait::ConnectionCredit => &mut self.connection_credit,
            _ => &mut self.transport,
        };
        *total = total.saturating_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) const fn times(&self) -> WaitTimes {
        WaitTimes {
            credit: Duration::from_micros(self.credit),
            connection_credit: Duration::from_micros(self.connection_credit),
            transport: Duration::from_micros(self.transport),
        }
    }
}

/// What a connection has done so far, and what it holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Stats {
    /// Bytes written to the transport, handshake included.
    pub bytes_sent: u64,
    /// Bytes taken from the transport, handshake included.
    pub bytes_received: u64,
    /// Payload bytes of streams in what was sent.
    pub payload_sent: u64,
    /// Payload bytes of streams in what was received.
    pub payload_received: u64,
    /// Records sent.
    pub records_sent: u64,
    /// Records received.
    pub records_received: u64,
    /// Frames sent, by kind.
    pub frames_sent: FrameCounts,
    /// Frames received, by kind.
    pub frames_received: FrameCounts,
    /// Streams that this side opened on the wire.
    pub streams_opened: u64,
    /// Streams that the peer opened.
    pub streams_accepted: u64,
    /// Streams that exist now on this side.
    pub streams: usize,
    /// Payload bytes that wait to be sent.
    pub queued: usize,
    /// Payload bytes that were received and not yet read.
    pub unread: u64,
    /// Payload bytes that the peer lets this side send still, over all streams.
    pub credit: u64,
    /// The round trip time, smoothed; zero before the first measurement.
    pub round_trip: Duration,
    /// The size of a record at most, as the transport's rate has it, in quanta.
    pub largest_record: u8,
    /// How long writers were held up.
    pub waited: WaitTimes,
}

/// What a stream has done so far, and what it holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct StreamStats {
    /// Payload bytes sent.
    pub sent: u64,
    /// Payload bytes received.
    pub received: u64,
    /// Payload bytes that wait to be sent.
    pub queued: usize,
    /// Payload bytes that were received and not yet read.
    pub unread: usize,
    /// Payload bytes that the peer lets this stream send still.
    pub credit: u64,
    /// The window that this side gives the peer, in bytes.
    pub receive_window: u64,
    /// How long its writer was held up.
    pub waited: WaitTimes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_by_their_kind() {
        let mut counts = FrameCounts::new();
        for (times, kind) in (1..).zip(FrameKind::ALL) {
            (0..times).for_each(|_| counts.add(kind));
        }
        assert!(counts.iter().eq((0..).zip(FrameKind::ALL).map(|(before, kind)| (kind, before + 1))));
        assert!(counts.iter().all(|(kind, count)| counts.of(kind) == count));
    }
}
