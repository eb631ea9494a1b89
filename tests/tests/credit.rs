//! Credit: what is given, used, and given back (`docs/spec.md` section 11).

use std::time::Duration;

use peermux_core::code::ErrorCode;
use peermux_core::error::ReadError;
use peermux_core::wire::{Frame, Priority};
use peermux_core::{Config, Connection, Role, StreamId};
use peermux_tests::hostile::*;

fn opened(conn: &mut Connection) -> StreamId {
    conn.open_stream(None, Priority::default()).expect("it opens")
}

/// Reads up to `max` bytes.
fn read(conn: &mut Connection, id: StreamId, max: usize) -> usize {
    let mut buffer = vec![0; max];
    match conn.recv_stream(id).read(&mut buffer) {
        Ok(len) => len,
        Err(ReadError::Blocked) => 0,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_sender_never_exceeds_what_it_was_given() {
    let settings = vec![(1, 16), (2, 5_000), (3, 3_000), (4, 100)];
    let mut duel = DuelBuilder { role: Role::Initiator, settings, ..DuelBuilder::default() }.build();
    let mut in_order = || duel.conn().open_stream(None, Priority::from_urgency(3)).expect("it opens");
    let (one, two) = (in_order(), in_order());
    for id in [one, two] {
        assert_eq!(duel.conn().send_stream(id).write(&[1; 10_000]), Ok(3_000), "no more is taken than may be sent");
    }
    let sent = |heard: &[Heard], stream: u64| -> usize {
        frames(heard)
            .iter()
            .map(|frame| match frame {
                Frame::Stream(data) if data.stream == stream => data.payload.len(),
                _ => 0,
            })
            .sum()
    };
    let heard = duel.hear();
    assert_eq!((sent(&heard, 0), sent(&heard, 2)), (3_000, 2_000));
    duel.say(&[max_stream_data(0, 3_500), max_data(4_999)].concat());
    assert_eq!(duel.conn().send_stream(one).write(&[1; 10_000]), Ok(500));
    assert!(duel.hear().is_empty());
    duel.say(&max_data(5_001));
    let heard = duel.hear();
    assert_eq!(sent(&heard, 0) + sent(&heard, 2), 1);
    duel.say(&max_data(1 << 40));
    let heard = duel.hear();
    assert_eq!(sent(&heard, 0) + sent(&heard, 2), 1_499);
}

#[test]
fn fin_and_open_need_no_credit() {
    let settings = vec![(1, 16), (2, 2_048), (3, 2_048), (4, 100)];
    let mut duel = DuelBuilder { role: Role::Initiator, settings, ..DuelBuilder::default() }.build();
    let one = opened(duel.conn());
    assert_eq!(duel.conn().send_stream(one).write(&[1; 10_000]), Ok(2_048));
    duel.conn().send_stream(one).finish().expect("it is open");
    duel.hear();
    let two = opened(duel.conn());
    duel.conn().send_stream(two).finish().expect("it is open");
    let heard = duel.hear();
    assert!(frames(&heard).iter().any(|frame| matches!(frame, Frame::Stream(data) if data.stream == 2 && data.fin)));
}

/// A peer that uses every byte of credit that it is given, for ever.
#[test]
fn credit_is_conserved_whatever_becomes_of_the_data() {
    let config = Config { receive_window: 1 << 20, stream_receive_window: 5_000, max_streams: 16, ..Config::default() };
    let mut duel = DuelBuilder { config, ..DuelBuilder::default() }.build();
    let (mut limit, mut sent) = (2u64 << 20, 0u64);
    for round in 0..3_000u64 {
        let stream = 2 * round;
        duel.say(&open(stream));
        let id = duel.conn().accept_stream().expect("it was opened");
        let mut of_stream = 0;
        for _ in 0..4 {
            let len = 1_200.min(limit - sent) as usize;
            duel.say(&data(stream, &vec![1; len]));
            sent += len as u64;
            of_stream += len;
        }
        // What becomes of it: read and finished, reset with and without having been read, stopped, let go of.
        match round % 5 {
            0 => {
                assert_eq!(read(duel.conn(), id, 10_000), of_stream);
                duel.say(&fin(stream, b""));
            }
            1 => duel.say(&reset(stream, 1)),
            2 => {
                read(duel.conn(), id, 100);
                duel.say(&reset(stream, 1));
            }
            3 => {
                duel.conn().recv_stream(id).stop(ErrorCode::Application(1));
                duel.hear();
                duel.say(&fin(stream, b""));
            }
            _ => {}
        }
        duel.conn().release(id);
        for _ in 0..2 {
            for frame in frames(&duel.hear()) {
                if let Frame::MaxData(max) = frame {
                    assert!(max.0 > limit);
                    limit = max.0;
                }
            }
            if round % 5 == 4 {
                duel.say(&reset(stream, 1));
            }
        }
        duel.say(&stop(stream, 1));
        duel.hear();
        // The ends of streams cost; time and payload pay for them.
        duel.now = duel.now + Duration::from_millis(5);
        assert_eq!(duel.error(), None, "{round}");
        assert_eq!(duel.conn().unread(), 0);
        assert!(limit - sent >= 1 << 20, "{round}: {} is left", limit - sent);
    }
    assert_eq!(duel.conn().stream_count(), 0);
}

#[test]
fn what_is_discarded_after_stop_goes_back_to_the_connection_at_once() {
    let config = Config { receive_window: 1 << 20, stream_receive_window: 8_192, max_streams: 16, ..Config::default() };
    let mut duel = DuelBuilder { config, ..DuelBuilder::default() }.build();
    let (mut limit, mut sent) = (2 << 20, 0);
    for stream in (0..4_000).step_by(2) {
        duel.say(&open(stream));
        let id = duel.conn().accept_stream().expect("it was opened");
        for _ in 0..3 {
            duel.say(&data(stream, &[1; 1_300]));
        }
        assert_eq!(duel.conn().unread(), 3_900);
        duel.conn().recv_stream(id).stop(ErrorCode::Application(1));
        duel.conn().send_stream(id).finish().expect("it is open");
        assert_eq!(duel.conn().unread(), 0);
        // In flight.
        for _ in 0..3 {
            duel.say(&data(stream, &[1; 1_300]));
        }
        sent += 6 * 1_300;
        assert_eq!((duel.conn().unread(), duel.error()), (0, None));
        duel.say(&reset(stream, 1));
        duel.conn().release(id);
        for frame in frames(&duel.hear()) {
            if let Frame::MaxData(max) = frame {
                limit = max.0;
            }
        }
        duel.hear();
        assert!(limit - sent >= 1 << 20, "half of the credit is there at any time: {sent} of {limit}");
    }
}

#[test]
fn credit_rides_along_or_causes_a_record_only_when_it_is_due() {
    let config = Config { stream_receive_window: 64 << 10, grease: false, ..Config::default() };
    let mut duel = DuelBuilder { config, ..DuelBuilder::default() }.build();
    duel.say(&open(0));
    let id = duel.conn().accept_stream().expect("it was opened");
    let mut records = 0;
    let mut total = 0;
    for _ in 0..500 {
        duel.say(&data(0, &[1; 1_024]));
        total += read(duel.conn(), id, 10_000);
        records += duel.hear().len();
        duel.now = duel.now + Duration::from_millis(1);
    }
    assert_eq!(total, 500 << 10);
    // A quarter of 64 KiB is 16 KiB; the window may have grown, and never shrinks.
    assert!(records <= 500 / 16 + 2, "{records}");
    assert!(records >= 1);
}

#[test]
fn streams_that_come_and_go_while_every_record_is_full_leave_nothing_behind() {
    let config = Config { stream_receive_window: 4_096, ..Config::default() };
    let settings = vec![(1, 1), (2, 1 << 40), (3, 1 << 40)];
    let mut duel = DuelBuilder { config, settings, ..DuelBuilder::default() }.build();
    let bulk = opened(duel.conn());
    let mut buffer = vec![0; Q];
    for round in 0..2_000 {
        let stream = 2 * round;
        // Read in part, so that credit for it would ride along; and then it ends. Debug assertions look at what is kept of it.
        duel.say(&[open(stream), data(stream, &[1; 600])].concat());
        let id = duel.conn().accept_stream().expect("it was opened");
        assert_eq!(read(duel.conn(), id, 600), 600);
        duel.say(&fin(stream, b""));
        duel.conn().send_stream(id).finish().expect("it is open");
        duel.conn().release(id);
        let now = duel.now;
        for _ in 0..2 {
            while duel.conn().queued() < 100_000 {
                duel.conn().send_stream(bulk).write(&[2; 50_000]).expect("there is room");
            }
            duel.conn().poll_transmit(now, &mut buffer).expect("it fits");
            duel.wire.open(&buffer);
        }
    }
    assert_eq!(duel.conn().stream_count(), 1);
}
