//! Attestations and the key log: `docs/spec.md` sections 4.5 and 9.13.

use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use peermux_core::attestation::ed25519;
use peermux_core::code::ErrorCode;
use peermux_core::driver::Progress;
use peermux_core::wire::Priority;
use peermux_core::{Config, Event, ExpectedPeer, Identity, KeyLog, Role, TrafficSecrets};
use peermux_tests::{Drivers, PairBuilder, initiator_key, responder_key};

const NOT_AFTER: u64 = 2_000_000_000;

fn attested(role: Role, len: Option<usize>) -> Config {
    let identity = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let key = match role {
        Role::Initiator => initiator_key().public_key(),
        Role::Responder => responder_key().public_key(),
    };
    let mut bytes = ed25519::attest(&identity, role, &key, NOT_AFTER).to_vec();
    if let Some(len) = len {
        bytes = vec![200; len];
    }
    Config { attestation: Some(bytes.into()), ..Config::default() }
}

#[test]
fn both_sides_see_what_the_other_attests_in_every_mode() {
    let identity = ed25519_dalek::SigningKey::from_bytes(&[9; 32]).verifying_key();
    for remote in [ExpectedPeer::Key(responder_key().public_key()), ExpectedPeer::Any] {
        let pair = PairBuilder {
            initiator_config: attested(Role::Initiator, None),
            responder_config: attested(Role::Responder, None),
            remote,
            ..PairBuilder::default()
        }
        .establish();
        for (side, role) in [(&pair.initiator, Role::Responder), (&pair.responder, Role::Initiator)] {
            let peer = side.conn.peer().expect("it is established");
            let bytes = peer.attestation.as_ref().expect("the peer attests");
            assert_eq!(ed25519::verify(bytes, role, &peer.key, Some(NOT_AFTER)), Ok(identity));
        }
    }
}

#[test]
fn a_dialer_with_a_stale_key_gets_through_by_an_attestation_that_it_can_check() {
    let stale = peermux_core::crypto::StaticSecret::from_bytes(&[0x33; 32]).public_key();
    let mut pair = PairBuilder {
        responder_config: attested(Role::Responder, None),
        remote: ExpectedPeer::KeyOrApprove(stale),
        ..PairBuilder::default()
    }
    .build();
    pair.settle();
    let peer = pair.initiator.expect_event(|event| match event {
        Event::ApprovePeer(peer) => Some(peer.clone()),
        _ => None,
    });
    assert!(!pair.responder.conn.is_established(), "nothing was said yet");
    let bytes = peer.attestation.expect("the responder attests");
    assert!(ed25519::verify(&bytes, Role::Responder, &peer.key, Some(0)).is_ok());
    pair.initiator.conn.accept_peer();
    pair.settle();
    assert!(pair.initiator.conn.is_established() && pair.responder.conn.is_established());
}

#[test]
fn a_long_attestation_comes_in_a_frame() {
    let mut pair =
        PairBuilder { initiator_config: attested(Role::Initiator, Some(1024)), ..PairBuilder::default() }.establish();
    let bytes = pair.responder.expect_event(|event| match event {
        Event::Attestation(bytes) => Some(bytes.clone()),
        _ => None,
    });
    assert_eq!(&bytes[..], &[200; 1024]);
    assert_eq!(pair.responder.conn.peer().expect("it is established").attestation, Some(bytes.clone()));
    assert_eq!(pair.responder.conn.attestation(), Poll::Ready(Some(&bytes)));
}

#[test]
fn an_attestation_that_came_in_a_frame_is_there_when_the_application_is_asked() {
    for len in [None, Some(1024)] {
        for remote in [ExpectedPeer::Key(responder_key().public_key()), ExpectedPeer::Any] {
            let mut drivers = Drivers::new(PairBuilder {
                initiator_config: attested(Role::Initiator, len),
                responder_config: Config { approve_peers: true, ..Config::default() },
                remote,
                ..PairBuilder::default()
            });
            drivers.settle();
            let mut waiter = drivers.responder.waiter();
            let Poll::Ready(Ok(Progress::ApprovePeer(peer))) = waiter.poll_handshake(Waker::noop()) else {
                panic!("it asks")
            };
            assert_eq!(peer.attestation.as_ref().map(|bytes| bytes.len()), Some(len.unwrap_or(ed25519::LEN)));
            let told = waiter.poll_attestation(Waker::noop());
            assert_eq!(told, Poll::Ready(Ok(peer.attestation)));
        }
    }
}

