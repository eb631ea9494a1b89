//! Timers: keepalive, the idle timeout, and a clock that does what it wants (`docs/spec.md` section 15).

use std::time::Duration;

use peermux_core::code::{ErrorCode, ProtocolErrorCode};
use peermux_core::error::ConnectionError;
use peermux_core::time::Instant;
use peermux_core::wire::{Frame, Priority};
use peermux_core::{Config, Role};
use peermux_tests::hostile::*;
use peermux_tests::{Pair, PairBuilder};

const IDLE: ErrorCode = ErrorCode::Protocol(ProtocolErrorCode::IDLE_TIMEOUT);

fn with(idle: Option<u64>, keepalive: Option<u64>) -> Config {
    Config {
        max_idle_timeout: idle.map(Duration::from_secs),
        keep_alive_interval: keepalive.map(Duration::from_secs),
        ..Config::default()
    }
}

#[test]
fn keepalive_leaves_after_a_random_time_between_half_of_it_and_all_of_it() {
    let mut duel = DuelBuilder { config: with(None, Some(20)), ..DuelBuilder::default() }.build();
    let mut gaps = Vec::new();
    for _ in 0..200 {
        let at = duel.conn().poll_timeout().expect("a timer");
        gaps.push(at.saturating_since(duel.now));
        duel.now = at;
        assert!(duel.hear().is_empty());
        duel.talk.time(at);
        let heard = duel.hear();
        assert_eq!(heard.len(), 1);
        let frames = heard[0].frames();
        let [Frame::Ping(ping)] = frames[..] else { panic!("{frames:?}") };
        // The answer is no reason to move the next one.
        let next = duel.conn().poll_timeout();
        duel.say(&pong(u64::from_be_bytes(ping.0)));
        assert_eq!(duel.conn().poll_timeout(), next);
    }
    let (least, most) = (gaps.iter().min().expect("some"), gaps.iter().max().expect("some"));
    assert!(*least >= Duration::from_secs(10) && *most <= Duration::from_secs(20), "{least:?} to {most:?}");
    assert!(*least < Duration::from_millis(11_000) && *most > Duration::from_millis(19_000), "{least:?} to {most:?}");
}

#[test]
fn whatever_is_sent_moves_the_keepalive() {
    let mut duel = DuelBuilder { config: with(None, Some(20)), ..DuelBuilder::default() }.build();
    let id = duel.conn().open_stream(None, Priority::default()).expect("it opens");
    for _ in 0..50 {
        duel.now = duel.now + Duration::from_secs(9);
        let now = duel.now;
        duel.talk.time(now);
        duel.conn().send_stream(id).write(b"x").expect("there is room");
        let heard = duel.hear();
        assert_eq!(heard.len(), 1);
        let at = duel.conn().poll_timeout().expect("a timer");
        assert!(at >= now + Duration::from_secs(10) && at <= now + Duration::from_secs(20));
    }
}

#[test]
fn without_keepalive_an_idle_connection_is_silent_and_ends_at_the_lesser_idle_timeout() {
    for (ours, theirs, expected) in [(Some(30), 0, 30), (Some(30), 40_000, 30), (Some(30), 7_000, 7), (None, 9_000, 9)]
    {
        let settings = vec![(1, 16), (2, 1 << 20), (3, 1 << 20), (5, theirs)];
        let mut duel = DuelBuilder { config: with(ours, None), settings, ..DuelBuilder::default() }.build();
        let at = duel.conn().poll_timeout().expect("a timer");
        assert_eq!(at, Instant::ZERO + Duration::from_secs(expected));
        duel.talk.time(at + Duration::ZERO);
        assert_eq!(duel.error(), Some(&ConnectionError::IdleTimeout));
        duel.now = at;
        assert_eq!(duel.hear_close(), Some(IDLE));
    }
    let settings = vec![(1, 16), (5, 0)];
    let mut duel = DuelBuilder { config: with(None, None), settings, ..DuelBuilder::default() }.build();
    assert_eq!(duel.conn().poll_timeout(), None, "never");
}

#[test]
fn every_record_is_a_sign_of_life_and_bytes_that_are_none_are_not() {
    let mut duel = DuelBuilder { config: with(Some(10), None), ..DuelBuilder::default() }.build();
    for _ in 0..10 {
        duel.now = duel.now + Duration::from_millis(9_999);
        let now = duel.now;
        duel.talk.time(now);
        assert_eq!(duel.error(), None);
        duel.say(&[]);
    }
    // Parts of a record.
    let record = duel.wire.seal(0, &[]);
    for byte in &record[..9] {
        duel.now = duel.now + Duration::from_secs(1);
        duel.feed(&[*byte]);
    }
    let now = duel.now + Duration::from_secs(1);
    duel.talk.time(now);
    assert_eq!(duel.error(), Some(&ConnectionError::IdleTimeout));
}

