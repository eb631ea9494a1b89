//! Who takes the steps of a Tokio connection: its task, and whoever would wait for it. Nobody may forget to wake anybody.
//!
//! Between the two ends is a relay that stops now and then, with small buffers, so that sockets are full at every possible moment. No connection has
//! a timer that would go off and set things right.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use peermux_core::crypto::{AeadKey, AuthError, Encapsulated, KemSecret, Provider, RustCrypto, SealError, Suite};
use peermux_core::{Config, ExpectedPeer, Identity};
use peermux_tests::{initiator_key, responder_key, rng};
use peermux_tokio::{Connection, Listener, Priority, ResponderKeys, Stream, connect_socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// The protocol of streams that are counted, and not answered.
const SINK: &str = "test/sink";

/// No timer goes off in the time of a test.
fn config() -> Config {
    Config { keep_alive_interval: None, max_idle_timeout: None, ..Config::default() }
}

/// A socket of small buffers.
fn small() -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("there are sockets");
    socket.set_send_buffer_size(8192).expect("a small buffer");
    socket.set_recv_buffer_size(8192).expect("a small buffer");
    socket
}

/// Passes bytes on in pieces, and pauses: after some of them for a moment, or if it is `slow` after some 20 KB for as long as it takes to fill all sockets.
async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    seed: u64,
    slow: bool,
) -> io::Result<()> {
    let (mut random, mut passed) = (rng(seed), 0);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let most = random.uniform(1, buffer.len() as u64) as usize;
        let len = from.read(&mut buffer[..most]).await?;
        if len == 0 {
            return to.shutdown().await;
        }
        if slow && passed > 20_000 {
            passed = 0;
            sleep(Duration::from_millis(random.uniform(50, 150))).await;
        } else if !slow && random.uniform(0, 20) == 0 {
            sleep(Duration::from_millis(random.uniform(1, 20))).await;
        }
        to.write_all(&buffer[..len]).await?;
        passed += len;
    }
}

async fn relay(to: SocketAddr, seed: u64, slow: bool) -> SocketAddr {
    let socket = small();
    socket.bind(LOOPBACK).expect("loopback is there");
    let listener = socket.listen(1).expect("it listens");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.expect("somebody dials");
        let far = small().connect(to).await.expect("it listens");
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        // An end that goes away is what its peer sees.
        let _ = tokio::join!(pass(near_in, far_out, seed, slow), pass(far_in, near_out, seed + 1000, slow));
    });
    address
}

async fn two(seed: u64, slow: bool) -> (Connection, Connection) {
    let socket = small();
    socket.bind(LOOPBACK).expect("loopback is there");
    let keys = || ResponderKeys::from(responder_key());
    let listener = TcpListener::from_std(socket.listen(1).expect("it listens").into_std().expect("it is a socket"));
    let listener =
        Listener::from_listener(listener.expect("it is registered"), keys, config(), |_| true).expect("it is valid");
    let through = relay(listener.local_addr(), seed, slow).await;
    let remote = ExpectedPeer::Key(responder_key().public_key());
    let dial = async {
        let socket: TcpStream = small().connect(through).await?;
        connect_socket(socket, Identity::Static(initiator_key()), remote, config(), |_| true).await
    };
    let (dialed, accepted) = tokio::join!(dial, listener.accept());
    (dialed.expect("it connects"), accepted.expect("somebody came"))
}

/// Answers everything as it comes, in pieces.
async fn echo(mut stream: Stream) -> io::Result<()> {
    let mut buffer = vec![0; 3000];
    loop {
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..len]).await?;
    }
}

/// Counts what comes.
async fn sink(mut stream: Stream, count: watch::Sender<u64>) -> io::Result<()> {
    let mut buffer = vec![0; 3000];
    loop {
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            return stream.shutdown().await;
        }
        count.send_modify(|count| *count += len as u64);
    }
}

