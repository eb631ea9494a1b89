//! How a connection ends: CLOSE, DRAIN, and what both sides say of it (`docs/spec.md` section 13).

use std::time::Duration;

use peermux_core::code::{ErrorCode, ProtocolErrorCode};
use peermux_core::error::{CloseInfo, ConnectionError, OpenError, ReadError, Side, WriteError};
use peermux_core::time::Instant;
use peermux_core::wire::{Frame, Priority};
use peermux_core::{Config, Connection, Event, Role, StreamId, Transmit};
use peermux_tests::hostile::*;
use peermux_tests::{Pair, PairBuilder};

fn closed(error: Option<&ConnectionError>) -> (Side, CloseInfo, Option<CloseInfo>) {
    match error {
        Some(ConnectionError::Closed { by, closed, answer }) => (*by, closed.clone(), answer.clone()),
        other => panic!("it was not closed: {other:?}"),
    }
}

fn opened(conn: &mut Connection) -> StreamId {
    conn.open_stream(Some("test"), Priority::default()).expect("it opens")
}

#[test]
fn both_sides_report_who_closed_and_both_codes() {
    let mut pair = Pair::established();
    pair.responder.conn.close(ErrorCode::Application(42), "tea is ready");
    pair.settle();
    let (by, said, answer) = closed(pair.responder.conn.close_reason());
    assert_eq!((by, said.code, &*said.reason), (Side::Local, ErrorCode::Application(42), "tea is ready"));
    assert_eq!(answer.expect("it was answered").code, ErrorCode::NO_ERROR);
    let (by, said, _) = closed(pair.initiator.conn.close_reason());
    assert_eq!((by, said.code, &*said.reason), (Side::Peer, ErrorCode::Application(42), "tea is ready"));
    assert!(pair.initiator.conn.is_closed() && pair.responder.conn.is_closed());
    let error = pair.initiator.conn.close_reason().expect("it ended").to_string();
    assert_eq!(error, "closed by the peer application: application code 42 (tea is ready)");
}

#[test]
fn closes_that_cross_are_not_answered_and_each_side_knows_both_codes() {
    let mut pair = Pair::established();
    pair.initiator.conn.close(ErrorCode::Application(1), "mine");
    pair.responder.conn.close(ErrorCode::Application(2), "yours");
    let (records_one, records_two) = (pair.initiator.trace.len(), pair.responder.trace.len());
    pair.settle();
    let (by, said, answer) = closed(pair.initiator.conn.close_reason());
    assert_eq!(
        (by, said.code, answer.expect("both spoke").code),
        (Side::Local, ErrorCode::Application(1), ErrorCode::Application(2))
    );
    let (by, said, answer) = closed(pair.responder.conn.close_reason());
    assert_eq!(
        (by, said.code, answer.expect("both spoke").code),
        (Side::Local, ErrorCode::Application(2), ErrorCode::Application(1))
    );
    assert_eq!((pair.initiator.trace.len(), pair.responder.trace.len()), (records_one + 1, records_two + 1));
    assert!(pair.initiator.conn.is_closed() && pair.responder.conn.is_closed());
}

#[test]
fn close_is_told_once_and_doing_it_again_changes_nothing() {
    let mut pair = Pair::established();
    pair.initiator.conn.close(ErrorCode::Application(1), "first");
    pair.initiator.conn.close(ErrorCode::Application(2), "second");
    pair.settle();
    pair.initiator.conn.close(ErrorCode::Application(3), "third");
    pair.settle();
    for side in [&pair.initiator, &pair.responder] {
        assert_eq!(closed(side.conn.close_reason()).1.code, ErrorCode::Application(1));
        assert_eq!(side.events.iter().filter(|event| matches!(event, Event::Closed(_))).count(), 1);
    }
}

