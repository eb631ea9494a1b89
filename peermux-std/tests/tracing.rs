//! What subscribers of `tracing` are told: `cargo test -p peermux-std --features tracing --test tracing`.

#![allow(missing_docs, unreachable_pub, reason = "a test")]

#[path = "../../peermux-tokio/tests/collector/mod.rs"]
mod collector;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use collector::Collector;
use peermux_std::{Config, ExpectedPeer, Listener, Priority, StaticSecret, connect};

const DATA: &[u8] = b"what a stream carries";

fn secret(of: u8) -> StaticSecret {
    StaticSecret::from_bytes(&std::array::from_fn(|at| (at as u8).wrapping_mul(37).wrapping_add(of)))
}

/// Nothing that was told has one of these secrets in it, or [`DATA`], in any of the usual forms.
fn assert_silent(collector: &Collector, secrets: &[StaticSecret]) {
    let text = collector.text();
    let secrets: Vec<_> = secrets.iter().map(|secret| secret.to_bytes()).collect();
    for bytes in secrets.iter().map(|secret| &secret[..]).chain([DATA]) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let list = format!("{bytes:?}");
        for form in [&hex[..16], &list[1..20], &String::from_utf8_lossy(bytes)] {
            assert!(!text.contains(form), "{form} is in what was told:\n{text}");
        }
    }
}

/// What is told of the only connection with `role`, to its end, which other threads may have yet to tell.
fn events(collector: &Collector, role: &str) -> Vec<String> {
    let spans = collector.spans(&format!("role=\"{role}\""));
    assert_eq!(spans.len(), 1, "{}", collector.text());
    for _ in 0..1000 {
        let told = collector.events(spans[0]);
        if told.iter().any(|event| event.contains(" closed ")) {
            return told;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("its end is not told of:\n{}", collector.text());
}

/// The only test here: threads have no subscriber of their own.
#[test]
fn a_life_is_told_in_order_on_both_sides_and_without_secrets() {
    let collector = Collector::default();
    tracing::subscriber::set_global_default(collector.clone()).expect("there is no other");
    let listener = Listener::bind("127.0.0.1:0", secret(1), Config::default()).expect("loopback listens");
    let (address, key) = (listener.local_addr(), secret(1).public_key());
    let answering = thread::spawn(move || {
        let connection = listener.accept().expect("it dials");
        let mut stream = connection.accept_stream().expect("the peer opens");
        let mut came = Vec::new();
        stream.read_to_end(&mut came).expect("the peer finishes");
        assert_eq!(came, DATA);
        stream.shutdown(Shutdown::Write).expect("the peer reads");
        drop(stream);
        assert!(connection.closed().is_orderly());
    });
    let dialer = connect(address, secret(2), ExpectedPeer::Key(key), Config::default()).expect("it listens");
    let mut stream =
        dialer.open_stream(Some("test/1"), Priority::from_urgency(2).with_incremental(true)).expect("it is open");
    stream.write_all(DATA).expect("there is room");
    stream.shutdown(Shutdown::Write).expect("the peer reads");
    assert_eq!(stream.read(&mut [0]).expect("the peer finishes"), 0);
    drop(stream);
    dialer.drain();
    dialer.transport_closed();
    answering.join().expect("no panic");

    let established = "INFO established version=1 suite=";
    let told = events(&collector, "initiator");
    assert_eq!(told[0], "DEBUG dialing");
    assert!(told[1].starts_with(established) && told[1].contains("mode=Ik anonymous=false"), "{told:?}");
    assert_eq!(told[2], "TRACE stream opened stream=StreamId(0) protocol=\"test/1\" urgency=2 incremental=true");
    assert_eq!(told[3], "DEBUG draining by=\"local\" code=GOING_AWAY");
    assert!(told[4].starts_with("INFO closed reason=closed by the "), "{told:?}");
    assert_eq!(told.len(), 5, "{told:?}");

    let told = events(&collector, "responder");
    assert_eq!(told[0], "DEBUG accepted");
    assert!(told[1].starts_with(established), "{told:?}");
    assert!(told[2].starts_with("TRACE stream accepted stream="), "{told:?}");
    assert!(told[2].ends_with("protocol=\"test/1\" urgency=2 incremental=true"), "{told:?}");
    assert_eq!(told[3], "DEBUG draining by=\"peer\" code=GOING_AWAY");
    assert!(told[4].starts_with("INFO closed reason=closed by the "), "{told:?}");
    assert_eq!(told.len(), 5, "{told:?}");

    // Each span has who it is with.
    for (role, peer) in [("initiator", secret(1)), ("responder", secret(2))] {
        let (role, peer) = (format!("role=\"{role}\" address=127.0.0.1:"), format!(" peer={}", peer.public_key()));
        assert_eq!(collector.spans(&role), collector.spans(&peer), "{}", collector.text());
        assert_eq!(collector.spans(&role).len(), 1);
    }
    assert_silent(&collector, &[secret(1), secret(2)]);
}
