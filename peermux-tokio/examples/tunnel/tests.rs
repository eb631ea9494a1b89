//! Both sides over loopback.

use std::net::SocketAddr;
use std::time::Duration;

use peermux_tokio::{PublicKey, StaticSecret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cli::Peer;
use crate::dial::{self, Dialer};
use crate::listen;
use crate::target::{Forward, Target};

fn far_key() -> StaticSecret {
    StaticSecret::from_bytes(&[7; 32])
}

/// Starts a far side; when the sender goes, so does it.
async fn far(
    at: SocketAddr,
    allow: Vec<Target>,
    peers: Vec<PublicKey>,
) -> (SocketAddr, watch::Sender<bool>, JoinHandle<()>) {
    let listener = listen::start(TcpListener::bind(at).await.unwrap(), far_key(), peers, None).unwrap();
    let address = listener.local_addr().expect("it listens");
    let (stop, stopped) = watch::channel(false);
    (address, stop, tokio::spawn(listen::serve(listener, allow, stopped)))
}

/// Starts a near side that leads to `target`, and gives the address of its port and what becomes of it.
async fn near(
    far: SocketAddr,
    target: SocketAddr,
    key: Option<StaticSecret>,
) -> (SocketAddr, JoinHandle<Result<(), String>>) {
    let forward: Forward = format!("0:{target}@1").parse().unwrap();
    let socket = dial::bind(&forward).await.unwrap();
    let address = socket.local_addr().unwrap();
    let peer = Peer { key: far_key().public_key(), addr: far.to_string() };
    let run = async move {
        Dialer { peer, key, retries: 5, key_log: None }.run(vec![(socket, forward)], &watch::channel(None).0).await
    };
    (address, tokio::spawn(run))
}

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// A target that answers each connection, once it has ended, by what came.
async fn target() -> SocketAddr {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                if tcp.read_to_end(&mut bytes).await.is_ok() {
                    let _ = tcp.write_all(&bytes).await;
                }
            });
        }
    });
    address
}

async fn ask(port: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let (mut reader, mut writer) = TcpStream::connect(port).await?.into_split();
    let asking = async {
        writer.write_all(bytes).await?;
        writer.shutdown().await
    };
    let mut answer = Vec::new();
    let answering = async { reader.read_to_end(&mut answer).await };
    tokio::try_join!(asking, answering)?;
    Ok(answer)
}

#[tokio::test]
async fn bytes_and_ends_of_one_direction_go_through() {
    let target = target().await;
    let (far, _stop, _) = far(loopback(), vec![target.to_string().parse().unwrap()], Vec::new()).await;
    let (port, _) = near(far, target, None).await;
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let (large, small) = tokio::join!(ask(port, &bytes), ask(port, b"hello"));
    assert!(large.unwrap() == bytes);
    assert_eq!(small.unwrap(), b"hello");
    assert_eq!(ask(port, b"").await.unwrap(), b"");
}

/// An address that refuses every connection as long as the socket lives: nobody else can be given its port.
fn refusing() -> (SocketAddr, tokio::net::TcpSocket) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (socket.local_addr().unwrap(), socket)
}

