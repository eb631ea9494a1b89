//! Memory, measured by a counting allocator: what a connection holds when its application does not read, what a stranger can make it
//! hold, and that nothing is left behind.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use bytes::{Bytes, BytesMut};
use peak_alloc::PeakAlloc;
use peermux_core::driver::{Driver, Stream};
use peermux_core::time::Instant;
use peermux_core::wire::{Priority, QUANTUM};
use peermux_core::{Config, Connection, ExpectedPeer, Identity, MAX_INPUT_BUFFER, Role, StreamId, Transmit};
use peermux_tests::{Pair, PairBuilder, initiator_key, responder_key, rng};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Measurements of one process do not mix.
static ALONE: Mutex<()> = Mutex::new(());

fn alone<R>(test: impl FnOnce() -> R) -> R {
    let _guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    test()
}

/// What one side holds: the sum of what stays allocated by what is done inside.
#[derive(Default)]
struct Meter {
    held: isize,
    peak: isize,
}

impl Meter {
    fn measure<R>(&mut self, act: impl FnOnce() -> R) -> R {
        let before = HEAP.current_usage() as isize;
        HEAP.reset_peak_usage();
        let result = act();
        self.peak = self.peak.max(self.held + HEAP.peak_usage() as isize - before);
        self.held += HEAP.current_usage() as isize - before;
        result
    }
}

/// A reader as an adapter has one: a buffer as large as is allowed, filled as far as it goes.
#[derive(Default)]
struct Reader(BytesMut);

impl Reader {
    fn hand_over(&mut self, conn: &mut Connection, now: Instant, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.0.capacity() - self.0.len() < QUANTUM {
                let rest = std::mem::take(&mut self.0);
                self.0 = BytesMut::with_capacity(MAX_INPUT_BUFFER);
                self.0.extend_from_slice(&rest);
            }
            let n = bytes.len().min(self.0.capacity() - self.0.len());
            self.0.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            conn.handle_input(now, &mut self.0);
        }
    }
}

/// Two connections of which one is measured.
struct Measured {
    meter: Meter,
    conn: Connection,
    reader: Reader,
    other: Connection,
    now: Instant,
}

impl Measured {
    fn new(config: Config) -> Self {
        let now = Instant::ZERO;
        let generous = Config {
            receive_window: 256 << 20,
            stream_receive_window: 1 << 20,
            max_streams: 8192,
            send_buffer: 64 << 20,
            stream_send_buffer: 64 << 20,
            grease: false,
            ..config.clone()
        };
        let remote = ExpectedPeer::Key(responder_key().public_key());
        let identity = Identity::Static(initiator_key());
        let other = Connection::initiator(Arc::new(generous), identity, remote, now, &mut rng(1)).expect("it is valid");
        let mut meter = Meter::default();
        let conn = meter.measure(|| Connection::responder(Arc::new(config), responder_key().into(), now, &mut rng(2)));
        let mut measured = Self { meter, conn: conn.expect("it is valid"), reader: Reader::default(), other, now };
        measured.exchange();
        assert!(measured.conn.is_established() && measured.other.is_established());
        measured
    }

    /// What `other` has to say is read; whether it had anything.
    fn hear(&mut self) -> bool {
        let mut buffer = vec![0; 16 * QUANTUM];
        let Ok(Transmit::Bytes(len)) = self.other.poll_transmit(self.now, &mut buffer) else { return false };
        let Self { meter, conn, reader, now, .. } = self;
        meter.measure(|| {
            reader.hand_over(conn, *now, &buffer[..len]);
            while conn.poll_event().is_some() {}
        });
        true
    }

    /// What the measured one has to say is read by the other.
    fn say(&mut self) -> bool {
        let mut buffer = vec![0; 16 * QUANTUM];
        let Self { meter, conn, now, .. } = self;
        let Ok(Transmit::Bytes(len)) = meter.measure(|| conn.poll_transmit(*now, &mut buffer)) else { return false };
        self.other.handle_input(self.now, &mut BytesMut::from(&buffer[..len]));
        while self.other.poll_event().is_some() {}
        true
    }

    fn exchange(&mut self) {
        while self.hear() | self.say() {}
    }

    #[expect(clippy::print_stdout, reason = "the measurement is worth seeing")]
    fn assert_bound(&self, what: &str, streams: u64) {
        let bound = self.conn.config().memory_bound(streams) as isize;
        println!("{what}: {} bytes held, bound {bound}", self.meter.peak);
        assert!(self.meter.peak <= bound, "{what}: {} bytes were held, and the bound is {bound}", self.meter.peak);
    }
}

