//! Records: sizes, announcements, keys, and what happens when somebody on the way changes anything (`docs/spec.md` sections 8 and 13).

use std::time::Duration;

use peermux_core::code::{ErrorCode, ProtocolErrorCode};
use peermux_core::error::{ConnectionError, ReadError};
use peermux_core::time::Instant;
use peermux_core::wire::{Frame, Priority};
use peermux_core::{Config, Event, ExpectedPeer, HandshakeMode, Role, StreamId};
use peermux_tests::hostile::*;
use peermux_tests::{Pair, PairBuilder};

fn long() -> bool {
    std::env::var_os("PEERMUX_LONG").is_some()
}

/// Some of `0..len`, or all of it in a long run.
fn some(len: usize, step: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(if long() { 1 } else { step })
}

fn truth() -> Vec<u8> {
    (0..20_000u32).flat_map(|number| (number as u16).to_be_bytes()).collect()
}

fn builder(mode: HandshakeMode, seed: u64) -> PairBuilder {
    let config = || Config { max_record_quanta: 2, grease: false, ..Config::default() };
    let mut builder =
        PairBuilder { seed, initiator_config: config(), responder_config: config(), ..PairBuilder::default() };
    if mode == HandshakeMode::Fallback {
        builder.remote = ExpectedPeer::Any;
    }
    builder
}

/// A pair with data on its way from the initiator, in many records, each of them one entry of the pipe.
fn under_way(mode: HandshakeMode, seed: u64) -> (Pair, StreamId) {
    let mut pair = builder(mode, seed).establish();
    pair.initiator.events.clear();
    pair.responder.events.clear();
    let id = pair.initiator.conn.open_stream(None, Priority::default()).expect("it opens");
    assert_eq!(pair.initiator.conn.send_stream(id).write(&truth()), Ok(40_000));
    pair.initiator.conn.send_stream(id).finish().expect("it is open");
    pair.transmit(Role::Initiator);
    assert!(pair.pipe(Role::Initiator).len() > 10);
    (pair, id)
}

/// The records that are on their way were changed. The responder finds out, delivers a prefix of the truth at most, and is silent.
#[track_caller]
fn finds_out(name: &str, pair: &mut Pair) {
    let written = pair.responder.trace.len();
    pair.now = pair.now + Duration::from_millis(10);
    pair.deliver(Role::Responder);
    assert_eq!(pair.responder.conn.close_reason(), Some(&ConnectionError::DecryptError), "{name}");
    let told =
        pair.responder.events.iter().filter(|event| **event == Event::Closed(ConnectionError::DecryptError)).count();
    assert_eq!(told, 1, "{name}");
    if let Some(stream) = pair.responder.conn.accept_stream() {
        let mut read = Vec::new();
        let mut buffer = [0; 4096];
        let end = loop {
            match pair.responder.conn.recv_stream(stream).read(&mut buffer) {
                Ok(len) => {
                    assert_ne!(len, 0, "{name}: a clean end");
                    read.extend(&buffer[..len]);
                }
                Err(error) => break error,
            }
        };
        assert_eq!(end, ReadError::Connection(ConnectionError::DecryptError), "{name}");
        assert!(truth().starts_with(&read), "{name}");
    }
    let until = pair.responder.conn.poll_timeout().expect("a timer");
    let silence = until.saturating_since(pair.now);
    assert!((Duration::from_secs(2)..=Duration::from_secs(10)).contains(&silence), "{name}: {silence:?}");
    // Whatever arrives changes nothing.
    pair.transmit(Role::Initiator);
    let mut noise = bytes::BytesMut::from(&[0x33; 50_000][..]);
    pair.responder.conn.handle_input(pair.now + silence / 2, &mut noise);
    pair.responder.conn.handle_timeout(pair.now + silence / 2);
    assert_eq!(pair.responder.conn.poll_timeout(), Some(until), "{name}");
    pair.now = pair.now + (silence - Duration::from_micros(1));
    let now = pair.now;
    pair.responder.conn.handle_timeout(now);
    pair.deliver(Role::Responder);
    pair.transmit(Role::Responder);
    assert!(!pair.responder.conn.is_closed(), "{name}");
    pair.responder.conn.handle_timeout(until);
    assert!(pair.responder.conn.is_closed(), "{name}");
    pair.transmit(Role::Responder);
    assert_eq!(pair.responder.trace.len(), written, "{name}: it said something");
}

