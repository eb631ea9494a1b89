//! Many connections of one process, all open at once, with data both ways on each: 1000 through peermux-tokio and 200 through peermux-std with
//! `PEERMUX_LONG=1`, fewer without. The event loop on mio has such a test in its own example, `peermux-std/examples/mio`.

mod adapter;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use adapter::within;
use peermux_core::code::ErrorCode;
use peermux_core::wire::Priority;
use peermux_core::{Config, ExpectedPeer};
use peermux_tests::{initiator_key, responder_key};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes each way on each connection.
const LEN: usize = 100_000;

/// Handshakes that are under way at once: more would only make each other late.
const DIALS: usize = 32;

/// One after the other, so that descriptors and memory are those of one test.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(full: usize, sample: usize) -> usize {
    if std::env::var_os("PEERMUX_LONG").is_some() { full } else { sample }
}

/// Makes sure that both ends of so many connections have a descriptor, and what else this process needs.
fn reserve(connections: usize) {
    let needed = 2 * connections as u64 + 100;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < needed) {
        let most = maximum.unwrap_or(u64::MAX);
        assert!(most >= needed, "{needed} descriptors are needed, and the hard limit (`ulimit -Hn`) is {most}");
        setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum }).expect("it is within the hard limit");
    }
}

/// What goes one way on connection `number`: other bytes on each, and other ones each way.
fn data(number: u64, back: bool) -> Vec<u8> {
    let start = number.to_be_bytes();
    let seed = (2 * number + u64::from(back) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    start.into_iter().chain((0..LEN as u64).map(|at| (seed.wrapping_mul(at + 1) >> 40) as u8)).collect()
}

/// What is sent back for what came. The number that it begins with says what it should be.
fn check(came: &[u8], back: bool) -> u64 {
    let (start, _) = came.split_first_chunk().expect("it begins with a number");
    let number = u64::from_be_bytes(*start);
    assert!(came == data(number, back), "the data of connection {number} differs");
    number
}

/// Bytes that this process holds, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// For whoever runs this with `--nocapture`.
fn report(what: &str, count: usize, begin: Instant, before: Option<u64>) {
    let held = before.zip(resident()).map(|(before, now)| now.saturating_sub(before) / count as u64 / 1024);
    let held =
        held.map_or_else(String::new, |held| format!("; {held} KiB more than before for each, with both its ends"));
    let _ = writeln!(std::io::stderr(), "{what}, {count} connections: {:.2?}{held}", begin.elapsed());
}

#[test]
fn tokio() {
    let _guard = alone();
    let count = count(1000, 100);
    reserve(count);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    within(300, move || runtime.expect("a runtime starts").block_on(tokio_connections(count)));
}

async fn tokio_connections(count: usize) {
    use peermux_tokio::{Connection, Listener, connect};

    async fn dial(connection: Connection, number: u64) {
        let (mut reader, mut writer) =
            connection.open_stream(Some("test"), Priority::default()).expect("it is open").into_split();
        let (sent, mut came) = (data(number, false), Vec::new());
        let sending = async {
            writer.write_all(&sent).await?;
            writer.shutdown().await
        };
        tokio::try_join!(sending, reader.read_to_end(&mut came)).expect("the peer reads and answers");
        assert_eq!(check(&came, true), number);
    }

    async fn answer(connection: Connection) {
        let (mut reader, mut writer) = connection.accept_stream().await.expect("the peer opens").into_split();
        // The number, and then both ways at once.
        let number = reader.read_u64().await.expect("it begins with a number");
        let (sent, mut came) = (data(number, true), number.to_be_bytes().to_vec());
        let sending = async {
            writer.write_all(&sent).await?;
            writer.shutdown().await
        };
        tokio::try_join!(sending, reader.read_to_end(&mut came)).expect("the peer reads and finishes");
        assert_eq!(check(&came, false), number);
    }

    let (before, begin) = (resident(), Instant::now());
    let listener = Listener::bind("127.0.0.1:0", responder_key(), Config::default()).await.expect("loopback listens");
    let address = listener.local_addr();
    let accepting = tokio::spawn(async move {
        let mut accepted = Vec::new();
        while accepted.len() < count {
            accepted.push(listener.accept().await.expect("the runtime lives"));
        }
        accepted
    });
    let places = Arc::new(tokio::sync::Semaphore::new(DIALS));
    let mut dials = tokio::task::JoinSet::new();
    for _ in 0..count {
        let place = places.clone().acquire_owned().await.expect("it is never closed");
        dials.spawn(async move {
            let remote = ExpectedPeer::Key(responder_key().public_key());
            let connection = connect(address, initiator_key(), remote, Config::default()).await.expect("it listens");
            drop(place);
            connection
        });
    }
    let dialled = dials.join_all().await;
    let accepted = accepting.await.expect("no panic");
    assert_eq!((dialled.len(), accepted.len()), (count, count));
    report("tokio, open and idle", count, begin, before);

    let begin = Instant::now();
    let mut ends = tokio::task::JoinSet::new();
    for (number, connection) in dialled.iter().enumerate() {
        ends.spawn(dial(connection.clone(), number as u64));
    }
    for connection in &accepted {
        ends.spawn(answer(connection.clone()));
    }
    ends.join_all().await;
    report("tokio, data both ways", count, begin, before);
    // They were open all the time.
    assert!(dialled.iter().chain(&accepted).all(|connection| connection.close_reason().is_none()));
    let mut closing = tokio::task::JoinSet::new();
    for connection in dialled {
        connection.close(0, "");
        closing.spawn(async move { connection.transport_closed().await });
    }
    closing.join_all().await;
    for connection in accepted {
        let error = connection.closed().await;
        assert_eq!(error.code(), Some(ErrorCode::Application(0)), "{error}");
    }
}

#[test]
fn std_threads() {
    let _guard = alone();
    let count = count(200, 40);
    reserve(count);
    within(300, move || std_connections(count));
}

fn std_connections(count: usize) {
    use peermux_std::{Connection, Listener, Stream, connect};

    fn exchange(mut stream: &Stream, sent: &[u8], mut came: Vec<u8>) -> Vec<u8> {
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut writer = stream;
                writer.write_all(sent).expect("the peer reads");
                stream.shutdown(Shutdown::Write).expect("the peer reads");
            });
            stream.read_to_end(&mut came).expect("the peer finishes");
        });
        came
    }

    fn dial(connection: &Connection, number: u64) {
        let stream = connection.open_stream(Some("test"), Priority::default()).expect("it is open");
        let came = exchange(&stream, &data(number, false), Vec::new());
        assert_eq!(check(&came, true), number);
    }

    fn answer(connection: &Connection) {
        let stream = connection.accept_stream().expect("the peer opens");
        // The number, and then both ways at once.
        let mut number = [0; 8];
        (&stream).read_exact(&mut number).expect("it begins with a number");
        let came = exchange(&stream, &data(u64::from_be_bytes(number), true), number.to_vec());
        check(&came, false);
    }

    let (before, begin) = (resident(), Instant::now());
    let listener = Listener::bind("127.0.0.1:0", responder_key(), Config::default()).expect("loopback listens");
    let address = listener.local_addr();
    let accepting =
        thread::spawn(move || (0..count).map(|_| listener.accept().expect("its thread lives")).collect::<Vec<_>>());
    let dialled: Vec<_> = (0..count)
        .map(|_| {
            let remote = ExpectedPeer::Key(responder_key().public_key());
            connect(address, initiator_key(), remote, Config::default()).expect("it listens")
        })
        .collect();
    let accepted = accepting.join().expect("no panic");
    report("std, open and idle", count, begin, before);

    let begin = Instant::now();
    // None begins before all have a thread.
    let start = Barrier::new(2 * count);
    thread::scope(|scope| {
        for (number, connection) in dialled.iter().enumerate() {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                dial(connection, number as u64);
            });
        }
        for connection in &accepted {
            scope.spawn(|| {
                start.wait();
                answer(connection);
            });
        }
    });
    report("std, data both ways", count, begin, before);
    // They were open all the time.
    assert!(dialled.iter().chain(&accepted).all(|connection| connection.close_reason().is_none()));
    thread::scope(|scope| {
        for connection in &dialled {
            connection.close(0, "");
            scope.spawn(|| connection.transport_closed());
        }
    });
    for connection in accepted {
        let error = connection.closed();
        assert_eq!(error.code(), Some(ErrorCode::Application(0)), "{error}");
    }
}