#[tokio::test]
async fn what_fails_at_the_far_side_resets_the_connection() {
    let target = target().await;
    let (closed, _held) = refusing();
    let (far, _stop, _) = far(loopback(), vec![closed.to_string().parse().unwrap()], Vec::new()).await;
    for target in [target, closed] {
        let (port, _) = near(far, target, None).await;
        let error = ask(port, b"hello").await.unwrap_err();
        assert!(
            matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_reset_in_the_middle_is_no_end() {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let target = listener.local_addr().unwrap();
    let (far, _stop, _) = far(loopback(), Vec::new(), Vec::new()).await;
    let (port, _) = near(far, target, None).await;
    let mut tcp = TcpStream::connect(port).await.unwrap();
    tcp.write_all(b"a").await.unwrap();
    let (mut accepted, _) = listener.accept().await.unwrap();
    accepted.write_all(b"half an answer").await.unwrap();
    let mut answer = [0; 14];
    tcp.read_exact(&mut answer).await.unwrap();
    crate::pipe::abort(accepted);
    assert_eq!(tcp.read(&mut answer).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn who_is_not_among_the_peers_is_not_let_in() {
    let target = target().await;
    let friend = StaticSecret::from_bytes(&[8; 32]);
    let (far, _stop, _) = far(loopback(), Vec::new(), vec![friend.public_key()]).await;
    let (port, _) = near(far, target, Some(friend)).await;
    assert_eq!(ask(port, b"hello").await.unwrap(), b"hello");
    let (_, stranger) = near(far, target, None).await;
    let failure = stranger.await.unwrap().unwrap_err();
    assert!(failure.contains("does not let this key in"), "{failure}");
}

#[tokio::test]
async fn a_connection_that_is_lost_is_dialled_again() {
    let target = target().await;
    let (address, stop, serving) = far(loopback(), Vec::new(), Vec::new()).await;
    let (port, _) = near(address, target, None).await;
    assert_eq!(ask(port, b"first").await.unwrap(), b"first");
    stop.send_replace(true);
    serving.await.unwrap();
    // This one waits for the connection that is to come.
    let waiting = tokio::spawn(async move { ask(port, b"second").await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let _again = far(address, Vec::new(), Vec::new()).await;
    assert_eq!(waiting.await.unwrap().unwrap(), b"second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_refuses_ends_nobody_elses_forward() {
    // A download that goes on for as long as its reader reads.
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let source = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        while tcp.write_all(&[7; 16 << 10]).await.is_ok() {}
    });
    let (closed, _held) = refusing();
    let (far, _stop, _) = far(loopback(), Vec::new(), Vec::new()).await;
    let (first, second): (Forward, Forward) =
        (format!("0:{source}@3").parse().unwrap(), format!("0:{closed}@1").parse().unwrap());
    let mut ports = Vec::new();
    for forward in [first, second] {
        ports.push((dial::bind(&forward).await.unwrap(), forward));
    }
    let addresses: Vec<_> = ports.iter().map(|(socket, _)| socket.local_addr().unwrap()).collect();
    let peer = Peer { key: far_key().public_key(), addr: far.to_string() };
    let _near = tokio::spawn(async move {
        Dialer { peer, key: None, retries: 0, key_log: None }.run(ports, &watch::channel(None).0).await
    });
    let mut download = TcpStream::connect(addresses[0]).await.unwrap();
    let mut buffer = vec![0; 64 << 10];
    for _ in 0..600 {
        let asks = (0..10).map(|_| tokio::spawn(ask(addresses[1], b"hello"))).collect::<Vec<_>>();
        for ask in asks {
            ask.await.unwrap().expect_err("nobody listens there");
        }
        assert!(download.read(&mut buffer).await.expect("the download goes on") > 0);
    }
}

#[tokio::test]
async fn idle_connections_hold_up_nobody_until_there_is_no_place_and_then_that_is_said() {
    let target = target().await;
    let (far, _stop, _) = far(loopback(), Vec::new(), Vec::new()).await;
    let (port, _) = near(far, target, None).await;
    let mut idle = Vec::new();
    for index in 1..listen::STREAMS {
        let mut tcp = TcpStream::connect(port).await.unwrap();
        tcp.write_all(b"waits").await.unwrap();
        idle.push(tcp);
        if index % 9 == 0 {
            assert_eq!(ask(port, b"hello").await.unwrap(), b"hello");
        }
    }
    let last = TcpStream::connect(port).await.unwrap();
    // As soon as that one has the last place.
    let refused = async {
        loop {
            let asked = tokio::time::timeout(Duration::from_secs(10), ask(port, b"hello")).await;
            if asked.expect("it is told in time").is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), refused).await.expect("there is no place");
    drop((last, idle));
    // Their places come back.
    for _ in 0..100 {
        if ask(port, b"hello").await.is_ok_and(|answer| answer == b"hello") {
            return;
        }
    }
    panic!("no place has come back");
}