fn small(receive_window: u64, stream_receive_window: u64, max_streams: usize) -> Config {
    Config {
        receive_window,
        stream_receive_window,
        max_streams: max_streams as u64,
        send_buffer: 64 << 10,
        stream_send_buffer: 64 << 10,
        ..Config::default()
    }
}

fn open(conn: &mut Connection, streams: usize) -> Vec<StreamId> {
    (0..streams)
        .map(|_| conn.open_stream(None, Priority::from_urgency(3).with_incremental(true)).expect("it is established"))
        .collect()
}

#[test]
fn large_payloads_that_nobody_reads_hold_no_more_than_the_bound() {
    alone(|| {
        // Each stream's window is the smallest payload that keeps a part of the buffer it arrived in.
        for stream_window in [16 << 10, 17 << 10, 64 << 10] {
            let streams = 16;
            let mut measured = Measured::new(small(16 << 20, stream_window, streams));
            for id in open(&mut measured.other, streams) {
                while matches!(measured.other.send_stream(id).write(&[7; 40_000]), Ok(n) if n > 0) {}
                measured.exchange();
            }
            assert_eq!(measured.conn.unread(), streams as u64 * stream_window);
            measured.assert_bound("large payloads", streams as u64);
        }
    });
}

#[test]
fn tiny_payloads_that_nobody_reads_hold_no_more_than_the_bound() {
    alone(|| {
        let mut measured = Measured::new(small(2 << 20, 4 << 10, 64));
        let ids = open(&mut measured.other, 64);
        for _ in 0..4096 {
            for id in &ids {
                let _ = measured.other.send_stream(*id).write(&[7]);
            }
            measured.exchange();
        }
        assert_eq!(measured.conn.unread(), 256 << 10, "all windows are full");
        measured.assert_bound("tiny payloads", 64);
    });
}

#[test]
fn streams_that_nobody_accepts_hold_no_more_than_the_bound() {
    alone(|| {
        for streams in [100, 1025, 4096] {
            let mut measured = Measured::new(small(4096 * streams as u64, 2 << 10, streams));
            let before = measured.meter.held;
            open(&mut measured.other, streams);
            measured.exchange();
            assert_eq!(measured.conn.stream_count(), streams);
            let each = (measured.meter.held - before) / streams as isize;
            assert!(each <= 1024, "{each} bytes for each of {streams} streams");
            measured.assert_bound("unaccepted streams", streams as u64);
        }
    });
}

#[test]
fn what_is_written_and_not_sent_holds_no_more_than_the_bound() {
    alone(|| {
        for chunk in [1, 100, 1023, 1024, 5000, 16 << 10] {
            for shared in [false, true] {
                let mut measured = Measured::new(small(256 << 10, 256 << 10, 16));
                let ids = open(&mut measured.conn, 10);
                let Measured { meter, conn, .. } = &mut measured;
                for id in &ids {
                    meter.measure(|| {
                        // Each chunk is the application's own, and is counted only by what keeps it.
                        while let Ok(1..) = if shared {
                            conn.send_stream(*id).write_chunk(&mut Bytes::from(vec![7; chunk]))
                        } else {
                            conn.send_stream(*id).write(&vec![7; chunk])
                        } {}
                    });
                }
                assert!(measured.conn.queued() >= 64 << 10);
                measured.assert_bound(&format!("pieces of {chunk}, shared: {shared}"), 10);
            }
        }
    });
}

#[test]
fn the_reserves_of_many_streams_hold_no_more_than_the_bound() {
    alone(|| {
        let streams = 1000;
        let mut measured = Measured::new(small(4096 * streams as u64, 4 << 10, streams));
        let ids = open(&mut measured.conn, streams);
        let Measured { meter, conn, .. } = &mut measured;
        meter.measure(|| {
            for id in &ids {
                // The last piece makes a buffer grow that doubles.
                for piece in [1000, 1000, 48] {
                    let _ = conn.send_stream(*id).write(&[7; 1000][..piece]);
                }
            }
        });
        assert!(measured.conn.queued() >= streams * 2048);
        measured.assert_bound("reserves", streams as u64);
    });
}