#[test]
fn any_flipped_bit_of_a_record_is_found_out() {
    let (mut pair, _) = under_way(HandshakeMode::Ik, 1);
    let lens: Vec<usize> = pair.pipe(Role::Initiator).iter().map(|(_, bytes)| bytes.len()).collect();
    // The first record, and one of two quanta.
    let large = lens.iter().position(|len| *len == 2816).expect("there is one");
    for index in [0, large] {
        let bits: Vec<usize> = some(8 * lens[index], 331).chain([0, 7, 8 * lens[index] - 1]).collect();
        for bit in bits {
            let (mut pair, _) = under_way(HandshakeMode::Ik, 1);
            pair.pipe(Role::Initiator)[index].1[bit / 8] ^= 1 << (bit % 8);
            finds_out(&format!("record {index}, bit {bit}"), &mut pair);
        }
    }
}

#[test]
fn records_that_are_dropped_doubled_swapped_or_cut_are_found_out() {
    for mode in [HandshakeMode::Ik, HandshakeMode::Fallback] {
        for index in [0, 1, 5] {
            let (mut pair, _) = under_way(mode, 2);
            pair.pipe(Role::Initiator).remove(index);
            finds_out("dropped", &mut pair);

            let (mut pair, _) = under_way(mode, 2);
            let record = pair.pipe(Role::Initiator)[index].clone();
            pair.pipe(Role::Initiator).insert(index, record);
            finds_out("doubled", &mut pair);

            let (mut pair, _) = under_way(mode, 2);
            pair.pipe(Role::Initiator).swap(index, index + 1);
            finds_out("swapped", &mut pair);

            let (mut pair, _) = under_way(mode, 2);
            pair.pipe(Role::Initiator)[index].1.remove(100);
            finds_out("cut", &mut pair);

            let (mut pair, _) = under_way(mode, 2);
            pair.pipe(Role::Initiator)[index].1.insert(100, 0);
            finds_out("stretched", &mut pair);
        }
    }
}

#[test]
fn records_that_are_reflected_or_of_another_session_are_found_out() {
    let (mut pair, id) = under_way(HandshakeMode::Ik, 3);
    // What the responder says to the initiator comes back to it.
    pair.run_for(Duration::from_millis(10));
    let stream = pair.responder.conn.accept_stream().expect("it was opened");
    pair.responder.conn.send_stream(stream).write(&[1; 100]).expect("there is room");
    pair.transmit(Role::Responder);
    let reflected = pair.pipe(Role::Responder).back().expect("it wrote").clone();
    pair.pipe(Role::Initiator).clear();
    pair.pipe(Role::Initiator).push_back(reflected);
    pair.responder.events.clear();
    pair.now = pair.now + Duration::from_millis(20);
    pair.deliver(Role::Responder);
    assert_eq!(pair.responder.conn.close_reason(), Some(&ConnectionError::DecryptError));
    let _ = id;

    for index in [0, 3] {
        let (mut other, _) = under_way(HandshakeMode::Ik, 4);
        let (mut pair, _) = under_way(HandshakeMode::Ik, 3);
        pair.pipe(Role::Initiator)[index] = other.pipe(Role::Initiator)[index].clone();
        finds_out("spliced", &mut pair);
        let (mut pair, _) = under_way(HandshakeMode::Ik, 3);
        let (mut same_keys, _) = under_way(HandshakeMode::Ik, 3);
        // The same session, another place.
        pair.pipe(Role::Initiator)[index] = same_keys.pipe(Role::Initiator)[index + 1].clone();
        finds_out("of another place", &mut pair);
    }
}

