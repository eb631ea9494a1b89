//! Streams that nobody reads delay no other stream, however many there are and whatever was read of them before (`docs/spec.md` section 11.1).

use std::collections::HashMap;
use std::time::Duration;

use peermux_core::time::Instant;
use peermux_core::wire::Priority;
use peermux_core::{Config, Connection, Role, StreamId};
use peermux_tests::{Pair, PairBuilder};
use proptest::prelude::*;

/// One way.
const LATENCY: Duration = Duration::from_millis(10);

fn pair(config: &Config) -> Pair {
    let builder = PairBuilder {
        initiator_config: config.clone(),
        responder_config: config.clone(),
        latency: LATENCY,
        ..PairBuilder::default()
    };
    builder.establish()
}

fn write_all(conn: &mut Connection, id: StreamId, most: usize) -> usize {
    let (mut written, bytes) = (0, [7; 16 << 10]);
    while written < most {
        match conn.send_stream(id).write(&bytes[..(most - written).min(bytes.len())]) {
            Ok(len) => written += len,
            Err(_) => break,
        }
    }
    written
}

fn read_all(conn: &mut Connection, id: StreamId) -> usize {
    let mut read = 0;
    while let Ok(Some(chunk)) = conn.recv_stream(id).read_chunk(usize::MAX) {
        read += chunk.len();
    }
    read
}

/// `time` passes, millisecond by millisecond; what was written begins its way first.
fn pass(pair: &mut Pair, time: Duration) {
    for _ in 0..time.as_millis() {
        pair.transmit(Role::Initiator);
        pair.transmit(Role::Responder);
        pair.now = pair.now + Duration::from_millis(1);
        let now = pair.now;
        for side in [&mut pair.initiator, &mut pair.responder] {
            side.conn.handle_timeout(now);
        }
        pair.deliver(Role::Initiator);
        pair.deliver(Role::Responder);
    }
}

/// Opens `count` streams in either direction, stuffs them all, and reads of some what their history says: so many bytes of each, before it is left alone.
fn pause(pair: &mut Pair, count: usize, history: impl Fn(usize) -> usize) {
    for role in [Role::Initiator, Role::Responder] {
        let ours: Vec<_> = (0..count)
            .map(|_| pair.side(role).conn.open_stream(None, Priority::default()).expect("it opens"))
            .collect();
        let mut read = HashMap::new();
        for _ in 0..40 {
            for &id in &ours {
                write_all(&mut pair.side(role).conn, id, usize::MAX);
            }
            pass(pair, LATENCY);
            while let Some(id) = pair.side(role.peer()).conn.accept_stream() {
                read.insert(id, (read.len(), 0));
            }
            for (&id, (number, so_far)) in &mut read {
                while *so_far < history(*number) {
                    match pair.side(role.peer()).conn.recv_stream(id).read_chunk(history(*number) - *so_far) {
                        Ok(Some(chunk)) if !chunk.is_empty() => *so_far += chunk.len(),
                        _ => break,
                    }
                }
            }
        }
        assert_eq!(read.len(), count, "all are open");
        // As much as ever goes: every window is full, and of what was written the rest waits here.
        for _ in 0..20 {
            for &id in &ours {
                write_all(&mut pair.side(role).conn, id, usize::MAX);
            }
            pass(pair, LATENCY);
        }
    }
    for side in [&pair.initiator, &pair.responder] {
        assert!(side.conn.unread() <= side.conn.config().receive_window, "{} bytes", side.conn.unread());
    }
}

/// How long `len` bytes take from the initiator, from OPEN to the last byte at a reader that reads at once.
fn upload(pair: &mut Pair, urgency: u8, len: usize) -> Duration {
    let begin = pair.now;
    let id = pair
        .initiator
        .conn
        .open_stream(Some("test/upload"), Priority::from_urgency(urgency).with_incremental(true))
        .expect("it opens");
    let (mut written, mut received, mut theirs) = (0, 0, None);
    while received < len {
        written += write_all(&mut pair.initiator.conn, id, len - written);
        pass(pair, Duration::from_millis(1));
        theirs = theirs.or_else(|| pair.responder.conn.accept_stream());
        if let Some(theirs) = theirs {
            received += read_all(&mut pair.responder.conn, theirs);
        }
        assert!(pair.now < begin + Duration::from_secs(10), "{received} of {len} bytes after 10 s");
    }
    let took = pair.now.saturating_since(begin);
    pair.initiator.conn.release(id);
    pair.responder.conn.release(theirs.expect("it has come"));
    pass(pair, 4 * LATENCY);
    took
}