#[test]
fn an_application_that_leaves_the_last_bytes_unread_holds_no_more_than_the_bound() {
    alone(|| {
        for (stream_window, left) in [(16 << 10, 1), (16 << 10, 8193), (64 << 10, 1)] {
            let mut measured = Measured::new(small(12 << 20, stream_window, 200));
            for id in open(&mut measured.other, 200) {
                while matches!(measured.other.send_stream(id).write(&[7; 40_000]), Ok(n) if n > 0) {}
                measured.exchange();
                let Measured { meter, conn, .. } = &mut measured;
                meter.measure(|| {
                    if let Some(theirs) = conn.accept_stream() {
                        let readable = conn.recv_stream(theirs).readable_len();
                        let mut buffer = vec![0; readable.saturating_sub(left)];
                        let _ = conn.recv_stream(theirs).read(&mut buffer);
                    }
                });
                measured.exchange();
            }
            measured.assert_bound(&format!("all but {left} bytes read"), 200);
        }
    });
}

/// One side's driver, the streams that its application holds, and what they cost.
struct Holder {
    driver: Arc<Driver>,
    streams: Vec<Stream>,
    meter: Meter,
}

impl Holder {
    fn new(connection: Connection) -> Self {
        Self { driver: Driver::new(connection), streams: Vec::with_capacity(1 << 13), meter: Meter::default() }
    }

    fn measure<R>(&mut self, act: impl FnOnce(&Arc<Driver>, &mut Vec<Stream>) -> R) -> R {
        let Self { driver, streams, meter } = self;
        meter.measure(|| act(driver, streams))
    }

    /// What it has to say goes to `other`.
    fn say(&mut self, other: &mut Self) {
        let mut record = [0; 16 * QUANTUM];
        let say =
            |driver: &Arc<Driver>, record: &mut [u8]| driver.with(|conn| conn.poll_transmit(Instant::ZERO, record));
        while let Ok(Transmit::Bytes(len)) = self.measure(|driver, _| say(driver, &mut record)) {
            let heard = &mut record[..len];
            other.measure(|driver, _| driver.with(|conn| conn.handle_slice(Instant::ZERO, heard)));
        }
    }
}

/// Opens a stream, and uses it once, in each direction. Both sides hold it.
fn open_and_use(opener: &mut Holder, acceptor: &mut Holder) {
    const MESSAGE: &[u8] = &[7; 100];
    let waker = Waker::noop();
    let read_and_wait = |stream: &Stream| {
        assert_eq!(stream.poll_read(waker, &mut [0; 200]), Poll::Ready(Ok(MESSAGE.len())));
        assert!(stream.poll_read(waker, &mut [0; 200]).is_pending());
    };
    opener.measure(|driver, streams| {
        let stream = driver.open_stream(Some("test/idle"), Priority::default()).expect("it is established");
        assert_eq!(stream.poll_write(waker, MESSAGE), Poll::Ready(Ok(MESSAGE.len())));
        streams.push(stream);
    });
    opener.say(acceptor);
    acceptor.measure(|driver, streams| {
        let Poll::Ready(Ok(stream)) = driver.waiter().poll_accept(waker) else { panic!("it was opened") };
        read_and_wait(&stream);
        assert_eq!(stream.poll_write(waker, MESSAGE), Poll::Ready(Ok(MESSAGE.len())));
        streams.push(stream);
    });
    acceptor.say(opener);
    opener.measure(|_, streams| read_and_wait(&streams[streams.len() - 1]));
    opener.say(acceptor);
}

/// What an idle stream costs a side in the core and its driver: its place, its entries in tables, and what those keep for streams to come. The handle itself belongs to the
/// application.
const IDLE_STREAM: isize = 300;

#[test]
#[expect(clippy::print_stdout, reason = "the measurement is worth seeing")]
fn an_idle_stream_holds_little_even_where_tables_have_just_grown() {
    alone(|| {
        let config = Config { max_streams: 1 << 13, receive_window: 64 << 20, grease: false, ..Config::default() };
        let pair = PairBuilder { initiator_config: config.clone(), responder_config: config, ..PairBuilder::default() };
        let Pair { initiator, responder, .. } = pair.establish();
        let (mut opener, mut acceptor) = (Holder::new(initiator.conn), Holder::new(responder.conn));
        // The first ones pay for what all of them share.
        (0..16).for_each(|_| open_and_use(&mut opener, &mut acceptor));
        let before = [opener.meter.held, acceptor.meter.held];
        for total in [1025, 2049, 4097] {
            while opener.streams.len() < total {
                open_and_use(&mut opener, &mut acceptor);
            }
            for (role, side, before) in [("opener", &opener, before[0]), ("acceptor", &acceptor, before[1])] {
                let each = (side.meter.held - before) / (total as isize - 16);
                println!("{each} bytes for each of {total} idle streams, {role}");
                assert!(each <= IDLE_STREAM, "{each} bytes for each of {total} idle streams, {role}");
            }
        }
    });
}

