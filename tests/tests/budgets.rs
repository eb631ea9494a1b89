//! What a peer may repeat for free is counted, and has an end; what is within the safe harbour has none (`docs/spec.md` section 18.2).

use std::time::Duration;

use peermux_core::code::{ErrorCode, ProtocolErrorCode};
use peermux_core::wire::{Frame, FrameKind, Priority};
use peermux_core::{Config, Role, Transmit};
use peermux_tests::PairBuilder;
use peermux_tests::hostile::*;

const LOAD: Option<ErrorCode> = Some(ErrorCode::Protocol(ProtocolErrorCode::EXCESSIVE_LOAD));
const ROOM: usize = Q - 17;

/// A duel whose application takes and lets go of every stream at once.
fn duel() -> Duel {
    DuelBuilder { config: Config { keep_alive_interval: None, ..Config::default() }, ..DuelBuilder::default() }.build()
}

fn let_go_of_all(duel: &mut Duel) {
    while let Some(stream) = duel.conn().accept_stream() {
        duel.conn().release(stream);
    }
}

/// Repeats `frame` until the connection closes; how many it took, and the code.
fn flood(duel: &mut Duel, frame: &[u8]) -> (usize, Option<ErrorCode>) {
    let each = ROOM / frame.len();
    let mut count = 0;
    while duel.error().is_none() && count < 200_000 {
        duel.say(&frame.repeat(each));
        count += each;
    }
    (count, duel.hear_close())
}

#[test]
fn floods_of_control_frames_are_excessive_load_after_20_000() {
    let settings: Vec<u8> = [number(31 * 7 + 27), vec![0]].concat();
    let cases = [
        ("PING", ping(1)),
        ("PONG", pong(1)),
        ("MAX_DATA", max_data(5)),
        ("MAX_STREAM_DATA", max_stream_data(0, 5)),
        ("MAX_STREAMS", max_streams(5)),
        ("PRIORITY", priority(0, 1, true)),
        ("empty STREAM", data(0, b"")),
        ("skippable", settings),
    ];
    for (name, frame) in cases {
        let mut duel = duel();
        duel.say(&open(0));
        let (count, code) = flood(&mut duel, &frame);
        assert_eq!(code, LOAD, "{name}");
        assert!((20_000..22_000).contains(&count), "{name}: {count}");
    }
}

#[test]
fn frames_that_are_ignored_cost_as_much_beyond_four_for_each_stream() {
    for frame in [fin(0, b""), reset(0, 1), stop(0, 1), data(0, b"")] {
        let mut duel = duel();
        duel.say(&[open(0), fin(0, b""), stop(0, 1)].concat());
        let_go_of_all(&mut duel);
        duel.hear();
        let (count, code) = flood(&mut duel, &frame);
        assert_eq!(code, LOAD, "{frame:?}");
        assert!((20_004..21_000).contains(&count), "{frame:?}: {count}");
    }
}

#[test]
fn what_crosses_the_end_of_streams_is_free_however_many_end_at_once() {
    let config =
        Config { keep_alive_interval: None, receive_window: 1 << 30, max_streams: 60_000, ..Config::default() };
    let mut duel = DuelBuilder { config, ..DuelBuilder::default() }.build();
    let count = 50_000;
    for stream in (0..count).map(|index| 2 * index) {
        assert!(duel.error().is_none(), "{stream}: {:?}", duel.error());
        duel.say(&open(stream));
        if stream % 64 == 0 {
            duel.hear();
        }
    }
    // All are given up here at the same moment; what the peer had sent before it knew arrives after that.
    let_go_of_all(&mut duel);
    duel.hear();
    for stream in (0..count).map(|index| 2 * index) {
        duel.say(&[data(stream, b"more"), fin(stream, b""), reset(stream, 1), stop(stream, 1)].concat());
    }
    assert_eq!(duel.error(), None);
    assert_eq!(duel.conn().stream_count(), 0);
}

