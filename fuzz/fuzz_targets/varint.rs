//! Varints: what decodes is the shortest form, and the only one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peermux_core::varint;

fuzz_target!(|data: &[u8]| {
    let Ok((value, len)) = varint::decode(data) else { return };
    assert!(value <= varint::MAX && len == varint::len(value));
    let mut out = [0; 8];
    assert_eq!(varint::encode(value, &mut out), Some(len));
    assert_eq!(out[..len], data[..len]);
});
