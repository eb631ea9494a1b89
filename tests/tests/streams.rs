//! Streams: their halves and ends, their limits, and who is told (`docs/spec.md` sections 10 and 11).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use peermux_core::code::ErrorCode;
use peermux_core::error::{BlockedOn, OpenError, ReadError, WriteError};
use peermux_core::wire::{Frame, Name, Priority};
use peermux_core::{Config, Connection, Event, ExpectedPeer, Identity, Role, StreamId};
use peermux_tests::hostile::*;
use peermux_tests::{Pair, PairBuilder, initiator_key, responder_key, rng};

fn opened(conn: &mut Connection) -> StreamId {
    conn.open_stream(None, Priority::default()).expect("it opens")
}

fn accepted(pair: &mut Pair) -> StreamId {
    pair.settle();
    pair.responder.conn.accept_stream().expect("it was opened")
}

fn read_all(conn: &mut Connection, id: StreamId) -> (Vec<u8>, Result<usize, ReadError>) {
    let mut read = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match conn.recv_stream(id).read(&mut buffer) {
            Ok(len @ 1..) => read.extend(&buffer[..len]),
            end => return (read, end),
        }
    }
}

/// Counts how often it is woken.
#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn counter() -> (Arc<Counter>, Waker) {
    let counter = Arc::new(Counter::default());
    (counter.clone(), counter.into())
}

/// Wakes whoever is to be woken by `conn`, and says how often `counter` was so far.
fn woken(conn: &mut Connection, counter: &Counter) -> usize {
    while let Some(waker) = conn.poll_waker() {
        waker.wake();
    }
    counter.0.load(Ordering::Relaxed)
}

#[test]
fn each_half_ends_by_itself() {
    let mut pair = Pair::established();
    let id = opened(&mut pair.initiator.conn);
    pair.initiator.conn.send_stream(id).write(b"question").expect("there is room");
    pair.initiator.conn.send_stream(id).finish().expect("it is open");
    pair.initiator.conn.send_stream(id).finish().expect("doing it again changes nothing");
    assert_eq!(pair.initiator.conn.send_stream(id).write(b"x"), Err(WriteError::Closed));
    let theirs = accepted(&mut pair);
    assert_eq!(read_all(&mut pair.responder.conn, theirs), (b"question".to_vec(), Ok(0)));
    assert_eq!(pair.responder.conn.recv_stream(theirs).read(&mut [0; 8]), Ok(0), "the end stays");
    for _ in 0..3 {
        pair.responder.conn.send_stream(theirs).write(b"a long reply ").expect("the other half is open");
        pair.run_for(Duration::from_secs(5));
    }
    pair.responder.conn.send_stream(theirs).finish().expect("it is open");
    pair.settle();
    assert_eq!(read_all(&mut pair.initiator.conn, id), (b"a long reply ".repeat(3), Ok(0)));
}

#[test]
fn data_before_fin_is_never_lost() {
    for len in [0, 1, 1388, 1389, 1390, 1391, 2048, 60_000] {
        let mut pair = Pair::established();
        let id = opened(&mut pair.initiator.conn);
        if len > 0 {
            assert_eq!(pair.initiator.conn.send_stream(id).write(&vec![3; len]), Ok(len));
        }
        pair.initiator.conn.send_stream(id).finish().expect("it is open");
        pair.initiator.conn.release(id);
        let theirs = accepted(&mut pair);
        assert_eq!(read_all(&mut pair.responder.conn, theirs), (vec![3; len], Ok(0)));
    }
}

#[test]
fn a_reset_is_told_with_its_code_and_never_looks_like_an_end() {
    let mut pair = Pair::established();
    let id = opened(&mut pair.initiator.conn);
    let sibling = opened(&mut pair.initiator.conn);
    pair.initiator.conn.send_stream(id).write(b"half of it").expect("there is room");
    pair.initiator.conn.send_stream(sibling).write(b"sibling").expect("there is room");
    let theirs = accepted(&mut pair);
    let theirs_sibling = pair.responder.conn.accept_stream().expect("it was opened");
    pair.initiator.conn.send_stream(id).reset(ErrorCode::Application(404));
    pair.settle();
    assert_eq!(
        read_all(&mut pair.responder.conn, theirs),
        (vec![], Err(ReadError::Reset(ErrorCode::Application(404))))
    );
    assert_eq!(pair.responder.conn.unread(), 7, "what was unread is discarded");
    assert_eq!(pair.initiator.conn.send_stream(id).write(b"x"), Err(WriteError::Closed));
    // The other half and the sibling do not notice.
    pair.responder.conn.send_stream(theirs).write(b"still here").expect("it is open");
    pair.settle();
    assert_eq!(read_all(&mut pair.initiator.conn, id).0, b"still here");
    assert_eq!(read_all(&mut pair.responder.conn, theirs_sibling).0, b"sibling");
}