#[test]
fn records_of_padding_only_cost_four_and_key_updates_sixteen() {
    for (header, frames, each) in [(0, vec![], 4), (0x10, max_data(0), 17), (0x10, vec![], 20), (0x10, open(0), 16)] {
        let mut duel = duel();
        let mut count = 0;
        let mut opened = frames == open(0);
        while duel.error().is_none() {
            if opened {
                duel.say_with(header, &frames);
                opened = false;
            } else if frames == open(0) {
                duel.say_with(header, &stream_bytes(count));
            } else {
                duel.say_with(header, &frames);
            }
            count += 1;
            assert!(count < 20_000);
        }
        assert_eq!(duel.hear_close(), LOAD);
        assert!((20_000 / each..20_000 / each + 10).contains(&count), "{header:#x}: {count}");
    }
}

/// A byte of payload: free, but it pays for next to nothing.
fn stream_bytes(_: usize) -> Vec<u8> {
    data(0, b"x")
}

#[test]
fn payload_pays_for_control() {
    let mut duel = duel();
    duel.say(&open(0));
    let stream = duel.conn().accept_stream().expect("it was opened");
    let mut buffer = vec![0; 4096];
    // Two for each 1024 bytes.
    for _ in 0..30_000 {
        duel.say(&[data(0, &[1; 1024]), ping(1), ping(2)].concat());
        assert_eq!(duel.conn().recv_stream(stream).read(&mut buffer), Ok(1024));
        duel.hear();
    }
    assert_eq!(duel.error(), None);
}

/// What a peer does with each stream that it opens, and what the application does with it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Attack {
    /// OPEN, a request, RESET and STOP; the application lets go of the stream as soon as it learns of it.
    RapidReset,
    /// The same, and handlers run on for a second.
    SlowHandlers,
    /// OPEN, a request, FIN and STOP, which makes this side reset; handlers never end.
    ProvokedResets,
    /// As `RapidReset`, and each second stream is finished and answered.
    HalfFinished,
    /// OPEN and FIN, answered with FIN: ordinary load.
    OpenFin,
}

/// Repeats `attack` for `seconds` as fast as places are given; how many streams have reached the application.
fn attack(attack: Attack, config: Config, seconds: u64) -> (u64, u64) {
    use std::collections::VecDeque;
    let (places, first) = (config.max_streams, config.settings().initial_max_streams);
    let mut duel = DuelBuilder { config, ..DuelBuilder::default() }.build();
    let begin = duel.now;
    let (mut allowed, mut next, mut reached, mut finished) = (first, 0u64, 0, 0);
    let mut handlers = VecDeque::new();
    let mut learn = |duel: &mut Duel| {
        for frame in frames(&duel.hear()) {
            if let Frame::MaxStreams(max) = frame {
                allowed = allowed.max(max.maximum);
            }
        }
        allowed
    };
    for milli in 0..seconds * 1_000 {
        duel.now = begin + Duration::from_millis(milli);
        let now = duel.now;
        duel.conn().handle_timeout(now);
        // At most so many in a millisecond, or those that cost nothing would have no end.
        for _ in 0..50 {
            if next >= learn(&mut duel) {
                break;
            }
            let id = 2 * next;
            let finishes = attack == Attack::OpenFin || attack == Attack::HalfFinished && next % 2 == 0;
            duel.say(&match attack {
                _ if finishes => [open(id), fin(id, b"a request")].concat(),
                Attack::ProvokedResets => [open(id), fin(id, b"a request"), stop(id, 1)].concat(),
                _ => [open(id), data(id, b"a request"), reset(id, 1), stop(id, 1)].concat(),
            });
            next += 1;
            assert_eq!(duel.error(), None, "{attack:?} in {milli} ms");
            while let Some(stream) = duel.conn().accept_stream() {
                reached += 1;
                if finishes {
                    finished += 1;
                    duel.conn().send_stream(stream).finish().expect("it is open");
                }
                match attack {
                    Attack::ProvokedResets => {}
                    Attack::SlowHandlers => handlers.push_back((now + Duration::from_secs(1), stream)),
                    _ => duel.conn().release(stream),
                }
            }
        }
        while handlers.front().is_some_and(|(end, _)| *end <= now) {
            let (_, stream) = handlers.pop_front().expect("there is one");
            duel.conn().release(stream);
        }
        assert!(duel.conn().stream_count() as u64 <= places, "{attack:?}");
    }
    (reached, finished)
}