#[test]
fn a_reason_is_cut_at_256_bytes_and_stays_text() {
    let mut duel = Duel::new();
    duel.conn().close(ErrorCode::Application(1), &"é".repeat(200));
    let heard = duel.hear();
    let Frame::Close(close) = heard[0].frames()[0] else { panic!("CLOSE goes first") };
    assert_eq!(close.reason, "é".repeat(128));
    let mut duel = Duel::new();
    duel.conn().close(ErrorCode::Application(1), &format!("x{}", "é".repeat(200)));
    let heard = duel.hear();
    let Frame::Close(close) = heard[0].frames()[0] else { panic!("CLOSE goes first") };
    assert_eq!(close.reason.len(), 255);
}

#[test]
fn after_its_close_a_side_reads_for_three_seconds_at_most() {
    let mut duel = Duel::new();
    duel.conn().close(ErrorCode::NO_ERROR, "");
    assert_eq!(duel.hear_close(), Some(ErrorCode::NO_ERROR));
    assert!(duel.talk.finished);
    let until = duel.now + Duration::from_secs(3);
    assert_eq!(duel.conn().poll_timeout(), Some(until));
    // Records that are still under way change nothing.
    duel.now = duel.now + Duration::from_millis(2_999);
    duel.say(&[open(0), data(0, b"late")].concat());
    let now = duel.now;
    duel.talk.time(now);
    assert!(!duel.conn().is_closed());
    assert_eq!(duel.conn().accept_stream(), None);
    assert!(duel.hear().is_empty());
    duel.talk.time(until);
    assert!(duel.conn().is_closed());
    let (by, _, answer) = closed(duel.error());
    assert_eq!((by, answer), (Side::Local, None));
}

#[test]
fn close_from_a_peer_is_answered_and_what_is_queued_is_dropped() {
    let mut duel = Duel::new();
    let id = opened(duel.conn());
    duel.conn().send_stream(id).write(&[1; 100_000]).expect("there is room");
    duel.say_with(0x20, &close(ErrorCode::Application(9), "bye"));
    let heard = duel.hear();
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].header & 0x20, 0x20);
    let frames = heard[0].frames();
    assert!(matches!(frames[..], [Frame::Close(close)] if close.code == ErrorCode::NO_ERROR), "{frames:?}");
    assert!(duel.conn().is_closed());
    assert_eq!(duel.conn().queued(), 0);
}

#[test]
fn the_transport_that_ends_after_the_last_record_ends_the_wait() {
    let mut duel = Duel::new();
    duel.conn().close(ErrorCode::Application(1), "");
    duel.hear();
    let now = duel.now;
    duel.conn().handle_eof(now);
    assert!(duel.conn().is_closed());
    assert_eq!(closed(duel.error()).0, Side::Local);

    // The peer's CLOSE came, and its end of the transport before the answer could be written.
    let mut duel = Duel::new();
    duel.say_with(0x20, &close(ErrorCode::Application(9), "bye"));
    let now = duel.now;
    duel.conn().handle_eof(now);
    assert_eq!(duel.hear_close(), Some(ErrorCode::NO_ERROR));
    assert!(duel.conn().is_closed());
    assert_eq!(closed(duel.error()).0, Side::Peer);
}

#[test]
fn a_close_that_the_transport_does_not_take_does_not_keep_the_connection_for_ever() {
    // The peer reads nothing any more: its CLOSE cannot be written, and it does not end the transport either.
    for violates in [true, false] {
        let mut duel = Duel::new();
        if violates {
            duel.say(&open(1));
        } else {
            duel.conn().close(ErrorCode::NO_ERROR, "");
        }
        assert!(duel.error().is_some());
        for _ in 0..10 {
            if let Some(at) = duel.conn().poll_timeout() {
                duel.now = at;
                duel.talk.time(at);
            }
        }
        assert!(duel.conn().is_closed());
        assert!(duel.now <= Instant::from_millis(30_000), "{:?}", duel.now);
    }
}

