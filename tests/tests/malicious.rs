//! An authenticated peer that breaks the rules gets CLOSE with the code of the specification, at once (`docs/spec.md` section 13.6).

use peermux_core::code::{ErrorCode, ProtocolErrorCode};
use peermux_core::error::{ConnectionError, ReadError};
use peermux_core::wire::Frame;
use peermux_core::{Config, HandshakeMode, Role};
use peermux_tests::hostile::*;

fn small() -> Config {
    Config { receive_window: 1 << 20, stream_receive_window: 4096, max_streams: 16, grease: false, ..Config::default() }
}

/// Says `records` one after the other, all of which but the last are in order, and expects CLOSE with `code`, or none.
#[track_caller]
fn says(name: &str, records: &[Vec<u8>], code: Option<ProtocolErrorCode>) {
    for mode in [HandshakeMode::Ik, HandshakeMode::Fallback] {
        let mut duel = DuelBuilder { mode, config: small(), ..DuelBuilder::default() }.build();
        for (index, record) in records.iter().enumerate() {
            assert_eq!(duel.error(), None, "{name}: before record {index}");
            duel.say(record);
        }
        match (duel.error(), code) {
            (None, None) => {}
            (Some(ConnectionError::Protocol(violation)), Some(code)) => assert_eq!(violation.code, code, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(duel.hear_close(), code.map(ErrorCode::Protocol), "{name}");
        if code.is_some() {
            assert!(duel.talk.finished, "{name}: nothing follows CLOSE");
        }
    }
}

#[track_caller]
fn breaks(name: &str, records: &[Vec<u8>], code: ProtocolErrorCode) {
    says(name, records, Some(code));
}

#[track_caller]
fn is_fine(name: &str, records: &[Vec<u8>]) {
    says(name, records, None);
}

#[test]
fn the_second_implementation_agrees_with_the_core_in_both_roles_and_modes() {
    for role in [Role::Initiator, Role::Responder] {
        for mode in [HandshakeMode::Ik, HandshakeMode::Fallback] {
            let mut duel = DuelBuilder { role, mode, ..DuelBuilder::default() }.build();
            assert!(duel.conn().is_established());
            assert_eq!(duel.conn().channel_binding().copied(), Some(duel.wire.binding));
            let id = if role == Role::Responder { 0 } else { 1 };
            duel.say(&[open(id), fin(id, b"hello")].concat());
            let stream = duel.conn().accept_stream().expect("it was opened");
            let mut buffer = [0; 8];
            assert_eq!(duel.conn().recv_stream(stream).read(&mut buffer), Ok(5));
            duel.conn().send_stream(stream).write(b"world").expect("there is room");
            let heard = duel.hear();
            assert!(
                frames(&heard).iter().any(|frame| matches!(frame, Frame::Stream(data) if data.payload == b"world"))
            );
        }
    }
}

#[test]
fn a_byte_beyond_the_window_of_a_stream_is_flow_control() {
    let kilo = |stream: u64| data(stream, &[1; 1024]);
    let window = [open(0), kilo(0)].concat();
    is_fine("the window of a stream", &[window.clone(), kilo(0), kilo(0), kilo(0)]);
    breaks("one byte more", &[window, kilo(0), kilo(0), kilo(0), data(0, b"x")], ProtocolErrorCode::FLOW_CONTROL);
}

#[test]
fn a_first_frame_that_opens_a_stream_and_exceeds_its_window_at_once_is_flow_control() {
    let mut duel = DuelBuilder { config: small(), ..DuelBuilder::default() }.build();
    duel.say_with(3, &[]);
    duel.say(&[open(0), data(0, &[1; 4097])].concat());
    assert_eq!(duel.hear_close(), Some(ErrorCode::Protocol(ProtocolErrorCode::FLOW_CONTROL)));
}

#[test]
fn an_id_of_the_wrong_parity_a_jump_and_a_used_one_are_stream_id() {
    breaks("wrong parity", &[open(1)], ProtocolErrorCode::STREAM_ID);
    breaks("a jump", &[open(2)], ProtocolErrorCode::STREAM_ID);
    breaks("a great jump", &[open((1 << 62) - 2)], ProtocolErrorCode::STREAM_ID);
    breaks("again while it is open", &[open(0), open(0)], ProtocolErrorCode::STREAM_ID);
    breaks(
        "again after its end",
        &[[open(0), fin(0, b""), stop(0, 1)].concat(), open(0)],
        ProtocolErrorCode::STREAM_ID,
    );
    let mut duel = Duel::against(Role::Initiator);
    duel.say(&open(0));
    assert_eq!(duel.hear_close(), Some(ErrorCode::Protocol(ProtocolErrorCode::STREAM_ID)));
}

#[test]
fn every_frame_for_a_stream_that_was_never_opened_is_stream_id() {
    for stream in [0, 1, 40, (1 << 62) - 1] {
        let all = [
            data(stream, b"x"),
            fin(stream, b""),
            reset(stream, 1),
            stop(stream, 1),
            max_stream_data(stream, 1),
            priority(stream, 1, true),
        ];
        for frame in all {
            breaks(&format!("{frame:?}"), std::slice::from_ref(&frame), ProtocolErrorCode::STREAM_ID);
        }
    }
}

#[test]
fn one_stream_more_than_the_limit_is_stream_limit() {
    let streams = |count: u64| (0..count).flat_map(|index| open(2 * index)).collect::<Vec<_>>();
    is_fine("as many as may be", &[streams(16)]);
    breaks("one more", &[streams(17)], ProtocolErrorCode::STREAM_LIMIT);
    // What has ended on the wire frees its place only when the application lets go of it.
    breaks(
        "one more after an end",
        &[streams(16), [fin(0, b""), stop(0, 1), open(32)].concat()],
        ProtocolErrorCode::STREAM_LIMIT,
    );
}

#[test]
fn what_follows_fin_or_reset_on_an_open_stream_is_stream_state() {
    for end in [fin(0, b"bye"), reset(0, 1)] {
        for after in [data(0, b"x"), data(0, b""), fin(0, b""), reset(0, 1)] {
            let name = format!("{end:?}, {after:?}");
            breaks(&name, &[[open(0), end.clone(), after.clone()].concat()], ProtocolErrorCode::STREAM_STATE);
            breaks(&name, &[[open(0), end.clone()].concat(), after], ProtocolErrorCode::STREAM_STATE);
        }
    }
}

#[test]
fn frames_that_come_too_late_for_a_half_are_ignored() {
    let late = [stop(0, 1), max_stream_data(0, 1 << 40), priority(0, 0, true), max_stream_data(0, 0)];
    for frame in late {
        is_fine("after STOP", &[[open(0), stop(0, 1), frame.clone()].concat(), frame.clone()]);
        // Neither half is open any more; the application still holds it.
        is_fine("after the end", &[[open(0), stop(0, 1), fin(0, b"")].concat(), frame.clone()]);
    }
    for frame in [data(0, b"x"), fin(0, b"x"), reset(0, 1)] {
        is_fine("after the end", &[[open(0), stop(0, 1), fin(0, b"")].concat(), frame.clone(), frame.clone()]);
    }
}

#[test]
fn frames_for_a_stream_that_is_forgotten_are_ignored_and_their_payload_is_credited_back() {
    let mut duel = DuelBuilder { config: small(), ..DuelBuilder::default() }.build();
    duel.say(&[open(0), fin(0, b""), stop(0, 1)].concat());
    let stream = duel.conn().accept_stream().expect("it was opened");
    duel.conn().release(stream);
    duel.hear();
    assert_eq!(duel.conn().stream_count(), 0);
    let all = [fin(0, b""), reset(0, 1), stop(0, 1), max_stream_data(0, 1), priority(0, 1, true)];
    duel.say(&all.concat());
    assert_eq!(duel.error(), None);
    // Many windows' worth: each is credited back at once.
    let mut granted = 2 << 20;
    let mut sent = 0;
    for _ in 0..5_000 {
        assert!(sent + 1300 <= granted, "{sent} of {granted}");
        duel.say(&data(0, &[1; 1300]));
        sent += 1300;
        for frame in frames(&duel.hear()) {
            if let Frame::MaxData(max) = frame {
                granted = max.0;
            }
        }
    }
    assert_eq!(duel.error(), None);
    assert_eq!(duel.conn().unread(), 0);
    duel.say(&open(0));
    assert_eq!(duel.hear_close(), Some(ErrorCode::Protocol(ProtocolErrorCode::STREAM_ID)));
}

#[test]
fn payload_for_a_stream_that_has_ended_still_counts_against_the_connection() {
    let mut duel = DuelBuilder { config: small(), ..DuelBuilder::default() }.build();
    duel.say(&[open(0), fin(0, b""), stop(0, 1)].concat());
    // The connection's credit is twice the receive window. What is credited back is not yet granted.
    for _ in 0..2 << 10 {
        duel.say(&data(0, &[1; 1024]));
    }
    assert_eq!(duel.error(), None);
    duel.say(&data(0, b"x"));
    assert_eq!(duel.hear_close(), Some(ErrorCode::Protocol(ProtocolErrorCode::FLOW_CONTROL)));
}

#[test]
fn malformed_frames_are_frame_encoding() {
    let name = |len: usize| [vec![8, 0, 3, 0, 1], number(len as u64), vec![b'a'; len]].concat();
    let reason = |bytes: &[u8]| [vec![10, 1, 0], number(bytes.len() as u64), bytes.to_vec()].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a type that is not in its shortest form", vec![0x40, 0x01, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("a varint that is not in its shortest form", vec![3, 0x40, 0x01]),
        ("a stream that is not in its shortest form", vec![8, 0x80, 0, 0, 0, 3, 0, 0]),
        ("MAX_STREAMS above 2^60", max_streams_raw((1 << 60) + 1)),
        ("RESET with layer 2", [open(0), vec![6, 0, 2, 0]].concat()),
        ("STOP with layer 255", [open(0), vec![7, 0, 255, 0]].concat()),
        ("a priority above 15", vec![8, 0, 16, 0, 0]),
        ("PRIORITY with a reserved bit", [open(0), vec![9, 0, 0x83]].concat()),
        ("an empty name", name(0)),
        ("a name of 65 bytes", name(65)),
        ("a name with a space", vec![8, 0, 3, 0, 1, 3, b'a', b' ', b'b']),
        ("a name with DEL", vec![8, 0, 3, 0, 2, 1, 0x7f]),
        ("a name that is not ASCII", vec![8, 0, 3, 0, 2, 2, 0xc3, 0xa9]),
        ("an index without a name", vec![8, 0, 3, 0, 3]),
        ("a name beyond the area", vec![8, 0, 3, 0, 1, 0x7f, 0xff]),
        ("CLOSE with layer 2", vec![10, 2, 0, 0]),
        ("a reason that is not UTF-8", reason(&[0xff, 0xfe])),
        ("a reason of 257 bytes", reason(&[b'a'; 257])),
        ("an empty ATTESTATION", vec![13, 0]),
        ("an ATTESTATION of 1025 bytes", [vec![13], number(1025), vec![1; 1025]].concat()),
        ("SETTINGS with half a setting", vec![12, 1, 27]),
        ("STREAM with a length beyond the area", [open(0), vec![0x12, 0, 0x7f, 0xff]].concat()),
        ("a skippable frame beyond the area", vec![0x40, 0x40, 0x7f, 0xff]),
        ("a PING beyond the record", [ping(1).repeat(154), vec![1, 0, 0, 0, 0]].concat()),
    ];
    for (name, frames) in cases {
        breaks(name, &[frames], ProtocolErrorCode::FRAME_ENCODING);
    }
}

fn max_streams_raw(maximum: u64) -> Vec<u8> {
    [vec![5], number(maximum), vec![0]].concat()
}

#[test]
fn every_frame_cut_short_by_the_end_of_the_record_is_frame_encoding() {
    let frames = [
        ping(1),
        pong(1),
        max_data(1 << 40),
        max_stream_data(0, 1 << 40),
        max_streams(1 << 40),
        reset(0, 1 << 40),
        stop(0, 1 << 40),
        [vec![8, 2, 3, 1, 4], b"name".to_vec()].concat(),
        priority(0, 1, true),
        drain(0x12),
        vec![12, 2, 27, 1],
        vec![13, 2, 1, 1],
        data(0, b"payload"),
        vec![0x40, 0x40, 2, 1, 1],
    ];
    for frame in frames {
        for len in 1..frame.len() {
            // A skippable frame of a length that leaves just so much.
            let before = open(0);
            let skip = Q - 17 - before.len() - len;
            let skipped = [vec![0x40, 0x41], vec![0x40 | ((skip - 4) >> 8) as u8, (skip - 4) as u8], vec![7; skip - 4]];
            let area = [before, skipped.concat(), frame[..len].to_vec()].concat();
            assert_eq!(area.len(), Q - 17);
            breaks(&format!("{frame:?} cut at {len}"), &[vec![], area], ProtocolErrorCode::FRAME_ENCODING);
        }
    }
}

#[test]
fn unknown_frames_are_skipped_or_critical_by_their_type() {
    for kind in [0x40u64, 0x41, 0x3fff, 31 * 100 + 27] {
        is_fine("skippable", &[[number(kind), vec![3, 1, 2, 3], open(0)].concat(), data(0, b"x")]);
    }
    for kind in [0x0eu64, 0x0f, 0x14, 0x3f, 0x4000, (1 << 62) - 1] {
        breaks(&format!("type {kind:#x}"), &[number(kind)], ProtocolErrorCode::FRAME_UNKNOWN);
    }
}

#[test]
fn names_are_entered_in_order_and_the_table_has_64_places() {
    let named = |stream: u64, form: u64, name: &str| {
        let mut frame = [vec![8], number(stream), vec![3, 0], number(form)].concat();
        if form == 1 || form == 2 {
            frame.extend(number(name.len() as u64));
            frame.extend(name.as_bytes());
        }
        frame
    };
    let config = Config { max_streams: 80, receive_window: 16 << 20, ..small() };
    let mut duel = DuelBuilder { config, ..DuelBuilder::default() }.build();
    let mut expected = Vec::new();
    for index in 0..64 {
        let name = format!("protocol/{index}");
        duel.say(&named(2 * index, 1, &name));
        expected.push(name);
    }
    duel.say(&[named(128, 3 + 63, ""), named(130, 3, ""), named(132, 2, "once"), named(134, 0, "")].concat());
    expected.extend(["protocol/63".into(), "protocol/0".into(), "once".into()]);
    for name in expected {
        let stream = duel.conn().accept_stream().expect("it was opened");
        assert_eq!(duel.conn().recv_stream(stream).protocol().as_deref(), Some(&*name));
    }
    let stream = duel.conn().accept_stream().expect("it was opened");
    assert_eq!(duel.conn().recv_stream(stream).protocol(), None);
    duel.say(&named(136, 1, "one-too-many"));
    assert_eq!(duel.hear_close(), Some(ErrorCode::Protocol(ProtocolErrorCode::FRAME_ENCODING)));
}

#[test]
fn reserved_bits_and_padding_that_is_not_zero_are_record_invalid() {
    for header in [0x40, 0x80, 0xc0, 0x41, 0x90] {
        let mut duel = Duel::new();
        duel.say_with(header, &[]);
        assert_eq!(duel.hear_close(), Some(ErrorCode::Protocol(ProtocolErrorCode::RECORD_INVALID)), "{header:#x}");
    }
    for position in [1, 500, Q - 18] {
        let mut area = vec![0; Q - 17];
        area[position] = 1;
        breaks("padding", &[area], ProtocolErrorCode::RECORD_INVALID);
    }
}

#[test]
fn what_follows_the_frame_area_of_flight_3_must_be_zeros() {
    for position in [AREA, Q - 18] {
        let mut duel = DuelBuilder { flight3: [vec![0; position], vec![1]].concat(), ..DuelBuilder::default() }.build();
        assert_eq!(duel.hear_close(), Some(ErrorCode::Protocol(ProtocolErrorCode::RECORD_INVALID)), "{position}");
    }
    // The last byte of the area is still part of it: padding there is no frame, and a byte that is not zero is the same fault; but a frame may end there.
    let skip = AREA - 4;
    let frame = [vec![0x40, 0x41, 0x40 | (skip >> 8) as u8, skip as u8], vec![7; skip]].concat();
    let duel = DuelBuilder { flight3: frame, ..DuelBuilder::default() }.build();
    assert_eq!(duel.error(), None);
}

#[test]
fn an_announcement_above_max_record_is_record_invalid_even_if_more_follows() {
    let config = || Config { max_record_quanta: 4, ..Config::default() };
    let mut duel = DuelBuilder { config: config(), ..DuelBuilder::default() }.build();
    duel.say_with(3, &[]);
    duel.say(&open(0));
    assert_eq!(duel.error(), None);
    let mut bytes = duel.wire.seal(4, &[]);
    bytes.extend(duel.wire.seal(0, &[]));
    duel.feed(&bytes);
    assert_eq!(duel.hear_close(), Some(ErrorCode::Protocol(ProtocolErrorCode::RECORD_INVALID)));
    assert!(matches!(duel.error(), Some(ConnectionError::Protocol(_))));
}

#[test]
fn the_code_is_told_whatever_arrives_together_with_the_fault() {
    for header in [0x40, 0x30, 0x21] {
        let mut duel = Duel::new();
        let mut bytes = duel.wire.seal(header, &[]);
        bytes.extend([0x55; 3 * Q]);
        duel.feed(&bytes);
        assert_eq!(duel.hear_close(), Some(ErrorCode::Protocol(ProtocolErrorCode::RECORD_INVALID)), "{header:#x}");
    }
}

#[test]
fn close_and_the_end_bit_come_together_and_close_is_last() {
    let bye = || close(ErrorCode::Application(7), "bye");
    let cases = [
        ("CLOSE without the end bit", 0x00, bye(), ProtocolErrorCode::RECORD_INVALID),
        ("the end bit without CLOSE", 0x20, vec![], ProtocolErrorCode::RECORD_INVALID),
        ("the end with an announcement", 0x21, bye(), ProtocolErrorCode::RECORD_INVALID),
        ("the end with a key update", 0x30, bye(), ProtocolErrorCode::RECORD_INVALID),
        ("a frame after CLOSE", 0x20, [bye(), ping(1)].concat(), ProtocolErrorCode::FRAME_NOT_ALLOWED),
        ("a second CLOSE", 0x20, [bye(), bye()].concat(), ProtocolErrorCode::FRAME_NOT_ALLOWED),
    ];
    for (name, header, frames, code) in cases {
        let mut duel = Duel::new();
        duel.say_with(header, &frames);
        assert_eq!(duel.hear_close(), Some(ErrorCode::Protocol(code)), "{name}");
        assert!(matches!(duel.error(), Some(ConnectionError::Protocol(_))), "{name}: {:?}", duel.error());
    }
}

#[test]
fn drain_settings_and_attestation_stand_once() {
    breaks("DRAIN", &[drain(0x12), drain(0x12)], ProtocolErrorCode::FRAME_NOT_ALLOWED);
    breaks("OPEN after DRAIN", &[[drain(0x12), open(0)].concat()], ProtocolErrorCode::FRAME_NOT_ALLOWED);
    let settings = || vec![12, 2, 27, 1];
    let attestation = || vec![13, 2, 200, 1];
    is_fine("both once", &[[settings(), attestation()].concat()]);
    breaks("SETTINGS", &[settings(), settings()], ProtocolErrorCode::SETTINGS_INVALID);
    breaks("ATTESTATION", &[attestation(), attestation()], ProtocolErrorCode::FRAME_NOT_ALLOWED);
    for id in 1..=6 {
        breaks("a setting of the handshake", &[vec![12, 2, id, 16]], ProtocolErrorCode::SETTINGS_INVALID);
    }
}

#[test]
fn settings_and_attestation_stand_in_the_first_16_records() {
    let cases = [
        (vec![12, 2, 27, 1], ProtocolErrorCode::SETTINGS_INVALID),
        (vec![13, 1, 200], ProtocolErrorCode::FRAME_NOT_ALLOWED),
    ];
    for (frame, code) in cases {
        // Record 0 of IK is flight 3.
        for (before, expected) in [(14, None), (15, Some(ErrorCode::Protocol(code)))] {
            let mut duel = Duel::new();
            for _ in 0..before {
                duel.say(&[]);
            }
            duel.say(&frame);
            assert_eq!(duel.hear_close(), expected, "record {}", before + 1);
        }
    }
}

#[test]
fn nothing_of_what_follows_a_fault_reaches_the_application() {
    let mut duel = Duel::new();
    duel.say(&[open(0), data(0, b"before")].concat());
    let stream = duel.conn().accept_stream().expect("it was opened");
    duel.say(&number(0x0e));
    duel.say(&data(0, b"after"));
    let mut buffer = [0; 32];
    assert_eq!(duel.conn().recv_stream(stream).read(&mut buffer), Ok(6));
    assert_eq!(&buffer[..6], b"before");
    let error = duel.error().expect("it ended").clone();
    assert_eq!(duel.conn().recv_stream(stream).read(&mut buffer), Err(ReadError::Connection(error)));
}

#[test]
fn window_updates_that_do_not_raise_a_limit_or_reach_the_greatest_number_do_no_harm() {
    let most = (1 << 62) - 1;
    is_fine("zero", &[max_data(0), max_streams(0)]);
    is_fine("most", &[[max_data(most), max_data(most), max_streams(1 << 60)].concat(), max_data(1)]);
    let mut duel = Duel::new();
    duel.say(&[open(0), max_stream_data(0, most), max_stream_data(0, 0), max_data(most)].concat());
    let stream = duel.conn().accept_stream().expect("it was opened");
    assert_eq!(duel.conn().send_stream(stream).write(&[1; 100]), Ok(100));
    let heard = duel.hear();
    assert!(frames(&heard).iter().any(|frame| matches!(frame, Frame::Stream(data) if data.payload.len() == 100)));
    assert_eq!(duel.error(), None);
}

#[test]
fn pong_that_answers_nothing_is_ignored_and_of_several_pings_the_last_is_answered() {
    is_fine("PONG", &[pong(0), pong(1), pong(u64::MAX)]);
    let mut duel = Duel::new();
    duel.say(&[ping(1), ping(2), ping(3)].concat());
    let heard = duel.hear();
    let pongs: Vec<_> = frames(&heard).into_iter().filter(|frame| matches!(frame, Frame::Pong(_))).collect();
    assert_eq!(pongs, [Frame::Pong(peermux_core::wire::Pong(3u64.to_be_bytes()))]);
    assert_eq!(heard.len(), 1);
}

#[test]
fn as_many_frames_as_fit_are_taken() {
    let mut duel = Duel::new();
    duel.say(&ping(1).repeat((Q - 17) / 9));
    assert_eq!(duel.error(), None);
    duel.say_with(15, &open(0));
    duel.say(&data(0, b"x").repeat((16 * Q - 17) / 4));
    let stream = duel.conn().accept_stream().expect("it was opened");
    assert_eq!(duel.conn().recv_stream(stream).readable_len(), (16 * Q - 17) / 4);
}