/// Section 11.2: what a peer can make the application do is bounded in work each second, and the peer is never closed for it.
#[test]
fn streams_that_a_peer_cancels_are_bounded_each_second_and_close_nothing() {
    let seconds = 3;
    for max_streams in [16, 1_000] {
        let config =
            || Config { keep_alive_interval: None, max_streams, receive_window: 64 << 20, ..Config::default() };
        let bound = |seconds: u64| max_streams + 1_000 + 1_000 * seconds;
        for kind in [Attack::RapidReset, Attack::SlowHandlers] {
            let (reached, _) = attack(kind, config(), seconds);
            assert!(reached <= bound(seconds), "{kind:?}: {reached}");
            let handlers = if kind == Attack::SlowHandlers { max_streams.min(1_000) } else { 1_000 };
            assert!(reached >= handlers * seconds, "{kind:?}: {reached}, and places come back");
        }
        assert_eq!(attack(Attack::ProvokedResets, config(), seconds).0, max_streams, "no handler ends");
        let (reached, finished) = attack(Attack::HalfFinished, config(), seconds);
        assert!(reached - finished <= bound(seconds) + finished, "{reached}, {finished} of them finished");
        assert_eq!(attack(Attack::OpenFin, config(), seconds).0, 50 * 1_000 * seconds, "ordinary load has no bound");
    }
}

#[test]
fn places_of_cancelled_streams_come_back_on_an_idle_connection() {
    let mut duel = duel();
    let mut allowed = 0;
    let mut stream = 0;
    loop {
        for frame in frames(&duel.hear()) {
            if let Frame::MaxStreams(max) = frame {
                allowed = max.maximum;
            }
        }
        if stream >= 2_000 && stream / 2 >= allowed {
            break;
        }
        duel.say(&[open(stream), reset(stream, 1), stop(stream, 1)].concat());
        let_go_of_all(&mut duel);
        stream += 2;
    }
    // Nothing arrives any more; the timer gives the places back, and a record says so.
    let begin = duel.now;
    while allowed < stream / 2 + 16 {
        let at = duel.conn().poll_timeout().expect("a timer is armed");
        assert!(at > duel.now, "a timer in the past");
        duel.now = at;
        duel.conn().handle_timeout(at);
        for frame in frames(&duel.hear()) {
            if let Frame::MaxStreams(max) = frame {
                allowed = max.maximum;
            }
        }
        assert!(duel.now < begin + Duration::from_secs(5), "{allowed} of {stream}");
    }
    assert_eq!(duel.error(), None);
}

#[test]
fn a_thousand_control_frames_each_second_are_safe_beside_any_number_of_cancellations() {
    let mut duel = duel();
    let mut stream = 0;
    for _ in 0..120 {
        // All of a second's at its beginning.
        for _ in 0..10 {
            duel.say(&ping(1).repeat(100));
        }
        for _ in 0..500 {
            duel.say(&[open(stream), reset(stream, 1), stop(stream, 1)].concat());
            let_go_of_all(&mut duel);
            stream += 2;
            if stream % 32 == 0 {
                duel.hear();
            }
        }
        duel.hear();
        assert_eq!(duel.error(), None, "{stream}");
        duel.now = duel.now + Duration::from_secs(1);
    }
}

#[test]
fn twenty_seconds_worth_at_once_is_safe_after_any_silence() {
    let mut duel = duel();
    for _ in 0..5 {
        for _ in 0..19_900 / 100 {
            duel.say(&ping(1).repeat(100));
        }
        duel.hear();
        assert_eq!(duel.error(), None);
        duel.now = duel.now + Duration::from_secs(20);
    }
}

#[test]
fn a_peer_that_pings_and_does_not_read_makes_nothing_grow() {
    let mut duel = duel();
    let now = duel.now;
    let mut buffer = vec![0; 16 * Q];
    for _ in 0..190 {
        duel.say(&ping(7).repeat(100));
    }
    // Once it reads, there is one answer and no more.
    assert_eq!(duel.conn().poll_transmit(now, &mut buffer), Ok(Transmit::Bytes(Q)));
    let heard = duel.wire.open(&buffer[..Q]);
    assert_eq!(frames(&heard).len(), 1);
    assert_eq!(duel.conn().poll_transmit(now, &mut buffer), Ok(Transmit::Idle));
}