#[test]
fn calls_on_a_closed_connection_return_its_error() {
    let mut pair = Pair::established();
    let id = opened(&mut pair.initiator.conn);
    pair.initiator.conn.send_stream(id).write(b"x").expect("there is room");
    pair.settle();
    let theirs = pair.responder.conn.accept_stream().expect("it was opened");
    pair.responder.conn.close(ErrorCode::Application(4), "");
    pair.settle();
    for (side, id) in [(&mut pair.initiator, id), (&mut pair.responder, theirs)] {
        let error = side.conn.close_reason().expect("it ended").clone();
        let mut buffer = [0; 8];
        assert_eq!(side.conn.send_stream(id).write(b"x"), Err(WriteError::Connection(error.clone())));
        assert_eq!(side.conn.send_stream(id).finish(), Err(WriteError::Connection(error.clone())));
        let _ = side.conn.recv_stream(id).read(&mut buffer);
        assert_eq!(side.conn.recv_stream(id).read(&mut buffer), Err(ReadError::Connection(error.clone())));
        assert_eq!(side.conn.open_stream(None, Priority::default()), Err(OpenError::Connection(error)));
        side.conn.release(id);
        assert_eq!(side.conn.stream_count(), 0);
        assert!(!side.conn.is_established());
    }
}

#[test]
fn what_arrived_before_close_can_still_be_read() {
    let mut pair = Pair::established();
    let id = opened(&mut pair.initiator.conn);
    pair.initiator.conn.send_stream(id).write(b"the whole message").expect("there is room");
    pair.initiator.conn.send_stream(id).finish().expect("it is open");
    let other = opened(&mut pair.initiator.conn);
    pair.initiator.conn.send_stream(other).write(b"half a mess").expect("there is room");
    pair.settle();
    pair.initiator.conn.close(ErrorCode::NO_ERROR, "");
    pair.settle();
    let mut buffer = [0; 64];
    let theirs = pair.responder.conn.accept_stream().expect("it was opened");
    assert_eq!(pair.responder.conn.recv_stream(theirs).read(&mut buffer), Ok(17));
    assert_eq!(pair.responder.conn.recv_stream(theirs).read(&mut buffer), Ok(0), "FIN came");
    let theirs = pair.responder.conn.accept_stream().expect("it was opened");
    assert_eq!(pair.responder.conn.recv_stream(theirs).read(&mut buffer), Ok(11));
    assert!(
        matches!(pair.responder.conn.recv_stream(theirs).read(&mut buffer), Err(ReadError::Connection(_))),
        "no FIN came"
    );
}

#[test]
fn a_failure_of_the_transport_says_what_failed() {
    let mut pair = Pair::established();
    let now = pair.now;
    pair.initiator.conn.handle_transport_error(now, "connection reset by peer");
    let error = pair.initiator.conn.close_reason().expect("it ended");
    assert_eq!(*error, ConnectionError::Transport("connection reset by peer".into()));
    assert_eq!(error.to_string(), "the transport failed: connection reset by peer");
    assert!(pair.initiator.conn.is_closed());
    assert_eq!(pair.initiator.conn.poll_timeout(), None);
}

#[test]
fn a_failure_of_the_socket_keeps_its_kind_and_its_number() {
    for number in [110, 104] {
        let mut pair = Pair::established();
        let now = pair.now;
        let failure = std::io::Error::from_raw_os_error(number);
        pair.initiator.conn.handle_transport_error(now, &failure);
        let error = pair.initiator.conn.close_reason().expect("it ended").clone();
        let ConnectionError::Transport(inner) = &error else { panic!("{error:?}") };
        assert_eq!((inner.kind(), inner.raw_os_error()), (failure.kind(), Some(number)));
        assert_eq!(error.to_string(), format!("the transport failed: {failure}"));
        assert_eq!(std::io::Error::from(error).kind(), failure.kind());
    }
}

