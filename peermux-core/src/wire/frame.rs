//! All frames, and the iterator over a frame area: [spec](crate::spec) section 9.

use core::fmt;

use super::settings::{self, SettingsError};
use super::{
    Attestation, Close, Drain, MaxData, MaxStreamData, MaxStreams, Open, Ping, Pong, PriorityUpdate, Reset, Settings,
    Stop, StreamData,
};
use crate::code::ProtocolCode;
use crate::codec::{DecodeError, Reader, Writer};

/// The kinds of frames, for counting them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is the frame of its name")]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
pub enum FrameKind {
    Ping,
    Pong,
    MaxData,
    MaxStreamData,
    MaxStreams,
    Reset,
    Stop,
    Open,
    Priority,
    Close,
    Drain,
    Settings,
    Attestation,
    Stream,
    /// A frame of the skippable range.
    Skipped,
}

impl FrameKind {
    /// Every kind, in order.
    pub const ALL: [Self; 15] = [
        Self::Ping,
        Self::Pong,
        Self::MaxData,
        Self::MaxStreamData,
        Self::MaxStreams,
        Self::Reset,
        Self::Stop,
        Self::Open,
        Self::Priority,
        Self::Close,
        Self::Drain,
        Self::Settings,
        Self::Attestation,
        Self::Stream,
        Self::Skipped,
    ];

    /// The number of kinds.
    pub const COUNT: usize = Self::ALL.len();

    /// The kind with a type of one byte; `Skipped` for all that have none.
    pub(crate) const fn of(kind: u8) -> Self {
        match kind {
            Ping::TYPE => Self::Ping,
            Pong::TYPE => Self::Pong,
            MaxData::TYPE => Self::MaxData,
            MaxStreamData::TYPE => Self::MaxStreamData,
            MaxStreams::TYPE => Self::MaxStreams,
            Reset::TYPE => Self::Reset,
            Stop::TYPE => Self::Stop,
            Open::TYPE => Self::Open,
            PriorityUpdate::TYPE => Self::Priority,
            Close::TYPE => Self::Close,
            Drain::TYPE => Self::Drain,
            settings::FRAME_TYPE => Self::Settings,
            Attestation::TYPE => Self::Attestation,
            StreamData::TYPE..=StreamData::LAST_TYPE => Self::Stream,
            _ => Self::Skipped,
        }
    }
}

