//! What only the inside can bring about: counters just below their limits.

use alloc::sync::Arc;
use alloc::vec;

use super::*;
use crate::crypto::{Rng, StaticSecret};
use crate::wire::QUANTUM;

fn established() -> [Connection; 2] {
    let config = Arc::new(Config::default());
    let key = StaticSecret::from_bytes(&[2; 32]);
    let remote = ExpectedPeer::Key(key.public_key());
    let (now, mut rng) = (Instant::ZERO, Rng::from_seed(&[3; 32]));
    let identity = Identity::Static(StaticSecret::from_bytes(&[1; 32]));
    let initiator = Connection::initiator(config.clone(), identity, remote, now, &mut rng);
    let responder = Connection::responder(config, key.into(), now, &mut rng);
    let mut pair = [initiator.expect("the configuration is valid"), responder.expect("the configuration is valid")];
    exchange(&mut pair);
    assert!(pair.iter().all(Connection::is_established));
    pair
}

/// Lets both sides say all that they have to say.
fn exchange([initiator, responder]: &mut [Connection; 2]) {
    let mut buffer = vec![0; 16 * QUANTUM];
    for _ in 0..20 {
        for _ in 0..2 {
            while let Ok(Transmit::Bytes(len)) = initiator.poll_transmit(Instant::ZERO, &mut buffer) {
                assert_eq!(responder.handle_slice(Instant::ZERO, &mut buffer[..len]), len);
            }
            core::mem::swap(initiator, responder);
        }
    }
}

fn write(connection: &mut Connection) {
    let id = connection.open_stream(None, Priority::default()).expect("it opens");
    connection.send_stream(id).write(&[7; 100]).expect("there is room");
}

#[test]
fn the_last_nonce_but_one_is_for_close() {
    let mut pair = established();
    let n = u64::MAX - 3;
    pair[0].sealer.as_mut().expect("there are keys").start_at(n);
    pair[1].opener.as_mut().expect("there are keys").start_at(n);
    write(&mut pair[0]);
    exchange(&mut pair);
    assert!(pair.iter().all(Connection::is_established));
    assert_eq!(pair[0].record_counts().0, u64::MAX - 2);
    write(&mut pair[0]);
    exchange(&mut pair);
    for connection in &pair {
        let code = connection.close_reason().and_then(ConnectionError::code);
        assert_eq!(code, Some(ErrorCode::Protocol(ProtocolErrorCode::INTERNAL)), "{:?}", connection.close_reason());
        assert!(connection.is_closed());
    }
    assert_eq!(pair[0].record_counts().0, u64::MAX, "and REKEY's was not used");
}

#[test]
fn a_key_update_keeps_the_counter_up_to_its_end() {
    let mut pair = established();
    let n = u64::MAX - (1 << 16) - 100;
    pair[0].sealer.as_mut().expect("there are keys").start_at(n);
    pair[1].opener.as_mut().expect("there are keys").start_at(n);
    let id = pair[0].open_stream(None, Priority::default()).expect("it opens");
    pair[0].send_stream(id).write(b"!").expect("there is room");
    exchange(&mut pair);
    let theirs = pair[1].accept_stream().expect("it was opened");
    let mut buffer = vec![0; 16 * QUANTUM];
    while pair[0].is_established() {
        if pair[0].send_stream(id).write(&[7; 10]).is_err() {
            exchange(&mut pair);
        }
        while let Ok(Transmit::Bytes(len)) = pair[0].poll_transmit(Instant::ZERO, &mut buffer) {
            pair[1].handle_slice(Instant::ZERO, &mut buffer[..len]);
        }
        while matches!(pair[1].recv_stream(theirs).read(&mut buffer), Ok(1..)) {}
    }
    assert!(pair[0].record_counts().0 > n + (1 << 16), "more records than one key protects");
    exchange(&mut pair);
    assert_eq!(
        pair[1].close_reason().and_then(ConnectionError::code),
        Some(ErrorCode::Protocol(ProtocolErrorCode::INTERNAL))
    );
}
