//! What goes into the next record (`docs/spec.md` section 12.2).

use peermux_core::code::ErrorCode;
use peermux_core::wire::{Frame, Priority};
use peermux_core::{Config, Role, StreamId, Transmit};
use peermux_tests::hostile::*;

/// The connection is the initiator, so its streams are 0, 2, 4 and so on; its records are of one quantum.
fn duel() -> Duel {
    DuelBuilder {
        role: Role::Initiator,
        config: Config { grease: false, keep_alive_interval: None, send_buffer: 64 << 20, ..Config::default() },
        settings: vec![(1, 1), (2, 1 << 30), (3, 1 << 30), (4, 1 << 20)],
        ..DuelBuilder::default()
    }
    .build()
}

/// The next record: the payload bytes of each stream in it, in their order.
fn next(duel: &mut Duel) -> Vec<(u64, usize)> {
    let mut buffer = [0; Q];
    let now = duel.now;
    match duel.conn().poll_transmit(now, &mut buffer) {
        Ok(Transmit::Bytes(Q)) => {}
        other => panic!("{other:?}"),
    }
    let heard = duel.wire.open(&buffer);
    let mut out: Vec<(u64, usize)> = Vec::new();
    for frame in heard[0].frames() {
        if let Frame::Stream(data) = frame {
            out.push((data.stream, data.payload.len()));
        }
    }
    out
}

/// Streams of these priorities, open on the wire, each with `bytes` queued.
fn streams(duel: &mut Duel, priorities: &[(u8, bool)], bytes: usize) -> Vec<StreamId> {
    let ids: Vec<_> = priorities
        .iter()
        .map(|&(urgency, incremental)| {
            duel.conn()
                .open_stream(None, Priority::from_urgency(urgency).with_incremental(incremental))
                .expect("it opens")
        })
        .collect();
    duel.hear();
    for (index, id) in ids.iter().enumerate() {
        assert!(duel.conn().recv_stream(*id).wire_id().is_some(), "{index}");
        write(duel, *id, bytes);
    }
    ids
}

fn write(duel: &mut Duel, id: StreamId, bytes: usize) {
    let mut rest = bytes;
    while rest > 0 {
        rest -= duel.conn().send_stream(id).write(&vec![1; rest]).expect("there is room");
    }
}

#[test]
fn what_is_more_urgent_is_in_the_very_next_record() {
    let mut duel = duel();
    streams(&mut duel, &[(3, false), (3, true)], 100_000);
    for _ in 0..5 {
        next(&mut duel);
    }
    for urgency in [2, 1, 0] {
        let id = duel.conn().open_stream(None, Priority::from_urgency(urgency)).expect("it opens");
        let opened = duel.conn().send_stream(id).write(b"urgent").expect("there is room");
        let record = next(&mut duel);
        let wire = duel.conn().recv_stream(id).wire_id().expect("OPEN is in it");
        assert_eq!(record[0], (wire, opened), "{record:?}");
        assert!(record.len() > 1, "the rest of the record is used");
        duel.conn().send_stream(id).write(b"again").expect("there is room");
        assert_eq!(next(&mut duel)[0], (wire, 5));
    }
}

#[test]
fn open_goes_at_the_urgency_of_its_stream() {
    let mut duel = duel();
    streams(&mut duel, &[(3, false)], 5_000);
    let later = duel.conn().open_stream(None, Priority::from_urgency(4)).expect("it opens");
    let same = duel.conn().open_stream(None, Priority::from_urgency(3)).expect("it opens");
    next(&mut duel);
    assert!(duel.conn().recv_stream(same).wire_id().is_some(), "before the data of its urgency");
    assert_eq!(duel.conn().recv_stream(later).wire_id(), None, "after all data that is more urgent");
    duel.hear();
    assert!(duel.conn().recv_stream(later).wire_id().is_some());
}

#[test]
fn streams_of_the_default_priority_share_the_link() {
    let mut duel = duel();
    let ids: Vec<_> = (0..3).map(|_| duel.conn().open_stream(None, Priority::default()).expect("it opens")).collect();
    duel.hear();
    let mut sent = [0; 3];
    for _ in 0..300 {
        // Two that always have more, and one that writes a little now and then.
        for &id in &ids[..2] {
            let _ = duel.conn().send_stream(id).write(&[1; 8_000]);
        }
        let trickle = duel.conn().send_stream(ids[2]).write(&[1; 10]).expect("nothing of it waits for long");
        assert_eq!(trickle, 10);
        for (stream, len) in next(&mut duel) {
            sent[stream as usize / 2] += len;
        }
    }
    assert!(sent[0].abs_diff(sent[1]) <= 2 * Q, "{sent:?}");
    assert!(sent[2] >= 298 * 10, "{sent:?}");
}