#[test]
fn keepalive_keeps_an_idle_pair_alive_and_silence_ends_it_on_both_sides() {
    let mut pair = Pair::established();
    pair.run_for(Duration::from_secs(3600));
    assert!(pair.initiator.conn.is_established() && pair.responder.conn.is_established());
    // One or two records each way in every ten seconds, and no more.
    assert!(pair.initiator.trace.len() < 4 * 360, "{}", pair.initiator.trace.len());
    for (_, len) in pair.initiator.trace.iter().skip(1) {
        assert_eq!(*len, Q);
    }
    // From now on nothing arrives.
    let now = pair.now;
    for role in [Role::Initiator, Role::Responder] {
        let side = pair.side(role);
        let mut buffer = vec![0; 16 * Q];
        let mut at = now;
        while side.conn.close_reason().is_none() {
            at = side.conn.poll_timeout().expect("a timer");
            side.conn.handle_timeout(at);
            while let Ok(peermux_core::Transmit::Bytes(_)) = side.conn.poll_transmit(at, &mut buffer) {}
        }
        assert_eq!(side.conn.close_reason(), Some(&ConnectionError::IdleTimeout));
        assert!(at <= now + Duration::from_secs(60), "{at:?}");
    }
}

#[test]
fn a_keepalive_on_the_same_tick_as_the_idle_timeout_ends_the_connection() {
    let mut duel = DuelBuilder { config: with(Some(40), Some(20)), ..DuelBuilder::default() }.build();
    let at = Instant::ZERO + Duration::from_secs(40);
    duel.talk.time(at);
    assert_eq!(duel.error(), Some(&ConnectionError::IdleTimeout));
}

#[test]
fn time_that_goes_back_or_stands_still_does_no_harm() {
    let mut duel = Duel::new();
    duel.now = Instant::from_millis(10_000);
    duel.say(&open(0));
    let stream = duel.conn().accept_stream().expect("it was opened");
    for millis in [9_000, 0, 10_000, 5, 10_000, 10_000] {
        let now = Instant::from_millis(millis);
        duel.now = now;
        duel.talk.time(now);
        duel.say(&data(0, b"x"));
        duel.conn().send_stream(stream).write(b"y").expect("there is room");
        duel.hear();
        assert_eq!(duel.error(), None);
        assert!(duel.conn().poll_timeout().expect("a timer") > Instant::from_millis(10_000));
    }
}

#[test]
fn ten_years_later_the_connection_has_timed_out_and_says_so() {
    for role in [Role::Initiator, Role::Responder] {
        let mut duel = Duel::against(role);
        duel.now = duel.now + Duration::from_secs(10 * 365 * 86_400);
        let now = duel.now;
        duel.talk.time(now);
        assert_eq!(duel.error(), Some(&ConnectionError::IdleTimeout));
        assert_eq!(duel.hear_close(), Some(IDLE));
        let linger = duel.conn().poll_timeout().expect("a timer");
        assert_eq!(linger, now + Duration::from_secs(3));
        duel.talk.time(linger);
        assert!(duel.conn().is_closed());
    }
    let mut end = Duel::new();
    end.talk.time(Instant::from_micros(u64::MAX));
    assert_eq!(end.error(), Some(&ConnectionError::IdleTimeout));
}

#[test]
fn whoever_slept_for_eight_hours_and_finds_records_waiting_goes_on() {
    let mut duel = Duel::new();
    duel.now = duel.now + Duration::from_secs(8 * 3600);
    // The transport is read before the timer is looked at.
    duel.say(&[open(0), data(0, b"good morning")].concat());
    let now = duel.now;
    duel.talk.time(now);
    assert_eq!(duel.error(), None);
}

#[test]
fn timers_that_are_called_early_do_nothing_and_late_ones_do_it_once() {
    let mut duel = DuelBuilder { config: with(Some(60), Some(20)), ..DuelBuilder::default() }.build();
    let at = duel.conn().poll_timeout().expect("a timer");
    for _ in 0..1000 {
        duel.talk.time(Instant::ZERO);
    }
    assert_eq!(duel.conn().poll_timeout(), Some(at));
    assert!(duel.hear().is_empty());
    duel.now = at + Duration::from_secs(5);
    let now = duel.now;
    for _ in 0..10 {
        duel.talk.time(now);
    }
    let heard = duel.hear();
    assert_eq!(frames(&heard).len(), 1, "one PING");
}

