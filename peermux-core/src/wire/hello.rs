//! What the sides say of themselves in the handshake's payloads: [spec](crate::spec) section 4.
//!
//! ```text
//! P = [ header 1 ] ‖ tlv_len 2 ‖ TLVs ‖ frames ‖ zeros        TLV = type 1 ‖ length 1 ‖ value
//! ```

use arrayvec::ArrayVec;

use super::{MAX_TLV_ATTESTATION, Settings, SettingsError};
use crate::codec::{DecodeError, Fault, Reader, Writer};

/// The most bytes that all TLVs of a payload take.
pub const MAX_TLVS: usize = 205;

/// The most bytes that the value of a TLV has.
const MAX_VALUE: usize = MAX_TLVS - 2;

/// Versions offered, most preferred first, or the one chosen.
pub type Versions = ArrayVec<u8, MAX_VALUE>;

/// Suite bytes offered, most preferred first, or the one chosen.
pub type Suites = ArrayVec<u8, MAX_VALUE>;

/// The TLVs of one payload.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Hello {
    /// Versions: at least one.
    pub versions: Versions,
    /// Suites: at least one.
    pub suites: Suites,
    /// Flags.
    pub flags: Flags,
    /// Milliseconds since the Unix epoch; only in P1.
    pub timestamp: Option<u64>,
    /// Settings.
    pub settings: Settings,
    /// An attestation, 1 to 112 bytes.
    pub attestation: Option<ArrayVec<u8, MAX_TLV_ATTESTATION>>,
    /// A TLV that nobody knows, to keep peers used to them: its type and value. Never read from a peer.
    pub grease: Option<(u8, ArrayVec<u8, 8>)>,
    /// The id of a setting that nobody knows. Never read from a peer, and not sent beside an attestation.
    pub grease_setting: Option<u64>,
    /// What is written instead of all this: test vectors hold TLVs in any order, and malformed ones.
    #[cfg(test)]
    pub(crate) raw: Option<alloc::vec::Vec<u8>>,
}

/// The flags of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flags {
    /// The initiator's static key was made for this connection and identifies nobody.
    pub anonymous: bool,
    /// P1: the frame area holds early data. P2: it is accepted. P3: the frame area begins with what was early data in P1.
    pub early: bool,
    /// P2: the responder's application is asked about the initiator, and a record says that it has accepted.
    pub decides: bool,
}

mod kind {
    pub(super) const VERSIONS: u8 = 1;
    pub(super) const SUITES: u8 = 2;
    pub(super) const FLAGS: u8 = 3;
    pub(super) const TIMESTAMP: u8 = 4;
    pub(super) const SETTINGS: u8 = 5;
    pub(super) const ATTESTATION: u8 = 6;
}

impl Hello {
    /// Reads `tlv_len` and the TLVs from the front of `reader`. TIMESTAMP has its place `in_p1` only, and is ignored elsewhere.
    pub(crate) fn decode(reader: &mut Reader<'_>, in_p1: bool) -> Result<Self, DecodeError> {
        let len = usize::from(u16::from_be_bytes(reader.array("tlv_len")?));
        if len > MAX_TLVS {
            return Err(DecodeError::new("tlv_len", Fault::OutOfRange));
        }
        let mut tlvs = Reader::new(reader.take(len, "TLVs")?);
        let mut hello = Self::default();
        // Of the types that are known.
        let mut seen = [false; kind::ATTESTATION as usize];
        while !tlvs.is_empty() {
            let kind = tlvs.u8("TLV type")?;
            let len = usize::from(tlvs.u8("TLV length")?);
            let value = tlvs.take(len, "TLV value")?;
            if let Some(seen) = usize::from(kind).checked_sub(1).and_then(|index| seen.get_mut(index))
                && core::mem::replace(seen, true)
            {
                return Err(DecodeError::new("TLV type", Fault::Repeated));
            }
            if in_p1 || kind != kind::TIMESTAMP {
                hello.set(kind, value)?;
            }
        }
        if hello.versions.is_empty() {
            return Err(DecodeError::new("VERSIONS", Fault::Missing));
        }
        if hello.suites.is_empty() {
            return Err(DecodeError::new("SUITES", Fault::Missing));
        }
        Ok(hello)
    }