/// A frame that is well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant holds the frame of its name")]
pub enum Frame<'a> {
    Ping(Ping),
    Pong(Pong),
    MaxData(MaxData),
    MaxStreamData(MaxStreamData),
    MaxStreams(MaxStreams),
    Reset(Reset),
    Stop(Stop),
    Open(Open<'a>),
    Priority(PriorityUpdate),
    Close(Close<'a>),
    Drain(Drain),
    /// Settings that did not fit into the handshake; none that this version knows.
    Settings(&'a [u8]),
    Attestation(Attestation<'a>),
    Stream(StreamData<'a>),
    /// A frame that is to be skipped, with its type.
    Skipped(u64),
}

/// Why a frame area cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A frame is malformed.
    Encoding(DecodeError),
    /// A frame has a type that is neither known nor skippable.
    Unknown(u64),
    /// A SETTINGS frame holds what it must not.
    Settings(DecodeError),
    /// A byte after PADDING is not zero.
    Padding,
}

impl FrameError {
    /// The code that the connection closes with.
    pub const fn code(&self) -> ProtocolCode {
        match self {
            Self::Encoding(_) => ProtocolCode::FRAME_ENCODING,
            Self::Unknown(_) => ProtocolCode::FRAME_UNKNOWN,
            Self::Settings(_) => ProtocolCode::SETTINGS_INVALID,
            Self::Padding => ProtocolCode::RECORD_INVALID,
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encoding(error) | Self::Settings(error) => fmt::Display::fmt(error, f),
            Self::Unknown(kind) => write!(f, "unknown frame type {kind:#x}"),
            Self::Padding => f.write_str("padding is not zero"),
        }
    }
}

impl core::error::Error for FrameError {}

/// Types that are skipped when they are unknown.
const SKIPPABLE: core::ops::RangeInclusive<u64> = 0x40..=0x3fff;

/// Iterates over the frames of a frame area; ends after an error.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    reader: Reader<'a>,
}

impl<'a> Frames<'a> {
    /// Reads `area`, which ends with its last frame or with zeros.
    pub const fn new(area: &'a [u8]) -> Self {
        Self { reader: Reader::new(area) }
    }

    fn next_frame(&mut self) -> Result<Option<Frame<'a>>, FrameError> {
        let reader = &mut self.reader;
        if reader.is_empty() {
            return Ok(None);
        }
        let kind = reader.varint("frame type").map_err(FrameError::Encoding)?;
        let Ok(kind @ 0..=0x3f) = u8::try_from(kind) else {
            if !SKIPPABLE.contains(&kind) {
                return Err(FrameError::Unknown(kind));
            }
            reader.prefixed("skippable frame").map_err(FrameError::Encoding)?;
            return Ok(Some(Frame::Skipped(kind)));
        };
        let frame = match kind {
            0 => {
                let zeros = reader.take_rest().iter().fold(0, |any, byte| any | byte) == 0;
                return if zeros { Ok(None) } else { Err(FrameError::Padding) };
            }
            Ping::TYPE => Ping::decode(reader).map(Frame::Ping),
            Pong::TYPE => Pong::decode(reader).map(Frame::Pong),
            MaxData::TYPE => MaxData::decode(reader).map(Frame::MaxData),
            MaxStreamData::TYPE => MaxStreamData::decode(reader).map(Frame::MaxStreamData),
            MaxStreams::TYPE => MaxStreams::decode(reader).map(Frame::MaxStreams),
            Reset::TYPE => Reset::decode(reader).map(Frame::Reset),
            Stop::TYPE => Stop::decode(reader).map(Frame::Stop),
            Open::TYPE => Open::decode(reader).map(Frame::Open),
            PriorityUpdate::TYPE => PriorityUpdate::decode(reader).map(Frame::Priority),
            Close::TYPE => Close::decode(reader).map(Frame::Close),
            Drain::TYPE => Drain::decode(reader).map(Frame::Drain),
            settings::FRAME_TYPE => {
                let body = reader.prefixed("SETTINGS").map_err(FrameError::Encoding)?;
                Settings::check_frame(body).map_err(|error| match error {
                    SettingsError::Malformed(error) => FrameError::Encoding(error),
                    SettingsError::Invalid(error) => FrameError::Settings(error),
                })?;
                Ok(Frame::Settings(body))
            }
            Attestation::TYPE => Attestation::decode(reader).map(Frame::Attestation),
            StreamData::TYPE..=StreamData::LAST_TYPE => StreamData::decode(kind, reader).map(Frame::Stream),
            _ => return Err(FrameError::Unknown(u64::from(kind))),
        };
        frame.map(Some).map_err(FrameError::Encoding)
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_frame().transpose();
        if matches!(next, Some(Err(_))) {
            self.reader.take_rest();
        }
        next
    }
}

impl Frame<'_> {
    /// Which kind of frame this is.
    pub const fn kind(&self) -> FrameKind {
        match self {
            Self::Ping(_) => FrameKind::Ping,
            Self::Pong(_) => FrameKind::Pong,
            Self::MaxData(_) => FrameKind::MaxData,
            Self::MaxStreamData(_) => FrameKind::MaxStreamData,
            Self::MaxStreams(_) => FrameKind::MaxStreams,
            Self::Reset(_) => FrameKind::Reset,
            Self::Stop(_) => FrameKind::Stop,
            Self::Open(_) => FrameKind::Open,
            Self::Priority(_) => FrameKind::Priority,
            Self::Close(_) => FrameKind::Close,
            Self::Drain(_) => FrameKind::Drain,
            Self::Settings(_) => FrameKind::Settings,
            Self::Attestation(_) => FrameKind::Attestation,
            Self::Stream(_) => FrameKind::Stream,
            Self::Skipped(_) => FrameKind::Skipped,
        }
    }

    /// Appends the frame to `out`. STREAM is written with its length.
    ///
    /// Returns the number of bytes written, or `None` if there is no room: then `out` holds part of the frame.
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = Writer::new(out);
        self.write(&mut writer);
        (!writer.overflowed()).then_some(writer.len())
    }

    pub(crate) fn write(&self, out: &mut Writer<'_>) {
        match self {
            Self::Ping(frame) => frame.encode(out),
            Self::Pong(frame) => frame.encode(out),
            Self::MaxData(frame) => frame.encode(out),
            Self::MaxStreamData(frame) => frame.encode(out),
            Self::MaxStreams(frame) => frame.encode(out),
            Self::Reset(frame) => frame.encode(out),
            Self::Stop(frame) => frame.encode(out),
            Self::Open(frame) => frame.encode(out),
            Self::Priority(frame) => frame.encode(out),
            Self::Close(frame) => frame.encode(out),
            Self::Drain(frame) => frame.encode(out),
            Self::Settings(body) => {
                out.frame_type(settings::FRAME_TYPE);
                out.prefixed(body);
            }
            Self::Attestation(frame) => frame.encode(out),
            Self::Stream(frame) => frame.encode(out),
            Self::Skipped(kind) => {
                out.varint(*kind);
                out.varint(0);
            }
        }
    }
}
