//! The same seed and the same calls give the same bytes, and what is seen from outside depends on the padded schedule only.

use std::time::Duration;

use peermux_core::code::ErrorCode;
use peermux_core::time::Instant;
use peermux_core::wire::Priority;
use peermux_core::{Config, ExpectedPeer, Role};
use peermux_tests::{Pair, PairBuilder};

/// Everything that was written, with its time and direction.
type Bytes = Vec<(Role, Instant, Vec<u8>)>;

fn script(builder: PairBuilder) -> (Bytes, String) {
    let mut pair = builder.build();
    let mut bytes = Vec::new();
    let mut ids = Vec::new();
    let mut buffer = vec![0; 10_000];
    for round in 0..40u32 {
        for role in [Role::Initiator, Role::Responder] {
            let before = pair.pipe(role).len();
            pair.transmit(role);
            let now = pair.now;
            bytes.extend(pair.pipe(role).iter().skip(before).map(|(_, record)| (role, now, record.clone())));
        }
        pair.now = pair.now + Duration::from_millis(7);
        for role in [Role::Initiator, Role::Responder] {
            pair.deliver(role);
            while let Some(id) = pair.side(role).conn.accept_stream() {
                ids.push((role, id));
            }
        }
        if round < 20 {
            for role in [Role::Initiator, Role::Responder] {
                let conn = &mut pair.side(role).conn;
                let id = conn
                    .open_stream(
                        Some("test"),
                        Priority::from_urgency((round % 8) as u8).with_incremental(round % 2 == 0),
                    )
                    .expect("it opens");
                let _ = conn.send_stream(id).write(&vec![round as u8; 300 * round as usize]);
                ids.push((role, id));
            }
        }
        for (index, (role, id)) in ids.iter().enumerate() {
            let conn = &mut pair.side(*role).conn;
            while let Ok(1..) = conn.recv_stream(*id).read(&mut buffer) {}
            match (index as u32 + round) % 11 {
                0 => conn.send_stream(*id).reset(ErrorCode::Application(1)),
                1 => conn.recv_stream(*id).stop(ErrorCode::Application(2)),
                2 => _ = conn.send_stream(*id).finish(),
                _ => _ = conn.send_stream(*id).write(b"more"),
            }
        }
    }
    let events = format!("{:?}\n{:?}", pair.initiator.events, pair.responder.events);
    (bytes, events)
}

#[test]
fn the_same_seed_and_calls_give_the_same_bytes_and_events() {
    for remote in [None, Some(ExpectedPeer::Any)] {
        let build = |seed| {
            let mut builder = PairBuilder { seed, ..PairBuilder::default() };
            builder.remote = remote.unwrap_or(builder.remote);
            builder
        };
        let (bytes, events) = script(build(5));
        assert!(bytes.len() > 60, "{}", bytes.len());
        assert!((bytes.clone(), events.clone()) == script(build(5)));
        assert!(bytes != script(build(6)).0, "another seed gives other bytes");
    }
}

fn trace(pair: &mut Pair) -> [Vec<(Instant, usize)>; 2] {
    [std::mem::take(&mut pair.initiator.trace), std::mem::take(&mut pair.responder.trace)]
}

fn quiet() -> Pair {
    let config = || Config { keep_alive_interval: None, ..Config::default() };
    let mut pair =
        PairBuilder { initiator_config: config(), responder_config: config(), ..PairBuilder::default() }.establish();
    trace(&mut pair);
    pair
}

#[test]
fn one_stream_or_24_look_the_same() {
    let play = |streams: usize| {
        let mut pair = quiet();
        let ids: Vec<_> = (0..streams)
            .map(|_| pair.initiator.conn.open_stream(None, Priority::default()).expect("it opens"))
            .collect();
        pair.settle();
        // In each round less than a record has to be said, by one stream or by all.
        for _ in 0..5 {
            for id in &ids {
                pair.initiator.conn.send_stream(*id).write(&vec![1; 640 / streams]).expect("there is room");
            }
            pair.run_for(Duration::from_millis(50));
        }
        trace(&mut pair)
    };
    assert_eq!(play(1), play(24));
}

