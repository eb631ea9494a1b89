//! Early data: `docs/spec.md` section 6.

use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use peermux_core::crypto::{PublicKey, StaticSecret};
use peermux_core::driver::Progress;
use peermux_core::time::Instant;
use peermux_core::wire::Priority;
use peermux_core::{Config, Event, ExpectedPeer, ResponderKeys, Role, StreamId, StrikeRegister, Transmit};
use peermux_tests::{Drivers, Pair, PairBuilder, responder_key};
use proptest::prelude::*;

/// The wall clock when the tests begin, in milliseconds since 1970; the registers were made long before.
const NOW: u64 = 1_800_000_000_000;

fn early() -> Config {
    Config { early_data: true, ..Config::default() }
}

fn register() -> StrikeRegister {
    StrikeRegister::new(1000, NOW - 1_000_000)
}

/// Both sides take part, and the responder has a register.
fn willing() -> PairBuilder {
    PairBuilder {
        initiator_config: early(),
        responder_config: early(),
        wall_clock: Some(NOW),
        register: Some(register()),
        ..PairBuilder::default()
    }
}

/// A request of 1000 bytes that may travel early.
fn request(pair: &mut Pair) -> StreamId {
    let id = pair.initiator.conn.open_early(Some("test/early"), Priority::default()).expect("it opens");
    assert_eq!(pair.initiator.conn.send_stream(id).write(&[7; 1000]), Ok(1000));
    pair.initiator.conn.send_stream(id).finish().expect("it is open");
    id
}

/// Reads the request at the responder, and answers with 200 bytes.
fn answer(pair: &mut Pair) {
    let conn = &mut pair.responder.conn;
    let id = conn.accept_stream().expect("the request came");
    let mut buffer = [0; 2000];
    assert_eq!(conn.recv_stream(id).read(&mut buffer), Ok(1000));
    assert_eq!(conn.recv_stream(id).read(&mut buffer), Ok(0), "the end, once");
    assert!(buffer[..1000].iter().all(|&byte| byte == 7));
    conn.send_stream(id).write(&[8; 200]).expect("there is room");
    conn.send_stream(id).finish().expect("it is open");
    conn.release(id);
    assert_eq!(conn.accept_stream(), None, "only one request");
}

#[test]
fn a_driver_tells_of_a_claimed_peer_once_there_is_a_channel_binding() {
    let mut drivers = Drivers::new(willing());
    let early = drivers.initiator.open_early(Some("test/early"), Priority::default()).expect("it opens");
    assert!(early.poll_write(Waker::noop(), b"x").is_ready());
    let mut waiter = drivers.responder.waiter();
    assert_eq!(waiter.poll_handshake(Waker::noop()), Poll::Pending);
    drivers.initiator_speaks();
    assert_eq!(waiter.poll_handshake(Waker::noop()), Poll::Pending, "M2 is not made yet");
    drivers.responder_speaks();
    assert_eq!(drivers.responder.waiter_count(), 0, "it was woken");
    let told = waiter.poll_handshake(Waker::noop());
    assert!(matches!(told, Poll::Ready(Ok(Progress::Claimed(_)))), "{told:?}");
    let binding = drivers.responder.channel_binding();
    assert_ne!(binding, [0; 64]);
    assert_eq!(waiter.poll_handshake(Waker::noop()), Poll::Pending, "it is told once");
    drivers.settle();
    let told = waiter.poll_handshake(Waker::noop());
    assert!(matches!(told, Poll::Ready(Ok(Progress::Established(_)))), "{told:?}");
    assert_eq!((drivers.initiator.channel_binding(), drivers.responder.channel_binding()), (binding, binding));
}

fn delivered(pair: &Pair) -> bool {
    pair.responder.conn.has_incoming()
}

