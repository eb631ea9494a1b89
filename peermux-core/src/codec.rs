//! Reading and writing without a panic: a cursor whose errors name the field, and a bounded writer.

use core::fmt;

use crate::varint;

/// Why a structure could not be read, and at which of its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// The field that could not be read.
    pub field: &'static str,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The input ends before the field does.
    Truncated,
    /// A varint is not in its shortest form.
    NotShortest,
    /// The value is none that the field may have.
    OutOfRange,
    /// Bytes follow where none may.
    Trailing,
    /// The field occurs twice.
    Repeated,
    /// A field that must be there is not.
    Missing,
}

impl DecodeError {
    pub(crate) const fn new(field: &'static str, fault: Fault) -> Self {
        Self { field, fault }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fault {
            Fault::Truncated => "is truncated",
            Fault::NotShortest => "is not in its shortest form",
            Fault::OutOfRange => "is out of range",
            Fault::Trailing => "is followed by bytes that do not belong there",
            Fault::Repeated => "occurs twice",
            Fault::Missing => "is missing",
        };
        write!(f, "{} {what}", self.field)
    }
}

impl core::error::Error for DecodeError {}

/// Reads fields from the front of a slice.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::new(field, Fault::Truncated))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn take_rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }

    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::new(field, Fault::Truncated))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(crate) fn varint(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        let (value, size) = varint::decode(self.rest).map_err(|malformed| {
            let fault = match malformed {
                varint::Malformed::Truncated => Fault::Truncated,
                varint::Malformed::NotShortest => Fault::NotShortest,
            };
            DecodeError::new(field, fault)
        })?;
        self.rest = &self.rest[size..];
        Ok(value)
    }

    /// Takes a varint, and then as many bytes as it says.
    pub(crate) fn prefixed(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.varint(field)?;
        let len = usize::try_from(len).map_err(|_| DecodeError::new(field, Fault::Truncated))?;
        self.take(len, field)
    }
}

/// Types of frames that a [`Writer`] counts one by one; all others count as the last.
const TYPES: usize = 0x15;

/// Writes fields to the front of a slice.
///
/// A write that does not fit writes nothing and is remembered: see [`Writer::overflowed`]. Callers ask for the room that they need first.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
    overflowed: bool,
    frames: [u64; TYPES],
}

impl<'a> Writer<'a> {
    pub(crate) const fn new(out: &'a mut [u8]) -> Self {
        Self { out, len: 0, overflowed: false, frames: [0; TYPES] }
    }

    /// Bytes written so far.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Bytes that can still be written.
    pub(crate) const fn room(&self) -> usize {
        self.out.len() - self.len
    }

    /// The frames that were begun so far, by type.
    pub(crate) const fn frames(&self) -> &[u64; TYPES] {
        &self.frames
    }

    /// The type of a frame, which is counted.
    pub(crate) fn frame_type(&mut self, kind: u8) {
        self.u8(kind);
        self.frames[usize::from(kind).min(TYPES - 1)] += 1;
    }

    /// Whether a write did not fit.
    pub(crate) const fn overflowed(&self) -> bool {
        self.overflowed
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        match self.out.get_mut(self.len..self.len + bytes.len()) {
            Some(out) => {
                out.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.overflowed = true,
        }
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    pub(crate) fn varint(&mut self, value: u64) {
        match varint::encode(value, &mut self.out[self.len..]) {
            Some(size) => self.len += size,
            None => self.overflowed = true,
        }
    }

    pub(crate) fn prefixed(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.bytes(bytes);
    }

    /// The next `len` bytes, for a caller that fills them itself; empty if they do not fit.
    pub(crate) fn claim(&mut self, len: usize) -> &mut [u8] {
        match self.out.get_mut(self.len..self.len + len) {
            Some(out) => {
                self.len += len;
                out
            }
            None => {
                self.overflowed = true;
                &mut []
            }
        }
    }

    /// Fills what is left with zeros, from where nothing was written.
    pub(crate) fn pad(&mut self) {
        self.out[self.len..].fill(0);
        self.len = self.out.len();
    }
}