#[test]
fn the_silence_is_drawn_anew_and_does_not_depend_on_what_was_changed_or_arrives() {
    let silence = |seed: u64, byte: usize, more: usize| {
        let (mut pair, _) = under_way(HandshakeMode::Ik, seed);
        pair.pipe(Role::Initiator)[0].1[byte] ^= 0x10;
        let arrives = pair.pipe(Role::Initiator).drain(..).take(1 + more).collect();
        *pair.pipe(Role::Initiator) = arrives;
        pair.now = pair.now + Duration::from_millis(10);
        pair.deliver(Role::Responder);
        pair.responder.conn.poll_timeout().expect("a timer").saturating_since(pair.now)
    };
    assert_eq!(silence(5, 0, 0), silence(5, 1407, 0));
    assert_eq!(silence(5, 0, 0), silence(5, 700, 9));
    let all: Vec<Duration> = (0..64).map(|seed| silence(seed, 0, 0)).collect();
    let (least, most) = (all.iter().min().expect("some"), all.iter().max().expect("some"));
    assert!(*least >= Duration::from_secs(2) && *most <= Duration::from_secs(10));
    // 64 draws all miss an end of this width once in ten million.
    assert!(*least < Duration::from_secs(4) && *most > Duration::from_secs(8), "{least:?} to {most:?}");
}

#[test]
fn a_transport_that_ends_without_close_is_truncation_at_every_offset() {
    let (mut pair, _) = under_way(HandshakeMode::Ik, 6);
    let all: Vec<u8> = pair.pipe(Role::Initiator).iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    for offset in some(all.len() + 1, 997).chain([1407, 1408, 1409, all.len() - 1, all.len()]) {
        let (mut pair, _) = under_way(HandshakeMode::Ik, 6);
        let now = pair.now;
        let mut input = bytes::BytesMut::from(&all[..offset]);
        pair.responder.conn.handle_input(now, &mut input);
        pair.responder.conn.handle_eof(now);
        assert_eq!(pair.responder.conn.close_reason(), Some(&ConnectionError::Truncated), "{offset}");
        assert!(pair.responder.conn.is_closed());
        let Some(stream) = pair.responder.conn.accept_stream() else { continue };
        let mut read = Vec::new();
        let mut buffer = [0; 50_000];
        let whole = loop {
            match pair.responder.conn.recv_stream(stream).read(&mut buffer) {
                Ok(0) => break true,
                Ok(len) => read.extend(&buffer[..len]),
                Err(error) => {
                    assert_eq!(error, ReadError::Connection(ConnectionError::Truncated));
                    break false;
                }
            }
        };
        // A stream whose FIN arrived had finished.
        assert_eq!(whole, read == truth(), "{offset}");
        assert!(truth().starts_with(&read));
        assert_eq!(
            pair.responder.conn.send_stream(stream).write(b"x"),
            Err(peermux_core::error::WriteError::Connection(ConnectionError::Truncated))
        );
    }
}

#[test]
fn a_transport_that_ends_after_close_is_a_clean_end() {
    let mut pair = Pair::established();
    pair.initiator.conn.close(ErrorCode::NO_ERROR, "");
    pair.settle();
    for side in [&pair.initiator, &pair.responder] {
        assert!(side.conn.close_reason().expect("it ended").is_orderly());
        assert!(side.conn.is_closed());
    }
}

#[test]
fn bytes_after_the_last_record_are_discarded_and_change_nothing() {
    for extra in [1, 1408, 5000] {
        let mut duel = Duel::new();
        let mut bytes = duel.wire.seal(0x20, &close(ErrorCode::Application(5), "done"));
        bytes.extend(vec![7; extra]);
        duel.feed(&bytes);
        duel.feed(&[8; 3]);
        let error = duel.error().expect("it ended").clone();
        assert_eq!(error.code(), Some(ErrorCode::Application(5)));
        assert_eq!(duel.hear_close(), Some(ErrorCode::NO_ERROR));
        duel.feed(&[9; 3]);
        assert!(duel.conn().is_closed());
        assert_eq!(duel.error().expect("it ended").code(), error.code());
    }
}

/// What both sides wrote, what they read, and what they were told.
type Outcome = ([Vec<u8>; 2], [Vec<u8>; 2], [Vec<Event>; 2]);