/// Held for a stranger: a connection, the flight that arrives, and the answer.
const BEFORE_AUTHENTICATION: isize = 16 << 10;

#[test]
#[expect(clippy::print_stdout, reason = "the measurement is worth seeing")]
fn a_stranger_can_make_a_responder_hold_little() {
    alone(|| {
        let now = Instant::ZERO;
        for remote in [ExpectedPeer::Key(responder_key().public_key()), ExpectedPeer::Any] {
            let identity = Identity::Static(initiator_key());
            let mut other = Connection::initiator(Arc::new(Config::default()), identity, remote, now, &mut rng(1))
                .expect("it is valid");
            let mut m1 = vec![0; 2 * QUANTUM];
            assert_eq!(other.poll_transmit(now, &mut m1), Ok(Transmit::Bytes(2 * QUANTUM)));
            let config = Arc::new(Config::default());
            let mut meter = Meter::default();
            let conn = meter.measure(|| Connection::responder(config, responder_key().into(), now, &mut rng(2)));
            let mut conn = conn.expect("it is valid");
            let silent = meter.held;
            meter.measure(|| {
                let mut input = BytesMut::with_capacity(2 * QUANTUM);
                for byte in m1 {
                    input.extend_from_slice(&[byte]);
                    conn.handle_input(now, &mut input);
                }
                let _ = conn.poll_transmit(now, &mut [0; QUANTUM]);
            });
            println!("{silent} bytes before anything arrived, {} at most before the third flight", meter.peak);
            assert!(silent <= 4096, "{silent} bytes before anything arrived");
            assert!(meter.peak <= BEFORE_AUTHENTICATION, "{} bytes at most", meter.peak);
        }
    });
}

#[test]
fn a_million_streams_leave_the_heap_where_it_was() {
    alone(|| {
        let rounds = if std::env::var_os("PEERMUX_LONG").is_some() { 10_000 } else { 500 };
        let mut pair = PairBuilder::default().establish();
        let mut baseline = 0;
        for round in 0..rounds {
            round_of_streams(&mut pair, round);
            for side in [&mut pair.initiator, &mut pair.responder] {
                side.events.clear();
                side.trace = Vec::new();
                assert_eq!((side.conn.stream_count(), side.conn.queued(), side.conn.unread()), (0, 0, 0));
            }
            if round == 20 {
                baseline = HEAP.current_usage();
            }
        }
        let (now, slack) = (HEAP.current_usage(), 16 << 10);
        assert!(now <= baseline + slack, "{baseline} bytes grew to {now}");
    });
}

/// A hundred streams, some finished, some reset, some refused.
fn round_of_streams(pair: &mut Pair, round: usize) {
    let ids: Vec<StreamId> = (0..100)
        .map(|at| {
            let conn = &mut pair.initiator.conn;
            let id = conn
                .open_stream(Some(&format!("test/{}", (round + at) % 1000)), Priority::default())
                .expect("it is open");
            conn.send_stream(id).write(&[7; 100]).expect("there is room");
            match at % 4 {
                0 => conn.send_stream(id).reset(peermux_core::code::ErrorCode::Application(1)),
                1 => {}
                _ => conn.send_stream(id).finish().expect("it is open"),
            }
            id
        })
        .collect();
    pair.settle();
    for (at, id) in ids.into_iter().enumerate() {
        if let Some(theirs) = pair.responder.conn.accept_stream() {
            if at % 10 == 0 {
                pair.responder.conn.refuse(theirs, peermux_core::code::ErrorCode::REFUSED);
            } else {
                let _ = pair.responder.conn.recv_stream(theirs).read(&mut [0; 100]);
                let _ = pair.responder.conn.send_stream(theirs).finish();
                pair.responder.conn.release(theirs);
            }
        }
        pair.initiator.conn.release(id);
    }
    // Cancelling is counted, and forgiven with time.
    pair.run_for(std::time::Duration::from_secs(1));
    pair.pipe(Role::Initiator).shrink_to_fit();
}
