//! Early data over real sockets.

use std::time::Duration;

use peermux_tokio::{Config, Dialing, Listener, Priority, Remote, StaticSecret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_request_that_goes_early_is_answered_whether_it_is_accepted_or_not() {
    // The register of a listener that was just made refuses; so the request goes again by itself.
    let config = || Config { early_data: true, ..Config::default() };
    let key = StaticSecret::from_bytes(&[1; 32]);
    let public = key.public_key();
    let listener = Listener::bind("127.0.0.1:0", key, config()).await.expect("it listens");
    let address = listener.local_addr();
    let host = tokio::spawn(async move {
        let connection = listener.accept().await.expect("somebody dials");
        let mut stream = connection.accept().await.expect("a request comes");
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
    let exchange = async {
        stream.shutdown().await.expect("it goes");
        stream.read_to_end(&mut answer).await.expect("the host answers");
    };
    timeout(LIMIT, exchange).await.expect("in time");
    assert_eq!(answer, [7; 700]);
    let connection = establishing.await.expect("no panic").expect("it is established");
    timeout(LIMIT, connection.close(7, "done")).await.expect("in time");
    let peer = timeout(LIMIT, host).await.expect("in time").expect("no panic");
    assert_eq!(peer.key, renter_public);
}