#[test]
fn a_reader_that_was_stopped_here_stays_stopped_however_the_peer_ends_the_stream() {
    for end in [reset(0, 7), fin(0, b"rest")] {
        let mut duel = Duel::new();
        duel.say(&[open(0), data(0, b"some")].concat());
        let id = duel.conn().accept_stream().expect("it was opened");
        duel.conn().recv_stream(id).stop(ErrorCode::Application(7));
        assert_eq!(duel.conn().recv_stream(id).read(&mut [0; 8]), Err(ReadError::Stopped));
        duel.hear();
        duel.say(&end);
        assert_eq!(duel.conn().recv_stream(id).read(&mut [0; 8]), Err(ReadError::Stopped));
        assert_eq!(duel.conn().recv_stream(id).read_chunk(8), Err(ReadError::Stopped));
    }
}

#[test]
fn reading_into_nothing_gives_nothing() {
    let mut pair = Pair::established();
    let id = opened(&mut pair.initiator.conn);
    assert_eq!(pair.initiator.conn.recv_stream(id).read(&mut []), Ok(0));
    pair.initiator.conn.release(id);
    assert_eq!(pair.initiator.conn.recv_stream(id).read(&mut []), Err(ReadError::StreamClosed));
}

#[test]
fn asking_whether_there_is_something_to_send_changes_nothing() {
    let mut duel = Duel::new();
    duel.conn().close(ErrorCode::Application(1), "");
    let mut buffer = [0; 16 * Q];
    let now = duel.now;
    assert!(matches!(duel.conn().poll_transmit(now, &mut buffer), Ok(Transmit::Bytes(_))));
    assert!(duel.conn().wants_transmit(), "the half-close is to be told");
    assert!(duel.conn().wants_transmit(), "and nobody has been told yet");
    assert_eq!(duel.conn().poll_transmit(now, &mut buffer), Ok(Transmit::Finished));
    assert!(!duel.conn().wants_transmit());
}

#[test]
fn a_close_that_never_leaves_is_given_up_and_the_peers_is_still_read() {
    let mut duel = Duel::new();
    duel.conn().close(ErrorCode::Application(1), "");
    let start = duel.now;
    duel.talk.time(start);
    duel.now = start + Duration::from_secs(3);
    let now = duel.now;
    duel.talk.time(now);
    assert!(!duel.conn().is_closed());
    assert!(duel.hear().is_empty() && duel.talk.finished, "a half-close is all that is left");
    duel.now = duel.now + Duration::from_millis(2_999);
    duel.say_with(0x20, &close(ErrorCode::Application(2), "at last"));
    assert!(duel.conn().is_closed());
    let (by, said, answer) = closed(duel.error());
    assert_eq!((by, said.code), (Side::Local, ErrorCode::Application(1)));
    assert_eq!(answer.expect("it was read").code, ErrorCode::Application(2));

    // And without one it ends.
    let mut duel = Duel::new();
    duel.conn().close(ErrorCode::Application(1), "");
    let start = duel.now;
    while let Some(at) = duel.conn().poll_timeout() {
        duel.now = at.max(duel.now);
        let now = duel.now;
        duel.talk.time(now);
    }
    assert!(duel.conn().is_closed());
    assert_eq!(duel.now.saturating_since(start), Duration::from_secs(6));
}