/// The whole conversation, cut up as `cut` says: what both sides delivered and wrote.
fn conversation(mode: HandshakeMode, cut: impl Fn(usize) -> Vec<usize>) -> Outcome {
    let pair = builder(mode, 9).build();
    let (mut one, mut two) = (Talk::new(pair.initiator.conn), Talk::new(pair.responder.conn));
    let (mut said_one, mut said_two, mut read_one, mut read_two) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut now = Instant::ZERO;
    let id = one.conn.open_stream(Some("test"), Priority::default()).expect("it opens");
    one.conn.send_stream(id).write(&[5; 2000]).expect("there is room");
    let mut theirs = None;
    let mut buffer = [0; 4096];
    for round in 0..12 {
        now = now + Duration::from_millis(5);
        for forth in [true, false] {
            let (from, to, said) = match forth {
                true => (&mut one, &mut two, &mut said_one),
                false => (&mut two, &mut one, &mut said_two),
            };
            let bytes = from.take(now);
            said.extend(&bytes);
            let mut rest = &bytes[..];
            for len in cut(bytes.len()) {
                let (piece, later) = rest.split_at(len.min(rest.len()));
                to.feed(now, piece);
                rest = later;
            }
            to.feed(now, rest);
        }
        theirs = theirs.or_else(|| two.conn.accept_stream());
        if let Some(theirs) = theirs {
            while let Ok(len @ 1..) = two.conn.recv_stream(theirs).read(&mut buffer) {
                read_two.extend(&buffer[..len]);
            }
            let _ = two.conn.send_stream(theirs).write(&[round; 500]);
        }
        while let Ok(len @ 1..) = one.conn.recv_stream(id).read(&mut buffer) {
            read_one.extend(&buffer[..len]);
        }
        if round < 9 {
            let _ = one.conn.send_stream(id).write(&[round; 700]);
        } else if round == 10 {
            one.conn.close(ErrorCode::Application(3), "enough");
        }
    }
    assert!(read_one.len() > 1000 && read_two.len() > 5000, "{} {}", read_one.len(), read_two.len());
    assert!(one.conn.is_closed() && two.conn.is_closed());
    ([said_one, said_two], [read_one, read_two], [one.events, two.events])
}

#[test]
fn one_byte_at_a_time_changes_nothing() {
    for mode in [HandshakeMode::Ik, HandshakeMode::Fallback] {
        assert!(conversation(mode, |len| vec![1; len]) == conversation(mode, |_| vec![]));
    }
}

#[test]
fn a_split_at_any_boundary_changes_nothing() {
    let whole = conversation(HandshakeMode::Ik, |_| vec![]);
    for at in some(2 * Q + 1, 113).chain([1, Q - 1, Q, Q + 1, 2 * Q - 1]) {
        assert!(conversation(HandshakeMode::Ik, |_| vec![at]) == whole, "{at}");
    }
}

#[test]
fn a_slice_and_a_shared_buffer_are_read_alike() {
    let (mut pair, _) = under_way(HandshakeMode::Ik, 6);
    let mut all: Vec<u8> = pair.pipe(Role::Initiator).iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    let now = pair.now;
    let mut taken = 0;
    while taken < all.len() {
        // As much as a small device has room for.
        let end = all.len().min(taken + 3000);
        let before = taken;
        taken += pair.responder.conn.handle_slice(now, &mut all[taken..end]);
        assert!(taken > before);
        assert!(end - taken < pair.responder.conn.next_input_len());
    }
    let stream = pair.responder.conn.accept_stream().expect("it was opened");
    let mut read = vec![0; 50_000];
    assert_eq!(pair.responder.conn.recv_stream(stream).read(&mut read), Ok(40_000));
    assert_eq!(read[..40_000], truth());
}

