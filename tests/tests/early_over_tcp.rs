//! Early data over real sockets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use peermux_tokio::{Config, Dialing, Listener, Priority, Remote, StaticSecret, StrikeRegister};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
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
    let listener = Listener::with_register(socket, keys, config(), register, |_| true).expect("it listens");
    let address = listener.local_addr();
    let host = tokio::spawn(async move {
        let connection = listener.accept().await.expect("somebody dials");
        let mut stream = connection.accept().await.expect("a request comes");
        assert_eq!(stream.is_early(), claimed_first);
        let mut request = Vec::new();
        stream.read_to_end(&mut request).await.expect("the request ends");
        stream.write_all(&request).await.expect("the renter reads");
        stream.shutdown().await.expect("the renter reads");
        let peer = connection.confirmed().await.expect("the renter is confirmed");
        connection.ended().await;
        peer
    });
    let renter = StaticSecret::from_bytes(&[2; 32]);
    let renter_public = renter.public_key();
    let dialing = Dialing::to(address, renter, Remote::Key(public), config()).await.expect("the host is there");
    let mut stream = dialing.open_early("test/early", Priority::default()).expect("it opens");
    stream.write_all(&[7; 700]).await.expect("there is room");
    let establishing = tokio::spawn(dialing.establish(|_| true));
    let mut answer = Vec::new();
    let echo = async {
        stream.shutdown().await.expect("it goes");
        stream.read_to_end(&mut answer).await.expect("the host answers");
    };
    timeout(LIMIT, echo).await.expect("in time");
    assert_eq!(answer, [7; 700]);
    let connection = establishing.await.expect("no panic").expect("it is established");
    timeout(LIMIT, connection.close(7, "done")).await.expect("in time");
    let peer = timeout(LIMIT, host).await.expect("in time").expect("no panic");
    assert_eq!(peer.key, renter_public);
}