/// Requests of one to three writes, some beside others that are not waited for; each is answered before the next.
async fn requests(connection: &Connection, count: u64, seed: u64) {
    let mut random = rng(seed);
    let mut stream = connection.open_stream(None, Priority::from_urgency(0)).expect("it is open");
    for number in 0..count {
        let mut sent = Vec::new();
        for _ in 0..random.uniform(1, 4) {
            let piece = vec![number as u8; random.uniform(1, 2500) as usize];
            stream.write_all(&piece).await.expect("it is open");
            sent.extend(piece);
        }
        let mut answer = vec![0; sent.len()];
        let answered = timeout(Duration::from_secs(10), stream.read_exact(&mut answer)).await;
        answered.unwrap_or_else(|_| panic!("request {number} of seed {seed} is forgotten")).expect("it is open");
        assert!(answer == sent, "request {number} of seed {seed}");
        if random.uniform(0, 4) == 0 {
            sleep(Duration::from_millis(random.uniform(0, 4))).await;
        }
    }
    stream.shutdown().await.expect("it is open");
}

/// Much, that comes back.
async fn bulk(connection: &Connection, len: usize) {
    let (mut read, mut write) = connection
        .open_stream(None, Priority::from_urgency(5).with_incremental(true))
        .expect("it is open")
        .into_split();
    let chunk = vec![7; 50_000];
    let writes = async {
        let mut left = len;
        while left > 0 {
            let now = left.min(chunk.len());
            write.write_all(&chunk[..now]).await.expect("it is open");
            left -= now;
        }
        write.shutdown().await.expect("it is open");
    };
    let reads = async {
        let mut back = Vec::new();
        read.read_to_end(&mut back).await.expect("it is open");
        assert_eq!(back.len(), len);
        assert!(back.iter().all(|&byte| byte == 7));
    };
    let ((), ()) = tokio::join!(writes, reads);
}

/// Little by little, as much as fills the sockets. The peer says nothing meanwhile, so nothing that it says makes up for what was forgotten; it counts.
async fn trickle(connection: &Connection, mut arrived: watch::Receiver<u64>, seed: u64) {
    let mut random = rng(seed);
    let mut sent = 0;
    for round in 0..12 {
        let mut stream = connection.open_stream(Some(SINK), Priority::default()).expect("it is open");
        for _ in 0..random.uniform(30, 60) {
            let piece = random.uniform(1, 2500);
            stream.write_all(&[7; 2500][..piece as usize]).await.expect("it is open");
            sent += piece;
            sleep(Duration::from_millis(random.uniform(0, 3))).await;
        }
        let all = timeout(Duration::from_secs(5), arrived.wait_for(|&arrived| arrived == sent)).await;
        all.unwrap_or_else(|_| panic!("round {round} of seed {seed} is forgotten")).expect("the peer counts");
        stream.shutdown().await.expect("it is open");
    }
}

async fn everything(seed: u64) {
    let slow = seed % 2 == 1;
    let (dialed, accepted) = two(seed, slow).await;
    let (count, arrived) = watch::channel(0);
    let serving = tokio::spawn(async move {
        while let Ok(stream) = accepted.accept_stream().await {
            // Streams of a connection that has ended are of no interest.
            match stream.protocol().as_deref() {
                Some(SINK) => tokio::spawn(sink(stream, count.clone())),
                _ => tokio::spawn(echo(stream)),
            };
        }
    });
    let work = async {
        if slow {
            trickle(&dialed, arrived, seed).await;
        } else {
            tokio::join!(requests(&dialed, 60, seed), bulk(&dialed, 1_500_000), requests(&dialed, 60, seed + 500));
        }
    };
    timeout(Duration::from_secs(50), work).await.unwrap_or_else(|_| panic!("seed {seed} hangs"));
    dialed.close(0, "");
    dialed.transport_closed().await;
    timeout(Duration::from_secs(10), serving).await.expect("the peer hears of the end").expect("it does not panic");
}

#[test]
fn nobody_is_forgotten_where_a_task_of_the_application_does_the_work() {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let mut seeds = tokio::task::JoinSet::new();
        (0..8).for_each(|seed| drop(seeds.spawn(everything(seed))));
        while let Some(done) = seeds.join_next().await {
            done.expect("each seed passes");
        }
    });
}

#[test]
fn nobody_is_forgotten_where_all_tasks_share_a_thread() {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        for seed in 100..103 {
            everything(seed).await;
        }
    });
}