#[test]
fn draining_lets_everything_finish_and_then_closes() {
    for drainer in [Role::Initiator, Role::Responder] {
        let mut pair = Pair::established();
        let id = opened(&mut pair.initiator.conn);
        pair.initiator.conn.send_stream(id).write(&[1; 60_000]).expect("there is room");
        pair.settle();
        let theirs = pair.responder.conn.accept_stream().expect("it was opened");
        pair.side(drainer).conn.drain(ProtocolErrorCode::GOING_AWAY);
        assert_eq!(pair.side(drainer).conn.open_stream(None, Priority::default()), Err(OpenError::Draining));
        pair.settle();
        let code = pair.side(drainer.peer()).expect_event(|event| match event {
            Event::Draining(code) => Some(*code),
            _ => None,
        });
        assert_eq!(code, ProtocolErrorCode::GOING_AWAY);
        assert_eq!(pair.side(drainer.peer()).conn.open_stream(None, Priority::default()), Err(OpenError::Draining));
        assert!(pair.initiator.conn.is_established() && pair.responder.conn.is_established());

        let mut buffer = [0; 70_000];
        pair.initiator.conn.send_stream(id).write(b"more").expect("what is open goes on");
        pair.initiator.conn.send_stream(id).finish().expect("it is open");
        pair.settle();
        assert_eq!(pair.responder.conn.recv_stream(theirs).read(&mut buffer), Ok(60_004));
        assert_eq!(pair.responder.conn.recv_stream(theirs).read(&mut buffer), Ok(0));
        pair.responder.conn.send_stream(theirs).finish().expect("it is open");
        pair.settle();
        assert_eq!(pair.initiator.conn.recv_stream(id).read(&mut buffer), Ok(0));
        pair.initiator.conn.release(id);
        pair.responder.conn.release(theirs);
        pair.settle();
        let (by, said, _) = closed(pair.side(drainer).conn.close_reason());
        assert_eq!((by, said.code), (Side::Local, ErrorCode::NO_ERROR));
        assert!(pair.initiator.conn.is_closed() && pair.responder.conn.is_closed());
    }
}

#[test]
fn draining_an_idle_connection_closes_it_after_a_round_trip_even_from_both_sides() {
    for both in [false, true] {
        let mut pair = Pair::established();
        pair.initiator.conn.drain(ProtocolErrorCode::DUPLICATE);
        if both {
            pair.responder.conn.drain(ProtocolErrorCode::GOING_AWAY);
        }
        pair.initiator.conn.drain(ProtocolErrorCode::GOING_AWAY);
        pair.settle();
        assert!(pair.initiator.conn.close_reason().expect("it ended").is_orderly());
        assert!(pair.responder.conn.close_reason().expect("it ended").is_orderly());
        assert!(pair.initiator.conn.is_closed() && pair.responder.conn.is_closed());
    }
}

#[test]
fn an_open_that_crosses_drain_is_refused_and_may_be_tried_again() {
    let mut pair = Pair::established();
    let id = opened(&mut pair.initiator.conn);
    pair.initiator.conn.send_stream(id).write(b"crossing").expect("there is room");
    pair.responder.conn.drain(ProtocolErrorCode::GOING_AWAY);
    // No stream is open where DRAIN is sent, and yet the connection stays until the peer has seen it.
    pair.settle();
    let mut buffer = [0; 8];
    assert_eq!(pair.initiator.conn.recv_stream(id).read(&mut buffer), Err(ReadError::Reset(ErrorCode::REFUSED)));
    assert_eq!(pair.initiator.conn.send_stream(id).write(b"x"), Err(WriteError::Stopped(ErrorCode::REFUSED)));
    assert_eq!(pair.responder.conn.accept_stream(), None);
    let (by, said, _) = closed(pair.initiator.conn.close_reason());
    assert_eq!((by, said.code), (Side::Peer, ErrorCode::NO_ERROR));
}

