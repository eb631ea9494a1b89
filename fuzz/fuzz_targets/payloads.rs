//! Payloads of the handshake, and the first record, of a peer that holds valid keys and says what it wants.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peermux_core::time::Instant;
use peermux_core::{Connection, ExpectedPeer, Role, Transmit};
use peermux_fuzz::{Application, Input, TAG, config, fresh, responder_key};

/// Puts `payload` and the tag where the payload of a flight stands: at its end, from `start` on.
fn fill(flight: &mut [u8], start: usize, payload: &[u8]) {
    let end = flight.len() - TAG.len();
    let len = payload.len().min(end - start);
    flight[start..start + len].copy_from_slice(&payload[..len]);
    flight[end..].copy_from_slice(&TAG);
}

/// What the connection says first.
fn flight(connection: &mut Connection) {
    let mut out = [0; 2816];
    assert!(matches!(connection.poll_transmit(Instant::ZERO, &mut out), Ok(Transmit::Bytes(_)) | Ok(Transmit::Idle)));
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (pick, options) = (input.byte(), input.byte());
    let len = input.short() % 1600;
    let payload = input.take(len);
    let key = responder_key().public_key();
    let mut m1 = [0; 2816];
    m1[..32].copy_from_slice(&[9; 32]);
    let mut third = [0; 1408];
    let mut connection = match pick % 4 {
        // P1, and the record after it; or fallback, and P3.
        0 | 1 => {
            let mut connection = fresh(Role::Responder, ExpectedPeer::Any, config(options));
            m1[1216..1248].copy_from_slice(&[8; 32]);
            m1[1248..1264].copy_from_slice(&TAG);
            if pick % 4 == 0 {
                fill(&mut m1, 1264, payload);
                fill(&mut third, 0, input.take(1392));
            } else {
                third[..32].copy_from_slice(&[8; 32]);
                third[32..48].copy_from_slice(&TAG);
                fill(&mut third, 48, payload);
            }
            connection.handle_slice(Instant::ZERO, &mut m1);
            flight(&mut connection);
            connection
        }
        // P2, in IK or fallback; and the record after it.
        mode => {
            let remote = if mode == 2 { ExpectedPeer::Key(key) } else { ExpectedPeer::Any };
            let mut connection = fresh(Role::Initiator, remote, config(options));
            flight(&mut connection);
            let mut m2 = [0; 1408];
            m2[..32].copy_from_slice(&[9; 32]);
            m2[1120..1136].copy_from_slice(&TAG);
            if mode == 2 {
                fill(&mut m2, 1136, payload);
            } else {
                m2[1136..1168].copy_from_slice(key.as_bytes());
                m2[1168..1184].copy_from_slice(&TAG);
                fill(&mut m2, 1184, payload);
            }
            connection.handle_slice(Instant::ZERO, &mut m2);
            fill(&mut third, 0, input.take(1392));
            connection
        }
    };
    let mut application = Application::default();
    application.act(&mut connection, Instant::ZERO, &mut input);
    connection.handle_slice(Instant::ZERO, &mut third);
    while !input.0.is_empty() {
        application.act(&mut connection, Instant::ZERO, &mut input);
    }
    application.end(&mut connection, Instant::ZERO);
});
