//! The handshake, in all its modes.

use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use peermux_core::code::{ErrorCode, ProtocolErrorCode};
use peermux_core::driver::Progress;
use peermux_core::error::{ConnectionError, Side};
use peermux_core::time::Instant;
use peermux_core::wire::{Priority, Shaping};
use peermux_core::{Config, Event, ExpectedPeer, HandshakeMode, Identity, Role, Transmit};
use peermux_tests::{Drivers, Pair, PairBuilder, initiator_key, responder_key};

fn modes() -> Vec<(&'static str, PairBuilder, HandshakeMode)> {
    let default = PairBuilder::default;
    vec![
        ("IK", default(), HandshakeMode::Ik),
        ("IK, anonymous", PairBuilder { identity: Identity::Anonymous, ..default() }, HandshakeMode::Ik),
        ("unknown", PairBuilder { remote: ExpectedPeer::Any, ..default() }, HandshakeMode::Fallback),
        (
            "unknown, anonymous",
            PairBuilder { remote: ExpectedPeer::Any, identity: Identity::Anonymous, ..default() },
            HandshakeMode::Fallback,
        ),
    ]
}

#[test]
fn every_mode_establishes_and_proves_the_keys() {
    for (name, builder, mode) in modes() {
        let mut pair = builder.establish();
        let seen_by_initiator = pair.initiator.conn.peer().expect(name).clone();
        let seen_by_responder = pair.responder.conn.peer().expect(name).clone();
        assert_eq!(seen_by_initiator.key, responder_key().public_key(), "{name}");
        assert_eq!((seen_by_initiator.mode, seen_by_responder.mode), (mode, mode), "{name}");
        assert_eq!(seen_by_responder.anonymous, name.contains("anonymous"), "{name}");
        assert_eq!(seen_by_responder.key == initiator_key().public_key(), !seen_by_responder.anonymous, "{name}");
        assert_eq!(pair.initiator.conn.channel_binding(), pair.responder.conn.channel_binding(), "{name}");
        pair.initiator.expect_event(|event| matches!(event, Event::Established(_)).then_some(()));
        pair.responder.expect_event(|event| matches!(event, Event::Established(_)).then_some(()));
    }
}