#[test]
fn a_reset_after_finish_takes_back_what_was_not_sent() {
    let mut duel = Duel::against(Role::Initiator);
    let id = opened(duel.conn());
    duel.hear();
    duel.conn().send_stream(id).write(b"never sent").expect("there is room");
    duel.conn().send_stream(id).finish().expect("it is open");
    duel.conn().send_stream(id).reset(ErrorCode::Application(3));
    let heard = duel.hear();
    assert!(matches!(frames(&heard)[..], [Frame::Reset(reset)] if reset.stream == 0));
}

#[test]
fn letting_go_of_a_stream_that_was_not_finished_resets_it() {
    for write in [0, 5000] {
        let mut pair = Pair::established();
        let id = opened(&mut pair.initiator.conn);
        pair.initiator.conn.send_stream(id).write(&vec![1; write + 1]).expect("there is room");
        let theirs = accepted(&mut pair);
        pair.initiator.conn.release(id);
        assert_eq!(pair.initiator.conn.send_stream(id).write(b"x"), Err(WriteError::StreamClosed));
        assert_eq!(pair.initiator.conn.recv_stream(id).read(&mut [0; 8]), Err(ReadError::StreamClosed));
        assert!(!pair.initiator.conn.has_stream(id));
        pair.settle();
        assert_eq!(
            pair.responder.conn.recv_stream(theirs).read(&mut [0; 8]),
            Err(ReadError::Reset(ErrorCode::CANCELLED))
        );
        assert_eq!(pair.responder.conn.send_stream(theirs).write(b"x"), Err(WriteError::Stopped(ErrorCode::CANCELLED)));
        pair.responder.conn.release(theirs);
        pair.settle();
        assert_eq!((pair.initiator.conn.stream_count(), pair.responder.conn.stream_count()), (0, 0));
    }
}

#[test]
fn stop_is_answered_by_reset_with_the_same_code() {
    let mut pair = Pair::established();
    let id = opened(&mut pair.initiator.conn);
    pair.initiator.conn.send_stream(id).write(&[1; 60_000]).expect("there is room");
    let theirs = accepted(&mut pair);
    pair.responder.conn.recv_stream(theirs).stop(ErrorCode::Application(12));
    assert_eq!(pair.responder.conn.recv_stream(theirs).read(&mut [0; 8]), Err(ReadError::Stopped));
    assert_eq!(pair.responder.conn.unread(), 0);
    pair.settle();
    assert_eq!(pair.initiator.conn.send_stream(id).write(b"x"), Err(WriteError::Stopped(ErrorCode::Application(12))));
    assert_eq!(pair.initiator.conn.send_stream(id).finish(), Ok(()), "all that was written had been sent");
    assert_eq!(
        pair.responder.conn.recv_stream(theirs).read(&mut [0; 8]),
        Err(ReadError::Stopped),
        "RESET changes nothing"
    );
    // The other half goes on.
    pair.responder.conn.send_stream(theirs).write(b"enough, thanks").expect("it is open");
    pair.settle();
    assert_eq!(read_all(&mut pair.initiator.conn, id).0, b"enough, thanks");
}