#[test]
fn a_known_host_answers_in_one_round_trip_after_tcps() {
    let mut pair = willing().build();
    let id = request(&mut pair);
    let round_trip = Duration::from_millis(20);
    while !delivered(&pair) {
        assert!(pair.step(Instant::ZERO + round_trip));
    }
    assert_eq!(pair.now, Instant::ZERO + round_trip / 2);
    let claimed = pair.responder.conn.claimed_peer().expect("it is claimed").key;
    assert_eq!(pair.responder.conn.peer_key(), None, "claimed is not confirmed: {claimed}");
    assert!(!pair.responder.conn.is_established());
    answer(&mut pair);
    let mut buffer = [0; 500];
    while pair.initiator.conn.recv_stream(id).readable_len() == 0 {
        assert!(pair.step(Instant::ZERO + round_trip));
    }
    assert_eq!(pair.now, Instant::ZERO + round_trip);
    assert_eq!(pair.initiator.conn.recv_stream(id).read(&mut buffer), Ok(200));
    pair.settle();
    assert_eq!(pair.responder.conn.peer_key(), Some(claimed), "and then it is confirmed");
    assert_eq!(pair.initiator.conn.recv_stream(id).read(&mut buffer), Ok(0));
    pair.initiator.conn.release(id);
    assert_eq!((pair.initiator.conn.stream_count(), pair.responder.conn.stream_count()), (0, 0));
}

#[test]
fn before_flight_3_one_record_of_answers_leaves_at_most() {
    let mut pair = willing().build();
    request(&mut pair);
    while !delivered(&pair) {
        pair.step(Instant::ZERO);
    }
    let conn = &mut pair.responder.conn;
    let id = conn.accept_stream().expect("the request came");
    assert!(conn.recv_stream(id).is_early());
    assert_eq!(conn.send_stream(id).write(&[8; 60_000]), Ok(60_000));
    // A stream of the responder's own does not go.
    let own = conn.open_stream(None, Priority::from_urgency(0)).expect("it opens");
    conn.send_stream(own).write(&[9; 100]).expect("there is room");
    pair.transmit(Role::Responder);
    let lengths: Vec<_> = pair.responder.trace.iter().map(|(_, len)| *len).collect();
    assert_eq!(lengths, [1408, 1408], "M2, and r2i record 0");
    pair.settle();
    assert!(pair.responder.trace.len() > 2);
    assert!(pair.initiator.conn.has_incoming());
}

#[test]
fn refused_early_data_goes_again_by_itself_and_is_delivered_once() {
    let stale = StaticSecret::from_bytes(&[0x33; 32]);
    let refusing: Vec<(&str, PairBuilder)> = vec![
        ("the responder does not take part", PairBuilder { responder_config: Config::default(), ..willing() }),
        ("nobody answers the offer", PairBuilder { register: None, ..willing() }),
        ("the register is young", PairBuilder { register: Some(StrikeRegister::new(10, NOW - 1000)), ..willing() }),
        ("the register is full", PairBuilder { register: Some(StrikeRegister::new(0, NOW - 1_000_000)), ..willing() }),
        (
            "the key is stale, so P1 cannot be read",
            PairBuilder { remote: ExpectedPeer::KeyOrApprove(stale.public_key()), ..willing() },
        ),
    ];
    let mut traces = Vec::new();
    for (name, builder) in refusing {
        let mut pair = builder.build();
        let id = request(&mut pair);
        for _ in 0..1000 {
            if pair.initiator.events.iter().any(|event| matches!(event, Event::ApprovePeer(_))) {
                pair.initiator.events.clear();
                pair.initiator.conn.accept_peer();
            }
            if !pair.step(pair.now) {
                break;
            }
        }
        assert!(pair.responder.conn.is_established(), "{name}: {:?}", pair.responder.conn.close_reason());
        assert_eq!(pair.initiator.conn.recv_stream(id).wire_id(), Some(0), "{name}");
        traces.push((name, pair.initiator.trace.clone(), pair.responder.trace.clone()));
        answer(&mut pair);
        pair.settle();
        let mut buffer = [0; 500];
        assert_eq!(pair.initiator.conn.recv_stream(id).read(&mut buffer), Ok(200), "{name}");
    }
    // And from outside it looks like a set-up without early data.
    let plain = PairBuilder::default().establish();
    for (name, initiator, responder) in traces {
        assert_eq!((initiator, responder), (plain.initiator.trace.clone(), plain.responder.trace.clone()), "{name}");
    }
}

