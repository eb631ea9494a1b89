//! peermux-tokio's streams through the traits of the crate `futures-io`: whole ones and halves.

use futures::io::{AsyncReadExt, AsyncWriteExt, copy};
use peermux_core::code::ErrorCode;
use peermux_core::error::{ReadError, WriteError};
use peermux_core::{Config, ExpectedPeer};
use peermux_tests::{initiator_key, responder_key};
use peermux_tokio::{Connection, Listener, Priority, connect};

/// More than a stream queues or its peer gives credit for, so that both ends wait.
const LEN: usize = 3_000_000;

async fn pair() -> (Connection, Connection) {
    let listener = Listener::bind("127.0.0.1:0", responder_key(), Config::default()).await.expect("loopback listens");
    let remote = ExpectedPeer::Key(responder_key().public_key());
    let dial = connect(listener.local_addr(), initiator_key(), remote, Config::default());
    let (dialer, accepted) = tokio::join!(dial, listener.accept());
    (dialer.expect("it listens"), accepted.expect("it dials"))
}

#[tokio::test]
async fn copies_go_through_halves_and_end_where_the_peer_closes() {
    let (dialer, listener) = pair().await;
    let echo = async {
        let (mut reader, mut writer) = listener.accept_stream().await.expect("the peer opens").into_split();
        let copied = copy(&mut reader, &mut writer).await.expect("both ways work");
        writer.close().await.expect("the peer reads");
        copied
    };
    let sent: Vec<u8> = (0..LEN as u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let ask = async {
        let (mut reader, mut writer) =
            dialer.open_stream(Some("test"), Priority::default()).expect("it is open").into_split();
        let sending = async {
            copy(&sent[..], &mut writer).await?;
            writer.close().await
        };
        let mut came = Vec::new();
        tokio::try_join!(sending, reader.read_to_end(&mut came)).expect("the peer reads and answers");
        came
    };
    let (copied, came) = tokio::join!(echo, ask);
    assert_eq!(copied, LEN as u64);
    assert!(came == sent);
}

#[tokio::test]
async fn whole_streams_flush_close_and_tell_the_code_of_a_reset() {
    let (dialer, listener) = pair().await;
    let mut one = dialer.open_stream(Some("test"), Priority::default()).expect("it is open");
    one.write_all(b"hello").await.expect("there is room");
    one.flush().await.expect("it leaves");
    let mut two = listener.accept_stream().await.expect("the peer opens");
    let mut hello = [0; 5];
    two.read_exact(&mut hello).await.expect("it was flushed");
    assert_eq!(&hello, b"hello");

    one.close().await.expect("the peer reads");
    assert_eq!(two.read(&mut hello).await.expect("it has ended in good order"), 0);
    let error = one.write(b"more").await.expect_err("it was closed");
    assert_eq!(error.get_ref().and_then(|error| error.downcast_ref()), Some(&WriteError::Closed));
    assert_eq!(one.read(&mut []).await.expect("nothing was asked for"), 0);

    two.write_half().reset(ErrorCode::Application(7));
    let error = one.read(&mut hello).await.expect_err("it was reset");
    assert_eq!(
        error.get_ref().and_then(|error| error.downcast_ref()),
        Some(&ReadError::Reset(ErrorCode::Application(7)))
    );
}