#[test]
fn finish_and_flush_fail_after_stop_only_if_written_bytes_were_dropped() {
    let settings = vec![(1, 16), (2, 1 << 20), (3, 3_000), (4, 100)];
    let code = ErrorCode::Application(5);
    let ends = |written: usize, sent: bool, finish_first: bool| {
        let mut duel =
            DuelBuilder { role: Role::Initiator, settings: settings.clone(), ..DuelBuilder::default() }.build();
        let id = opened(duel.conn());
        duel.conn().send_stream(id).write(b"x").expect("there is room");
        duel.hear();
        if written > 0 {
            assert_eq!(duel.conn().send_stream(id).write(&vec![1; written]), Ok(written));
        }
        if finish_first {
            duel.conn().send_stream(id).finish().expect("it is open");
        }
        if sent {
            duel.hear();
        }
        duel.say(&stop(0, 5));
        let mut send = duel.conn().send_stream(id);
        let ends = (send.finish(), send.is_flushed());
        assert_eq!(send.finish(), ends.0, "the answer stays the same");
        let told = frames(&duel.hear()).iter().any(|frame| matches!(frame, Frame::Reset(_)));
        assert_eq!(told, !(finish_first && sent), "RESET answers STOP unless FIN was sent");
        ends
    };
    let lost = (Err(WriteError::Stopped(code)), Err(WriteError::Stopped(code)));
    for finish_first in [false, true] {
        assert_eq!(ends(0, true, finish_first), (Ok(()), Ok(true)));
        assert_eq!(ends(2_000, true, finish_first), (Ok(()), Ok(true)));
        assert_eq!(ends(2_000, false, finish_first), lost);
    }
    assert_eq!(ends(0, false, true), (Ok(()), Ok(true)), "FIN alone holds no bytes");
}

#[test]
fn stopped_tells_how_a_sending_half_ended() {
    let mut pair = Pair::established();
    let ids: Vec<_> = (0..4).map(|_| opened(&mut pair.initiator.conn)).collect();
    let (counter, waker) = counter();
    for &id in &ids {
        pair.initiator.conn.send_stream(id).write(b"x").expect("there is room");
        assert_eq!(pair.initiator.conn.send_stream(id).stopped(), Err(WriteError::Blocked));
        pair.initiator.conn.send_stream(id).register_stopped(&waker);
    }
    let theirs = accepted(&mut pair);
    assert_eq!(woken(&mut pair.initiator.conn, &counter), 0, "sending wakes nobody");
    pair.responder.conn.recv_stream(theirs).stop(ErrorCode::Application(9));
    pair.settle();
    assert_eq!(woken(&mut pair.initiator.conn, &counter), 1);
    assert_eq!(pair.initiator.conn.send_stream(ids[0]).stopped(), Ok(Some(ErrorCode::Application(9))));
    pair.initiator.conn.send_stream(ids[1]).finish().expect("it is open");
    pair.settle();
    assert_eq!(woken(&mut pair.initiator.conn, &counter), 2);
    assert_eq!(pair.initiator.conn.send_stream(ids[1]).stopped(), Ok(None));
    pair.initiator.conn.send_stream(ids[2]).reset(ErrorCode::Application(1));
    assert_eq!(woken(&mut pair.initiator.conn, &counter), 3);
    assert_eq!(pair.initiator.conn.send_stream(ids[2]).stopped(), Ok(None));
    // Without a waker there is an event; and the end of the connection is an end as well.
    let id = opened(&mut pair.initiator.conn);
    assert_eq!(pair.initiator.conn.send_stream(id).stopped(), Err(WriteError::Blocked));
    pair.initiator.conn.close(ErrorCode::Application(0), "");
    assert_eq!(woken(&mut pair.initiator.conn, &counter), 4);
    assert!(matches!(pair.initiator.conn.send_stream(ids[3]).stopped(), Err(WriteError::Connection(_))));
    assert!(std::iter::from_fn(|| pair.initiator.conn.poll_event()).any(|event| event == Event::Stopped(id)));
    assert_eq!(
        pair.initiator.conn.send_stream(ids[0]).stopped(),
        Ok(Some(ErrorCode::Application(9))),
        "what was so stays so"
    );
}

#[test]
fn what_was_finished_and_then_stopped_unread_is_no_clean_end() {
    let mut pair = Pair::established();
    let id = opened(&mut pair.initiator.conn);
    pair.initiator.conn.send_stream(id).write(b"all of it").expect("there is room");
    pair.initiator.conn.send_stream(id).finish().expect("it is open");
    let theirs = accepted(&mut pair);
    pair.responder.conn.recv_stream(theirs).stop(ErrorCode::Application(1));
    assert_eq!(pair.responder.conn.recv_stream(theirs).read(&mut [0; 8]), Err(ReadError::Stopped));
}