#[test]
fn data_control_or_an_ending_stream_look_the_same() {
    let play = |what: usize| {
        let mut pair = quiet();
        let ids: Vec<_> =
            (0..3).map(|_| pair.initiator.conn.open_stream(None, Priority::default()).expect("it opens")).collect();
        pair.settle();
        pair.run_for(Duration::from_millis(50));
        trace(&mut pair);
        let conn = &mut pair.initiator.conn;
        match what {
            0 => _ = conn.send_stream(ids[0]).write(&[1; 1000]),
            1 => conn.send_stream(ids[0]).finish().expect("it is open"),
            2 => conn.send_stream(ids[0]).reset(ErrorCode::Application(5)),
            3 => conn.recv_stream(ids[0]).request_priority(Priority::from_urgency(0).with_incremental(true)),
            4 => _ = conn.open_stream(Some("a-new-protocol"), Priority::default()),
            _ => {
                let _ = conn.send_stream(ids[1]).write(b"a byte or two");
                conn.send_stream(ids[2]).reset(ErrorCode::CANCELLED);
            }
        }
        pair.run_for(Duration::from_millis(100));
        trace(&mut pair)
    };
    let plain = play(0);
    assert_eq!(plain[0].len(), 1);
    for what in 1..6 {
        assert_eq!(play(what), plain, "{what}");
    }
}

#[test]
fn the_names_and_priorities_of_streams_are_not_seen() {
    let play = |name: Option<&str>, urgency: u8| {
        let mut pair = quiet();
        for _ in 0..5 {
            let id = pair
                .initiator
                .conn
                .open_stream(name, Priority::from_urgency(urgency).with_incremental(urgency % 2 == 1))
                .expect("it opens");
            pair.initiator.conn.send_stream(id).write(&[1; 100]).expect("there is room");
            pair.run_for(Duration::from_millis(30));
        }
        trace(&mut pair)
    };
    let plain = play(None, 3);
    for (name, urgency) in
        [(Some("x"), 0), (Some("a/very/long/name/of/a/protocol/that/takes/all/of/its/64/bytes..."), 7)]
    {
        assert_eq!(play(name, urgency), plain);
    }
}

#[test]
fn a_connection_in_either_mode_with_or_without_grease_looks_the_same() {
    let play = |remote: ExpectedPeer, grease: bool, seed: u64| {
        let config = || Config { grease, keep_alive_interval: None, ..Config::default() };
        let default = PairBuilder::default();
        let builder = PairBuilder { initiator_config: config(), responder_config: config(), remote, seed, ..default };
        let mut pair = builder.establish();
        let id = pair.initiator.conn.open_stream(None, Priority::default()).expect("it opens");
        for _ in 0..30 {
            pair.initiator.conn.send_stream(id).write(&[1; 1300]).expect("there is room");
            pair.run_for(Duration::from_millis(30));
        }
        trace(&mut pair)
    };
    let known = PairBuilder::default().remote;
    let plain = play(known, false, 1);
    for seed in 1..5 {
        assert_eq!(play(known, true, seed), plain);
        assert_eq!(play(ExpectedPeer::Any, true, seed), plain);
    }
}

#[test]
fn an_idle_connection_is_silent_but_for_its_schedule() {
    let mut pair = quiet();
    let id = pair.initiator.conn.open_stream(None, Priority::default()).expect("it opens");
    pair.initiator.conn.send_stream(id).write(b"x").expect("there is room");
    pair.run_for(Duration::from_secs(5));
    let [one, two] = trace(&mut pair);
    assert_eq!((one.len(), two.len()), (1, 0));
    pair.run_for(Duration::from_secs(50));
    assert_eq!(trace(&mut pair), [vec![], vec![]]);
}
