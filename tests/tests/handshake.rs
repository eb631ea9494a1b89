//! The handshake, in all its modes.

use peermux_core::wire::Priority;
use peermux_core::{Event, Identity, Mode, Remote, Transmit};
use peermux_tests::{Pair, PairBuilder, initiator_key, responder_key};

fn modes() -> Vec<(&'static str, PairBuilder, Mode)> {
    let default = PairBuilder::default;
    vec![
        ("IK", default(), Mode::Ik),
        ("IK, anonymous", PairBuilder { identity: Identity::Anonymous, ..default() }, Mode::Ik),
        ("unknown", PairBuilder { remote: Remote::Anyone, ..default() }, Mode::Fallback),
        (
            "unknown, anonymous",
            PairBuilder { remote: Remote::Anyone, identity: Identity::Anonymous, ..default() },
            Mode::Fallback,
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
            let id = pair.initiator.conn.open(Some("test/trace"), Priority::default()).expect("it opens");
            pair.initiator.conn.send(id).write(&[7; 1000]).expect("there is room");
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
    let id = pair.initiator.conn.open(Some("test/echo"), Priority::default()).expect("it opens");
    assert_eq!(pair.initiator.conn.send(id).write(b"hello"), Ok(5));
    pair.initiator.conn.send(id).finish().expect("it is open");
    pair.settle();
    let theirs = pair.responder.conn.accept().expect("it was opened");
    let mut buffer = [0; 16];
    assert_eq!(pair.responder.conn.recv(theirs).protocol().as_deref(), Some("test/echo"));
    assert_eq!(pair.responder.conn.recv(theirs).read(&mut buffer), Ok(5));
    assert_eq!(pair.responder.conn.recv(theirs).read(&mut buffer), Ok(0));
    assert_eq!(pair.responder.conn.send(theirs).write(b"world!"), Ok(6));
    pair.responder.conn.send(theirs).finish().expect("it is open");
    pair.settle();
    assert_eq!(pair.initiator.conn.recv(id).read(&mut buffer), Ok(6));
    assert_eq!(&buffer[..6], b"world!");
    assert_eq!(pair.initiator.conn.recv(id).read(&mut buffer), Ok(0));
    pair.initiator.conn.release(id);
    pair.responder.conn.release(theirs);
    assert_eq!(pair.initiator.conn.stream_count(), 0);
    assert_eq!(pair.responder.conn.stream_count(), 0);
}