#[test]
fn stop_and_reset_that_cross_do_no_harm() {
    let mut pair = Pair::established();
    let id = opened(&mut pair.initiator.conn);
    pair.initiator.conn.send_stream(id).write(b"x").expect("there is room");
    let theirs = accepted(&mut pair);
    pair.initiator.conn.send_stream(id).reset(ErrorCode::Application(1));
    pair.initiator.conn.recv_stream(id).stop(ErrorCode::Application(2));
    pair.responder.conn.recv_stream(theirs).stop(ErrorCode::Application(3));
    pair.responder.conn.send_stream(theirs).reset(ErrorCode::Application(4));
    pair.settle();
    for (conn, id) in [(&mut pair.initiator.conn, id), (&mut pair.responder.conn, theirs)] {
        assert_eq!(conn.recv_stream(id).read(&mut [0; 8]), Err(ReadError::Stopped));
    }
    pair.initiator.conn.release(id);
    pair.responder.conn.release(theirs);
    pair.settle();
    assert_eq!((pair.initiator.conn.stream_count(), pair.responder.conn.stream_count()), (0, 0));
    assert!(pair.initiator.conn.is_established() && pair.responder.conn.is_established());
}

#[test]
fn a_stream_that_is_given_up_before_its_open_sends_nothing_and_uses_no_id() {
    let mut duel = Duel::against(Role::Initiator);
    for how in 0..2 {
        let id = duel.conn().open_stream(Some("never-seen"), Priority::default()).expect("it opens");
        duel.conn().send_stream(id).write(b"never sent").expect("there is room");
        if how == 0 {
            duel.conn().send_stream(id).reset(ErrorCode::Application(1));
            assert_eq!(duel.conn().recv_stream(id).read(&mut [0; 8]), Err(ReadError::Reset(ErrorCode::Application(1))));
        }
        duel.conn().release(id);
        assert!(duel.hear().is_empty());
        assert_eq!(duel.conn().stream_count(), 0);
    }
    let id = duel.conn().open_stream(Some("seen"), Priority::default()).expect("it opens");
    let heard = duel.hear();
    assert!(
        matches!(frames(&heard)[..], [Frame::Open(open)] if open.stream == 0 && open.name == Name::Entered("seen"))
    );
    assert_eq!(duel.conn().recv_stream(id).wire_id(), Some(0));
}

#[test]
fn refusing_says_stop_and_reset_with_the_code() {
    let mut pair = Pair::established();
    let id = pair.initiator.conn.open_stream(Some("unheard-of"), Priority::default()).expect("it opens");
    let theirs = accepted(&mut pair);
    pair.responder.conn.refuse(theirs, ErrorCode::UNKNOWN_PROTOCOL);
    pair.settle();
    assert_eq!(pair.initiator.conn.send_stream(id).write(b"x"), Err(WriteError::Stopped(ErrorCode::UNKNOWN_PROTOCOL)));
    assert_eq!(
        pair.initiator.conn.recv_stream(id).read(&mut [0; 8]),
        Err(ReadError::Reset(ErrorCode::UNKNOWN_PROTOCOL))
    );
    pair.initiator.conn.release(id);
    pair.settle();
    assert_eq!((pair.initiator.conn.stream_count(), pair.responder.conn.stream_count()), (0, 0));
}

#[test]
fn beyond_the_limit_of_streams_opening_waits_and_goes_on() {
    let config = Config { max_streams: 16, ..Config::default() };
    let mut pair = PairBuilder { responder_config: config, ..PairBuilder::default() }.establish();
    let ids: Vec<_> = (0..100).map(|_| opened(&mut pair.initiator.conn)).collect();
    for (index, id) in ids.iter().enumerate() {
        pair.initiator.conn.send_stream(*id).write(&[index as u8; 100]).expect("there is room");
        pair.initiator.conn.send_stream(*id).finish().expect("it is open");
    }
    let mut seen = 0;
    while seen < 100 {
        pair.settle();
        assert!(pair.responder.conn.stream_count() <= 16);
        let theirs = pair.responder.conn.accept_stream().expect("the next one came");
        assert_eq!(read_all(&mut pair.responder.conn, theirs), (vec![seen as u8; 100], Ok(0)));
        pair.responder.conn.release(theirs);
        seen += 1;
    }
    for id in ids {
        pair.initiator.conn.release(id);
    }
    pair.settle();
    assert_eq!((pair.initiator.conn.stream_count(), pair.responder.conn.stream_count()), (0, 0));
}

