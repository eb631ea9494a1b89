//! Bulk both ways at once over one connection, through each adapter: every byte is as it was written, and the memory of both ends stays within
//! what [`Config::memory_bound`] says of each. 64 MiB each way; 1 GiB with `PEERMUX_LONG=1`. And no thread or socket is left behind.

mod adapter;

use std::io::{Read, Write};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use adapter::std_face::Std;
use adapter::tokio_face::Tokio;
use adapter::{Connected, Duplex, Face, ends, eventually, within};
use peak_alloc::PeakAlloc;
use peermux_core::Config;
use peermux_core::wire::Priority;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Measurements of one process do not mix.
static ALONE: Mutex<()> = Mutex::new(());

/// What is sent, again and again. Its length is a prime, so that a record that is lost, doubled or misplaced shows.
static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| adapter::pattern(1, 0..1_048_583));

fn bytes_each_way() -> u64 {
    let long = std::env::var_os("PEERMUX_LONG").is_some_and(|value| value == "1");
    if long { 1 << 30 } else { 64 << 20 }
}

/// The bytes at `at`, at most `most`, and not all of them at the block's end.
fn expected(at: u64, most: u64) -> &'static [u8] {
    let rest = &BLOCK[(at % BLOCK.len() as u64) as usize..];
    &rest[..rest.len().min(usize::try_from(most).unwrap_or(usize::MAX))]
}

fn send<S: Duplex>(mut to: S::Writing, len: u64) {
    let mut at = 0;
    while at < len {
        let bytes = expected(at, len - at);
        to.write_all(bytes).expect("the peer reads");
        at += bytes.len() as u64;
    }
    S::finish_half(&mut to).expect("the peer reads");
}

fn check(mut from: impl Read, len: u64) {
    let mut buffer = vec![0; 65_536];
    let mut at = 0;
    loop {
        let read = from.read(&mut buffer).expect("the peer finishes");
        if read == 0 {
            break;
        }
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let wanted = expected(at, rest.len() as u64);
            assert!(rest.starts_with(wanted), "a byte after {at} differs");
            rest = &rest[wanted.len()..];
            at += wanted.len() as u64;
        }
    }
    assert_eq!(at, len, "it ends early");
}

fn side<S: Duplex>(stream: S, len: u64) -> [thread::JoinHandle<()>; 2] {
    let (read, write) = stream.halves();
    [thread::spawn(move || check(read, len)), thread::spawn(move || send::<S>(write, len))]
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn both_ways<D: Face, L: Face>(name: &'static str, config: Config) {
    let _guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    within(1200, move || {
        LazyLock::force(&BLOCK);
        // What the runtime and its first connection allocate once is not counted.
        drop(ends::<D, L>(&config));
        // Of each side: the buffers of this test.
        let ours = 2 * (65_536 + 16_384);
        let bound = 2 * config.memory_bound(1) + ours;
        let len = bytes_each_way();
        let (before, begin) = (HEAP.current_usage(), Instant::now());
        HEAP.reset_peak_usage();
        let ends = ends::<D, L>(&config);
        let mut one = ends.dialer.open_stream(Some("bulk"), Priority::default()).expect("it is open");
        one.flush().expect("it leaves");
        let two = ends.listener.accept_stream().expect("it opens");
        let (one, two) = (side(one, len), side(two, len));
        one.into_iter().chain(two).for_each(|thread| thread.join().expect("every byte is there"));
        let held = HEAP.peak_usage().saturating_sub(before) as u64;
        let took = begin.elapsed();
        assert!(held <= bound, "{name}: both ends held {held} bytes, more than {bound}");
        let rate = 2.0 * len as f64 / took.as_secs_f64() / 1e6;
        // For whoever runs this with `--nocapture`.
        let _ = writeln!(
            std::io::stderr(),
            "{name}: {} MiB each way in {took:.2?}, {rate:.0} MB/s in all; {} KiB held by both ends, of {} KiB",
            len >> 20,
            held >> 10,
            bound >> 10
        );
        ends.dialer.close(0, "");
        ends.listener.closed();
    });
}

fn small() -> Config {
    Config {
        receive_window: 1 << 20,
        max_streams: 128,
        stream_receive_window: 128 << 10,
        send_buffer: 256 << 10,
        stream_send_buffer: 128 << 10,
        ..Config::default()
    }
}

#[test]
fn tokio_with_default_windows() {
    both_ways::<Tokio, Tokio>("tokio, default", Config::default());
}

#[test]
fn tokio_with_small_windows() {
    both_ways::<Tokio, Tokio>("tokio, small", small());
}

#[test]
fn std_with_default_windows() {
    both_ways::<Std, Std>("std, default", Config::default());
}

#[test]
fn std_with_small_windows() {
    both_ways::<Std, Std>("std, small", small());
}

#[test]
fn std_to_tokio() {
    both_ways::<Std, Tokio>("std to tokio, default", Config::default());
}

#[test]
fn connections_that_have_ended_leave_no_thread_and_no_socket() {
    fn twenty<D: Face, L: Face>() {
        // The runtime's own threads and sockets are there before it is counted.
        drop(ends::<D, L>(&Config::default()));
        thread::sleep(std::time::Duration::from_millis(500));
        let before = (threads(), descriptors());
        for round in 0..2 {
            let all: Vec<_> = (0..20).map(|_| ends::<D, L>(&Config::default())).collect();
            for ends in &all {
                if round == 0 {
                    ends.dialer.close(0, "");
                    ends.listener.closed();
                }
            }
        }
        eventually("they are gone", || threads() <= before.0 && descriptors() <= before.1);
    }
    let _guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    within(60, || {
        twenty::<Std, Std>();
        twenty::<Tokio, Tokio>();
    });
}