#[test]
fn as_much_as_fits_goes_early_and_the_rest_follows() {
    for register in [Some(register()), None] {
        let mut pair = PairBuilder { register, ..willing() }.build();
        let mut ids = Vec::new();
        for number in 0..16u8 {
            let id = pair.initiator.conn.open_early(Some("test/early"), Priority::default()).expect("it opens");
            pair.initiator.conn.send_stream(id).write(&[number; 500]).expect("there is room");
            pair.initiator.conn.send_stream(id).finish().expect("it is open");
            ids.push(id);
        }
        let late = pair.initiator.conn.open_stream(Some("test/late"), Priority::from_urgency(0)).expect("it opens");
        pair.initiator.conn.send_stream(late).write(&[99; 500]).expect("there is room");
        pair.settle();
        let conn = &mut pair.responder.conn;
        let mut seen = Vec::new();
        while let Some(id) = conn.accept_stream() {
            let mut buffer = [0; 1000];
            assert_eq!(conn.recv_stream(id).read(&mut buffer), Ok(500));
            assert!(buffer[..500].iter().all(|&byte| byte == buffer[0]));
            seen.push(buffer[0]);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..16).chain([99]).collect::<Vec<_>>());
    }
}

/// The bytes of a first flight with a request.
fn captured() -> Vec<u8> {
    let mut pair = willing().build();
    request(&mut pair);
    let mut buffer = vec![0; 2816];
    assert_eq!(pair.initiator.conn.poll_transmit(pair.now, &mut buffer), Ok(Transmit::Bytes(2816)));
    buffer
}

/// What a responder with this register and clock makes of the flight: whether the request is delivered.
fn replay(flight: &[u8], register: &mut StrikeRegister, wall_clock: u64, previous: bool) -> bool {
    let responder_keys = if previous {
        let current = StaticSecret::from_bytes(&[0x44; 32]);
        ResponderKeys { current, previous: Some(responder_key()) }
    } else {
        responder_key().into()
    };
    let mut pair = PairBuilder { responder_keys, wall_clock: Some(wall_clock), seed: wall_clock, ..willing() }.build();
    pair.responder.register = None;
    let conn = &mut pair.responder.conn;
    conn.handle_input(Instant::ZERO, &mut BytesMut::from(flight));
    if let Some(Event::EarlyData(offer)) = conn.poll_event()
        && register.strike(&offer.ephemeral, offer.timestamp, offer.now).is_ok()
    {
        assert!(conn.accept_early());
    }
    conn.has_incoming()
}

#[test]
fn a_captured_first_flight_never_delivers_its_early_data_twice() {
    let flight = captured();
    let mut register = register();
    assert!(replay(&flight, &mut register, NOW, false), "the first time");
    assert!(!replay(&flight, &mut register, NOW, false), "to the same responder");
    assert!(!replay(&flight, &mut register, NOW, true), "to the same key after a rotation");
    for later in [1, 30_000, 59_999, 60_000, 60_001, 120_000, 1_000_000] {
        assert!(!replay(&flight, &mut register, NOW + later, false), "{later} ms later");
    }
    for later in [0, 1_000, 60_000, 119_999, 120_000, 1_000_000] {
        let mut restarted = StrikeRegister::new(1000, NOW);
        assert!(!replay(&flight, &mut restarted, NOW + later, false), "{later} ms later, to a restarted responder");
    }
    assert!(!replay(&flight, &mut register, NOW - 61_000, false), "with a clock set back");
}

#[test]
fn an_answer_to_the_offer_that_comes_late_is_a_refusal() {
    let mut pair = PairBuilder { register: None, ..willing() }.build();
    request(&mut pair);
    pair.settle();
    assert!(!pair.responder.conn.accept_early());
    answer(&mut pair);
}