/// Runs `duel` by its timers only, without reading or writing, and checks that no expired moment is named twice.
fn does_not_spin(name: &str, duel: &mut Duel) {
    let mut last = None;
    for _ in 0..200 {
        let Some(at) = duel.conn().poll_timeout() else { return };
        if let Some(last) = last {
            assert!(at > last, "{name}: {at:?} is named again");
        }
        duel.now = duel.now.max(at);
        let now = duel.now;
        duel.talk.time(now);
        last = Some(now);
    }
    panic!("{name}: it never ends");
}

#[test]
fn no_expired_moment_is_named_twice_whatever_the_transport_does() {
    for role in [Role::Initiator, Role::Responder] {
        does_not_spin("an idle one that cannot write", &mut Duel::against(role));
        let mut closing = Duel::against(role);
        closing.conn().close(ErrorCode::NO_ERROR, "");
        does_not_spin("one that cannot write its CLOSE", &mut closing);
        let mut closing = Duel::against(role);
        closing.conn().close(ErrorCode::NO_ERROR, "");
        closing.hear();
        does_not_spin("one that waits for the other's CLOSE", &mut closing);
        let mut tampered = Duel::against(role);
        tampered.feed(&[1; Q]);
        does_not_spin("one that is silent", &mut tampered);
        let config = Config { approve_peers: role == Role::Responder, ..Config::default() };
        let mut asked = DuelBuilder { role, config, ..DuelBuilder::default() }.build();
        does_not_spin("one that waits for a decision", &mut asked);
    }
    for role in [Role::Initiator, Role::Responder] {
        let mut pair = PairBuilder::default().build();
        let conn = &mut pair.side(role).conn;
        let mut last = None;
        while let Some(at) = conn.poll_timeout() {
            assert_ne!(Some(at), last);
            conn.handle_timeout(at);
            last = Some(at);
        }
        assert!(conn.is_closed());
    }
}

#[test]
fn timers_that_are_never_called_do_not_stop_the_data() {
    let mut duel = DuelBuilder { config: with(Some(10), Some(5)), ..DuelBuilder::default() }.build();
    duel.say(&open(0));
    let stream = duel.conn().accept_stream().expect("it was opened");
    let mut buffer = [0; 8];
    for _ in 0..100 {
        duel.now = duel.now + Duration::from_secs(100);
        duel.say(&data(0, b"x"));
        assert_eq!(duel.conn().recv_stream(stream).read(&mut buffer), Ok(1));
        duel.conn().send_stream(stream).write(b"y").expect("there is room");
        assert!(!duel.hear().is_empty());
    }
    assert_eq!(duel.error(), None);
}

#[test]
fn a_round_trip_is_measured_by_the_handshake_and_by_pings() {
    let mut pair = PairBuilder { latency: Duration::from_millis(40), ..PairBuilder::default() }.establish();
    assert_eq!(pair.initiator.conn.rtt(), Duration::from_millis(80));
    assert_eq!(pair.responder.conn.rtt(), Duration::from_millis(80));
    pair.run_for(Duration::from_secs(120));
    assert_eq!(pair.initiator.conn.rtt(), Duration::from_millis(80));
}

#[test]
fn a_side_with_a_keepalive_is_not_idle_for_a_peer_with_a_short_idle_timeout() {
    for idle in [8, 1] {
        let mut pair = PairBuilder {
            initiator_config: with(Some(60), Some(20)),
            responder_config: with(Some(idle), None),
            ..PairBuilder::default()
        }
        .establish();
        pair.run_for(Duration::from_secs(60));
        assert!(pair.initiator.conn.is_established(), "{:?}", pair.initiator.conn.close_reason());
        assert!(pair.responder.conn.is_established(), "{:?}", pair.responder.conn.close_reason());
    }
}

#[test]
fn an_idle_timeout_of_less_than_a_second_is_read_as_a_second() {
    for millis in [1, 999, 1000] {
        let settings = vec![(1, 16), (2, 1 << 20), (3, 1 << 20), (5, millis)];
        let mut duel = DuelBuilder { config: with(Some(60), Some(20)), settings, ..DuelBuilder::default() }.build();
        let at = duel.conn().poll_timeout().expect("a timer");
        // A PING each half of a second at the most.
        assert!(at >= Instant::from_millis(250) && at <= Instant::from_millis(500), "{at:?}");
        duel.talk.time(Instant::from_millis(999));
        assert_eq!(duel.error(), None);
        duel.talk.time(Instant::from_millis(1000));
        assert_eq!(duel.error(), Some(&ConnectionError::IdleTimeout));
    }
}