#[test]
fn input_is_taken_while_nothing_is_written_and_control_never_waits_for_it() {
    let config = Config { stream_receive_window: 64 << 10, ..Config::default() };
    let mut duel = DuelBuilder { config, ..DuelBuilder::default() }.build();
    duel.say(&open(0));
    let stream = duel.conn().accept_stream().expect("it was opened");
    let mut buffer = vec![0; 4096];
    // The window of the connection, as far as it goes without any answer.
    let mut received = 0;
    while received + 1300 <= 64 << 10 {
        duel.say(&data(0, &[1; 1300]));
        received += duel.conn().recv_stream(stream).read(&mut buffer).expect("there is something");
    }
    assert_eq!(duel.error(), None);
    let heard = duel.hear();
    let told = frames(&heard).iter().filter(|frame| matches!(frame, Frame::MaxStreamData(_))).count();
    assert_eq!(told, 1, "one number says it all");
}

#[test]
fn a_hundred_thousand_opens_and_closes_leave_no_stream_and_no_credit_behind() {
    let rounds = if std::env::var_os("PEERMUX_LONG").is_some() { 1_000_000 } else { 100_000 };
    let mut duel = duel();
    // Something that fills all records, so that nothing rides along.
    let bulk = duel.conn().open_stream(None, Priority::default()).expect("it opens");
    let mut limit = 1 << 20;
    let mut seen_streams = Config::default().settings().initial_max_streams;
    let mut now = duel.now;
    for round in 0..rounds {
        let stream = 2 * round;
        assert!(round < seen_streams, "the limit of streams is not raised");
        let header = if round % 10_000 == 0 { 0x10 } else { 0 };
        duel.say_with(header, &[open(stream), fin(stream, &[1; 100])].concat());
        assert_eq!(duel.error(), None, "{round}");
        let id = duel.conn().accept_stream().expect("it was opened");
        duel.conn().send_stream(id).finish().expect("it is open");
        duel.conn().release(id);
        let _ = duel.conn().send_stream(bulk).write(&[2; 1000]);
        if round % 16 == 0 {
            for frame in frames(&duel.hear()) {
                match frame {
                    Frame::MaxStreams(max) => seen_streams = max.maximum,
                    Frame::Stream(_) => limit += 20_000,
                    _ => {}
                }
            }
            now = now + Duration::from_millis(10);
            duel.now = now;
            duel.say(&[max_stream_data(1, limit), max_data(limit)].concat());
        }
        assert_eq!(duel.error(), None, "{round}");
    }
    duel.hear();
    assert_eq!(duel.conn().stream_count(), 1);
    assert_eq!(duel.conn().unread(), 0);
}

/// Requests for other priorities of all streams at once, more of them than the budget takes.
#[test]
fn an_application_may_ask_for_the_priorities_of_all_its_streams_at_once() {
    let config = Config { max_streams: 16_384, receive_window: 128 << 20, ..Config::default() };
    let mut pair = PairBuilder {
        initiator_config: config.clone(),
        responder_config: config,
        latency: Duration::ZERO,
        ..PairBuilder::default()
    }
    .establish();
    let mut streams = Vec::new();
    for _ in 0..14_000 {
        for role in [Role::Initiator, Role::Responder] {
            let conn = &mut pair.side(role).conn;
            let id = conn.open_stream(None, Priority::default()).expect("it opens");
            conn.send_stream(id).write(b"x").expect("there is room");
            streams.extend((role == Role::Initiator).then_some(id));
        }
    }
    pair.settle();
    streams.extend(std::iter::from_fn(|| pair.initiator.conn.accept_stream()));
    assert_eq!(streams.len(), 28_000);
    for &id in &streams {
        pair.initiator.conn.recv_stream(id).request_priority(Priority::from_urgency(1).with_incremental(true));
    }
    pair.run_for(Duration::from_secs(60));
    assert_eq!((pair.initiator.conn.close_reason(), pair.responder.conn.close_reason()), (None, None));
    let received = pair.responder.conn.stats().frames_received;
    assert_eq!(received.of(FrameKind::Priority), 28_000, "all have arrived in the end");
}
