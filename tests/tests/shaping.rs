//! Shaping: `docs/spec.md` section 19.

use std::time::Duration;

use peermux_core::code::{ErrorCode, ProtocolErrorCode};
use peermux_core::error::ConnectionError;
use peermux_core::time::Instant;
use peermux_core::wire::{Priority, Shaping};
use peermux_core::{Config, ExpectedPeer, Identity, Role, Transmit};
use peermux_tests::{Pair, PairBuilder};

const CONSTANT: Shaping = Shaping::Constant { size: 2, interval: 5_000 };

fn shaped(shaping: Shaping) -> Config {
    Config { shaping, max_shaping: shaping, ..Config::default() }
}

fn pair(shaping: Shaping) -> PairBuilder {
    PairBuilder { initiator_config: shaped(shaping), responder_config: shaped(shaping), ..PairBuilder::default() }
}

fn padme(quanta: usize) -> bool {
    // The greatest number of quanta that stays small: its two or three leading bits say all.
    let exponent = quanta.max(1).ilog2();
    let significant = exponent.max(1).ilog2() + 1;
    exponent <= significant || quanta.is_multiple_of(1 << (exponent - significant))
}

#[test]
fn every_burst_has_a_padme_size() {
    for len in [1, 1000, 10_000, 15_000, 30_000, 50_000, 123_456, 200_000] {
        let mut pair = pair(Shaping::Bucketed).establish();
        let before = pair.initiator.trace.len();
        let id = pair.initiator.conn.open_stream(None, Priority::default()).expect("it opens");
        let data = vec![7; len];
        let mut sent = 0;
        while sent < len {
            sent += pair.initiator.conn.send_stream(id).write(&data[sent..]).unwrap_or(0);
            if sent < len {
                // One burst is enough for this: what the window does not take comes later.
                break;
            }
        }
        pair.transmit(Role::Initiator);
        let burst: usize = pair.initiator.trace[before..].iter().map(|(_, len)| len / 1408).sum();
        assert!(padme(burst), "{len} bytes: {burst} quanta");
        let payload = sent.div_ceil(1408);
        assert!(burst >= payload && burst <= payload + payload / 7 + 3, "{len} bytes: {burst} quanta");
        pair.settle();
        let theirs = pair.responder.conn.accept_stream().expect("it was opened");
        assert_eq!(pair.responder.conn.recv_stream(theirs).readable_len(), sent);
    }
}

#[test]
fn bucketed_connections_come_to_rest_and_are_not_taken_for_attacks() {
    let mut pair = pair(Shaping::Bucketed).establish();
    for _ in 0..20_000 {
        let id = pair.initiator.conn.open_stream(None, Priority::default()).expect("it opens");
        pair.initiator.conn.send_stream(id).write(&[7; 14_000]).expect("there is room");
        pair.initiator.conn.release(id);
        pair.settle();
        while let Some(id) = pair.responder.conn.accept_stream() {
            pair.responder.conn.release(id);
        }
        // Cancelling is what the budget is for; it does not concern this test.
        pair.now = pair.now + Duration::from_millis(4);
    }
    assert!(pair.responder.conn.is_established(), "{:?}", pair.responder.conn.close_reason());
}

/// What both sides send within two seconds, in which one of them does `work` at times.
fn constant_trace(builder: PairBuilder, work: impl Fn(&mut Pair, u64)) -> [Vec<(Instant, usize)>; 2] {
    let mut pair = builder.build();
    for turn in 0..40 {
        pair.run_until(Instant::from_millis(turn * 50));
        work(&mut pair, turn);
    }
    assert!(pair.initiator.conn.is_established() && pair.responder.conn.is_established());
    [pair.initiator.trace, pair.responder.trace]
}

#[test]
fn constant_connections_look_the_same_whatever_they_do_and_however_they_began() {
    let silence = constant_trace(pair(CONSTANT), |_, _| {});
    let writes = |pair: &mut Pair, turn: u64| {
        for side in [&mut pair.initiator, &mut pair.responder] {
            if side.conn.is_established() {
                let id = side
                    .conn
                    .open_stream(Some("test/work"), Priority::from_urgency((turn % 8) as u8).with_incremental(true))
                    .expect("it opens");
                side.conn.send_stream(id).write(&vec![7; 1000 * turn as usize + 1]).expect("there is room");
                if turn.is_multiple_of(3) {
                    side.conn.release(id);
                }
            }
            while let Some(id) = side.conn.accept_stream() {
                while let Ok(Some(_)) = side.conn.recv_stream(id).read_chunk(usize::MAX) {}
            }
        }
    };
    let busy = constant_trace(pair(CONSTANT), writes);
    assert_eq!(silence, busy);
    let unknown = constant_trace(PairBuilder { remote: ExpectedPeer::Any, ..pair(CONSTANT) }, writes);
    assert_eq!(silence, unknown);
    let anonymous = constant_trace(PairBuilder { identity: Identity::Anonymous, ..pair(CONSTANT) }, |_, _| {});
    assert_eq!(silence, anonymous);
    // One record of two quanta in each slot: 2 s are 400 slots.
    assert!(silence[0].len() > 380 && silence[0][4..].iter().all(|(_, len)| *len == 2816));
}