#[test]
fn names_beyond_the_table_still_arrive_and_known_ones_are_short() {
    let mut pair = Pair::established();
    let name = |index: usize| format!("protocol/of/the/number/{index}");
    for round in 0..2 {
        for index in 0..70 {
            let id = pair.initiator.conn.open_stream(Some(&name(index)), Priority::default()).expect("it opens");
            pair.settle();
            let theirs = pair.responder.conn.accept_stream().expect("it was opened");
            assert_eq!(pair.responder.conn.recv_stream(theirs).protocol().as_deref(), Some(&*name(index)), "{round}");
            pair.initiator.conn.release(id);
            pair.responder.conn.release(theirs);
        }
    }
    let mut duel = Duel::against(Role::Initiator);
    let mut forms = Vec::new();
    for index in (0..66).chain([0, 63, 65]) {
        duel.conn().open_stream(Some(&name(index)), Priority::default()).expect("it opens");
        for frame in frames(&duel.hear()) {
            if let Frame::Open(open) = frame {
                forms.push(match open.name {
                    Name::Entered(_) => 1,
                    Name::Literal(_) => 2,
                    Name::Index(index) => 3 + index,
                    Name::None => 0,
                });
            }
        }
    }
    let expected: Vec<u64> = std::iter::repeat_n(1, 64).chain([2, 2, 3, 66, 2]).collect();
    assert_eq!(forms, expected);
}

#[test]
fn names_that_are_none_are_refused_here() {
    let mut pair = Pair::established();
    for name in ["", "a b", "é", "tab\t", &"x".repeat(65)] {
        assert_eq!(pair.initiator.conn.open_stream(Some(name), Priority::default()), Err(OpenError::Name));
    }
    assert!(pair.initiator.conn.open_stream(Some(&"x".repeat(64)), Priority::default()).is_ok());
}

#[test]
fn ten_thousand_streams_at_once_all_carry_their_data() {
    const COUNT: usize = 10_000;
    let config =
        || Config { max_streams: COUNT as u64, receive_window: 64 << 20, send_buffer: 64 << 20, ..Config::default() };
    let builder = PairBuilder { initiator_config: config(), responder_config: config(), ..PairBuilder::default() };
    let mut pair = builder.establish();
    let content = |index: usize, back: bool| (index * 7 + usize::from(back)).to_be_bytes().repeat(20);
    let ids: Vec<_> = (0..COUNT).map(|_| opened(&mut pair.initiator.conn)).collect();
    for (index, id) in ids.iter().enumerate() {
        pair.initiator.conn.send_stream(*id).write(&content(index, false)).expect("there is room");
    }
    pair.settle();
    let theirs: Vec<_> = std::iter::from_fn(|| pair.responder.conn.accept_stream()).collect();
    assert_eq!(theirs.len(), COUNT);
    for (index, id) in theirs.iter().enumerate() {
        assert_eq!(read_all(&mut pair.responder.conn, *id), (content(index, false), Err(ReadError::Blocked)));
        pair.responder.conn.send_stream(*id).write(&content(index, true)).expect("there is room");
        pair.responder.conn.send_stream(*id).finish().expect("it is open");
    }
    pair.settle();
    for (index, id) in ids.iter().enumerate() {
        assert_eq!(read_all(&mut pair.initiator.conn, *id), (content(index, true), Ok(0)));
        pair.initiator.conn.send_stream(*id).finish().expect("it is open");
        pair.initiator.conn.release(*id);
    }
    pair.settle();
    for id in theirs {
        assert_eq!(read_all(&mut pair.responder.conn, id), (vec![], Ok(0)));
        pair.responder.conn.release(id);
    }
    pair.settle();
    assert_eq!((pair.initiator.conn.stream_count(), pair.responder.conn.stream_count()), (0, 0));
}