#[test]
fn incremental_streams_take_turns_of_one_record() {
    let mut duel = duel();
    streams(&mut duel, &[(3, true), (3, true), (3, true)], 20_000);
    let order: Vec<u64> = (0..9)
        .map(|_| next(&mut duel))
        .map(|record| {
            assert_eq!(record.len(), 1, "{record:?}");
            record[0].0
        })
        .collect();
    assert_eq!(order, [0, 2, 4, 0, 2, 4, 0, 2, 4]);
}

#[test]
fn streams_that_are_not_incremental_go_one_after_the_other_in_the_order_of_their_opening() {
    let mut duel = duel();
    let ids = streams(&mut duel, &[(3, false), (3, false), (3, false)], 4_000);
    let mut seen = Vec::new();
    while seen.last() != Some(&4) {
        seen.extend(next(&mut duel).into_iter().map(|(stream, _)| stream));
    }
    assert!(seen.is_sorted(), "{seen:?}");
    duel.hear();
    // An older one that has something again goes first again.
    write(&mut duel, ids[2], 10_000);
    assert_eq!(next(&mut duel)[0].0, 4);
    write(&mut duel, ids[0], 1_000);
    assert_eq!(next(&mut duel)[0], (0, 1_000));
}

#[test]
fn those_that_are_not_incremental_take_one_turn_together() {
    let mut duel = duel();
    streams(&mut duel, &[(3, true), (3, false), (3, true), (3, false)], 20_000);
    let order: Vec<u64> = (0..9).map(|_| next(&mut duel)[0].0).collect();
    assert_eq!(order, [0, 2, 4, 0, 2, 4, 0, 2, 4]);
}

#[test]
fn a_turn_ends_with_its_record_even_if_the_stream_ends_exactly_there() {
    let mut duel = duel();
    let ids = streams(&mut duel, &[(3, false), (3, false), (3, false), (3, false), (3, true)], 0);
    // Type and stream take two bytes, and there is no length.
    let whole = Q - 17 - 2;
    for id in &ids[..4] {
        write(&mut duel, *id, whole);
    }
    write(&mut duel, ids[4], 20_000);
    let order: Vec<u64> = (0..8).map(|_| next(&mut duel)[0].0).collect();
    assert_eq!(order, [0, 8, 2, 8, 4, 8, 6, 8]);
}