#[test]
fn who_was_drained_closes_once_all_streams_have_ended_and_who_drains_waits_for_that() {
    let mut duel = Duel::new();
    duel.say(&[open(0), data(0, b"hello")].concat());
    let id = duel.conn().accept_stream().expect("it was opened");
    duel.say(&drain(0));
    assert_eq!(duel.hear_close(), None, "a stream is open");
    duel.conn().send_stream(id).finish().expect("it is open");
    assert_eq!(duel.hear_close(), None, "one half is");
    // Its application holds the stream, and has not read it.
    duel.say(&fin(0, b""));
    assert_eq!(duel.hear_close(), Some(ErrorCode::NO_ERROR));
    assert_eq!(closed(duel.error()).0, Side::Peer, "who drained has ended it");
    let mut buffer = [0; 8];
    assert_eq!(duel.conn().recv_stream(id).read(&mut buffer), Ok(5));
    assert_eq!(duel.conn().recv_stream(id).read(&mut buffer), Ok(0));

    let mut duel = Duel::new();
    duel.conn().drain(ProtocolErrorCode::GOING_AWAY);
    let heard = duel.hear();
    assert!(matches!(frames(&heard)[..], [Frame::Drain(_)]), "{heard:?}");
    duel.say(&open(0));
    assert_eq!(duel.hear_close(), None, "it waits for the peer");
    assert!(duel.error().is_none());
    duel.say_with(0x20, &close(ErrorCode::NO_ERROR, ""));
    let (by, said, _) = closed(duel.error());
    assert_eq!((by, said.code), (Side::Local, ErrorCode::NO_ERROR), "who drained has ended it");
    assert_eq!(duel.hear_close(), Some(ErrorCode::NO_ERROR));
}

#[test]
fn drain_sends_what_streams_have_finished() {
    let mut pair = Pair::established();
    let id = opened(&mut pair.initiator.conn);
    pair.initiator.conn.send_stream(id).write(b"hello").expect("there is room");
    pair.initiator.conn.send_stream(id).finish().expect("it is open");
    pair.initiator.conn.release(id);
    pair.initiator.conn.drain(ProtocolErrorCode::GOING_AWAY);
    pair.settle();
    let theirs = pair.responder.conn.accept_stream().expect("the stream that was finished before the drain arrives");
    let mut buffer = [0; 16];
    assert_eq!(pair.responder.conn.recv_stream(theirs).read(&mut buffer), Ok(5));
    assert_eq!(pair.responder.conn.recv_stream(theirs).read(&mut buffer), Ok(0));
    pair.responder.conn.release(theirs);
    pair.settle();
    assert!(pair.initiator.conn.is_closed() && pair.responder.conn.is_closed());
    assert!(pair.responder.conn.close_reason().expect("it ended").is_orderly());
}

#[test]
fn drain_leaves_after_the_open_of_every_stream_that_waits_for_the_peer() {
    let config = Config { max_streams: 16, ..Config::default() };
    let mut pair = PairBuilder { responder_config: config, ..PairBuilder::default() }.establish();
    let ids: Vec<_> = (0..40).map(|_| opened(&mut pair.initiator.conn)).collect();
    for id in ids {
        pair.initiator.conn.send_stream(id).write(b"hello").expect("there is room");
        pair.initiator.conn.send_stream(id).finish().expect("it is open");
        pair.initiator.conn.release(id);
    }
    pair.initiator.conn.drain(ProtocolErrorCode::GOING_AWAY);
    let mut arrived = 0;
    for _ in 0..100 {
        pair.settle();
        while let Some(id) = pair.responder.conn.accept_stream() {
            let mut buffer = [0; 16];
            assert_eq!(pair.responder.conn.recv_stream(id).read(&mut buffer), Ok(5));
            pair.responder.conn.send_stream(id).finish().expect("it is open");
            pair.responder.conn.release(id);
            arrived += 1;
        }
    }
    assert_eq!(arrived, 40);
    assert!(pair.initiator.conn.is_closed() && pair.responder.conn.is_closed());
}

#[test]
fn both_sides_may_drain_with_streams_that_are_not_yet_opened() {
    let config = || Config { max_streams: 16, ..Config::default() };
    let mut pair =
        PairBuilder { initiator_config: config(), responder_config: config(), ..PairBuilder::default() }.establish();
    for role in [Role::Initiator, Role::Responder] {
        for _ in 0..40 {
            let conn = &mut pair.side(role).conn;
            let id = opened(conn);
            conn.send_stream(id).finish().expect("it is open");
            conn.release(id);
        }
        pair.side(role).conn.drain(ProtocolErrorCode::GOING_AWAY);
    }
    pair.run_for(Duration::from_secs(50));
    assert!(pair.initiator.conn.is_closed() && pair.responder.conn.is_closed());
    assert!(pair.initiator.conn.close_reason().expect("it ended").is_orderly());
}

