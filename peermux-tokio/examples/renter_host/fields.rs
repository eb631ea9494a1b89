//! What messages are made of: hashes, and a cursor that reads fields.

use std::fmt;
use std::str::FromStr;

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};

use crate::error::{Error, Result};

/// BLAKE2b-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    pub fn of(data: &[u8]) -> Self {
        Self::of_all(&[data])
    }

    pub fn of_all(parts: &[&[u8]]) -> Self {
        let mut hasher = Blake2b::<U32>::new();
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        unhex(text).map(Self).ok_or_else(|| "a hash is 64 hexadecimal digits".into())
    }
}

/// 32 bytes from 64 hexadecimal digits.
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// A cursor over a received message, which names the field that it fails on.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&mut self, field: &str, n: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n).ok_or_else(|| {
            Error::new(format!("the message ends within its {field} ({} of {n} bytes)", self.0.len()))
        })?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(field, N)?);
        Ok(array)
    }

    pub fn u8(&mut self, field: &str) -> Result<u8> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub fn u16(&mut self, field: &str) -> Result<u16> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub fn u32(&mut self, field: &str) -> Result<u32> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub fn u64(&mut self, field: &str) -> Result<u64> {
        self.array(field).map(u64::from_be_bytes)
    }

    pub fn hash(&mut self, field: &str) -> Result<Hash> {
        self.array(field).map(Hash)
    }

    /// All that is left, as hashes.
    pub fn hashes(&mut self, most: usize) -> Result<Vec<Hash>> {
        if self.0.len() > 32 * most {
            return Err(Error::new(format!("a list of more than {most} hashes")));
        }
        let mut hashes = Vec::with_capacity(self.0.len() / 32);
        while !self.is_empty() {
            hashes.push(self.hash("hashes")?);
        }
        Ok(hashes)
    }

    /// All that is left, as text.
    pub fn text(&mut self, most: usize) -> Result<String> {
        let bytes = std::mem::take(&mut self.0);
        match std::str::from_utf8(bytes) {
            Ok(text) if bytes.len() <= most => Ok(text.into()),
            Ok(_) => Err(Error::new(format!("a text of {} bytes, {most} are allowed", bytes.len()))),
            Err(_) => Err(Error::new("a text that is not UTF-8")),
        }
    }

    pub fn end(&self) -> Result<()> {
        match self.0.len() {
            0 => Ok(()),
            n => Err(Error::new(format!("{n} bytes too many at the end of the message"))),
        }
    }
}