#[test]
fn announcements_keep_to_the_peer_s_largest_record_and_are_made_for_payload_only() {
    for largest in [1, 2, 3, 16] {
        let settings = vec![(1, largest), (2, 1 << 20), (3, 1 << 20), (4, 100)];
        for mode in [HandshakeMode::Ik, HandshakeMode::Fallback] {
            let mut duel = DuelBuilder { mode, settings: settings.clone(), ..DuelBuilder::default() }.build();
            let mut sizes = Vec::new();
            for size in [1, 1000, 1300, 1391, 1392, 5000, 100_000, 0, 50] {
                let id = duel.conn().open_stream(None, Priority::default()).expect("it opens");
                if size > 0 {
                    duel.conn().send_stream(id).write(&vec![1; size]).expect("there is room");
                }
                for heard in duel.hear() {
                    let payload: usize = heard
                        .frames()
                        .iter()
                        .map(|frame| match frame {
                            Frame::Stream(data) => data.payload.len(),
                            _ => 0,
                        })
                        .sum();
                    let quanta = (heard.area.len() + 17) / Q;
                    assert!(quanta == 1 || payload > 0, "{quanta} quanta without payload");
                    assert!(quanta == 1 || payload + 64 > (quanta - 1) * Q, "{quanta} quanta for {payload} bytes");
                    sizes.push(quanta as u64);
                }
                assert_eq!(duel.error(), None);
                duel.now = duel.now + Duration::from_millis(50);
            }
            assert!(sizes.iter().all(|size| *size <= largest), "{sizes:?}");
            assert!(largest == 1 || sizes.iter().any(|size| *size > 1), "{sizes:?}");
        }
    }
}

#[test]
fn what_was_announced_for_payload_that_vanished_is_sent_as_padding() {
    let mut duel = Duel::new();
    let id = duel.conn().open_stream(None, Priority::default()).expect("it opens");
    duel.conn().send_stream(id).write(&[1; 50_000]).expect("there is room");
    let mut buffer = vec![0; 16 * Q];
    let now = duel.now;
    let first = duel.conn().poll_transmit(now, &mut buffer);
    assert_eq!(first, Ok(peermux_core::Transmit::Bytes(Q)));
    let heard = duel.wire.open(&buffer[..Q]);
    let announced = usize::from(heard[0].header & 0x0f) + 1;
    assert!(announced > 1);
    duel.conn().send_stream(id).reset(ErrorCode::Application(1));
    let heard = duel.hear();
    assert_eq!((heard[0].area.len() + 17) / Q, announced);
    assert!(matches!(heard[0].frames()[0], Frame::Reset(_)));
    assert_eq!(heard[0].header, 0);
    assert_eq!(heard.len(), 1);
}

#[test]
fn the_last_record_has_the_size_that_was_announced_and_announces_nothing() {
    let mut duel = Duel::new();
    let id = duel.conn().open_stream(None, Priority::default()).expect("it opens");
    duel.conn().send_stream(id).write(&[1; 50_000]).expect("there is room");
    let mut buffer = vec![0; 16 * Q];
    let now = duel.now;
    duel.conn().poll_transmit(now, &mut buffer).expect("it fits");
    let announced = usize::from(duel.wire.open(&buffer[..Q])[0].header & 0x0f) + 1;
    assert!(announced > 1);
    duel.conn().close(ErrorCode::Application(9), "enough");
    let heard = duel.hear();
    assert_eq!(heard.len(), 1);
    assert_eq!((heard[0].area.len() + 17) / Q, announced);
    assert_eq!(heard[0].header, 0x20);
    assert_eq!(heard[0].frames().len(), 1, "what was queued is dropped");
}

#[test]
fn a_buffer_that_is_too_small_loses_nothing() {
    let mut duel = Duel::new();
    let id = duel.conn().open_stream(None, Priority::default()).expect("it opens");
    duel.conn().send_stream(id).write(&[1; 5000]).expect("there is room");
    let mut got = 0;
    loop {
        let now = duel.now;
        let needed = duel.conn().next_transmit_len();
        let mut small = vec![0; needed - 1];
        match duel.conn().poll_transmit(now, &mut small) {
            Err(error) => assert_eq!(error.needed, needed),
            Ok(transmit) => {
                assert_eq!(transmit, peermux_core::Transmit::Idle);
                break;
            }
        }
        let mut exact = vec![0; needed];
        assert_eq!(duel.conn().poll_transmit(now, &mut exact), Ok(peermux_core::Transmit::Bytes(needed)));
        for frame in frames(&duel.wire.open(&exact)) {
            if let Frame::Stream(data) = frame {
                got += data.payload.len();
            }
        }
    }
    assert_eq!(got, 5000);
}