    fn set(&mut self, kind: u8, value: &[u8]) -> Result<(), DecodeError> {
        match kind {
            kind::VERSIONS => self.versions = list(value, "VERSIONS")?,
            kind::SUITES => self.suites = list(value, "SUITES")?,
            kind::FLAGS => {
                let [flags] = fixed(value, "FLAGS")?;
                self.flags =
                    Flags { anonymous: flags & 0x01 != 0, early: flags & 0x02 != 0, decides: flags & 0x04 != 0 };
            }
            kind::TIMESTAMP => self.timestamp = Some(u64::from_be_bytes(fixed(value, "TIMESTAMP")?)),
            kind::SETTINGS => {
                self.settings = Settings::decode(value).map_err(|error| {
                    let (SettingsError::Malformed(error) | SettingsError::Invalid(error)) = error;
                    error
                })?;
            }
            kind::ATTESTATION => {
                let value = ArrayVec::try_from(value)
                    .ok()
                    .filter(|value| !value.is_empty())
                    .ok_or(DecodeError::new("ATTESTATION", Fault::OutOfRange))?;
                self.attestation = Some(value);
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes `tlv_len` and the TLVs.
    ///
    /// They fit by their bounds: 2·(2+8) for the lists, 3 for flags, 10 for the timestamp, 2+54 for settings and 2+112 for an
    /// attestation make 203; grease is written only where it fits too.
    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        #[cfg(test)]
        if let Some(raw) = &self.raw {
            return out.bytes(raw);
        }
        let mut tlvs = [0; MAX_TLVS];
        let mut writer = Writer::new(&mut tlvs);
        let put = |kind: u8, value: &[u8], out: &mut Writer<'_>| {
            out.u8(kind);
            // Every value is shorter than 256 bytes: see above.
            out.u8(value.len() as u8);
            out.bytes(value);
        };
        put(kind::VERSIONS, &self.versions, &mut writer);
        put(kind::SUITES, &self.suites, &mut writer);
        let flags =
            u8::from(self.flags.anonymous) | u8::from(self.flags.early) << 1 | u8::from(self.flags.decides) << 2;
        if flags != 0 {
            put(kind::FLAGS, &[flags], &mut writer);
        }
        if let Some(timestamp) = self.timestamp {
            put(kind::TIMESTAMP, &timestamp.to_be_bytes(), &mut writer);
        }
        let mut settings = [0; 64];
        let mut settings_writer = Writer::new(&mut settings);
        self.settings.encode(&mut settings_writer);
        if let (Some(id), None) = (self.grease_setting, &self.attestation) {
            settings_writer.varint(id);
            settings_writer.varint(id);
        }
        let len = settings_writer.len();
        put(kind::SETTINGS, &settings[..len], &mut writer);
        if let Some(attestation) = &self.attestation {
            put(kind::ATTESTATION, attestation, &mut writer);
        }
        if let Some((kind, value)) = &self.grease
            && writer.room() >= 2 + value.len()
        {
            put(*kind, value, &mut writer);
        }
        debug_assert!(!writer.overflowed());
        let len = writer.len();
        out.bytes(&(len as u16).to_be_bytes());
        out.bytes(&tlvs[..len]);
    }
}

fn list(value: &[u8], field: &'static str) -> Result<ArrayVec<u8, MAX_VALUE>, DecodeError> {
    if value.is_empty() {
        return Err(DecodeError::new(field, Fault::OutOfRange));
    }
    value.try_into().map_err(|_| DecodeError::new(field, Fault::OutOfRange))
}

fn fixed<const N: usize>(value: &[u8], field: &'static str) -> Result<[u8; N], DecodeError> {
    value.try_into().map_err(|_| DecodeError::new(field, Fault::OutOfRange))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unknown_type_may_occur_twice_and_no_known_one() {
        for kind in 0..=u8::MAX {
            let tlvs = [1, 1, 1, 2, 1, 1, kind, 1, 1, kind, 1, 1];
            let mut bytes = alloc::vec![0, tlvs.len() as u8];
            bytes.extend_from_slice(&tlvs);
            let decoded = Hello::decode(&mut Reader::new(&bytes), false);
            assert_eq!(decoded.is_ok(), !(1..=6).contains(&kind), "type {kind}: {decoded:?}");
        }
    }
}
