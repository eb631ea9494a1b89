//! Settings: [spec](crate::spec) sections 4.4, 9.12 and 19.1.
//!
//! ```text
//! settings = *( id varint ‖ value varint )        SETTINGS = 0x0c ‖ length ‖ settings
//! ```

use core::fmt;

use super::MAX_RECORD;
use super::credit::MaxStreams;
use crate::codec::{DecodeError, Fault, Reader, Writer};
use crate::varint;

pub(crate) const FRAME_TYPE: u8 = 0x0c;

/// What one side says of itself in the handshake.
///
/// The default holds what is in force before a peer's settings are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The largest record that it takes, in quanta: 1 to 16.
    pub max_record: u8,
    /// Connection credit that it gives at the start, in bytes: at least 2048.
    pub initial_max_data: u64,
    /// Credit that it gives for each new stream, in bytes: at least 2048.
    pub initial_max_stream_data: u64,
    /// Streams that the other side may open at the start: at least 16.
    pub initial_max_streams: u64,
    /// Milliseconds of silence after which it closes; 0 is never.
    pub idle_timeout: u64,
    /// The shaping that it proposes.
    pub shaping: Shaping,
}

/// A way of shaping what is sent ([spec](crate::spec) section 19).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Shaping {
    /// Sizes only.
    #[default]
    Quantised,
    /// Each burst is padded to the next Padmé size.
    Bucketed,
    /// One record of a fixed size in each slot.
    Constant {
        /// Size of each record, in quanta: 1 to 16.
        size: u8,
        /// Time from slot to slot, in microseconds: 1,000 to 10,000,000.
        interval: u32,
    },
}

/// Why settings are not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingsError {
    /// They are malformed: an encoding error.
    Malformed(DecodeError),
    /// A value is out of range, or an id is repeated or misplaced.
    Invalid(DecodeError),
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Malformed(error) | Self::Invalid(error)) = self;
        fmt::Display::fmt(error, f)
    }
}

impl core::error::Error for SettingsError {}

const NAMES: [&str; 7] =
    ["", "MAX_RECORD", "INITIAL_MAX_DATA", "INITIAL_MAX_STREAM_DATA", "INITIAL_MAX_STREAMS", "IDLE_TIMEOUT", "SHAPING"];

/// The least credit that is ever given at the start, in bytes.
pub(crate) const LEAST_CREDIT: u64 = 2048;
/// The fewest streams that are ever allowed at the start.
pub(crate) const LEAST_STREAMS: u64 = 16;

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_record: 1,
            initial_max_data: LEAST_CREDIT,
            initial_max_stream_data: LEAST_CREDIT,
            initial_max_streams: LEAST_STREAMS,
            idle_timeout: 0,
            shaping: Shaping::Quantised,
        }
    }
}

impl Settings {
    /// Reads settings that stand in a handshake payload.
    pub(crate) fn decode(input: &[u8]) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        let mut seen = [false; NAMES.len()];
        for_each(input, |id, value| {
            let Some((name, seen)) = index(id).map(|id| (NAMES[id], &mut seen[id])) else {
                return Ok(());
            };
            if core::mem::replace(seen, true) {
                return Err(DecodeError::new(name, Fault::Repeated));
            }
            settings.set(id, value).ok_or(DecodeError::new(name, Fault::OutOfRange))
        })?;
        Ok(settings)
    }

    /// Checks the settings of a SETTINGS frame, where those of this version may not stand.
    pub(crate) fn check_frame(input: &[u8]) -> Result<(), SettingsError> {
        for_each(input, |id, _| match index(id) {
            Some(id) => Err(DecodeError::new(NAMES[id], Fault::OutOfRange)),
            None => Ok(()),
        })
    }

    fn set(&mut self, id: u64, value: u64) -> Option<()> {
        match id {
            1 => self.max_record = u8::try_from(value).ok().filter(|size| (1..=MAX_RECORD).contains(size))?,
            2 if value >= LEAST_CREDIT => self.initial_max_data = value,
            3 if value >= LEAST_CREDIT => self.initial_max_stream_data = value,
            4 if (LEAST_STREAMS..=MaxStreams::MAX).contains(&value) => self.initial_max_streams = value,
            5 => self.idle_timeout = value,
            6 => self.shaping = Shaping::from_value(value)?,
            _ => return None,
        }
        Some(())
    }

    /// Writes all settings, in the order of their ids.
    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        let values = [
            u64::from(self.max_record),
            self.initial_max_data.min(varint::MAX),
            self.initial_max_stream_data.min(varint::MAX),
            self.initial_max_streams.min(MaxStreams::MAX),
            self.idle_timeout.min(varint::MAX),
            self.shaping.value(),
        ];
        for (id, value) in (1..).zip(values) {
            out.varint(id);
            out.varint(value);
        }
    }
}

impl Shaping {
    const INTERVALS: core::ops::RangeInclusive<u32> = 1_000..=10_000_000;

    pub(crate) fn from_value(value: u64) -> Option<Self> {
        let size = ((value >> 4) & 0x0f) as u8;
        let interval = u32::try_from(value >> 8).ok()?;
        match value & 0x0f {
            0 if size == 0 && interval == 0 => Some(Self::Quantised),
            1 if size == 0 && interval == 0 => Some(Self::Bucketed),
            2 if Self::INTERVALS.contains(&interval) => Some(Self::Constant { size: size + 1, interval }),
            _ => None,
        }
    }

    pub(crate) fn value(self) -> u64 {
        match self {
            Self::Quantised => 0,
            Self::Bucketed => 1,
            Self::Constant { size, interval } => {
                2 | u64::from(size.clamp(1, MAX_RECORD) - 1) << 4 | u64::from(interval) << 8
            }
        }
    }
}

fn index(id: u64) -> Option<usize> {
    usize::try_from(id).ok().filter(|id| (1..NAMES.len()).contains(id))
}

fn for_each(input: &[u8], mut visit: impl FnMut(u64, u64) -> Result<(), DecodeError>) -> Result<(), SettingsError> {
    let mut reader = Reader::new(input);
    while !reader.is_empty() {
        let id = reader.varint("setting id").map_err(SettingsError::Malformed)?;
        let value = reader.varint("setting value").map_err(SettingsError::Malformed)?;
        visit(id, value).map_err(SettingsError::Invalid)?;
    }
    Ok(())
}
