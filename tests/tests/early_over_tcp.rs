//! Early data over real sockets.

use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use peermux_tokio::{Config, Connecting, ExpectedPeer, Listener, Priority, StaticSecret, StrikeRegister};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_request_that_goes_early_is_answered_whether_it_is_accepted_or_not() {
    // The register of a listener that was just made refuses, so the request goes again by itself; that of a new key accepts.
    let register = || Arc::new(Mutex::new(StrikeRegister::for_new_key(100, 0)));
    for (register, claimed_first) in [(None, false), (Some(register()), true)] {
        exchange(register, claimed_first).await;
    }
}

async fn exchange(register: Option<Arc<Mutex<StrikeRegister>>>, claimed_first: bool) {
    let config = || Config { early_data: true, ..Config::default() };
    let key = StaticSecret::from_bytes(&[1; 32]);
    let public = key.public_key();
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("it listens");
    let keys = move || key.clone().into();
    let listener = Listener::with_strike_register(socket, keys, config(), register, |_| true).expect("it listens");
    let address = listener.local_addr();
    let host = tokio::spawn(async move {
        let connection = listener.accept().await.expect("somebody dials");
        let mut stream = connection.accept_stream().await.expect("a request comes");
        assert!(stream.is_early(), "accepted, or refused and sent again: every copy says so");
        assert_eq!(connection.driver().with(|connection| connection.peer_key().is_none()), claimed_first);
        let mut request = Vec::new();
        stream.read_to_end(&mut request).await.expect("the request ends");
        stream.write_all(&request).await.expect("the renter reads");
        stream.shutdown().await.expect("the renter reads");
        let peer = connection.handshake_confirmed().await.expect("the renter is confirmed");
        connection.closed().await;
        peer
    });
    let renter = StaticSecret::from_bytes(&[2; 32]);
    let renter_public = renter.public_key();
    let dialing =
        Connecting::new(address, renter, ExpectedPeer::Key(public), config()).await.expect("the host is there");
    let mut stream = dialing.open_early(Some("test/early"), Priority::default()).expect("it opens");
    stream.write_all(&[7; 700]).await.expect("there is room");
    let establishing = tokio::spawn(dialing.handshake(|_| true));
    let mut answer = Vec::new();
    let echo = async {
        stream.shutdown().await.expect("it goes");
        stream.read_to_end(&mut answer).await.expect("the host answers");
    };
    timeout(LIMIT, echo).await.expect("in time");
    assert_eq!(answer, [7; 700]);
    let connection = establishing.await.expect("no panic").expect("it is established");
    connection.close(7, "done");
    timeout(LIMIT, connection.transport_closed()).await.expect("in time");
    let peer = timeout(LIMIT, host).await.expect("in time").expect("no panic");
    assert_eq!(peer.key, renter_public);
}

/// A dial to a host that does not answer, and a task that waits for the answer to an early stream.
async fn unanswered() -> (TcpListener, Connecting, JoinHandle<std::io::Result<usize>>) {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("it listens");
    let address = silent.local_addr().expect("it is bound");
    let (key, remote) = (StaticSecret::from_bytes(&[2; 32]), StaticSecret::from_bytes(&[1; 32]).public_key());
    let config = Config { early_data: true, ..Config::default() };
    let dialing = Connecting::new(address, key, ExpectedPeer::Key(remote), config).await.expect("it is there");
    let mut stream = dialing.open_early(Some("test/early"), Priority::default()).expect("it opens");
    let reader = tokio::spawn(async move { stream.read(&mut [0; 16]).await });
    tokio::task::yield_now().await;
    (silent, dialing, reader)
}

async fn ends_at_once(reader: JoinHandle<std::io::Result<usize>>) {
    let read = timeout(Duration::from_secs(1), reader).await.expect("at once").expect("no panic");
    assert_eq!(read.expect_err("nobody answers").kind(), ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn a_dialing_that_is_dropped_ends_its_early_streams() {
    let (_silent, dialing, reader) = unanswered().await;
    drop(dialing);
    ends_at_once(reader).await;
}

#[tokio::test]
async fn a_future_of_establish_that_is_never_polled_ends_the_early_streams() {
    let (_silent, dialing, reader) = unanswered().await;
    drop(dialing.handshake(|_| true));
    ends_at_once(reader).await;
}

#[tokio::test]
async fn a_future_of_establish_that_is_dropped_ends_the_early_streams() {
    let (_silent, dialing, reader) = unanswered().await;
    let mut establish = Box::pin(dialing.handshake(|_| true));
    assert!(poll_fn(|cx| Poll::Ready(establish.as_mut().poll(cx).is_pending())).await);
    drop(establish);
    ends_at_once(reader).await;
}

/// A task that flushes an early stream helps the connection's task, which may find it at work in its very first poll.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn every_dial_ends_while_an_early_stream_is_flushed() {
    let host = StaticSecret::from_bytes(&[1; 32]);
    let remote = host.public_key();
    let config = || Config { early_data: true, ..Config::default() };
    let listener = Listener::bind("127.0.0.1:0", host, Config::default()).await.expect("it listens");
    let address = listener.local_addr();
    tokio::spawn(async move {
        while let Some(outcome) = listener.next_outcome().await {
            // A dialer that has let go of its connection may be gone before this side is done.
            if let Ok(connection) = outcome {
                tokio::spawn(async move { connection.closed().await });
            }
        }
    });
    for dial in 0..300 {
        let key = StaticSecret::from_bytes(&[2; 32]);
        let dialing = Connecting::new(address, key, ExpectedPeer::Key(remote), config()).await.expect("it is there");
        let mut stream = dialing.open_early(Some("test/early"), Priority::default()).expect("it opens");
        let flushing = tokio::spawn(async move {
            // For a moment only: then nobody helps any more.
            for _ in 0..2000 {
                let mut flush = pin!(stream.flush());
                let _ = poll_fn(|cx| Poll::Ready(flush.as_mut().poll(cx))).await;
            }
            stream
        });
        let established = timeout(LIMIT, dialing.handshake(|_| true)).await;
        assert!(matches!(established, Ok(Ok(_))), "dial {dial}: {established:?}");
        flushing.await.expect("no panic");
    }
}