#[test]
fn every_mode_has_the_same_trace_and_so_has_the_first_data() {
    let traces: Vec<_> = modes()
        .into_iter()
        .map(|(_, builder, _)| {
            let mut pair = builder.establish();
            let id = pair.initiator.conn.open_stream(Some("test/trace"), Priority::default()).expect("it opens");
            pair.initiator.conn.send_stream(id).write(&[7; 1000]).expect("there is room");
            pair.settle();
            (pair.initiator.trace, pair.responder.trace)
        })
        .collect();
    assert_eq!(traces[0].0[0].1, 2816);
    assert_eq!(traces[0].0[1].1, 1408);
    assert_eq!(traces[0].1[0].1, 1408);
    for trace in &traces[1..] {
        assert_eq!(*trace, traces[0]);
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let first_flight = |seed| {
        let mut pair = PairBuilder { seed, ..PairBuilder::default() }.build();
        let mut buffer = [0; 2816];
        let written = pair.initiator.conn.poll_transmit(pair.now, &mut buffer);
        assert_eq!(written, Ok(Transmit::Bytes(2816)));
        buffer
    };
    assert_eq!(first_flight(1), first_flight(1));
    assert_ne!(first_flight(1), first_flight(2));
}

#[test]
fn data_flows_both_ways() {
    let mut pair = Pair::established();
    let id = pair.initiator.conn.open_stream(Some("test/echo"), Priority::default()).expect("it opens");
    assert_eq!(pair.initiator.conn.send_stream(id).write(b"hello"), Ok(5));
    pair.initiator.conn.send_stream(id).finish().expect("it is open");
    pair.settle();
    let theirs = pair.responder.conn.accept_stream().expect("it was opened");
    let mut buffer = [0; 16];
    assert_eq!(pair.responder.conn.recv_stream(theirs).protocol().as_deref(), Some("test/echo"));
    assert_eq!(pair.responder.conn.recv_stream(theirs).read(&mut buffer), Ok(5));
    assert_eq!(pair.responder.conn.recv_stream(theirs).read(&mut buffer), Ok(0));
    assert_eq!(pair.responder.conn.send_stream(theirs).write(b"world!"), Ok(6));
    pair.responder.conn.send_stream(theirs).finish().expect("it is open");
    pair.settle();
    assert_eq!(pair.initiator.conn.recv_stream(id).read(&mut buffer), Ok(6));
    assert_eq!(&buffer[..6], b"world!");
    assert_eq!(pair.initiator.conn.recv_stream(id).read(&mut buffer), Ok(0));
    pair.initiator.conn.release(id);
    pair.responder.conn.release(theirs);
    assert_eq!(pair.initiator.conn.stream_count(), 0);
    assert_eq!(pair.responder.conn.stream_count(), 0);
}

fn asking() -> PairBuilder {
    PairBuilder { responder_config: Config { approve_peers: true, ..Config::default() }, ..PairBuilder::default() }
}

const REMOTES: [fn() -> ExpectedPeer; 2] = [|| ExpectedPeer::Key(responder_key().public_key()), || ExpectedPeer::Any];

#[test]
fn an_initiator_learns_that_a_responder_that_asks_has_accepted() {
    for remote in REMOTES {
        let mut pair = PairBuilder { remote: remote(), ..asking() }.build();
        pair.settle();
        assert!(!pair.initiator.conn.is_established(), "nobody has decided");
        assert!(!pair.initiator.events.iter().any(|event| matches!(event, Event::Established(_))));
        // It can send, and nothing of it is delivered.
        let id = pair.initiator.conn.open_stream(None, Priority::default()).expect("it opens");
        pair.initiator.conn.send_stream(id).write(b"hello").expect("there is room");
        pair.settle();
        assert!(!pair.responder.conn.has_incoming());
        pair.responder.conn.accept_peer();
        pair.settle();
        let peer = pair.initiator.expect_event(|event| match event {
            Event::Established(peer) => Some(peer.clone()),
            _ => None,
        });
        assert_eq!(peer.key, responder_key().public_key());
        assert!(pair.initiator.conn.is_established() && pair.responder.conn.is_established());
        assert_eq!(pair.responder.trace.len(), 2, "M2 and one record");
        assert!(pair.responder.conn.has_incoming());
    }
}

#[test]
fn an_initiator_learns_why_it_was_refused_before_it_is_established() {
    for remote in REMOTES {
        let mut pair = PairBuilder { remote: remote(), ..asking() }.build();
        pair.settle();
        pair.responder.conn.refuse_peer(ErrorCode::Application(7), "not you");
        pair.settle();
        assert!(!pair.initiator.events.iter().any(|event| matches!(event, Event::Established(_))));
        let Some(ConnectionError::Closed { by: Side::Peer, closed, .. }) = pair.initiator.conn.close_reason() else {
            panic!("{:?}", pair.initiator.conn.close_reason())
        };
        assert_eq!((closed.code, &*closed.reason), (ErrorCode::Application(7), "not you"));
    }
}

#[test]
fn a_driver_tells_a_refusal_instead_of_progress() {
    for accept in [true, false] {
        let mut drivers = Drivers::new(asking());
        drivers.settle();
        let mut waiter = drivers.initiator.waiter();
        assert_eq!(waiter.poll_handshake(Waker::noop()), Poll::Pending);
        drivers.responder.with(|connection| match accept {
            true => connection.accept_peer(),
            false => connection.refuse_peer(ErrorCode::Application(7), "not you"),
        });
        drivers.settle();
        assert_eq!(drivers.initiator.waiter_count(), 0, "it was woken");
        match waiter.poll_handshake(Waker::noop()) {
            Poll::Ready(Ok(Progress::Established(_))) => assert!(accept),
            Poll::Ready(Err(ConnectionError::Closed { by: Side::Peer, closed, .. })) => {
                assert_eq!((accept, closed.code, &*closed.reason), (false, ErrorCode::Application(7), "not you"));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_decision_may_take_longer_than_the_idle_timeout() {
    for waits in [Role::Initiator, Role::Responder] {
        let mut builder = asking();
        let config =
            if waits == Role::Initiator { &mut builder.initiator_config } else { &mut builder.responder_config };
        (config.max_idle_timeout, config.keep_alive_interval) =
            (Some(Duration::from_secs(2)), Some(Duration::from_secs(1)));
        let mut pair = builder.build();
        pair.run_until(Instant::from_millis(9_000));
        assert_eq!((pair.initiator.conn.close_reason(), pair.responder.conn.close_reason()), (None, None));
        pair.responder.conn.accept_peer();
        pair.settle();
        assert!(pair.initiator.conn.is_established());
        // It holds from then on.
        let silent = pair.now + Duration::from_secs(10);
        pair.pipe(Role::Responder).clear();
        while pair.now < silent && pair.initiator.conn.close_reason().is_none() {
            pair.run_until(pair.now + Duration::from_millis(100));
            for role in [Role::Initiator, Role::Responder] {
                pair.pipe(role).clear();
            }
        }
        assert_eq!(pair.initiator.conn.close_reason(), Some(&ConnectionError::IdleTimeout));
    }
}

#[test]
fn a_responder_that_never_decides_is_not_waited_for_for_ever() {
    let mut pair = PairBuilder { latency: Duration::from_secs(1), ..asking() }.build();
    pair.run_until(Instant::from_millis(60_000));
    let codes = [&pair.initiator, &pair.responder].map(|side| side.conn.close_reason().and_then(ConnectionError::code));
    assert_eq!(codes, [Some(ErrorCode::Protocol(ProtocolErrorCode::DECISION_TIMEOUT)); 2]);
    let Some(ConnectionError::Closed { by: Side::Peer, .. }) = pair.initiator.conn.close_reason() else {
        panic!("{:?}", pair.initiator.conn.close_reason())
    };
    // And one that says nothing at all.
    let mut pair = asking().build();
    pair.settle();
    while pair.initiator.conn.close_reason().is_none() {
        let at = pair.initiator.conn.poll_timeout().expect("there is a timer");
        assert!(at < Instant::from_millis(20_000));
        pair.initiator.conn.handle_timeout(at);
    }
    assert_eq!(pair.initiator.conn.close_reason(), Some(&ConnectionError::DecisionTimeout));
}

/// Under constant shaping slots are filled before the decision: the decision and a long attestation come after more than 16 records.
#[test]
fn a_decision_that_takes_long_under_constant_shaping_is_in_time() {
    let shaping = Shaping::Constant { size: 1, interval: 5000 };
    let config = || Config { shaping, max_shaping: shaping, ..Config::default() };
    let attestation: Option<Arc<[u8]>> = Some(vec![200; 1024].into());
    let mut pair = PairBuilder {
        initiator_config: config(),
        responder_config: Config { approve_peers: true, attestation, ..config() },
        ..PairBuilder::default()
    }
    .build();
    pair.run_until(Instant::from_millis(5_000));
    assert!(pair.initiator.conn.record_counts().1 > 100 && !pair.initiator.conn.is_established());
    pair.responder.conn.accept_peer();
    pair.run_until(Instant::from_millis(6_000));
    assert!(pair.initiator.conn.is_established(), "{:?}", pair.initiator.conn.close_reason());
    assert!(matches!(pair.initiator.conn.attestation(), Poll::Ready(Some(bytes)) if bytes.len() == 1024));
}