#[test]
fn no_more_streams_are_allowed_after_drain() {
    let mut duel =
        DuelBuilder { config: Config { max_streams: 16, ..Config::default() }, ..DuelBuilder::default() }.build();
    let held: Vec<_> = (0..12)
        .map(|number| {
            duel.say(&open(2 * number));
            duel.conn().accept_stream().expect("it was opened")
        })
        .collect();
    duel.hear();
    duel.conn().drain(ProtocolErrorCode::GOING_AWAY);
    duel.hear();
    for (number, id) in (0..).zip(held).skip(1) {
        duel.say(&fin(2 * number, b""));
        duel.conn().send_stream(id).finish().expect("it is open");
        duel.conn().release(id);
        let heard = duel.hear();
        assert!(!frames(&heard).iter().any(|frame| matches!(frame, Frame::MaxStreams(_))));
    }
}

/// Lets the time pass for the side under test, for a day at most, while the peer answers PING and nothing else. When it ended, from the start.
fn until_it_ends(duel: &mut Duel, mut each: impl FnMut(&mut Duel)) -> Duration {
    let start = duel.now;
    let end = start + Duration::from_secs(86_400);
    while duel.now < end && duel.error().is_none() {
        duel.now = duel.conn().poll_timeout().expect("a timer").min(end);
        let now = duel.now;
        duel.talk.time(now);
        let heard = duel.hear();
        for frame in frames(&heard) {
            if let Frame::Ping(ping) = frame {
                duel.say(&pong(u64::from_be_bytes(ping.0)));
            }
        }
        each(duel);
    }
    duel.now.saturating_since(start)
}

#[test]
fn a_connection_that_nobody_holds_ends_whatever_the_peer_does() {
    let mut duel = Duel::new();
    duel.say(&open(0));
    duel.conn().drain(ProtocolErrorCode::GOING_AWAY);
    while let Some(id) = duel.conn().accept_stream() {
        duel.conn().refuse(id, ErrorCode::REFUSED);
    }
    duel.hear();
    let after = until_it_ends(&mut duel, |_| ());
    assert!(after >= Duration::from_secs(59) && after <= Duration::from_secs(61), "{after:?}");
    let (by, said, _) = closed(duel.error());
    assert_eq!((by, said.code), (Side::Local, ErrorCode::NO_ERROR));
}

#[test]
fn a_draining_connection_goes_on_while_it_makes_progress_but_not_for_ever() {
    // The peer gives much credit on a stream, and little on the connection.
    let settings = vec![(1, 16), (2, 2048), (3, 1 << 20), (4, 16)];
    let mut duel = DuelBuilder { settings, ..DuelBuilder::default() }.build();
    let id = opened(duel.conn());
    duel.conn().send_stream(id).write(&[1; 200_000]).expect("there is room");
    duel.conn().send_stream(id).finish().expect("it is open");
    duel.conn().release(id);
    duel.conn().drain(ProtocolErrorCode::GOING_AWAY);
    let mut credit = 2048;
    let after = until_it_ends(&mut duel, |duel| {
        credit += 1;
        duel.say(&max_data(credit));
    });
    assert!(credit > 2048 + 15, "{credit}");
    assert!(after > Duration::from_secs(14 * 60) && after <= Duration::from_secs(15 * 60 + 1), "{after:?}");
    assert!(duel.error().expect("it ended").is_orderly());
}