/// A little more than so many times one way.
fn ways(count: u32) -> Duration {
    LATENCY * count + Duration::from_millis(3)
}

#[test]
fn as_many_streams_as_there_may_be_are_left_unread_and_delay_no_other() {
    let config = Config { keep_alive_interval: None, max_idle_timeout: None, ..Config::default() };
    let count = config.max_streams as usize - 1;
    // Never read; a first byte, and a first read to the end of the window; read fast for a while.
    for bytes in [0, 1, 40_000, 2 << 20] {
        let mut pair = pair(&config);
        pause(&mut pair, count, |number| if number % 4 == 0 { bytes } else { 0 });
        assert!(upload(&mut pair, 0, 100) <= ways(1), "{bytes} read before: an urgent message");
        assert!(upload(&mut pair, 3, 2_048) <= ways(1), "{bytes} read before: what fits into the least window");
        // What is larger is bound by windows that have yet to grow, and by nothing else.
        // If those that are left unread have taken all growth, the least window goes each round trip.
        let most = if bytes <= 1 { ways(7) } else { ways(66) };
        assert!(upload(&mut pair, 3, 64 << 10) <= most, "{bytes} read before: 64 KiB");
        assert!(pair.initiator.conn.close_reason().is_none() && pair.responder.conn.close_reason().is_none());
    }
}

#[test]
fn a_hundred_unread_streams_take_nothing_from_small_requests() {
    let config = Config { keep_alive_interval: None, max_idle_timeout: None, ..Config::default() };
    for bytes in [0, 1, 100_000] {
        let mut pair = pair(&config);
        pause(&mut pair, 100, |_| bytes);
        let times = [100, 64 << 10, 1 << 20].map(|len| upload(&mut pair, 3, len));
        assert!(times[0] <= ways(1) && times[1] <= ways(5) && times[2] <= ways(11), "{bytes} read before: {times:?}");
    }
}

#[test]
fn on_a_warm_connection_64_kib_pay_nothing_for_windows_and_a_mebibyte_one_round_trip() {
    let mut pair = pair(&Config::default());
    upload(&mut pair, 3, 1);
    for _ in 0..50 {
        assert!(upload(&mut pair, 3, 64 << 10) <= ways(1));
        // The send buffer is filled each millisecond here, four times.
        assert!(upload(&mut pair, 3, 1 << 20) <= ways(3) + Duration::from_millis(4));
    }
    // Downloads begin with as much, on streams that the reader opens.
    for len in [64 << 10, 1 << 20] {
        let begin = pair.now;
        let id = pair.initiator.conn.open_stream(Some("test/download"), Priority::default()).expect("it opens");
        pair.initiator.conn.send_stream(id).finish().expect("it is open");
        pass(&mut pair, LATENCY);
        let theirs = pair.responder.conn.accept_stream().expect("it was opened");
        let (mut written, mut received) = (0, 0);
        while received < len {
            written += write_all(&mut pair.responder.conn, theirs, len - written);
            pass(&mut pair, Duration::from_millis(1));
            received += read_all(&mut pair.initiator.conn, id);
            assert!(pair.now < Instant::from_millis(600_000), "{received} of {len}");
        }
        pair.initiator.conn.release(id);
        pair.responder.conn.release(theirs);
        let took = pair.now.saturating_since(begin);
        assert!(took <= if len == 64 << 10 { ways(2) } else { ways(4) + Duration::from_millis(4) }, "{len}: {took:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// With any configuration that is valid, and any history of reads, the least window is there at once for another stream.
    #[test]
    fn no_history_of_reads_delays_another_stream(
        max_streams in 16u64..80,
        beyond in 0u64..(4 << 20),
        window in 2048u64..(1 << 20),
        histories in proptest::collection::vec(0usize..300_000, 1..40),
    ) {
        let config = Config {
            max_streams,
            receive_window: 4096 * max_streams + beyond,
            stream_receive_window: window,
            keep_alive_interval: None,
            max_idle_timeout: None,
            ..Config::default()
        };
        prop_assert_eq!(config.check(), Ok(()));
        let mut pair = pair(&config);
        pause(&mut pair, max_streams as usize - 1, |number| histories[number % histories.len()]);
        prop_assert!(upload(&mut pair, 3, 2_048) <= ways(1));
        prop_assert!(upload(&mut pair, 0, 20_000) < Duration::from_secs(1));
    }
}