#[test]
fn a_side_that_does_not_accept_what_holds_says_so() {
    for (initiator, responder) in [(CONSTANT, Shaping::Quantised), (Shaping::Quantised, CONSTANT)] {
        for remote in [PairBuilder::default().remote, ExpectedPeer::Any] {
            let mut pair = PairBuilder {
                initiator_config: Config { max_shaping: initiator, shaping: initiator, ..Config::default() },
                responder_config: Config { max_shaping: responder, shaping: responder, ..Config::default() },
                remote,
                ..PairBuilder::default()
            }
            .build();
            pair.run_for(Duration::from_secs(5));
            let code = ErrorCode::Protocol(ProtocolErrorCode::SHAPING_REFUSED);
            for side in [&pair.initiator, &pair.responder] {
                assert_eq!(
                    side.conn.close_reason().and_then(ConnectionError::code),
                    Some(code),
                    "{:?}",
                    side.conn.close_reason()
                );
                assert!(side.conn.is_closed());
            }
        }
    }
}

#[test]
fn slots_go_on_after_a_record_that_does_not_authenticate() {
    let mut pair = pair(CONSTANT).build();
    pair.run_until(Instant::from_millis(1000));
    pair.transmit(Role::Initiator);
    let now = pair.now;
    let record = pair.pipe(Role::Initiator).front_mut();
    if let Some((_, bytes)) = record {
        bytes[100] ^= 1;
    } else {
        pair.pipe(Role::Initiator).push_back((now, vec![0; 2816]));
    }
    let before = pair.responder.trace.len();
    let start = pair.now;
    pair.run_until(start + Duration::from_secs(12));
    assert_eq!(pair.responder.conn.close_reason(), Some(&ConnectionError::DecryptError));
    assert!(pair.responder.conn.is_closed());
    let after = &pair.responder.trace[before..];
    let lasted = after.last().expect("slots went on").0.saturating_since(start);
    assert!(lasted > Duration::from_millis(1900) && lasted < Duration::from_millis(10_100), "{lasted:?}");
    for pair in after.windows(2) {
        assert_eq!(pair[1].0.saturating_since(pair[0].0), Duration::from_millis(5));
    }
}

#[test]
fn a_close_under_slow_constant_shaping_is_orderly() {
    let slow = Shaping::Constant { size: 1, interval: 10_000_000 };
    let config = || Config { max_idle_timeout: None, ..shaped(slow) };
    let builder = || PairBuilder { initiator_config: config(), responder_config: config(), ..PairBuilder::default() };
    for closer in [Role::Initiator, Role::Responder] {
        let mut pair = builder().build();
        pair.run_until(Instant::from_millis(1_000));
        assert!(pair.initiator.conn.is_established() && pair.responder.conn.is_established());
        pair.side(closer).conn.close(ErrorCode::Application(7), "bye");
        pair.run_until(Instant::from_millis(60_000));
        let error = pair.side(closer.peer()).conn.close_reason().cloned();
        assert!(matches!(error, Some(ConnectionError::Closed { .. })), "the peer learned {error:?}");
        let error = pair.side(closer).conn.close_reason().cloned();
        assert!(matches!(error, Some(ConnectionError::Closed { answer: Some(_), .. })), "the closer learned {error:?}");
        assert!(pair.initiator.conn.is_closed() && pair.responder.conn.is_closed());
    }
}

#[test]
fn tampering_after_ones_own_close_under_constant_shaping_is_followed_by_2_to_10_s_of_silence() {
    let mut pair = pair(CONSTANT).build();
    pair.run_until(Instant::from_millis(1_000));
    assert!(pair.initiator.conn.is_established() && pair.responder.conn.is_established());
    let conn = &mut pair.initiator.conn;
    conn.close(ErrorCode::Application(7), "bye");
    // CLOSE leaves with the next slot; nothing of the responder arrives any more.
    let mut buffer = vec![0; 16 * 1408];
    let mut now = pair.now;
    let mut send = |conn: &mut peermux_core::Connection, now| {
        conn.handle_timeout(now);
        conn.poll_transmit(now, &mut buffer).expect("there is room")
    };
    while send(conn, now) != Transmit::Finished {
        now = now + Duration::from_millis(5);
        assert!(now < Instant::from_millis(2_000));
    }
    let at = now;
    assert_eq!(conn.handle_slice(now, &mut vec![0x55; 2816]), 2816);
    conn.handle_eof(now);
    while !conn.is_closed() {
        now = now + Duration::from_millis(5);
        assert_eq!(send(conn, now), Transmit::Finished, "a record after the last one");
        assert!(now.saturating_since(at) < Duration::from_secs(11));
    }
    assert!(now.saturating_since(at) >= Duration::from_secs(2), "{:?}", now.saturating_since(at));
}

#[test]
fn the_slots_of_an_initiator_count_from_when_flight_3_leaves() {
    for remote in [ExpectedPeer::Key(peermux_tests::responder_key().public_key()), ExpectedPeer::Any] {
        let mut pair = PairBuilder { remote, ..pair(CONSTANT) }.build();
        for role in [Role::Initiator, Role::Responder] {
            pair.transmit(role);
            pair.now = pair.now + Duration::from_millis(10);
            assert!(pair.deliver(role.peer()));
        }
        // The transport takes nothing for longer than a slot.
        pair.now = pair.now + Duration::from_millis(7);
        let left = pair.now;
        pair.run_until(left + Duration::from_millis(100));
        let times: Vec<_> = pair.initiator.trace[1..4].iter().map(|(at, _)| at.saturating_since(left)).collect();
        assert_eq!(times, [0, 5, 10].map(Duration::from_millis));
    }
}