#[test]
fn a_connection_that_drains_lasts_as_long_as_the_application_holds_a_stream() {
    let mut duel = Duel::new();
    let id = opened(duel.conn());
    duel.conn().drain(ProtocolErrorCode::GOING_AWAY);
    let after = until_it_ends(&mut duel, |_| ());
    assert_eq!(after, Duration::from_secs(86_400));
    assert!(duel.conn().has_stream(id));
}

#[test]
fn the_sender_of_drain_refuses_every_open_after_it() {
    let mut duel = Duel::new();
    duel.say(&[open(0), data(0, b"before")].concat());
    let before = duel.conn().accept_stream().expect("it was opened");
    duel.conn().drain(ProtocolErrorCode::GOING_AWAY);
    duel.hear();
    for stream in [2, 4] {
        duel.say(&[open(stream), data(stream, b"crossing")].concat());
        let heard = duel.hear();
        let frames = frames(&heard);
        assert!(frames.iter().any(
            |frame| matches!(frame, Frame::Reset(reset) if reset.stream == stream && reset.code == ErrorCode::REFUSED)
        ));
        assert!(frames.iter().any(
            |frame| matches!(frame, Frame::Stop(stop) if stop.stream == stream && stop.code == ErrorCode::REFUSED)
        ));
        duel.say(&reset(stream, 1));
    }
    assert_eq!(duel.conn().accept_stream(), None);
    assert_eq!(duel.conn().stream_count(), 1);
    assert_eq!(duel.conn().unread(), 6);
    // The peer has seen DRAIN: it sends one as well.
    duel.say(&[fin(0, b""), stop(0, 0), drain(0x12)].concat());
    duel.conn().release(before);
    assert_eq!(duel.hear_close(), Some(ErrorCode::NO_ERROR));
}

#[test]
fn streams_that_were_not_yet_opened_are_given_up_by_drain() {
    let config = Config { max_streams: 16, ..Config::default() };
    let mut pair = PairBuilder { responder_config: config, ..PairBuilder::default() }.establish();
    let ids: Vec<_> = (0..20).map(|_| opened(&mut pair.initiator.conn)).collect();
    pair.settle();
    pair.responder.conn.drain(ProtocolErrorCode::GOING_AWAY);
    pair.settle();
    for (index, id) in ids.into_iter().enumerate() {
        let written = pair.initiator.conn.send_stream(id).write(b"x");
        if index < 16 {
            assert_eq!(written, Ok(1));
        } else {
            assert_eq!(written, Err(WriteError::Stopped(ErrorCode::REFUSED)));
            assert_eq!(
                pair.initiator.conn.recv_stream(id).read(&mut [0; 8]),
                Err(ReadError::Reset(ErrorCode::REFUSED))
            );
        }
    }
}

#[test]
fn closing_before_the_handshake_is_over_says_nothing() {
    for role in [Role::Initiator, Role::Responder] {
        let mut pair = PairBuilder::default().build();
        pair.side(role).conn.close(ErrorCode::Application(1), "never mind");
        assert!(pair.side(role).conn.is_closed());
        let now = pair.now;
        let mut buffer = [0; 2816];
        assert_eq!(pair.side(role).conn.poll_transmit(now, &mut buffer), Ok(Transmit::Finished));
    }
}

#[test]
fn a_code_that_nobody_knows_is_taken_like_any_other() {
    let mut duel = Duel::new();
    duel.say_with(0x20, &close(ErrorCode::Protocol(ProtocolErrorCode(0x7777)), "from the future"));
    assert_eq!(duel.error().expect("it ended").code(), Some(ErrorCode::Protocol(ProtocolErrorCode(0x7777))));
    assert_eq!(
        duel.error().expect("it ended").to_string(),
        "closed by the peer protocol: protocol code 0x7777 (from the future)"
    );
    let mut duel = Duel::new();
    duel.say(&drain(0x7777));
    assert!(duel.talk.events.contains(&Event::Draining(ProtocolErrorCode(0x7777))));
    assert_eq!(duel.error(), None);
}
