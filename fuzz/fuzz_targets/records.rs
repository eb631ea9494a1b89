//! An established connection whose peer sends arbitrary plaintexts in valid records, while the application does whatever it likes.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use peermux_core::time::Instant;
use peermux_core::{ExpectedPeer, Role};
use peermux_fuzz::{Application, Input, TAG, config, established, responder_key};

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (pick, options) = (input.byte(), input.byte());
    let role = if pick & 1 == 0 { Role::Initiator } else { Role::Responder };
    let remote = if pick & 2 == 0 { ExpectedPeer::Key(responder_key().public_key()) } else { ExpectedPeer::Any };
    let mut connection = established(role, remote, config(options));
    let mut application = Application::default();
    let mut now = Instant::ZERO;
    application.outputs(&mut connection, now, true);
    while !input.0.is_empty() {
        let (step, len) = (input.byte(), input.short());
        now = Instant::from_millis(now.as_micros() / 1000 + u64::from(step & 0x3f));
        if connection.close_reason().is_none() {
            let mut record = BytesMut::zeroed(connection.next_input_len());
            let (plaintext, tag) = record.split_at_mut(connection.next_input_len() - TAG.len());
            tag.copy_from_slice(&TAG);
            // Now and then the area is full of the last byte: payloads that are larger than a fuzzer's input.
            let given = input.take(1 + len % plaintext.len());
            plaintext[..given.len()].copy_from_slice(given);
            if step & 0x40 != 0 {
                plaintext[given.len()..].fill(given.last().copied().unwrap_or(0));
            }
            if step & 0x80 == 0 {
                connection.handle_input(now, &mut record);
                assert!(record.is_empty());
            } else {
                assert_eq!(connection.handle_slice(now, &mut record), record.len());
            }
        }
        application.act(&mut connection, now, &mut input);
    }
    application.end(&mut connection, now);
});