#[test]
fn an_id_is_never_that_of_a_later_stream() {
    let mut pair = Pair::established();
    let first = opened(&mut pair.initiator.conn);
    pair.initiator.conn.release(first);
    let second = opened(&mut pair.initiator.conn);
    assert_ne!(first, second);
    assert_eq!(pair.initiator.conn.send_stream(first).write(b"x"), Err(WriteError::StreamClosed));
    pair.initiator.conn.release(first);
    assert!(pair.initiator.conn.has_stream(second));
}

#[test]
fn writing_takes_nothing_without_room_and_says_what_it_waits_for() {
    let config = Config { stream_send_buffer: 10_000, ..Config::default() };
    let builder = PairBuilder { initiator_config: config, capacity: 0, ..PairBuilder::default() };
    let mut pair = builder.build();
    let id = opened(&mut pair.initiator.conn);
    assert_eq!(pair.initiator.conn.send_stream(id).blocked_on(), Some(BlockedOn::Handshake));
    assert_eq!(pair.initiator.conn.send_stream(id).write(&[1; 5000]), Ok(2048));
    for _ in 0..3 {
        assert_eq!(pair.initiator.conn.send_stream(id).write(&[1; 5000]), Err(WriteError::Blocked));
        let mut chunk = bytes::Bytes::from_static(&[2; 100]);
        assert_eq!(pair.initiator.conn.send_stream(id).write_chunk(&mut chunk), Err(WriteError::Blocked));
        assert_eq!(chunk.len(), 100);
    }
    assert_eq!(pair.initiator.conn.queued(), 2048);
}

#[test]
fn waits_for_names_each_reason() {
    let settings = vec![(1, 1), (2, 6000), (3, 4096), (4, 16)];
    let builder = DuelBuilder { role: Role::Initiator, settings, ..DuelBuilder::default() };
    let mut duel = builder.build();
    let id = opened(duel.conn());
    assert_eq!(duel.conn().send_stream(id).blocked_on(), Some(BlockedOn::Transport), "OPEN is to be written");
    duel.hear();
    assert_eq!(duel.conn().send_stream(id).blocked_on(), Some(BlockedOn::Application));
    assert_eq!(duel.conn().send_stream(id).write(&[1; 9000]), Ok(4096));
    assert_eq!(duel.conn().send_stream(id).blocked_on(), Some(BlockedOn::Transport));
    let urgent = duel.conn().open_stream(None, Priority::from_urgency(0)).expect("it opens");
    assert_eq!(duel.conn().send_stream(id).blocked_on(), Some(BlockedOn::Priority));
    duel.hear();
    assert_eq!(duel.conn().send_stream(id).blocked_on(), Some(BlockedOn::Credit));
    assert_eq!(duel.conn().send_stream(urgent).write(&[1; 9000]), Ok(4096));
    duel.hear();
    assert_eq!(duel.conn().send_stream(urgent).blocked_on(), Some(BlockedOn::ConnectionCredit));
    duel.say(&max_data(100_000));
    duel.hear();
    assert_eq!(duel.conn().send_stream(urgent).blocked_on(), Some(BlockedOn::Credit));
    duel.say(&max_stream_data(0, 5000));
    assert_eq!(duel.conn().send_stream(id).blocked_on(), Some(BlockedOn::Application));
    for _ in 0..14 {
        opened(duel.conn());
    }
    duel.hear();
    let late = opened(duel.conn());
    assert_eq!(duel.conn().send_stream(late).blocked_on(), Some(BlockedOn::StreamLimit));
    duel.conn().send_stream(id).finish().expect("it is open");
    assert_eq!(duel.conn().send_stream(id).blocked_on(), Some(BlockedOn::Transport));
    duel.hear();
    assert_eq!(duel.conn().send_stream(id).blocked_on(), Some(BlockedOn::Ended));
    duel.conn().release(late);
    assert_eq!(duel.conn().send_stream(late).blocked_on(), None);
}