#[test]
fn a_replayed_first_flight_is_never_confirmed() {
    let flight = captured();
    let mut pair = PairBuilder { register: None, ..willing() }.build();
    let conn = &mut pair.responder.conn;
    conn.handle_input(Instant::ZERO, &mut BytesMut::from(&flight[..]));
    let mut buffer = [0; 2816];
    assert_eq!(conn.poll_transmit(Instant::ZERO, &mut buffer), Ok(Transmit::Bytes(1408)));
    conn.handle_input(Instant::ZERO, &mut BytesMut::from(&[0x5a; 1408][..]));
    assert!(!conn.is_established());
    assert_eq!(conn.peer_key(), None);
    assert!(conn.close_reason().is_some());
    assert_eq!(conn.poll_transmit(Instant::ZERO, &mut buffer), Ok(Transmit::Idle), "nothing is said");
}

#[test]
fn a_stream_that_was_reset_meanwhile_is_reset_after_it_went_again() {
    let mut pair = PairBuilder { register: None, ..willing() }.build();
    let id = pair.initiator.conn.open_early(None, Priority::default()).expect("it opens");
    pair.initiator.conn.send_stream(id).write(&[7; 100]).expect("there is room");
    pair.transmit(Role::Initiator);
    pair.initiator.conn.release(id);
    pair.settle();
    let conn = &mut pair.responder.conn;
    let theirs = conn.accept_stream().expect("it was opened");
    let read = conn.recv_stream(theirs).read(&mut [0; 200]);
    assert!(matches!(read, Err(peermux_core::error::ReadError::Reset(_))), "{read:?}");
    conn.release(theirs);
    pair.settle();
    assert_eq!((pair.initiator.conn.stream_count(), pair.responder.conn.stream_count()), (0, 0));
}

/// The request at the responder, read and released: whether it says that it is early.
fn received(pair: &mut Pair) -> Option<bool> {
    let conn = &mut pair.responder.conn;
    let id = conn.accept_stream()?;
    let early = conn.recv_stream(id).is_early();
    assert_eq!(conn.recv_stream(id).read(&mut [0; 2000]), Ok(1000));
    conn.release(id);
    Some(early)
}

#[test]
fn accept_early_twice_does_nothing_the_second_time() {
    let mut pair = PairBuilder { register: None, ..willing() }.build();
    request(&mut pair);
    pair.transmit(Role::Initiator);
    pair.now = pair.now + Duration::from_millis(10);
    assert!(pair.deliver(Role::Responder));
    assert!(pair.responder.conn.accept_early());
    assert!(!pair.responder.conn.accept_early());
    pair.settle();
    assert!(pair.responder.conn.is_established(), "{:?}", pair.responder.conn.close_reason());
    assert_eq!(received(&mut pair), Some(true));
    assert_eq!(pair.responder.conn.accept_stream(), None);
}

#[test]
fn a_copy_that_arrives_before_its_original_is_delivered_too_and_both_say_that_they_are_early() {
    let mut pair = willing().build();
    let id = request(&mut pair);
    pair.transmit(Role::Initiator);
    let flight = pair.pipe(Role::Initiator)[0].1.clone();
    // Whoever stands in between lets a copy arrive first.
    let mut copy = PairBuilder { seed: 2, ..willing() }.build();
    let mut register = pair.responder.register.take().expect("there is one");
    copy.responder.conn.handle_input(Instant::ZERO, &mut BytesMut::from(&flight[..]));
    let Some(Event::EarlyData(offer)) = copy.responder.conn.poll_event() else { panic!("early data is offered") };
    assert_eq!(register.strike(&offer.ephemeral, offer.timestamp, offer.now), Ok(()));
    assert!(copy.responder.conn.accept_early());
    assert_eq!(received(&mut copy), Some(true));
    // The original is refused, and its data goes again.
    pair.responder.register = Some(register);
    pair.settle();
    assert!(pair.initiator.conn.is_established() && pair.responder.conn.is_established());
    assert!(pair.initiator.conn.recv_stream(id).is_early(), "refused or not");
    assert_eq!(received(&mut pair), Some(true));
    // What is opened later is not early.
    let later = pair.initiator.conn.open_stream(None, Priority::default()).expect("it opens");
    pair.initiator.conn.send_stream(later).write(&[7; 1000]).expect("there is room");
    pair.settle();
    assert!(!pair.initiator.conn.recv_stream(later).is_early());
    assert_eq!(received(&mut pair), Some(false));
}

