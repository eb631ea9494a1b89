//! A handshake that fails says nothing and looks like one that never finishes (`docs/spec.md` section 13.1), and whoever failed knows why.

use std::sync::Arc;
use std::time::Duration;

use peermux_core::code::ErrorCode;
use peermux_core::crypto::{PublicKey, StaticSecret, Suite};
use peermux_core::error::{ConnectionError, HandshakeError};
use peermux_core::time::Instant;
use peermux_core::{Config, Connection, Event, ExpectedPeer, HandshakeMode, Identity, ResponderKeys, Role};
use peermux_tests::hostile::*;
use peermux_tests::{Pair, PairBuilder, initiator_key, responder_key, rng};
use rand_core::Rng as _;

const DEADLINE: Instant = Instant::from_millis(15_000);

/// Points whose products with every clamped scalar are zero (RFC 7748, section 6.1), in all their encodings of 255 bits.
fn low_order() -> Vec<[u8; 32]> {
    let mut one = [0; 32];
    one[0] = 1;
    let eight_1: [u8; 32] = [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
        0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ];
    let eight_2: [u8; 32] = [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
        0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ];
    let near_p = |low: u8| {
        let mut point = [0xff; 32];
        point[0] = low;
        point[31] = 0x7f;
        point
    };
    let points = [[0; 32], one, eight_1, eight_2, near_p(0xec), near_p(0xed), near_p(0xee)];
    // The highest bit does not count.
    points
        .into_iter()
        .flat_map(|mut point| {
            let plain = point;
            point[31] |= 0x80;
            [plain, point]
        })
        .collect()
}

fn responder_with(config: Config, keys: ResponderKeys) -> Talk {
    Talk::new(Connection::responder(Arc::new(config), keys, Instant::ZERO, &mut rng(1)).expect("valid"))
}

fn responder() -> Talk {
    responder_with(Config::default(), responder_key().into())
}

fn initiator(remote: ExpectedPeer) -> Talk {
    let identity = Identity::Static(initiator_key());
    Talk::new(
        Connection::initiator(Arc::new(Config::default()), identity, remote, Instant::ZERO, &mut rng(1))
            .expect("valid"),
    )
}

fn known() -> ExpectedPeer {
    ExpectedPeer::Key(responder_key().public_key())
}

fn failure(talk: &Talk) -> Option<HandshakeError> {
    match talk.conn.close_reason() {
        Some(ConnectionError::Handshake(error)) => Some(*error),
        None => None,
        other => panic!("another error: {other:?}"),
    }
}

/// The handshake has failed and the application knows; nothing is said from now on, whatever arrives, until the deadline.
#[track_caller]
fn is_silent(name: &str, talk: &mut Talk) {
    let error = failure(talk).unwrap_or_else(|| panic!("{name}: it has not failed"));
    let told = talk.events.iter().filter(|event| matches!(event, Event::Closed(_))).count();
    assert_eq!(told, 1, "{name}: the application is told at once, and once");
    assert!(talk.conn.peer_key().is_none(), "{name}");
    for (millis, arrives) in [(0, 0), (1, 1), (7, 1408), (5_000, 70_000), (14_999, 3)] {
        let now = Instant::from_millis(millis);
        talk.feed(now, &vec![0x17; arrives]);
        talk.time(now);
        assert_eq!(talk.take(now), [], "{name}");
        assert_eq!(talk.conn.poll_timeout(), Some(DEADLINE), "{name}");
        assert!(!talk.conn.is_closed(), "{name}");
    }
    talk.time(DEADLINE);
    assert!(talk.conn.is_closed(), "{name}");
    assert_eq!(talk.take(DEADLINE), [], "{name}");
    assert_eq!(failure(talk), Some(error), "{name}: the error stays");
    assert!(talk.conn.open_stream(None, peermux_core::wire::Priority::default()).is_err(), "{name}");
}

/// Nothing has failed; the deadline comes.
#[track_caller]
fn times_out(name: &str, talk: &mut Talk) {
    assert_eq!(failure(talk), None, "{name}");
    assert_eq!(talk.conn.poll_timeout(), Some(DEADLINE), "{name}");
    talk.time(Instant::from_millis(14_999));
    assert!(!talk.conn.is_closed(), "{name}");
    talk.time(DEADLINE);
    assert_eq!(failure(talk), Some(HandshakeError::Timeout), "{name}");
    assert!(talk.conn.is_closed(), "{name}");
    assert_eq!(talk.take(DEADLINE), [], "{name}");
}

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng(seed).fill_bytes(&mut bytes);
    bytes
}

fn http(len: usize) -> Vec<u8> {
    let mut request =
        b"GET / HTTP/1.1\r\nHost: example.org\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\nCookie: session=".to_vec();
    request.extend(b"fedcba9876543210~}|{zyx_^]".iter().cycle().take(len.saturating_sub(request.len() + 4)));
    request.extend(b"\r\n\r\n");
    request
}