#[test]
fn a_reader_is_woken_by_data_fin_reset_and_the_end_of_the_connection() {
    type Act = fn(&mut Connection, StreamId);
    let acts: [(&str, Act); 4] = [
        ("data", |conn, id| _ = conn.send_stream(id).write(b"x")),
        ("FIN", |conn, id| conn.send_stream(id).finish().expect("it is open")),
        ("RESET", |conn, id| conn.send_stream(id).reset(ErrorCode::Application(1))),
        ("CLOSE", |conn, _| conn.close(ErrorCode::NO_ERROR, "")),
    ];
    for (name, act) in acts {
        for wakes in [true, false] {
            let mut pair = Pair::established();
            let id = opened(&mut pair.initiator.conn);
            let theirs = accepted(&mut pair);
            pair.responder.events.clear();
            let (counter, waker) = counter();
            assert_eq!(pair.responder.conn.recv_stream(theirs).read(&mut [0; 8]), Err(ReadError::Blocked));
            if wakes {
                pair.responder.conn.recv_stream(theirs).register(&waker);
            }
            act(&mut pair.initiator.conn, id);
            pair.settle();
            let events = pair.responder.events.iter().filter(|event| **event == Event::Readable(theirs)).count();
            assert_eq!(woken(&mut pair.responder.conn, &counter), usize::from(wakes), "{name}");
            assert_eq!(events, usize::from(!wakes), "{name}");
            assert_ne!(pair.responder.conn.recv_stream(theirs).read(&mut [0; 8]), Err(ReadError::Blocked), "{name}");
        }
    }
}

#[test]
fn a_writer_is_woken_by_credit_stop_and_the_end_of_the_connection() {
    type Act = fn(&mut Connection, StreamId);
    let acts: [(&str, Act); 3] = [
        ("credit", |conn, id| _ = read_all(conn, id)),
        ("STOP", |conn, id| conn.recv_stream(id).stop(ErrorCode::Application(1))),
        ("CLOSE", |conn, _| conn.close(ErrorCode::NO_ERROR, "")),
    ];
    for (name, act) in acts {
        for wakes in [true, false] {
            let mut pair = Pair::established();
            let id = opened(&mut pair.initiator.conn);
            while pair.initiator.conn.send_stream(id).write(&[1; 10_000]).is_ok() {
                pair.settle();
            }
            let theirs = accepted(&mut pair);
            pair.initiator.events.clear();
            let (counter, waker) = counter();
            assert_eq!(pair.initiator.conn.send_stream(id).write(b"x"), Err(WriteError::Blocked));
            if wakes {
                pair.initiator.conn.send_stream(id).register(&waker);
            }
            act(&mut pair.responder.conn, theirs);
            pair.settle();
            let events = pair.initiator.events.iter().filter(|event| **event == Event::Writable(id)).count();
            assert_eq!(woken(&mut pair.initiator.conn, &counter), usize::from(wakes), "{name}");
            assert_eq!(events, usize::from(!wakes), "{name}");
            assert_ne!(pair.initiator.conn.send_stream(id).write(b"x"), Err(WriteError::Blocked), "{name}");
        }
    }
}

#[test]
fn whoever_waits_is_woken_by_what_this_side_does_to_the_half_itself() {
    type Act = fn(&mut Connection, StreamId);
    let acts: [(&str, bool, Act); 4] = [
        ("reset", false, |conn, id| conn.send_stream(id).reset(ErrorCode::Application(1))),
        ("finish", false, |conn, id| conn.send_stream(id).finish().expect("it is open")),
        ("stop", true, |conn, id| conn.recv_stream(id).stop(ErrorCode::Application(1))),
        ("close", true, |conn, _| conn.close(ErrorCode::NO_ERROR, "")),
    ];
    for (name, reads, act) in acts {
        let mut pair = Pair::established();
        let id = opened(&mut pair.initiator.conn);
        let (counter, waker) = counter();
        if reads {
            assert_eq!(pair.initiator.conn.recv_stream(id).read(&mut [0; 8]), Err(ReadError::Blocked));
            pair.initiator.conn.recv_stream(id).register(&waker);
        } else {
            while pair.initiator.conn.send_stream(id).write(&[1; 10_000]).is_ok() {
                pair.settle();
            }
            pair.initiator.conn.send_stream(id).register(&waker);
        }
        act(&mut pair.initiator.conn, id);
        assert_eq!(woken(&mut pair.initiator.conn, &counter), 1, "{name}");
    }
}