#[test]
fn early_data_that_goes_again_after_a_fallback_says_so() {
    let stale = StaticSecret::from_bytes(&[0x33; 32]);
    for early in [true, false] {
        let mut pair = PairBuilder { remote: ExpectedPeer::KeyOrApprove(stale.public_key()), ..willing() }.build();
        if early {
            request(&mut pair);
        }
        pair.settle();
        if !early {
            let id = pair.initiator.conn.open_stream(None, Priority::default()).expect("it opens");
            pair.initiator.conn.send_stream(id).write(&[7; 1000]).expect("there is room");
        }
        pair.initiator.conn.accept_peer();
        pair.settle();
        assert!(pair.responder.conn.is_established(), "{:?}", pair.responder.conn.close_reason());
        assert_eq!(received(&mut pair), Some(early));
    }
}

#[test]
fn data_that_goes_again_waits_for_the_decision() {
    let mut pair =
        PairBuilder { register: None, responder_config: Config { approve_peers: true, ..early() }, ..willing() }
            .build();
    request(&mut pair);
    pair.settle();
    assert_eq!(pair.responder.conn.accept_stream(), None, "the peer is not accepted");
    pair.responder.conn.accept_peer();
    assert_eq!(received(&mut pair), Some(true));
}

#[test]
fn a_register_learns_of_first_flights_whose_early_data_must_be_refused_anyway() {
    // The responder's clock is 61 s behind, so it refuses; the same flight comes again when it would be in time.
    let flight = captured();
    let mut offers = Vec::new();
    for clock in [NOW - 61_000, NOW + 61_000, NOW] {
        let mut pair = PairBuilder { wall_clock: Some(clock), ..willing() }.build();
        let conn = &mut pair.responder.conn;
        conn.handle_input(Instant::ZERO, &mut BytesMut::from(&flight[..]));
        let Some(Event::EarlyData(offer)) = conn.poll_event() else { panic!("the register is asked") };
        offers.push((offer.timestamp, conn.accept_early()));
    }
    assert_eq!(offers, [(NOW, false), (NOW, false), (NOW, true)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    /// Against a register that forgets nothing: what it has been asked about within the window is not accepted again, whatever the clocks and the order; and a register with room accepts all else.
    #[test]
    fn no_flight_is_accepted_twice(
        capacity in 0usize..12,
        offers in prop::collection::vec((0u8..24, 0u64..40_000, 0u64..3), 0..200),
    ) {
        let timestamp = |number: u8| NOW + 50_000 * u64::from(number % 4) + 300 * u64::from(number);
        let mut small = StrikeRegister::new(capacity, NOW - 1_000_000);
        let mut large = register();
        let (mut entered, mut taken) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        let (mut latest, mut now) = (NOW - 1_000_000, NOW);
        for (number, step, way) in offers {
            // Now and then the clock is set back.
            now = if way == 0 { now.saturating_sub(step) } else { now + step };
            latest = latest.max(now);
            let in_window = timestamp(number).abs_diff(latest) <= 60_000;
            let acceptable = in_window && !entered.contains(&number);
            prop_assert_eq!(large.strike(&PublicKey::from_bytes([number; 32]), timestamp(number), now).is_ok(), acceptable);
            let accepted = small.strike(&PublicKey::from_bytes([number; 32]), timestamp(number), now).is_ok();
            // One that was turned away for want of room was never accepted, and may be later.
            prop_assert!(!accepted || in_window && taken.insert(number));
            prop_assert!(small.len() <= capacity);
            if in_window {
                entered.insert(number);
            }
        }
    }
}
