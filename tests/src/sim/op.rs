//! What a simulated run is made of: operations of four bytes each, so that a seed, proptest and a fuzzer all speak the same language, and
//! a failing run is shrunk by leaving operations out.

use std::time::Duration;

use peermux_core::wire::Priority;

/// An operation as a fuzzer sees it. Every value decodes.
pub type RawOp = [u8; 4];

/// The number of a side: 0 is the initiator, 1 the responder.
pub type Side = usize;

/// How many bytes of what has arrived are handed over, or how large the pieces are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// One byte.
    One,
    /// What completes the next record, and so many bytes more or less.
    Edge(i8),
    /// So many.
    Some(u16),
    /// Everything.
    All,
}

/// What a relay does to the bytes on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tamper {
    /// Flips one bit.
    Flip,
    /// Drops a written unit.
    Drop,
    /// Delivers a written unit twice.
    Duplicate,
    /// Swaps two written units.
    Swap,
    /// Delivers something that was delivered before.
    Replay,
    /// Inserts bytes that nobody wrote.
    Inject,
    /// Ends the direction in the middle of what is on its way.
    Truncate,
    /// Hands a side what it wrote itself.
    Reflect,
}

/// How the time moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// To the next arrival.
    Arrival,
    /// To the next timer of either side, exactly.
    Timer,
    /// A moment past the next timer.
    Late,
    /// By so much.
    By(Duration),
    /// By hours; only where the setup allows it.
    Asleep,
}

/// One step of a run. `stream` counts among the streams that the side's application holds, modulo their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the call of its name")]
pub enum Op {
    Transmit {
        side: Side,
        records: u8,
    },
    Deliver {
        side: Side,
        amount: Cut,
        piece: Cut,
    },
    Advance(Clock),
    /// Tells one side of a time, which may be early, exact, or in the past.
    Timeout {
        side: Side,
        back: Duration,
    },
    Open {
        side: Side,
        name: u8,
        priority: Priority,
    },
    Accept {
        side: Side,
    },
    Refuse {
        side: Side,
        code: u16,
    },
    Write {
        side: Side,
        stream: u8,
        len: usize,
    },
    WriteChunk {
        side: Side,
        stream: u8,
        len: usize,
    },
    Read {
        side: Side,
        stream: u8,
        len: usize,
    },
    ReadChunk {
        side: Side,
        stream: u8,
        max: usize,
    },
    Finish {
        side: Side,
        stream: u8,
    },
    Flush {
        side: Side,
        stream: u8,
    },
    Reset {
        side: Side,
        stream: u8,
        code: u16,
    },
    Cancel {
        side: Side,
        stream: u8,
    },
    Stop {
        side: Side,
        stream: u8,
        code: u16,
    },
    Release {
        side: Side,
        stream: u8,
    },
    SetPriority {
        side: Side,
        stream: u8,
        priority: Priority,
    },
    RequestPriority {
        side: Side,
        stream: u8,
        priority: Priority,
    },
    WaitsFor {
        side: Side,
        stream: u8,
    },
    Decide {
        side: Side,
        accept: bool,
    },
    Drain {
        side: Side,
        code: u16,
    },
    Close {
        side: Side,
        code: u16,
    },
    Tamper {
        side: Side,
        what: Tamper,
        at: u16,
    },
}

/// The kinds of operations, with how often each is picked while it is switched on, and whether it may be switched off.
pub(super) const KINDS: [(u32, bool); 24] = [
    (24, false), // Transmit
    (24, false), // Deliver
    (8, false),  // Advance
    (2, true),   // Timeout
    (5, false),  // Open
    (8, false),  // Accept
    (1, true),   // Refuse
    (12, true),  // Write
    (8, true),   // WriteChunk
    (12, true),  // Read
    (8, true),   // ReadChunk
    (3, true),   // Finish
    (2, true),   // Flush
    (2, true),   // Reset
    (1, true),   // Cancel
    (2, true),   // Stop
    (2, true),   // Release
    (2, true),   // SetPriority
    (2, true),   // RequestPriority
    (2, true),   // WaitsFor
    (4, false),  // Decide
    (1, true),   // Drain
    (1, true),   // Close
    (1, true),   // Tamper
];

pub(super) const DRAIN: usize = 21;
pub(super) const CLOSE: usize = 22;
pub(super) const TAMPER: usize = 23;

/// Lengths that tests of records want: tiny, about what one quantum holds, middling, large.
fn length(arg: u16) -> usize {
    match arg & 3 {
        0 => usize::from(arg >> 2) % 9,
        1 => 1370 + usize::from(arg >> 2) % 40,
        2 => usize::from(arg >> 2) % 5000,
        _ => usize::from(arg),
    }
}

impl Cut {
    fn decode(byte: u8) -> Self {
        match byte % 8 {
            0 => Self::One,
            1 => Self::Edge(-1),
            2 => Self::Edge(0),
            3 => Self::Edge(1),
            4 | 5 => Self::Some(u16::from(byte) * 37 + 2),
            _ => Self::All,
        }
    }
}

impl Op {
    /// Makes an operation of any four bytes.
    pub fn decode(raw: RawOp) -> Self {
        let [kind, who, low, high] = raw;
        let (side, stream) = (usize::from(who & 1), who >> 1);
        let code = u16::from_le_bytes([low, high]);
        let len = length(code);
        let priority = Priority::from_urgency(low & 7).with_incremental(low & 8 != 0);
        match usize::from(kind) % KINDS.len() {
            0 => Self::Transmit { side, records: low % 8 },
            1 => Self::Deliver { side, amount: Cut::decode(low), piece: Cut::decode(high) },
            2 => Self::Advance(match low % 8 {
                0..=2 => Clock::Arrival,
                3 => Clock::Timer,
                4 => Clock::Late,
                7 if high > 250 => Clock::Asleep,
                _ => Clock::By(Duration::from_micros(u64::from(code) * 3)),
            }),
            3 => Self::Timeout { side, back: Duration::from_millis(u64::from(high) * u64::from(low & 1)) },
            4 => Self::Open { side, name: high, priority },
            5 => Self::Accept { side },
            6 => Self::Refuse { side, code },
            7 => Self::Write { side, stream, len },
            8 => Self::WriteChunk { side, stream, len },
            9 => Self::Read { side, stream, len },
            10 => Self::ReadChunk { side, stream, max: len },
            11 => Self::Finish { side, stream },
            12 => Self::Flush { side, stream },
            13 => Self::Reset { side, stream, code },
            14 => Self::Cancel { side, stream },
            15 => Self::Stop { side, stream, code },
            16 => Self::Release { side, stream },
            17 => Self::SetPriority { side, stream, priority },
            18 => Self::RequestPriority { side, stream, priority },
            19 => Self::WaitsFor { side, stream },
            20 => Self::Decide { side, accept: low != 0 },
            21 => Self::Drain { side, code },
            22 => Self::Close { side, code },
            _ => Self::Tamper {
                side,
                what: match stream % 8 {
                    0 => Tamper::Drop,
                    1 => Tamper::Duplicate,
                    2 => Tamper::Swap,
                    3 => Tamper::Replay,
                    4 => Tamper::Inject,
                    5 => Tamper::Truncate,
                    6 => Tamper::Reflect,
                    _ => Tamper::Flip,
                },
                at: code,
            },
        }
    }
}
