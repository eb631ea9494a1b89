//! Public keys in the formats of serde: 64 hexadecimal digits where people read, 32 bytes elsewhere.

use core::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::PublicKey;

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(self.as_bytes())
        }
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Digits)
        } else {
            deserializer.deserialize_bytes(Bytes)
        }
    }
}

struct Digits;

impl Visitor<'_> for Digits {
    type Value = PublicKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a public key of 64 hexadecimal digits")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<PublicKey, E> {
        text.parse().map_err(E::custom)
    }
}

struct Bytes;

impl<'de> Visitor<'de> for Bytes {
    type Value = PublicKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a public key of 32 bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<PublicKey, E> {
        let key = bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))?;
        Ok(PublicKey::from_bytes(key))
    }

    /// Some formats have no bytes, but only sequences of numbers.
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<PublicKey, A::Error> {
        let mut key = [0; 32];
        for (index, byte) in key.iter_mut().enumerate() {
            *byte = items.next_element()?.ok_or_else(|| A::Error::invalid_length(index, &self))?;
        }
        if items.next_element::<u8>()?.is_some() {
            return Err(A::Error::invalid_length(33, &self));
        }
        Ok(PublicKey::from_bytes(key))
    }
}
