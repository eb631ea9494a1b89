//! A connection that is fed arbitrary bytes from its beginning, in arbitrary pieces.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use peermux_core::time::Instant;
use peermux_core::{ExpectedPeer, Role};
use peermux_fuzz::{Application, Input, config, fresh, responder_key};

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (pick, options) = (input.byte(), input.byte());
    let role = if pick & 1 == 0 { Role::Initiator } else { Role::Responder };
    let key = responder_key().public_key();
    let remote = [ExpectedPeer::Key(key), ExpectedPeer::KeyOrApprove(key), ExpectedPeer::Approve, ExpectedPeer::Any]
        [usize::from(pick >> 1) % 4];
    let mut connection = fresh(role, remote, config(options));
    let mut application = Application::default();
    let mut now = Instant::ZERO;
    application.outputs(&mut connection, now, true);
    let mut arrived = BytesMut::new();
    let mut zeros = 0;
    while !input.0.is_empty() || zeros < 2 {
        // Bytes, or as many zeros: a flight is long, and a fuzzer's input short.
        let len = input.short();
        if len & 0x8000 == 0 && !input.0.is_empty() {
            arrived.extend_from_slice(input.take(len % 3000));
        } else {
            zeros += 1;
            arrived.resize(arrived.len() + len % 3000, 0);
        }
        if zeros > 100 {
            break;
        }
        if pick & 0x80 == 0 {
            connection.handle_input(now, &mut arrived);
        } else {
            let taken = connection.handle_slice(now, &mut arrived);
            let _ = arrived.split_to(taken);
        }
        assert!(arrived.len() < connection.next_input_len(), "what is whole is taken");
        now = Instant::from_millis(now.as_micros() / 1000 + 1);
        application.act(&mut connection, now, &mut input);
    }
    application.end(&mut connection, now);
});
