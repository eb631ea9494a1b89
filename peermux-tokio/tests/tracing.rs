//! What subscribers of `tracing` are told: `cargo test -p peermux-tokio --features tracing --test tracing`.

#![allow(missing_docs, unreachable_pub, reason = "a test")]

mod collector;

use std::io;

use collector::Collector;
use peermux_tokio::{
    Config, Connection, Endpoint, ErrorCode, ExpectedPeer, Listener, Priority, PublicKey, ReadError, StaticSecret,
    connect,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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

/// What is told of the only connection with `role`.
fn events(collector: &Collector, role: &str) -> Vec<String> {
    let spans = collector.spans(&format!("role=\"{role}\""));
    assert_eq!(spans.len(), 1, "{}", collector.text());
    collector.events(spans[0])
}

async fn pair(remote: PublicKey) -> io::Result<(Connection, Connection)> {
    let listener = Listener::bind("127.0.0.1:0", secret(1), Config::default()).await?;
    let dial = connect(listener.local_addr(), secret(2), ExpectedPeer::Key(remote), Config::default());
    tokio::try_join!(dial, listener.accept())
}

#[tokio::test(flavor = "current_thread")]
async fn a_life_is_told_in_order_on_both_sides_and_without_secrets() {
    let collector = Collector::default();
    let _guard = tracing::subscriber::set_default(collector.clone());
    let (dialer, listener) = pair(secret(1).public_key()).await.expect("they meet");
    let mut one =
        dialer.open_stream(Some("test/1"), Priority::from_urgency(2).with_incremental(true)).expect("it is open");
    one.write_all(DATA).await.expect("there is room");
    let asked = async { one.shutdown().await.expect("the peer reads") };
    let answered = async {
        let mut two = listener.accept_stream().await.expect("the peer opens");
        let mut came = Vec::new();
        two.read_to_end(&mut came).await.expect("the peer finishes");
        assert_eq!(came, DATA);
        two.shutdown().await.expect("the peer reads");
    };
    tokio::join!(asked, answered);
    drop(one);
    dialer.drain();
    dialer.transport_closed().await;
    assert!(listener.closed().await.is_orderly());

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

#[tokio::test(flavor = "current_thread")]
async fn failures_are_warnings_except_those_of_strangers() {
    let collector = Collector::default();
    let _guard = tracing::subscriber::set_default(collector.clone());
    let listener = Listener::bind("127.0.0.1:0", secret(1), Config::default()).await.expect("loopback listens");
    let mut stranger = TcpStream::connect(listener.local_addr()).await.expect("it listens");
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("it takes so little");
    drop(stranger);
    let error = listener.next_outcome().await.expect("it lives").expect_err("a stranger is no peer");
    let told = events(&collector, "responder");
    assert_eq!(told[0], "DEBUG accepted");
    assert!(told[1].starts_with("DEBUG closed reason="), "{told:?} for {error}");
    assert_eq!(told.len(), 2, "{told:?}");

    // Who is not whom it should be.
    let error = pair(secret(3).public_key()).await.expect_err("it is another one");
    let told = events(&collector, "initiator");
    assert_eq!(told[0], "DEBUG dialing");
    assert!(told[1].starts_with("WARN closed reason="), "{told:?} for {error}");
    assert_eq!(told.len(), 2, "{told:?}");
    assert_silent(&collector, &[secret(1), secret(2), secret(3)]);
}

#[tokio::test(flavor = "current_thread")]
async fn what_a_peer_gives_as_its_reason_is_told_without_control_characters() {
    let collector = Collector::default();
    let _guard = tracing::subscriber::set_default(collector.clone());
    let (dialer, listener) = pair(secret(1).public_key()).await.expect("they meet");
    listener.close(9, "\x1b[31mred\n");
    listener.transport_closed().await;
    dialer.closed().await;
    let told = events(&collector, "initiator");
    let last = told.last().expect("it was told of");
    assert_eq!(last, "INFO closed reason=closed by the peer application: application code 9 (.[31mred.)");
}

#[tokio::test(flavor = "current_thread")]
async fn endpoints_tell_what_they_decide() {
    let collector = Collector::default();
    let _guard = tracing::subscriber::set_default(collector.clone());
    let host = Endpoint::bind("127.0.0.1:0", secret(1), Config::default()).await.expect("loopback listens");
    let renter = Endpoint::bind("127.0.0.1:0", secret(2), Config::default()).await.expect("loopback listens");
    let (address, key) = (host.local_addr(), secret(1).public_key());
    let connection = renter.connect(address, key).await.expect("it listens");
    renter.connect(address, key).await.expect("there is one");
    let mut stream = connection.open_stream(Some("nobody"), Priority::default()).expect("it is open");
    stream.flush().await.expect("it leaves");
    let refused = stream.read_half().read_chunk(1).await.expect_err("nobody has registered");
    assert_eq!(refused, ReadError::Reset(ErrorCode::UNKNOWN_PROTOCOL));
    let (initiator, responder) = (events(&collector, "initiator"), events(&collector, "responder"));
    assert!(initiator.contains(&"DEBUG used again".into()), "{initiator:?}");
    assert!(
        responder.contains(&"DEBUG stream refused protocol=\"nobody\" code=UNKNOWN_PROTOCOL".into()),
        "{responder:?}"
    );

    // The same peer again, from elsewhere: one of the two has to go.
    let second = connect(address, secret(2), ExpectedPeer::Key(key), Config::default()).await.expect("it listens");
    let of_host = || collector.spans("role=\"responder\"").into_iter().flat_map(|span| collector.events(span));
    for _ in 0..1000 {
        if of_host().any(|event| event == "DEBUG draining by=\"local\" code=DUPLICATE") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let told: Vec<_> = of_host().collect();
    assert!(told.contains(&"DEBUG draining by=\"local\" code=DUPLICATE".into()), "{told:?}");
    drop(second);
    assert_silent(&collector, &[secret(1), secret(2)]);
}