#[test]
fn what_a_turn_leaves_free_is_filled_by_the_next() {
    let mut duel = duel();
    streams(&mut duel, &[(3, true), (3, true), (5, false)], 700);
    assert_eq!(next(&mut duel).iter().map(|(stream, _)| *stream).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(next(&mut duel).iter().map(|(stream, _)| *stream).collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn strictly_by_urgency() {
    let mut duel = duel();
    let ids = streams(&mut duel, &[(7, false), (5, true), (3, false), (0, true)], 3_000);
    // So were their OPEN frames.
    assert_eq!(duel.conn().recv_stream(ids[3]).wire_id(), Some(0));
    assert_eq!(duel.conn().recv_stream(ids[0]).wire_id(), Some(6));
    let mut seen = Vec::new();
    for _ in 0..9 {
        seen.extend(next(&mut duel).into_iter().map(|(stream, _)| stream));
    }
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!((seen.first(), seen.last()), (Some(&0), Some(&6)));
}

#[test]
fn priority_frames_change_what_the_sender_does() {
    let mut duel = duel();
    streams(&mut duel, &[(3, false), (3, false)], 50_000);
    assert_eq!(next(&mut duel)[0].0, 0);
    duel.say(&priority(2, 1, false));
    assert_eq!(next(&mut duel)[0].0, 2);
    duel.say(&[priority(2, 3, true), priority(0, 3, true)].concat());
    let order: Vec<u64> = (0..4).map(|_| next(&mut duel)[0].0).collect();
    assert!(order == [0, 2, 0, 2] || order == [2, 0, 2, 0], "{order:?}");
    duel.say(&priority(0, 7, false));
    assert_eq!(next(&mut duel)[0].0, 2);
    assert_eq!(next(&mut duel)[0].0, 2);
}

#[test]
fn what_the_sending_application_says_wins() {
    let mut duel = duel();
    let ids = streams(&mut duel, &[(3, false), (3, false)], 50_000);
    duel.conn().send_stream(ids[1]).set_priority(Priority::from_urgency(2));
    assert_eq!(next(&mut duel)[0].0, 2);
    duel.say(&[priority(2, 7, false), priority(0, 0, false)].concat());
    duel.conn().send_stream(ids[0]).set_priority(Priority::from_urgency(4));
    assert_eq!(next(&mut duel)[0].0, 2);
    assert_eq!(duel.conn().recv_stream(ids[1]).priority(), Some(Priority::from_urgency(2)));
}

#[test]
fn the_priority_of_open_holds_in_both_directions_and_can_be_asked_to_change() {
    let mut duel = Duel::new();
    let open_with = |stream, urgency| {
        encode(&[Frame::Open(peermux_core::wire::Open {
            stream,
            priority: Priority::from_urgency(urgency),
            window: OPEN_WINDOW,
            name: peermux_core::wire::Name::None,
        })])
    };
    duel.say(&[open_with(0, 5), open_with(2, 1)].concat());
    let (slow, fast) = (duel.conn().accept_stream().expect("opened"), duel.conn().accept_stream().expect("opened"));
    assert_eq!(duel.conn().recv_stream(slow).priority(), Some(Priority::from_urgency(5)));
    write(&mut duel, slow, 3_000);
    write(&mut duel, fast, 100);
    assert_eq!(next(&mut duel)[0], (2, 100));
    duel.conn().recv_stream(slow).request_priority(Priority::from_urgency(0).with_incremental(true));
    let heard = duel.hear();
    assert!(frames(&heard).iter().any(
        |frame| matches!(frame, Frame::Priority(update) if update.stream == 0 && update.priority == Priority::from_urgency(0).with_incremental(true))
    ));
}

#[test]
fn control_goes_first_and_takes_at_most_half_of_a_record_while_data_waits() {
    let mut duel = duel();
    let mut priorities = vec![(3, false); 400];
    priorities.push((3, true));
    let ids = streams(&mut duel, &priorities, 0);
    write(&mut duel, ids[400], 100_000);
    for id in &ids[..400] {
        duel.conn().send_stream(*id).reset(ErrorCode::Application(1 << 40));
        duel.conn().recv_stream(*id).stop(ErrorCode::Application(1 << 40));
    }
    let mut resets = 0;
    while resets < 400 {
        let mut buffer = [0; Q];
        let now = duel.now;
        assert_eq!(duel.conn().poll_transmit(now, &mut buffer), Ok(Transmit::Bytes(Q)));
        let heard = duel.wire.open(&buffer);
        let frames = heard[0].frames();
        let payload: usize = frames
            .iter()
            .map(|frame| match frame {
                Frame::Stream(data) => data.payload.len(),
                _ => 0,
            })
            .sum();
        assert!(payload >= (Q - 17) / 2 - 2, "{payload}");
        resets += frames.iter().filter(|frame| matches!(frame, Frame::Reset(_))).count();
        assert!(!matches!(frames[0], Frame::Stream(_)), "control goes first");
    }
}

#[test]
fn a_stream_that_waits_for_the_limit_of_streams_holds_up_nothing() {
    let mut duel = DuelBuilder {
        role: Role::Initiator,
        settings: vec![(1, 1), (2, 1 << 20), (3, 1 << 20), (4, 16)],
        ..DuelBuilder::default()
    }
    .build();
    let ids = streams(&mut duel, &[(3, false); 16], 0);
    let waits = duel.conn().open_stream(None, Priority::from_urgency(0)).expect("it opens");
    duel.conn().send_stream(waits).write(b"urgent").expect("there is room");
    assert_eq!(duel.conn().send_stream(waits).blocked_on(), Some(peermux_core::error::BlockedOn::StreamLimit));
    write(&mut duel, ids[3], 100);
    assert_eq!(next(&mut duel), [(6, 100)]);
    duel.say(&max_streams(17));
    write(&mut duel, ids[3], 100);
    assert_eq!(next(&mut duel), [(32, 6), (6, 100)]);
}
