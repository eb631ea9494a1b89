//! Statistics, and what a writer waits for.

use std::time::Duration;

use peermux_core::error::WriteError;
use peermux_core::wire::{FrameKind, Priority};
use peermux_core::{Config, Role};
use peermux_tests::Pair;
use peermux_tests::hostile::*;

#[test]
fn a_connection_counts_what_it_does() {
    let mut pair = Pair::established();
    let id = pair.initiator.conn.open_stream(Some("test/stats"), Priority::default()).expect("it opens");
    pair.initiator.conn.send_stream(id).write(&[7; 10_000]).expect("there is room");
    pair.initiator.conn.send_stream(id).finish().expect("it is open");
    pair.settle();
    let sent = pair.initiator.conn.stats();
    let received = pair.responder.conn.stats();
    assert_eq!((sent.payload_sent, received.payload_received, received.unread), (10_000, 10_000, 10_000));
    assert_eq!((sent.bytes_sent, sent.bytes_received), (received.bytes_received, received.bytes_sent));
    let written: usize = pair.initiator.trace.iter().map(|(_, len)| len).sum();
    assert_eq!(sent.bytes_sent, written as u64);
    assert_eq!((sent.records_sent, sent.records_received), (received.records_received, received.records_sent));
    assert_eq!((sent.streams_opened, received.streams_accepted, sent.streams, received.streams), (1, 1, 1, 1));
    for kind in [FrameKind::Open, FrameKind::Stream, FrameKind::Ping, FrameKind::Skipped, FrameKind::MaxData] {
        assert_eq!(sent.frames_sent.of(kind), received.frames_received.of(kind), "{kind:?}");
    }
    assert_eq!(sent.frames_sent.of(FrameKind::Open), 1);
    assert!(sent.frames_sent.of(FrameKind::Stream) >= 2);
    assert_eq!(sent.frames_sent.total(), received.frames_received.total());
    assert_eq!(sent.rtt, Duration::from_millis(20));

    let theirs = pair.responder.conn.accept_stream().expect("it was opened");
    let stream = pair.responder.conn.stream_stats(theirs).expect("it is held");
    assert_eq!((stream.received, stream.unread), (10_000, 10_000));
    assert_eq!(stream.receive_window, Config::default().stream_receive_window);
    pair.responder.conn.recv_stream(theirs).read(&mut [0; 4_000]).expect("there is something");
    assert_eq!(pair.responder.conn.stream_stats(theirs).expect("it is held").unread, 6_000);
    pair.responder.conn.release(theirs);
    assert_eq!(pair.responder.conn.stream_stats(theirs), None);
}

#[test]
fn the_time_that_writers_are_held_up_is_told_by_its_cause() {
    for by_connection in [false, true] {
        let credit = if by_connection { 4096 } else { 64 * 1024 };
        let config =
            Config { stream_send_buffer: 2048, keep_alive_interval: None, max_idle_timeout: None, ..Config::default() };
        let settings = vec![(1, 16), (2, credit), (3, 4096), (4, 16)];
        let mut duel = DuelBuilder { role: Role::Initiator, config, settings, ..DuelBuilder::default() }.build();
        let held_up = duel.conn().open_stream(None, Priority::default()).expect("it opens");
        let other = duel.conn().open_stream(None, Priority::from_urgency(0)).expect("it opens");
        // The stream's own credit runs out, or another stream uses up the connection's.
        let first = if by_connection { other } else { held_up };
        for _ in 0..2 {
            assert_eq!(duel.conn().send_stream(first).write(&[7; 2048]), Ok(2048));
            duel.hear();
        }
        if by_connection {
            assert_eq!(duel.conn().send_stream(held_up).write(&[7; 4096]), Ok(2048), "as much as is buffered");
        }
        assert_eq!(duel.conn().send_stream(held_up).write(b"!"), Err(WriteError::Blocked));
        duel.now = duel.now + Duration::from_secs(5);
        let wire = duel.conn().recv_stream(held_up).wire_id().expect("it is open");
        duel.say(&[max_stream_data(wire, 8192), max_data(100_000)].concat());
        duel.hear();
        let waited = duel.conn().stream_stats(held_up).expect("it is held").blocked;
        let (long, none) = if by_connection {
            (waited.connection_credit, waited.credit)
        } else {
            (waited.credit, waited.connection_credit)
        };
        assert!(long >= Duration::from_secs(5) && none.is_zero() && waited.transport.is_zero(), "{waited:?}");
        assert_eq!(waited, duel.conn().stats().blocked);
    }
}