fn client_hello() -> Vec<u8> {
    let mut hello = vec![22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.extend(random(5, 500));
    hello
}

#[test]
fn what_is_no_peermux_is_answered_by_nothing() {
    let whole = [
        ("garbage", random(1, 2816)),
        ("ones", vec![0xff; 2816]),
        ("much garbage", random(2, 50_000)),
        ("HTTP with a long cookie", http(4000)),
        ("TLS, a long one", [client_hello(), random(3, 2400)].concat()),
    ];
    for (name, bytes) in whole {
        let mut talk = responder();
        talk.feed(Instant::ZERO, &bytes);
        assert_eq!(failure(&talk), Some(HandshakeError::EncapsulationKey), "{name}");
        is_silent(name, &mut talk);
        assert_eq!(talk.written, 0);
    }
    let parts = [
        ("silence", vec![]),
        ("HTTP", http(120)),
        ("TLS", client_hello()),
        ("SSH", b"SSH-2.0-OpenSSH_9.6p1 Ubuntu-3ubuntu13\r\n".to_vec()),
        ("a byte less than M1", random(1, 2815)),
    ];
    for (name, bytes) in parts {
        let mut talk = responder();
        talk.feed(Instant::ZERO, &bytes);
        assert_eq!(talk.take(Instant::ZERO), [], "{name}");
        times_out(name, &mut talk);
    }
}

#[test]
fn an_initiator_that_meets_something_else_says_no_more() {
    for (name, bytes) in
        [("garbage", random(1, 1408)), ("HTTP", http(1408)), ("TLS", [client_hello(), random(3, 1000)].concat())]
    {
        for remote in [known(), ExpectedPeer::Any, ExpectedPeer::Approve] {
            let mut talk = initiator(remote);
            assert_eq!(talk.take(Instant::ZERO).len(), 2816);
            talk.feed(Instant::ZERO, &bytes);
            assert_eq!(failure(&talk), Some(HandshakeError::Flight2), "{name}");
            is_silent(name, &mut talk);
        }
    }
    let mut talk = initiator(known());
    talk.take(Instant::ZERO);
    talk.feed(Instant::ZERO, b"SSH-2.0-OpenSSH_9.6\r\n");
    times_out("SSH", &mut talk);
}

#[test]
fn trickling_does_not_move_the_deadline() {
    let mut talk = responder();
    let m1 = Dialer::new(1, Some(responder_key().public_key())).m1(&payload(P1, None, &usual(&[]), &[]));
    for (second, byte) in m1[..14].iter().enumerate() {
        talk.feed(Instant::from_millis(1000 * second as u64), &[*byte]);
    }
    times_out("one byte a second", &mut talk);
}

#[test]
fn two_initiators_do_not_understand_each_other_and_neither_do_two_responders() {
    let mut one = initiator(known());
    let mut two = initiator(ExpectedPeer::Any);
    let (first, second) = (one.take(Instant::ZERO), two.take(Instant::ZERO));
    one.feed(Instant::ZERO, &second);
    two.feed(Instant::ZERO, &first);
    is_silent("one", &mut one);
    is_silent("two", &mut two);

    let mut echo = initiator(known());
    let m1 = echo.take(Instant::ZERO);
    echo.feed(Instant::ZERO, &m1);
    is_silent("its own echo", &mut echo);

    times_out("a responder that hears nothing", &mut responder());
}

#[test]
fn the_transport_that_ends_within_the_handshake_is_a_truncation_at_every_stage() {
    for mode in [HandshakeMode::Ik, HandshakeMode::Fallback] {
        let remote = (mode == HandshakeMode::Ik).then(|| responder_key().public_key());
        let m1 = Dialer::new(1, remote).m1(&payload(P1, None, &usual(&[]), &[]));
        for len in [0, 1, 31, 32, 1215, 1216, 1264, 2815, 2816] {
            let mut talk = responder();
            talk.feed(Instant::ZERO, &m1[..len]);
            assert_eq!(talk.take(Instant::ZERO).len(), if len == 2816 { 1408 } else { 0 });
            talk.conn.handle_eof(Instant::ZERO);
            assert_eq!(failure(&talk), Some(HandshakeError::Truncated), "{mode:?}, {len}");
            assert!(talk.conn.is_closed());
        }
        for flight3 in [1, 1407] {
            let mut talk = responder();
            talk.feed(Instant::ZERO, &m1);
            talk.feed(Instant::ZERO, &vec![1; flight3]);
            talk.conn.handle_eof(Instant::ZERO);
            assert_eq!(failure(&talk), Some(HandshakeError::Truncated), "{mode:?}");
        }
        let mut talk = initiator(remote.map_or(ExpectedPeer::Any, ExpectedPeer::Key));
        talk.take(Instant::ZERO);
        talk.feed(Instant::ZERO, &[1; 1407]);
        talk.conn.handle_eof(Instant::ZERO);
        assert_eq!(failure(&talk), Some(HandshakeError::Truncated));
    }
}

#[test]
fn points_of_low_order_are_refused_wherever_they_stand() {
    for point in low_order() {
        // e of M1, in both modes: no M2.
        for remote in [None, Some(responder_key().public_key())] {
            let mut dialer = Dialer::new(1, remote);
            dialer.e = point;
            let mut talk = responder();
            talk.feed(Instant::ZERO, &dialer.m1(&payload(P1, None, &usual(&[]), &[])));
            assert_eq!(talk.take(Instant::ZERO), []);
            assert_eq!(failure(&talk), Some(HandshakeError::ZeroResult), "{point:x?}");
            is_silent("e of M1", &mut talk);
            assert_eq!(talk.written, 0);
        }
        // s of flight 3.
        let mut dialer = Dialer::new(1, None);
        let mut talk = responder();
        talk.feed(Instant::ZERO, &dialer.m1(&[]));
        dialer.m2(&talk.take(Instant::ZERO)).expect("M2 is in order");
        talk.feed(Instant::ZERO, &dialer.flight3_as(&point, &payload(P3, Some(0), &usual(&[]), &[])));
        assert_eq!(failure(&talk), Some(HandshakeError::ZeroResult), "{point:x?}");
        is_silent("s of flight 3", &mut talk);
        // e of M2, in both modes.
        for remote in [known(), ExpectedPeer::Any] {
            let mut talk = initiator(remote);
            let mut listener = Listener::new(1, responder_key());
            let ik = listener.m1(&talk.take(Instant::ZERO)).mode == HandshakeMode::Ik;
            listener.e = point;
            let m2 = listener.m2(&payload(if ik { P2_IK } else { P2_FALLBACK }, None, &usual(&[]), &[]));
            talk.feed(Instant::ZERO, &m2);
            assert_eq!(failure(&talk), Some(HandshakeError::ZeroResult), "{point:x?}");
            is_silent("e of M2", &mut talk);
        }
    }
}

#[test]
fn a_responder_whose_static_key_is_a_point_of_low_order_is_refused() {
    for point in low_order() {
        let mut talk = initiator(ExpectedPeer::Any);
        let mut listener = Listener::new(1, responder_key());
        listener.m1(&talk.take(Instant::ZERO));
        talk.feed(Instant::ZERO, &listener.m2_as(&point, &payload(P2_FALLBACK, None, &usual(&[]), &[])));
        assert_eq!(failure(&talk), Some(HandshakeError::ZeroResult), "{point:x?}");
        is_silent("s of M2", &mut talk);
    }
}

#[test]
fn an_initiator_that_claims_a_point_of_low_order_fails_the_trial_and_meets_fallback() {
    for point in low_order() {
        let mut dialer = Dialer::new(1, Some(responder_key().public_key()));
        let mut talk = responder();
        talk.feed(Instant::ZERO, &dialer.m1_as(&point, &payload(P1, None, &usual(&[]), &[])));
        let read = dialer.m2(&talk.take(Instant::ZERO)).expect("M2 is in order");
        assert_eq!(read.mode, HandshakeMode::Fallback);
    }
}

#[test]
fn an_invalid_encapsulation_key_is_refused_before_anything_else() {
    // The first coefficient, one in the middle, and the last: q itself, and the greatest number of twelve bits.
    for (position, bytes) in [(0, [0x01, 0x0d, 0x00]), (576, [0xff, 0xff, 0xff]), (1149, [0x00, 0x10, 0xd0])] {
        for remote in [None, Some(responder_key().public_key())] {
            let mut dialer = Dialer::new(1, remote);
            dialer.e1[position..position + 3].copy_from_slice(&bytes);
            let mut talk = responder();
            talk.feed(Instant::ZERO, &dialer.m1(&payload(P1, None, &usual(&[]), &[])));
            assert_eq!(failure(&talk), Some(HandshakeError::EncapsulationKey));
            is_silent("e1", &mut talk);
        }
    }
}

#[test]
fn a_responder_that_never_falls_back_shows_itself_to_those_who_know_it_only() {
    let config = || Config { allow_fallback: false, ..Config::default() };
    for remote in [None, Some(initiator_key().public_key())] {
        let mut talk = responder_with(config(), responder_key().into());
        talk.feed(Instant::ZERO, &Dialer::new(1, remote).m1(&payload(P1, None, &usual(&[]), &[])));
        assert_eq!(failure(&talk), Some(HandshakeError::NoFallback));
        is_silent("unknown", &mut talk);
        assert_eq!(talk.written, 0);
    }
    let pair = PairBuilder { responder_config: config(), ..PairBuilder::default() }.establish();
    assert!(pair.responder.conn.is_established());
}

#[test]
fn an_impostor_who_shows_another_key_is_found_out_by_flight_3() {
    let mut dialer = Dialer::new(1, None);
    let mut talk = responder();
    talk.feed(Instant::ZERO, &dialer.m1(&[]));
    dialer.m2(&talk.take(Instant::ZERO)).expect("M2 is in order");
    let other = *StaticSecret::from_bytes(&[9; 32]).public_key().as_bytes();
    talk.feed(Instant::ZERO, &dialer.flight3_as(&other, &payload(P3, Some(0), &usual(&[]), &[])));
    assert_eq!(failure(&talk), Some(HandshakeError::Flight3));
    is_silent("flight 3", &mut talk);
}

#[test]
fn a_replayed_first_flight_is_never_confirmed() {
    let mut dialer = Dialer::new(1, Some(responder_key().public_key()));
    let m1 = dialer.m1(&payload(P1, None, &usual(&[]), &[]));
    let mut first = responder();
    first.feed(Instant::ZERO, &m1);
    dialer.m2(&first.take(Instant::ZERO)).expect("M2 is in order");
    let flight3 = dialer.wire(Suite::ChaCha20Poly1305, 1).seal(0, &open(0));
    first.feed(Instant::ZERO, &flight3);
    assert!(first.conn.is_established());

    let keys = responder_key().into();
    let conn = Connection::responder(Arc::new(Config::default()), keys, Instant::ZERO, &mut rng(2)).expect("valid");
    let mut second = Talk::new(conn);
    second.feed(Instant::ZERO, &m1);
    assert_eq!(second.take(Instant::ZERO).len(), 1408);
    assert!(second.conn.peer_key().is_none() && !second.conn.is_established());
    assert!(second.events.is_empty(), "{:?}", second.events);
    second.feed(Instant::ZERO, &flight3);
    assert_eq!(failure(&second), Some(HandshakeError::Flight3));
    is_silent("replayed", &mut second);
}

#[test]
fn one_s_own_key_is_refused_on_both_sides() {
    for remote in [ExpectedPeer::Key(initiator_key().public_key()), ExpectedPeer::Any] {
        let builder = PairBuilder { responder_keys: initiator_key().into(), remote, ..PairBuilder::default() };
        let mut pair = builder.build();
        pair.settle();
        assert_eq!(
            pair.initiator.conn.close_reason(),
            Some(&ConnectionError::Handshake(HandshakeError::SelfConnection))
        );
        assert_eq!(pair.initiator.trace.len(), 1);
    }
    let mut dialer = Dialer::new(1, None);
    dialer.secret = responder_key();
    let mut talk = responder();
    talk.feed(Instant::ZERO, &dialer.m1(&[]));
    dialer.m2(&talk.take(Instant::ZERO)).expect("M2 is in order");
    talk.feed(Instant::ZERO, &dialer.flight3(&payload(P3, Some(0), &usual(&[]), &[])));
    assert_eq!(failure(&talk), Some(HandshakeError::SelfConnection));
    is_silent("own key", &mut talk);
}

#[test]
fn another_key_than_the_expected_one_gets_no_third_flight() {
    let stranger = StaticSecret::from_bytes(&[9; 32]).public_key();
    let mut pair = PairBuilder { remote: ExpectedPeer::Key(stranger), ..PairBuilder::default() }.build();
    pair.run_for(Duration::from_secs(1));
    let wrong = HandshakeError::UnexpectedKey { expected: stranger, proved: responder_key().public_key() };
    assert_eq!(pair.initiator.conn.close_reason(), Some(&ConnectionError::Handshake(wrong)));
    assert_eq!((pair.initiator.trace.len(), pair.responder.trace.len()), (1, 1));
    assert_eq!(pair.initiator.conn.poll_timeout(), Some(DEADLINE));
    pair.run(DEADLINE);
    assert!(pair.initiator.conn.is_closed());
    assert_eq!(pair.responder.conn.close_reason(), Some(&ConnectionError::Handshake(HandshakeError::Timeout)));
    assert_eq!((pair.initiator.trace.len(), pair.responder.trace.len()), (1, 1));
}

/// Plays a whole handshake with `change` applied to one flight, and looks at both sides.
fn with_changed_flight(mode: HandshakeMode, flight: usize, change: impl FnOnce(&mut [u8])) -> (Talk, Talk) {
    let mut one = initiator(if mode == HandshakeMode::Ik { known() } else { ExpectedPeer::Any });
    let mut two = responder();
    let mut change = Some(change);
    for number in 1..=3 {
        let (from, to) = if number == 2 { (&mut two, &mut one) } else { (&mut one, &mut two) };
        let mut bytes = from.take(Instant::ZERO);
        if number == flight {
            change.take().expect("once")(&mut bytes);
        }
        to.feed(Instant::ZERO, &bytes);
    }
    (one, two)
}

#[test]
fn every_flipped_bit_of_every_flight_ends_the_handshake_in_silence() {
    let all = std::env::var_os("PEERMUX_LONG").is_some();
    for mode in [HandshakeMode::Ik, HandshakeMode::Fallback] {
        for (flight, len) in [(1, 2816), (2, 1408), (3, 1408)] {
            // A prime number of bits apart, and each field's edges; or all.
            let edges = [0, 31, 32, 47, 48, 1135, 1136, 1183, 1184, 1215, 1216, 1263, 1264, 1407, 2815];
            let edges = edges.into_iter().filter(|byte| *byte < len).flat_map(|byte| [8 * byte, 8 * byte + 7]);
            let bits: Vec<usize> =
                if all { (0..8 * len).collect() } else { edges.chain((0..8 * len).step_by(389)).collect() };
            for bit in bits {
                let name = format!("{mode:?}, flight {flight}, bit {bit}");
                let (mut one, mut two) = with_changed_flight(mode, flight, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
                if flight < 3 {
                    assert_eq!(one.written, 2816, "{name}");
                    assert!(!one.conn.is_established() && !two.conn.is_established(), "{name}");
                } else {
                    assert_eq!(failure(&two), Some(HandshakeError::Flight3), "{name}");
                    assert!(!two.events.iter().any(|event| matches!(event, Event::Established(_))));
                }
                assert!(two.written <= 1408, "{name}");
                assert!(two.conn.peer_key().is_none(), "{name}");
                for talk in [&mut one, &mut two] {
                    if talk.conn.close_reason().is_some() {
                        is_silent(&name, talk);
                    } else if !talk.conn.is_established() {
                        assert_eq!(talk.conn.poll_timeout(), Some(DEADLINE), "{name}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_changed_first_flight_does_not_downgrade_in_silence() {
    for position in [1216, 1264, 2815] {
        let (one, two) = with_changed_flight(HandshakeMode::Ik, 1, |bytes| bytes[position] ^= 1);
        assert_eq!(two.written, 1408, "the responder falls back");
        assert_eq!(failure(&one), Some(HandshakeError::Flight2));
    }
}

#[test]
fn bytes_put_between_the_flights_end_the_handshake() {
    for mode in [HandshakeMode::Ik, HandshakeMode::Fallback] {
        for injected in [1, 16, 1407, 1408, 2816] {
            let garbage = random(injected as u64, injected);
            let (mut one, mut two) =
                (initiator(if mode == HandshakeMode::Ik { known() } else { ExpectedPeer::Any }), responder());
            two.feed(Instant::ZERO, &garbage);
            two.feed(Instant::ZERO, &one.take(Instant::ZERO));
            assert!(failure(&two).is_some());
            is_silent("before M1", &mut two);

            let (mut one, mut two) =
                (initiator(if mode == HandshakeMode::Ik { known() } else { ExpectedPeer::Any }), responder());
            two.feed(Instant::ZERO, &one.take(Instant::ZERO));
            two.feed(Instant::ZERO, &garbage);
            one.feed(Instant::ZERO, &two.take(Instant::ZERO));
            two.feed(Instant::ZERO, &one.take(Instant::ZERO));
            assert_eq!(failure(&two), Some(HandshakeError::Flight3));
            is_silent("before flight 3", &mut two);
        }
    }
}

#[test]
fn bytes_that_arrive_while_the_application_is_asked_are_not_swallowed() {
    for mode in [HandshakeMode::Ik, HandshakeMode::Fallback] {
        for injected in [1, 1408, 5000] {
            let config = Arc::new(Config { approve_peers: true, ..Config::default() });
            let remote = if mode == HandshakeMode::Ik { known() } else { ExpectedPeer::Approve };
            let identity = Identity::Static(initiator_key());
            let conn = Connection::initiator(config, identity, remote, Instant::ZERO, &mut rng(1)).expect("valid");
            let (mut one, mut two) = (Talk::new(conn), responder());
            two.feed(Instant::ZERO, &one.take(Instant::ZERO));
            one.feed(Instant::ZERO, &two.take(Instant::ZERO));
            assert!(one.events.iter().any(|event| matches!(event, Event::ApprovePeer(_))));
            one.feed(Instant::ZERO, &random(1, injected));
            one.conn.accept_peer();
            two.feed(Instant::ZERO, &one.take(Instant::ZERO));
            two.conn.open_stream(None, peermux_core::wire::Priority::default()).expect("it opens");
            one.feed(Instant::ZERO, &two.take(Instant::ZERO));
            // What is less than a record shows when the record is whole.
            one.feed(Instant::ZERO, &[0; 1408]);
            assert!(one.conn.close_reason().is_some(), "{mode:?}, {injected}");
            assert!(one.conn.accept_stream().is_none());
        }
    }
}

#[test]
fn a_first_payload_that_is_malformed_or_offers_nothing_is_answered_by_fallback() {
    let twice = [tlv(1, &[1]), tlv(1, &[1]), tlv(2, &[1])].concat();
    let mut not_zero = payload(P1, None, &usual(&[]), &[]);
    not_zero[P1 - 1] = 1;
    let cases = [
        ("no version in common", payload(P1, None, &[tlv(1, &[9, 0xe1]), tlv(2, &[1])].concat(), &[])),
        ("no suite in common", payload(P1, None, &[tlv(1, &[1]), tlv(2, &[9])].concat(), &[])),
        ("no versions", payload(P1, None, &tlv(2, &[1]), &[])),
        ("a TLV twice", payload(P1, None, &twice, &[])),
        ("a setting out of range", payload(P1, None, &usual(&[(1, 17)]), &[])),
        ("a setting twice", payload(P1, None, &usual(&[(1, 1), (1, 1)]), &[])),
        ("not zero after the frame area", not_zero),
    ];
    for (name, p1) in cases {
        let mut dialer = Dialer::new(1, Some(responder_key().public_key()));
        let mut talk = responder();
        talk.feed(Instant::ZERO, &dialer.m1(&p1));
        let read = dialer.m2(&talk.take(Instant::ZERO)).expect(name);
        assert_eq!(read.mode, HandshakeMode::Fallback, "{name}");
        // It can go on from there.
        talk.feed(Instant::ZERO, &dialer.flight3(&payload(P3, Some(0), &usual(&[]), &open(0))));
        assert!(talk.conn.is_established(), "{name}");
    }
}

#[test]
fn an_answer_that_is_malformed_or_chooses_what_was_not_offered_fails() {
    let offers = |versions: &[u8], suites: &[u8]| [tlv(1, versions), tlv(2, suites)].concat();
    let malformed = |error: Option<HandshakeError>| matches!(error, Some(HandshakeError::Payload(_)));
    type Expected = fn(Option<HandshakeError>) -> bool;
    let ik: Vec<(&str, Vec<u8>, Expected)> = vec![
        ("another version", offers(&[2], &[1]), |error| error == Some(HandshakeError::Version)),
        ("two versions", offers(&[1, 1], &[1]), |error| error.is_some()),
        ("another suite", offers(&[1], &[7]), |error| error == Some(HandshakeError::Suite)),
        ("no choice", vec![], |error| matches!(error, Some(HandshakeError::Payload(_)))),
        ("a setting out of range", usual(&[(2, 2047)]), |error| matches!(error, Some(HandshakeError::Payload(_)))),
    ];
    for (name, tlvs, expected) in ik {
        let mut talk = initiator(known());
        let mut listener = Listener::new(1, responder_key());
        listener.m1(&talk.take(Instant::ZERO));
        talk.feed(Instant::ZERO, &listener.m2(&payload(P2_IK, None, &tlvs, &[])));
        assert!(expected(failure(&talk)), "{name}: {:?}", failure(&talk));
        is_silent(name, &mut talk);
    }
    let fallback: Vec<(&str, Vec<u8>, Option<HandshakeError>)> = vec![
        ("no version in common", offers(&[2, 0xe0], &[1]), Some(HandshakeError::Version)),
        ("no suite in common", offers(&[1], &[7, 0xe0]), Some(HandshakeError::Suite)),
        ("nothing", vec![], None),
        ("half a TLV", vec![1], None),
    ];
    for (name, tlvs, expected) in fallback {
        let mut talk = initiator(ExpectedPeer::Any);
        let mut listener = Listener::new(1, responder_key());
        listener.m1(&talk.take(Instant::ZERO));
        talk.feed(Instant::ZERO, &listener.m2(&payload(P2_FALLBACK, None, &tlvs, &[])));
        match expected {
            Some(error) => assert_eq!(failure(&talk), Some(error), "{name}"),
            None => assert!(malformed(failure(&talk)), "{name}"),
        }
        is_silent(name, &mut talk);
    }
}

#[test]
fn a_third_payload_that_is_malformed_fails() {
    let choice = |version: u8, suite: u8| [tlv(1, &[version]), tlv(2, &[suite])].concat();
    let mut not_zero = payload(P3, Some(0), &usual(&[]), &[]);
    not_zero[P3 - 1] = 1;
    let cases = [
        ("another version", payload(P3, Some(0), &choice(2, 1), &[])),
        ("another suite", payload(P3, Some(0), &choice(1, 9), &[])),
        ("nothing", payload(P3, Some(0), &[], &[])),
        ("key update", payload(P3, Some(0x10), &usual(&[]), &[])),
        ("reserved bit 6", payload(P3, Some(0x40), &usual(&[]), &[])),
        ("reserved bit 7", payload(P3, Some(0x80), &usual(&[]), &[])),
        ("not zero after the frame area", not_zero),
        ("half a setting", payload(P3, Some(0), &[choice(1, 1), tlv(5, &[1])].concat(), &[])),
    ];
    for (name, p3) in cases {
        let mut dialer = Dialer::new(1, None);
        let mut talk = responder();
        talk.feed(Instant::ZERO, &dialer.m1(&[]));
        dialer.m2(&talk.take(Instant::ZERO)).expect(name);
        talk.feed(Instant::ZERO, &dialer.flight3(&p3));
        is_silent(name, &mut talk);
    }
    let config = Config { max_record_quanta: 2, ..Config::default() };
    let mut dialer = Dialer::new(1, None);
    let mut talk = responder_with(config, responder_key().into());
    talk.feed(Instant::ZERO, &dialer.m1(&[]));
    dialer.m2(&talk.take(Instant::ZERO)).expect("M2 is in order");
    talk.feed(Instant::ZERO, &dialer.flight3(&payload(P3, Some(2), &usual(&[]), &[])));
    is_silent("an announcement above MAX_RECORD", &mut talk);
}

#[test]
fn unknown_tlvs_settings_flags_versions_and_suites_are_ignored() {
    let strange = [
        tlv(0xe7, &[1, 2, 3]),
        tlv(2, &[1, 0xe3, 77]),
        tlv(0x77, &[]),
        tlv(3, &[0xfc]),
        tlv(1, &[1, 0xe0, 200]),
        tlv(0x77, &[]),
        tlv(5, &settings(&[(27, 5), (9999, 1), (4, 20), (27, 6)])),
    ]
    .concat();
    let mut dialer = Dialer::new(1, Some(responder_key().public_key()));
    let mut talk = responder();
    talk.feed(Instant::ZERO, &dialer.m1(&payload(P1, None, &strange, &[])));
    assert_eq!(dialer.m2(&talk.take(Instant::ZERO)).expect("M2 is in order").mode, HandshakeMode::Ik);
    let mut wire = dialer.wire(Suite::ChaCha20Poly1305, 1);
    talk.feed(Instant::ZERO, &wire.seal(0, &[]));
    assert!(talk.conn.is_established());
}

#[test]
fn offers_are_read_to_their_end() {
    // What this side takes stands last of many.
    let many: Vec<u8> = (100..120).chain([1]).collect();
    let offer = [tlv(1, &many), tlv(2, &many)].concat();
    let mut dialer = Dialer::new(1, Some(responder_key().public_key()));
    let mut talk = responder();
    talk.feed(Instant::ZERO, &dialer.m1(&payload(P1, None, &offer, &[])));
    assert_eq!(dialer.m2(&talk.take(Instant::ZERO)).expect("M2 is in order").mode, HandshakeMode::Ik);
}

#[test]
fn a_rotated_key_still_works_by_ik_and_an_older_one_falls_back() {
    let secrets = [[1; 32], [2; 32], [3; 32]].map(|bytes| StaticSecret::from_bytes(&bytes));
    let [oldest, previous, current] = &secrets;
    let keys = || ResponderKeys { current: current.clone(), previous: Some(previous.clone()) };
    for known in [current, previous] {
        let remote = ExpectedPeer::Key(known.public_key());
        let mut pair = PairBuilder { remote, responder_keys: keys(), ..PairBuilder::default() }.establish();
        let peer = pair.initiator.expect_event(|event| match event {
            Event::Established(peer) => Some(peer.clone()),
            _ => None,
        });
        assert_eq!((peer.mode, peer.key), (HandshakeMode::Ik, known.public_key()));
    }
    let remote = ExpectedPeer::KeyOrApprove(oldest.public_key());
    let mut pair = PairBuilder { remote, responder_keys: keys(), ..PairBuilder::default() }.build();
    pair.settle();
    let peer = pair.initiator.expect_event(|event| match event {
        Event::ApprovePeer(peer) => Some(peer.clone()),
        _ => None,
    });
    assert_eq!((peer.mode, peer.key), (HandshakeMode::Fallback, current.public_key()));
    assert_eq!(pair.initiator.trace.len(), 1, "nothing is shown before the answer");
    pair.initiator.conn.accept_peer();
    pair.settle();
    assert!(pair.initiator.conn.is_established() && pair.responder.conn.is_established());

    let remote = ExpectedPeer::Key(oldest.public_key());
    let mut pair = PairBuilder { remote, responder_keys: keys(), ..PairBuilder::default() }.build();
    pair.settle();
    let wrong = HandshakeError::UnexpectedKey { expected: oldest.public_key(), proved: current.public_key() };
    assert_eq!(pair.initiator.conn.close_reason(), Some(&ConnectionError::Handshake(wrong)));
}

fn asking(role: Role, remote: ExpectedPeer) -> Pair {
    let config = Config { approve_peers: true, ..Config::default() };
    let mut builder = PairBuilder { remote, ..PairBuilder::default() };
    match role {
        Role::Initiator => builder.initiator_config = config,
        Role::Responder => builder.responder_config = config,
    }
    builder.build()
}

#[test]
fn a_responder_that_asks_says_nothing_and_delivers_nothing_before_the_answer() {
    for remote in [known(), ExpectedPeer::Any] {
        let mut pair = asking(Role::Responder, remote);
        let id =
            pair.initiator.conn.open_stream(Some("test"), peermux_core::wire::Priority::default()).expect("it opens");
        pair.initiator.conn.send_stream(id).write(b"early bird").expect("there is room");
        pair.run_for(Duration::from_secs(3));
        let peer = pair.responder.expect_event(|event| match event {
            Event::ApprovePeer(peer) => Some(peer.clone()),
            _ => None,
        });
        assert_eq!(peer.key, initiator_key().public_key());
        assert!(pair.responder.events.is_empty(), "{:?}", pair.responder.events);
        assert!(!pair.initiator.conn.is_established(), "it was told that it has to wait");
        assert!(!pair.responder.conn.is_established() && !pair.responder.conn.has_incoming());
        assert_eq!(pair.responder.conn.accept_stream(), None);
        assert_eq!(pair.responder.trace.len(), 1, "M2 and nothing else");
        pair.responder.conn.accept_peer();
        pair.responder.conn.accept_peer();
        pair.settle();
        pair.responder.expect_event(|event| matches!(event, Event::Established(_)).then_some(()));
        pair.responder.expect_event(|event| matches!(event, Event::StreamOpened).then_some(()));
        let stream = pair.responder.conn.accept_stream().expect("it was opened");
        assert_eq!(pair.responder.conn.recv_stream(stream).readable_len(), 10);
        // Too late to refuse.
        pair.responder.conn.refuse_peer(ErrorCode::REFUSED, "");
        assert!(pair.responder.conn.is_established());
    }
}

#[test]
fn a_responder_refuses_by_close_with_the_code_of_its_application() {
    for remote in [known(), ExpectedPeer::Any] {
        let mut pair = asking(Role::Responder, remote);
        pair.settle();
        pair.responder.conn.refuse_peer(ErrorCode::Application(77), "not today");
        pair.settle();
        let error = pair.initiator.conn.close_reason().expect("it ended").clone();
        assert_eq!(error.code(), Some(ErrorCode::Application(77)));
        assert_eq!(error.to_string(), "closed by the peer application: application code 77 (not today)");
        assert_eq!(pair.responder.conn.close_reason().expect("it ended").code(), Some(ErrorCode::Application(77)));
        pair.settle();
        assert!(pair.initiator.conn.is_closed() && pair.responder.conn.is_closed());
    }
}

#[test]
fn a_decision_that_is_not_made_in_time_is_a_refusal() {
    for remote in [known(), ExpectedPeer::Any] {
        let mut pair = asking(Role::Responder, remote);
        pair.run(Instant::from_millis(14_990));
        assert_eq!(pair.responder.conn.close_reason(), None);
        pair.run(Instant::from_millis(15_100));
        assert_eq!(pair.responder.conn.close_reason(), Some(&ConnectionError::DecisionTimeout));
        let code = pair.initiator.conn.close_reason().expect("it ended").code();
        assert_eq!(code, Some(ErrorCode::Protocol(peermux_core::code::ProtocolErrorCode::DECISION_TIMEOUT)));
        assert_eq!(pair.responder.conn.accept_stream(), None);
    }
}

#[test]
fn an_initiator_asks_before_it_shows_itself() {
    for remote in [known(), ExpectedPeer::Any, ExpectedPeer::Approve] {
        let mut pair = asking(Role::Initiator, remote);
        pair.run_for(Duration::from_secs(2));
        pair.initiator.expect_event(|event| matches!(event, Event::ApprovePeer(_)).then_some(()));
        assert_eq!(pair.initiator.trace.len(), 1, "{remote:?}");
        pair.initiator.conn.accept_peer();
        pair.settle();
        assert!(pair.initiator.conn.is_established() && pair.responder.conn.is_established());

        let mut pair = asking(Role::Initiator, remote);
        pair.run_for(Duration::from_secs(2));
        pair.initiator.conn.refuse_peer(ErrorCode::Application(1), "the peer does not see this");
        assert_eq!(pair.initiator.conn.close_reason(), Some(&ConnectionError::Handshake(HandshakeError::Refused)));
        assert_eq!(pair.initiator.conn.poll_timeout(), Some(DEADLINE));
        pair.run(Instant::from_millis(15_100));
        assert_eq!((pair.initiator.trace.len(), pair.responder.trace.len()), (1, 1), "{remote:?}");
        assert_eq!(pair.responder.conn.close_reason(), Some(&ConnectionError::Handshake(HandshakeError::Timeout)));

        let mut pair = asking(Role::Initiator, remote);
        pair.run(Instant::from_millis(15_100));
        assert!(pair.initiator.conn.is_closed());
        assert_eq!(pair.initiator.trace.len(), 1, "{remote:?}");
    }
}

#[test]
fn the_expected_key_may_be_any_and_is_proved_all_the_same() {
    let key = |public: PublicKey| public;
    let pair = PairBuilder { remote: ExpectedPeer::Any, ..PairBuilder::default() }.establish();
    assert_eq!(pair.initiator.conn.peer_key(), Some(key(responder_key().public_key())));
    assert_eq!(pair.responder.conn.peer_key(), Some(key(initiator_key().public_key())));
}