#[test]
fn writers_that_wait_for_room_in_the_connection_are_all_woken() {
    let config = Config { send_buffer: 50_000, ..Config::default() };
    let mut pair = PairBuilder { initiator_config: config, ..PairBuilder::default() }.establish();
    let ids: Vec<_> = (0..10).map(|_| opened(&mut pair.initiator.conn)).collect();
    pair.settle();
    let mut counters = Vec::new();
    for id in &ids {
        while pair.initiator.conn.send_stream(*id).write(&[1; 60_000]).is_ok() {}
        let (counter, waker) = counter();
        pair.initiator.conn.send_stream(*id).register(&waker);
        counters.push(counter);
    }
    assert!(pair.initiator.conn.queued() >= 50_000);
    pair.settle();
    for (id, counter) in ids.iter().zip(counters) {
        woken(&mut pair.initiator.conn, &counter);
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        assert!(pair.initiator.conn.send_stream(*id).write(b"x").is_ok());
    }
}

#[test]
fn flushing_is_told() {
    let mut pair = Pair::established();
    let id = opened(&mut pair.initiator.conn);
    assert_eq!(pair.initiator.conn.send_stream(id).is_flushed(), Ok(false), "OPEN is not written");
    pair.settle();
    assert_eq!(pair.initiator.conn.send_stream(id).is_flushed(), Ok(true));
    pair.initiator.conn.send_stream(id).write(&[1; 5000]).expect("there is room");
    assert_eq!(pair.initiator.conn.send_stream(id).is_flushed(), Ok(false));
    let (counter, waker) = counter();
    pair.initiator.conn.send_stream(id).register(&waker);
    pair.settle();
    assert_eq!(woken(&mut pair.initiator.conn, &counter), 1);
    assert_eq!(pair.initiator.conn.send_stream(id).is_flushed(), Ok(true));
    pair.initiator.conn.send_stream(id).finish().expect("it is open");
    assert_eq!(pair.initiator.conn.send_stream(id).is_flushed(), Ok(false));
    pair.settle();
    assert_eq!(pair.initiator.conn.send_stream(id).is_flushed(), Ok(true));
}

#[test]
fn an_accepted_stream_is_told_of_once() {
    let mut pair = Pair::established();
    pair.responder.events.clear();
    for _ in 0..3 {
        opened(&mut pair.initiator.conn);
    }
    pair.settle();
    assert!(pair.responder.events.contains(&Event::StreamOpened));
    assert!((0..3).all(|_| pair.responder.conn.accept_stream().is_some()));
    assert_eq!(pair.responder.conn.accept_stream(), None);
    assert!(!pair.responder.conn.has_incoming());
}

#[test]
fn streams_opened_before_the_handshake_go_with_flight_3() {
    for remote in [ExpectedPeer::Key(responder_key().public_key()), ExpectedPeer::Any] {
        let mut pair = PairBuilder { remote, ..PairBuilder::default() }.build();
        let id = opened(&mut pair.initiator.conn);
        pair.initiator.conn.send_stream(id).write(b"with the first flight that may").expect("there is room");
        pair.initiator.conn.send_stream(id).finish().expect("it is open");
        pair.settle();
        assert_eq!(pair.initiator.trace.len(), 2);
        let theirs = pair.responder.conn.accept_stream().expect("it was opened");
        assert_eq!(read_all(&mut pair.responder.conn, theirs), (b"with the first flight that may".to_vec(), Ok(0)));
    }
    // Nothing is taken for granted: not even that the handshake ends.
    let config = Arc::new(Config::default());
    let now = peermux_core::time::Instant::ZERO;
    let identity = Identity::Static(initiator_key());
    let mut conn = Connection::initiator(config, identity, ExpectedPeer::Any, now, &mut rng(1)).expect("valid");
    let id = opened(&mut conn);
    conn.send_stream(id).write(b"x").expect("there is room");
    conn.handle_eof(now);
    assert!(matches!(conn.send_stream(id).write(b"x"), Err(WriteError::Connection(_))));
    assert!(matches!(conn.recv_stream(id).read(&mut [0; 8]), Err(ReadError::Connection(_))));
}