#[test]
fn who_waits_for_an_attestation_learns_that_none_comes() {
    let mut drivers = Drivers::new(PairBuilder::default());
    let mut waiter = drivers.initiator.waiter();
    assert_eq!(waiter.poll_attestation(Waker::noop()), Poll::Pending, "before the handshake");
    drivers.settle();
    let stream = drivers.responder.open_stream(None, Priority::default()).expect("it opens");
    let received = |drivers: &Drivers| drivers.initiator.with(|connection| connection.record_counts().1);
    while received(&drivers) < 16 {
        assert_eq!(waiter.poll_attestation(Waker::noop()), Poll::Pending, "after {}", received(&drivers));
        assert_eq!(stream.poll_write(Waker::noop(), b"x"), Poll::Ready(Ok(1)));
        drivers.settle();
    }
    assert_eq!(drivers.initiator.waiter_count(), 0, "it was woken");
    assert_eq!(waiter.poll_attestation(Waker::noop()), Poll::Ready(Ok(None)));
    drivers.initiator.with(|connection| connection.close(ErrorCode::NO_ERROR, ""));
    assert_eq!(waiter.poll_attestation(Waker::noop()), Poll::Ready(Ok(None)), "what is known stays known");
}

#[test]
fn who_waits_for_an_attestation_learns_that_the_connection_ended() {
    let mut drivers = Drivers::new(PairBuilder::default());
    drivers.settle();
    let mut waiter = drivers.responder.waiter();
    assert_eq!(waiter.poll_attestation(Waker::noop()), Poll::Pending);
    drivers.initiator.with(|connection| connection.close(ErrorCode::NO_ERROR, ""));
    drivers.settle();
    assert_eq!(drivers.responder.waiter_count(), 0, "it was woken");
    assert!(matches!(waiter.poll_attestation(Waker::noop()), Poll::Ready(Err(_))));
}

#[test]
fn attested_set_ups_look_like_all_others() {
    let plain = PairBuilder::default().establish();
    let attested = PairBuilder {
        initiator_config: attested(Role::Initiator, None),
        responder_config: attested(Role::Responder, None),
        ..PairBuilder::default()
    }
    .establish();
    let anonymous = PairBuilder { identity: Identity::Anonymous, ..PairBuilder::default() }.establish();
    for pair in [attested, anonymous] {
        assert_eq!(pair.initiator.trace, plain.initiator.trace);
        assert_eq!(pair.responder.trace, plain.responder.trace);
    }
}

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl KeyLog for Lines {
    fn log(&self, secrets: &TrafficSecrets<'_>) {
        self.0.lock().expect("nobody panics").push(secrets.to_string());
    }
}

#[test]
fn both_sides_log_the_same_secrets_and_only_if_they_are_told_to() {
    let logs = [Arc::new(Lines::default()), Arc::new(Lines::default())];
    let config = |log: &Arc<Lines>| Config { key_log: Some(log.clone()), ..Config::default() };
    PairBuilder { initiator_config: config(&logs[0]), responder_config: config(&logs[1]), ..PairBuilder::default() }
        .establish();
    let [initiator, responder] = logs.map(|log| log.0.lock().expect("nobody panics").clone());
    assert_eq!(initiator, responder);
    let [entry] = &initiator[..] else { panic!("{initiator:?}") };
    let lines: Vec<_> = entry.lines().collect();
    assert!(lines[0].starts_with("PEERMUX_I2R ") && lines[1].starts_with("PEERMUX_R2I "));
    assert!(lines.iter().all(|line| line.split(' ').count() == 4));
    assert_eq!(
        format!("{:?}", Config { key_log: Some(Arc::new(Lines::default())), ..Config::default() }).find("key_log"),
        None
    );
}