#[test]
fn a_sender_updates_its_key_with_the_65_536th_record() {
    let mut duel = Duel::new();
    let id = duel.conn().open_stream(None, Priority::default()).expect("it opens");
    let mut count = 0u32;
    let mut updates = Vec::new();
    while count < 2 * 65_536 + 10 {
        duel.conn().send_stream(id).write(b"x").expect("there is room");
        for heard in duel.hear() {
            count += 1;
            if heard.header & 0x10 != 0 {
                updates.push(count);
            }
        }
        if count.is_multiple_of(1000) {
            duel.say(&[max_stream_data(1, 1 << 30), max_data(1 << 31)].concat());
        }
    }
    assert_eq!(updates, [65_536, 2 * 65_536]);
    assert_eq!(duel.error(), None);
}

#[test]
fn a_receiver_takes_65_536_records_under_a_key_and_not_one_more() {
    for updates in [true, false] {
        let mut duel = Duel::new();
        duel.say(&open(0));
        let stream = duel.conn().accept_stream().expect("it was opened");
        let mut buffer = [0; 16];
        // Two were sent: flight 3 and OPEN.
        for record in 3..=65_536 {
            let last = record == 65_536;
            duel.say_with(if last && updates { 0x10 } else { 0 }, &data(0, b"x"));
            assert_eq!(duel.conn().recv_stream(stream).read(&mut buffer), Ok(1));
            if record % 1000 == 0 {
                duel.hear();
            }
        }
        duel.hear();
        assert_eq!(duel.error(), None);
        duel.say(&data(0, b"x"));
        let expected = (!updates).then_some(ErrorCode::Protocol(ProtocolErrorCode::KEY_LIMIT));
        assert_eq!(duel.hear_close(), expected);
        assert_eq!(duel.conn().recv_stream(stream).readable_len(), usize::from(updates));
    }
}

#[test]
fn keys_are_updated_at_any_time_on_both_sides_at_once() {
    let config = Config { max_idle_timeout: None, keep_alive_interval: None, ..Config::default() };
    let mut duel = DuelBuilder { config, ..DuelBuilder::default() }.build();
    duel.say(&open(0));
    let stream = duel.conn().accept_stream().expect("it was opened");
    let mut buffer = [0; 64];
    for hour in 0..5 {
        let due = hour > 0;
        duel.conn().send_stream(stream).write(b"to you").expect("there is room");
        let heard = duel.hear();
        assert_eq!(heard[0].header & 0x10 != 0, due, "an hour is as long as a key is used");
        assert_eq!(heard.len(), 1);
        duel.say_with(0x10, &data(0, b"to me"));
        duel.say_with(0x10, &data(0, b"and again"));
        assert_eq!(duel.conn().recv_stream(stream).read(&mut buffer), Ok(14));
        duel.now = duel.now + Duration::from_secs(3600);
    }
    // Nothing is sent because of a key update alone.
    assert!(duel.hear().is_empty());
    assert_eq!(duel.error(), None);
}

#[test]
fn a_record_under_the_old_key_after_an_update_is_found_out() {
    let mut duel = Duel::new();
    let before = duel.wire.seal(0, &ping(1));
    duel.feed(&before);
    // The header says that the key changes; the sender's does not.
    let mut plaintext = vec![0; Q - 16];
    plaintext[0] = 0x10;
    let record = duel.wire.seal_raw(0, &plaintext);
    duel.feed(&record);
    assert_eq!(duel.error(), None);
    duel.say(&[]);
    assert_eq!(duel.error(), Some(&ConnectionError::DecryptError));
    assert!(duel.hear().is_empty());
}

#[test]
fn the_first_record_of_flight_3_may_be_large_in_fallback_and_is_one_quantum_in_ik() {
    let mut builder = PairBuilder { remote: ExpectedPeer::Any, ..PairBuilder::default() };
    builder.initiator_config.grease = false;
    let mut pair = builder.build();
    let id = pair.initiator.conn.open_stream(None, Priority::default()).expect("it opens");
    let written = pair.initiator.conn.send_stream(id).write(&[1; 50_000]).expect("there is room");
    assert_eq!(written, 2048, "what is certain to be allowed");
    pair.settle();
    assert_eq!(pair.initiator.trace.iter().map(|(_, len)| *len).collect::<Vec<_>>(), [2 * Q, Q, Q]);
    let stream = pair.responder.conn.accept_stream().expect("it was opened");
    assert_eq!(pair.responder.conn.recv_stream(stream).readable_len(), 2048);
}