/// ChaCha20-Poly1305 that panics where it seals, in the thread where it is told to.
#[derive(Debug)]
struct Trap;

thread_local! {
    static TRAPPED: Cell<bool> = const { Cell::new(false) };
}

struct TrapKey(Box<dyn AeadKey>);

impl AeadKey for TrapKey {
    fn seal(&self, nonce: u64, aad: &[u8], buf: &mut [u8]) -> Result<(), SealError> {
        assert!(!TRAPPED.get(), "a trap");
        self.0.seal(nonce, aad, buf)
    }

    fn open(&self, nonce: u64, aad: &[u8], buf: &mut [u8]) -> Result<(), AuthError> {
        self.0.open(nonce, aad, buf)
    }
}

impl Provider for Trap {
    fn supports(&self, suite: Suite) -> bool {
        RustCrypto.supports(suite)
    }

    fn aead(&self, suite: Suite, key: &[u8; 32]) -> Option<Box<dyn AeadKey>> {
        Some(Box::new(TrapKey(RustCrypto.aead(suite, key)?)))
    }

    fn kem_generate(&self, seed: &[u8; 64]) -> (Box<[u8; 1184]>, KemSecret) {
        RustCrypto.kem_generate(seed)
    }

    fn kem_check(&self, encapsulation_key: &[u8; 1184]) -> bool {
        RustCrypto.kem_check(encapsulation_key)
    }

    fn kem_encapsulate(&self, encapsulation_key: &[u8; 1184], randomness: &[u8; 32]) -> Option<Encapsulated> {
        RustCrypto.kem_encapsulate(encapsulation_key, randomness)
    }
}

#[test]
fn a_panic_of_whoever_does_the_work_ends_the_connection_and_sends_nothing_in_the_clear() {
    const SECRET: &[u8] = b"nobody else may read this";
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let listener = TcpListener::bind(LOOPBACK).await.expect("loopback listens");
        let address = listener.local_addr().expect("it is bound");
        // Answers the handshake through a relay that keeps what it has seen.
        let accepting = tokio::spawn(async move {
            let keys = || ResponderKeys::from(responder_key());
            let behind = TcpListener::bind(LOOPBACK).await.expect("loopback listens");
            let through = behind.local_addr().expect("it is bound");
            let listening = Listener::from_listener(behind, keys, config(), |_| true).expect("it is valid");
            let (near, _) = listener.accept().await.expect("somebody dials");
            let far = TcpStream::connect(through).await.expect("it listens");
            let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.into_split(), far.into_split());
            let seen = tokio::spawn(async move {
                let (mut seen, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
                while let Ok(len @ 1..) = near_in.read(&mut buffer).await {
                    seen.extend_from_slice(&buffer[..len]);
                    // The peer may be gone before all has come.
                    let _ = far_out.write_all(&buffer[..len]).await;
                }
                seen
            });
            tokio::spawn(async move { tokio::io::copy(&mut far_in, &mut near_out).await });
            let accepted = listening.accept().await.expect("somebody came");
            accepted.closed().await;
            seen.await.expect("it does not panic")
        });
        let trapped = Config { provider: &Trap, ..config() };
        let remote = ExpectedPeer::Key(responder_key().public_key());
        let socket = TcpStream::connect(address).await.expect("it listens");
        let dialed = connect_socket(socket, Identity::Static(initiator_key()), remote, trapped, |_| true);
        let dialed = dialed.await.expect("it connects");
        let mut stream = dialed.open_stream(None, Priority::default()).expect("it is open");
        let helping = tokio::spawn(async move {
            TRAPPED.set(true);
            // More than is queued: this task does the work, before the connection's task can.
            stream.write_all(&SECRET.repeat(40_000)).await
        });
        let panicked = helping.await.expect_err("the trap is shut");
        TRAPPED.set(false);
        assert!(panicked.is_panic());
        let ended = timeout(Duration::from_secs(10), dialed.closed()).await.expect("the connection ends");
        assert!(ended.to_string().contains("a task panicked"), "{ended}");
        let seen =
            timeout(Duration::from_secs(10), accepting).await.expect("the peer hears of it").expect("it is over");
        assert!(!seen.windows(SECRET.len()).any(|window| window == SECRET), "in the clear");
    });
}
