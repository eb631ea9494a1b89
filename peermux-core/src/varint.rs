//! Variable-length integers: RFC 9000 section 16, in their shortest form ([spec](crate::spec) section 1.1).

/// The greatest value that a varint holds: 2^62 − 1.
pub const MAX: u64 = (1 << 62) - 1;

/// The length in bytes of `value` as a varint: 1, 2, 4 or 8.
///
/// Values above [`MAX`] have no encoding; for them this is 8 as well.
pub const fn len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Why bytes are not a varint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The input ends before the varint does.
    Truncated,
    /// The value has a shorter form.
    NotShortest,
}

/// Reads the varint at the beginning of `input`; also returns its length in bytes.
pub fn decode(input: &[u8]) -> Result<(u64, usize), Malformed> {
    let first = *input.first().ok_or(Malformed::Truncated)?;
    let size = 1usize << (first >> 6);
    let bytes = input.get(1..size).ok_or(Malformed::Truncated)?;
    let value = bytes.iter().fold(u64::from(first & 0x3f), |value, &byte| (value << 8) | u64::from(byte));
    if len(value) != size {
        return Err(Malformed::NotShortest);
    }
    Ok((value, size))
}

/// Writes `value` to the beginning of `out` and returns its length in bytes.
///
/// Returns `None`, and writes nothing, if `out` is too short or `value` is above [`MAX`].
pub fn encode(value: u64, out: &mut [u8]) -> Option<usize> {
    if value > MAX {
        return None;
    }
    let size = len(value);
    let out = out.get_mut(..size)?;
    let tag = match size {
        1 => 0,
        2 => 1 << 6,
        4 => 2 << 6,
        _ => 3 << 6,
    };
    let bytes = value.to_be_bytes();
    out.copy_from_slice(&bytes[8 - size..]);
    out[0] |= tag;
    Some(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_rfc_9000() {
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ] {
            assert_eq!(decode(bytes), Ok((value, bytes.len())));
            let mut out = [0; 8];
            assert_eq!(encode(value, &mut out), Some(bytes.len()));
            assert_eq!(&out[..bytes.len()], bytes);
        }
    }

    #[test]
    fn boundaries_and_longer_forms() {
        for value in [0, 0x3f, 0x40, 0x3fff, 0x4000, 0x3fff_ffff, 0x4000_0000, MAX] {
            let mut out = [0; 8];
            let size = encode(value, &mut out).expect("has a form");
            assert_eq!(size, len(value));
            assert_eq!(decode(&out[..size]), Ok((value, size)));
            assert_eq!(decode(&out[..size - 1]), Err(Malformed::Truncated));
        }
        assert_eq!(encode(MAX + 1, &mut [0; 8]), None);
        assert_eq!(encode(0x40, &mut [0; 1]), None);
        assert_eq!(decode(&[0x40, 0x25]), Err(Malformed::NotShortest));
        assert_eq!(decode(&[0x80, 0, 0x3f, 0xff]), Err(Malformed::NotShortest));
        assert_eq!(decode(&[]), Err(Malformed::Truncated));
    }
}
