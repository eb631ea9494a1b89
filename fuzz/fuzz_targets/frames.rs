//! Frame areas: what decodes is encoded again and decodes to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peermux_core::wire::{Frame, Frames};

fuzz_target!(|data: &[u8]| {
    let mut out = vec![0; data.len() + 16];
    for frame in Frames::new(data) {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                assert!(error.code().name().is_some());
                assert!(!error.to_string().is_empty());
                return;
            }
        };
        let len = frame.encode(&mut out).expect("it is as long as it was, or has a length besides");
        let mut again = Frames::new(&out[..len]);
        assert_eq!(again.next(), Some(Ok(frame)));
        assert_eq!(again.next(), None);
        // Every other buffer is too small, and none makes it panic.
        if !matches!(frame, Frame::Stream(_)) {
            for short in [0, 1, len / 2, len - 1] {
                assert_eq!(frame.encode(&mut out[..short]), None);
            }
        }
    }
});
