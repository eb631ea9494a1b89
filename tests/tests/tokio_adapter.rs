//! The Tokio adapter over real sockets. What dialers that are no peers meet is in `std_adapter.rs`, for both.

mod adapter;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Poll;
use std::time::{Duration, Instant};

use adapter::dialers::{BlackHole, Refusing};
use adapter::std_face::Std;
use adapter::tokio_face::Tokio;
use adapter::{connection_error, pattern, within};
use bytes::Bytes;
use peermux_core::error::{ConnectionError, ReadError, Side};
use peermux_core::{Config, ExpectedPeer};
use peermux_tests::{initiator_key, responder_key};
use peermux_tokio::{Approval, ConnectError, Connection, ErrorCode, Listener, Priority, Stream, connect, relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

scenarios! { Tokio, Tokio:
    echo() within 20;
    bulk_both_ways(4_000_000, 4) within 60;
    half_close_then_a_long_reply() within 30;
    a_thousand_streams_at_once() within 40;
    both_sides_only_write_into_tiny_sockets() within 60;
    a_dropped_handle_leaves_its_streams_to_finish() within 20;
    streams_outlive_their_connection_handle() within 20;
    what_was_finished_before_the_handle_was_dropped_arrives() within 20;
    exchanges_of_honest_programs_never_fail(2_000) within 60;
    careless_drops_never_end_the_connection(3_000) within 60;
    stopped_says_how_the_sending_half_has_ended() within 20;
    connections_and_streams_say_what_they_are_and_have_done() within 20;
    a_long_attestation_reaches_the_application() within 20;
    streams_that_nobody_can_accept_any_more_are_refused() within 20;
    a_stream_that_is_dropped_is_reset_and_never_ends() within 20;
    codes_of_resets_stops_and_refusals_arrive() within 20;
    flush_and_shutdown_twice() within 20;
    close_tells_code_and_reason_and_every_call_after_it_says_so() within 20;
    a_close_amid_a_download_ends_at_the_border_of_a_quantum_and_is_answered() within 60;
    drain_lets_all_finish() within 30;
    a_wrong_key_is_found_by_the_dialer() within 20;
    a_transport_that_is_reset_wakes_everyone() within 20;
    a_peer_that_stopped_reading_does_not_keep_close_from_ending() within 30;
    a_peer_that_is_silent_is_given_up_after_the_idle_timeout() within 30;
}

mod between {
    use super::*;

    scenarios! { Tokio, Std:
        bulk_both_ways(1_000_000, 2) within 60;
        close_tells_code_and_reason_and_every_call_after_it_says_so() within 20;
        a_close_amid_a_download_ends_at_the_border_of_a_quantum_and_is_answered() within 60;
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts")
}

/// Runs `test` in a runtime of its own, all of whose tasks must be over when it is and nothing is held any more.
fn run<F: Future<Output = ()> + Send + 'static>(seconds: u64, test: impl FnOnce() -> F + Send + 'static) {
    within(seconds, move || {
        let runtime = runtime();
        runtime.block_on(test());
        let tasks = || runtime.metrics().num_alive_tasks();
        adapter::eventually("all tasks are over", || tasks() == 0);
    });
}

async fn listen() -> Listener {
    Listener::bind("127.0.0.1:0", responder_key(), Config::default()).await.expect("loopback listens")
}

async fn dial(listener: &Listener) -> Connection {
    let remote = ExpectedPeer::Key(responder_key().public_key());
    connect(listener.local_addr(), initiator_key(), remote, Config::default()).await.expect("it listens")
}

async fn pair() -> (Connection, Connection) {
    let listener = listen().await;
    let (dialer, accepted) = tokio::join!(dial(&listener), listener.accept());
    (dialer, accepted.expect("it dials"))
}

async fn streams() -> (Connection, Connection, Stream, Stream) {
    let (dialer, listener) = pair().await;
    let mut one = dialer.open_stream(Some("test"), Priority::default()).expect("it is open");
    one.flush().await.expect("it leaves");
    let two = listener.accept_stream().await.expect("it opens");
    (dialer, listener, one, two)
}

/// Polls `future` at most `polls` times, as often as it is woken, and drops it then; `None` if it was not ready.
async fn poll_times<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Calls `$make` again and again, each time polled `$polls` times at most, until it is ready.
macro_rules! persist {
    ($polls:expr, $make:expr) => {
        loop {
            if let Some(value) = poll_times($polls, $make).await {
                break value;
            }
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
    };
}

#[test]
fn dropped_futures_lose_nothing_and_double_nothing() {
    const LEN: u64 = 700_000;
    run(60, || async {
        for polls in [1, 2, 3, 5, 9] {
            let (dialer, listener) = pair().await;
            let mut one = dialer.open_stream(Some("test"), Priority::default()).expect("it is open");
            persist!(polls, one.flush()).expect("it leaves");
            let two = persist!(polls, listener.accept_stream()).expect("it opens");
            let (mut two_read, mut two_write) = two.into_split();
            let (mut one_read, mut one_write) = one.into_split();

            let upload = tokio::spawn(async move {
                let bytes = pattern(1, 0..LEN);
                let mut at = 0;
                while at < bytes.len() {
                    let end = bytes.len().min(at + 7000);
                    at += persist!(polls, one_write.write(&bytes[at..end])).expect("the peer reads");
                    persist!(polls, one_write.flush()).expect("the peer reads");
                }
                persist!(polls, one_write.shutdown()).expect("the peer reads");
                one_write
            });
            let download = tokio::spawn(async move {
                let mut bytes = Bytes::from(pattern(2, 0..LEN));
                while !bytes.is_empty() {
                    // What a dropped future has queued is gone from the chunk, and nothing else is.
                    persist!(polls, two_write.write_chunk(&mut bytes)).expect("the peer reads");
                }
                persist!(polls, two_write.shutdown()).expect("the peer reads");
                two_write
            });
            let by_slices = tokio::spawn(async move {
                let (mut all, mut buffer) = (Vec::new(), [0; 5000]);
                loop {
                    let read = persist!(polls, two_read.read(&mut buffer)).expect("the peer finishes");
                    if read == 0 {
                        return (all, two_read);
                    }
                    all.extend_from_slice(&buffer[..read]);
                }
            });
            let by_chunks = tokio::spawn(async move {
                let mut all = Vec::new();
                while let Some(chunk) = persist!(polls, one_read.read_chunk(6000)).expect("the peer finishes") {
                    all.extend_from_slice(&chunk);
                }
                (all, one_read)
            });
            let (up, down) = (by_slices.await.expect("no panic"), by_chunks.await.expect("no panic"));
            assert!(up.0 == pattern(1, 0..LEN), "up, {polls} polls");
            assert!(down.0 == pattern(2, 0..LEN), "down, {polls} polls");
            drop((upload.await.expect("no panic"), download.await.expect("no panic"), up, down));

            dialer.drain();
            let error = persist!(polls, listener.closed());
            assert!(error.is_orderly(), "{error}");
            persist!(polls, dialer.closed());
            dialer.close(1, "too late");
            persist!(polls, dialer.transport_closed());
            assert!(dialer.close_reason().expect("it has ended").is_orderly());
        }
    });
}

#[test]
fn a_dropped_dial_is_given_up_and_the_listener_goes_on() {
    run(60, || async {
        let listener = listen().await;
        let remote = ExpectedPeer::Key(responder_key().public_key());
        let mut connected = 0;
        for polls in 1..12 {
            let dial = connect(listener.local_addr(), initiator_key(), remote, Config::default());
            if let Some(connection) = poll_times(polls, dial).await {
                let connection = connection.expect("it listens");
                connection.close(0, "");
                connection.transport_closed().await;
                connected += 1;
            }
        }
        assert!(connected > 0, "it takes fewer polls");
        // A connection behind all of those, with the listener's future dropped all the time.
        let (dialer, accepted) = tokio::join!(dial(&listener), async {
            loop {
                let connection = persist!(1, listener.accept()).expect("it dials");
                if tokio::time::timeout(Duration::from_millis(200), connection.closed()).await.is_err() {
                    return connection;
                }
            }
        });
        dialer.close(0, "");
        dialer.transport_closed().await;
        accepted.closed().await;
    });
}

#[test]
fn a_close_that_nobody_waits_for_still_closes() {
    run(30, || async {
        let (dialer, listener) = pair().await;
        dialer.close(7, "dropped");
        drop(dialer);
        assert_eq!(listener.closed().await.code(), Some(ErrorCode::Application(7)));
    });
}

#[test]
fn halves_and_handles_are_dropped_in_every_order() {
    run(60, || async {
        let orders: Vec<[usize; 4]> = (0..256)
            .map(|n| [n & 3, n >> 2 & 3, n >> 4 & 3, n >> 6 & 3])
            .filter(|order| (0..4).all(|part| order.contains(&part)))
            .collect();
        assert_eq!(orders.len(), 24);
        for order in orders {
            let (dialer, listener, one, mut two) = streams().await;
            let (read, write) = one.into_split();
            let parts: [Box<dyn Send>; 4] = [Box::new(dialer), Box::new(listener), Box::new(read), Box::new(write)];
            let mut parts = parts.map(Some);
            // A reader in another task sees every end as an error, since nothing was shut down.
            let reader = tokio::spawn(async move {
                let read = two.read(&mut [0; 10]).await;
                read.expect_err("it never ends well")
            });
            for part in order {
                let part = parts[part].take();
                tokio::spawn(async move { drop(part) }).await.expect("no panic");
                tokio::task::yield_now().await;
            }
            let error = reader.await.expect("no panic");
            let reset = error.get_ref().and_then(|error| error.downcast_ref::<ReadError>());
            assert_eq!(reset, Some(&ReadError::Reset(ErrorCode::CANCELLED)), "{order:?}: {error}");
        }
    });
}

#[test]
fn halves_join_again_only_with_their_own() {
    run(20, || async {
        let (_dialer, _listener, one, two) = streams().await;
        let ((one_read, one_write), (two_read, two_write)) = (one.into_split(), two.into_split());
        let (one_read, two_write) = Stream::reunite(one_read, two_write).expect_err("they are of two");
        let mut one = Stream::reunite(one_read, one_write).expect("they are of one");
        let mut two = Stream::reunite(two_read, two_write).expect("they are of one");
        one.write_all(b"joined").await.expect("it lives");
        one.shutdown().await.expect("it lives");
        let mut all = String::new();
        two.read_to_string(&mut all).await.expect("it lives");
        assert_eq!(all, "joined");
    });
}

#[test]
fn a_task_that_panics_resets_its_stream_and_nothing_else() {
    run(30, || async {
        let (dialer, listener, one, mut two) = streams().await;
        let panicking = tokio::spawn(async move {
            let _one = one;
            std::panic::resume_unwind(Box::new("a bug of the application's"));
        });
        assert!(panicking.await.is_err());
        let error = two.read(&mut [0; 10]).await.expect_err("it is reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let mut next = dialer.open_stream(Some("test"), Priority::default()).expect("the connection lives");
        next.write_all(b"x").await.expect("the connection lives");
        let mut next = listener.accept_stream().await.expect("the connection lives");
        next.read_exact(&mut [0]).await.expect("the connection lives");
    });
}

#[test]
fn a_runtime_that_shuts_down_wakes_those_who_wait_elsewhere() {
    within(30, || {
        let (ours, theirs) = (runtime(), runtime());
        let listener = ours.block_on(listen());
        let address = listener.local_addr();
        let remote = ExpectedPeer::Key(responder_key().public_key());
        let dialer = theirs.block_on(connect(address, initiator_key(), remote, Config::default())).expect("it listens");
        let connection = ours.block_on(listener.accept()).expect("it dials");
        let mut stream = dialer.open_stream(Some("test"), Priority::default()).expect("it is open");
        theirs.block_on(stream.flush()).expect("it leaves");

        // The stream is read by a thread that has nothing to do with the runtime of its connection.
        let reader = std::thread::spawn(move || {
            let other = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
            other.block_on(stream.read(&mut [0; 10])).expect_err("its connection is gone")
        });
        std::thread::sleep(Duration::from_millis(50));
        theirs.shutdown_background();
        let error = reader.join().expect("no panic");
        assert!(matches!(connection_error(&error), ConnectionError::Transport(_)), "{error}");
        assert!(dialer.close_reason().is_some());
        // The peer sees the socket end without CLOSE.
        let error = ours.block_on(connection.closed());
        assert!(matches!(error, ConnectionError::Truncated | ConnectionError::Transport(_)), "{error}");

        drop(ours);
        let next = runtime().block_on(listener.next_outcome());
        assert!(next.is_none(), "the listener's runtime is gone");
    });
}

#[test]
fn one_thread_is_enough_and_a_busy_connection_does_not_starve_others() {
    within(60, || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        runtime.block_on(async {
            let (dialer, listener) = pair().await;
            let sink = tokio::spawn(async move {
                let mut stream = listener.accept_stream().await.expect("it opens");
                while let Some(chunk) = stream.read_half().read_chunk(usize::MAX).await.expect("it ends well") {
                    drop(chunk);
                }
            });
            let ticks = Arc::new(AtomicUsize::new(0));
            let counted = ticks.clone();
            let (mut worst, mut last) = (Duration::ZERO, Instant::now());
            let ticker = tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    worst = worst.max(last.elapsed());
                    last = Instant::now();
                    counted.fetch_add(1, SeqCst);
                    assert!(worst < Duration::from_secs(1), "starved for {worst:?}");
                }
            });
            let mut stream = dialer.open_stream(Some("bulk"), Priority::default()).expect("it is open");
            let mut block = Bytes::from(vec![5; 8 << 20]);
            for _ in 0..4 {
                stream.write_half().write_chunk(&mut block.clone()).await.expect("it is read");
            }
            block.clear();
            stream.shutdown().await.expect("it is read");
            sink.await.expect("no panic");
            assert!(!ticker.is_finished(), "{:?}", ticker.await);
            assert!(ticks.load(SeqCst) > 0);
            ticker.abort();
        });
    });
}

#[test]
fn those_who_no_longer_wait_are_forgotten() {
    run(30, || async {
        let (dialer, listener) = pair().await;
        // Each of these tasks waits for the end, and for a stream, beside something that comes first.
        let mark = Arc::new(());
        for _ in 0..200 {
            let (dialer, mark) = (dialer.clone(), mark.clone());
            let task = tokio::spawn(async move {
                let _mark = mark;
                tokio::select! {
                    _ = dialer.closed() => panic!("it has not ended"),
                    _ = dialer.accept_stream() => panic!("nothing was opened"),
                    () = tokio::time::sleep(Duration::from_millis(1)) => {}
                }
            });
            task.await.expect("no panic");
        }
        assert_eq!(Arc::strong_count(&mark), 1);
        assert!(dialer.driver().waiter_count() <= 2, "{} wakers are kept", dialer.driver().waiter_count());
        drop((dialer, listener));
    });
}

/// Dials `addresses`, and says how long it took.
async fn dial_any(addresses: &[SocketAddr], config: Config) -> (std::io::Result<Connection>, Duration) {
    let begin = Instant::now();
    let remote = ExpectedPeer::Key(responder_key().public_key());
    (connect(addresses, initiator_key(), remote, config).await, begin.elapsed())
}

#[test]
fn of_several_addresses_the_first_that_answers_is_taken() {
    run(30, || async {
        let (listener, hole) = (listen().await, BlackHole::new());
        let (good, refusing) = (listener.local_addr(), Refusing::several(18));
        // It would be 4.5 s if each of them cost as much as one that is silent.
        let many: Vec<_> = refusing.iter().map(|one| one.address).chain([good]).collect();
        let refused = refusing[0].address;
        // One that refuses costs no time, and one that is silent a quarter of a second.
        for (addresses, least, most) in
            [(&many[..], 0, 3000), (&[hole.address, good], 240, 2000), (&[hole.address, refused, good], 240, 2000)]
        {
            let (result, took) = dial_any(addresses, Config::default()).await;
            result.expect("one of them listens");
            assert!((least..most).contains(&took.as_millis()), "{addresses:?} took {took:?}");
        }
    });
}

#[test]
fn a_dial_that_fails_names_all_addresses_and_ends_in_time() {
    run(30, || async {
        let (refusing, hole) = (Refusing::several(2), BlackHole::new());
        let (refused, other) = (refusing[0].address, refusing[1].address);
        let error = dial_any(&[refused, refused, other], Config::default()).await.0.expect_err("nobody listens");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ConnectError>()).expect("it says");
        assert_eq!(inner.attempts().len(), 2, "{error}");
        assert!(error.to_string().contains(&other.to_string()), "{error}");
        let error = dial_any(&[], Config::default()).await.0.expect_err("there is nobody to dial");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);

        let config = Config { connect_timeout: Some(Duration::from_millis(100)), ..Config::default() };
        let (result, took) = dial_any(&[hole.address], config).await;
        assert_eq!(result.expect_err("nobody answers").kind(), std::io::ErrorKind::TimedOut);
        assert!((100..2000).contains(&took.as_millis()), "{took:?}");
    });
}

#[test]
fn a_configuration_that_is_out_of_range_is_told_before_anybody_is_dialled() {
    run(30, || async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback listens");
        let address = listener.local_addr().expect("it is bound");
        let config = Config { max_streams: 1, ..Config::default() };
        let error = dial_any(&[address], config).await.0.expect_err("it is out of range");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        let waiting = tokio::time::timeout(Duration::from_millis(20), listener.accept()).await;
        assert!(waiting.is_err(), "somebody has dialled");
    });
}

#[test]
fn halves_say_what_their_stream_is_and_has_done() {
    run(30, || async {
        let (_dialer, _listener, one, two) = streams().await;
        let (read, write) = one.into_split();
        assert_eq!((read.id(), write.id()), (two.id(), two.id()));
        assert_eq!((read.is_early(), write.is_early()), (false, false));
        let sent = two.stats().expect("it is held").received;
        assert_eq!((read.stats().expect("it is held").sent, write.stats().expect("it is held").sent), (sent, sent));
    });
}

#[test]
fn stopped_waits_for_the_end_of_the_sending_half() {
    run(30, || async {
        let (dialer, _listener, mut one, mut two) = streams().await;
        // Several tasks wait, and all are told. The stream can be used meanwhile.
        let waiting = |stream: &Stream| [(); 2].map(|()| tokio::spawn(stream.stopped()));
        let wait = waiting(&one);
        one.write_all(b"hello").await.expect("there is room");
        one.flush().await.expect("it leaves");
        tokio::task::yield_now().await;
        assert!(wait.iter().all(|task| !task.is_finished()));
        two.read_half().stop(ErrorCode::Application(7));
        for task in wait {
            assert_eq!(task.await.expect("no panic"), Ok(Some(ErrorCode::Application(7))));
        }
        // A future that is held and not polled keeps nothing from the others.
        let (mut parked, mut again) = (pin!(two.stopped()), pin!(two.stopped()));
        assert_eq!(poll_times(1, parked.as_mut()).await, None);
        assert_eq!(poll_times(1, again.as_mut()).await, None);
        let wait = waiting(&two);
        two.shutdown().await.expect("it leaves");
        for task in wait {
            assert_eq!(task.await.expect("no panic"), Ok(None));
        }
        assert_eq!((again.await, parked.await), (Ok(None), Ok(None)));
        let (_read, write) = dialer.open_stream(Some("test"), Priority::default()).expect("it is open").into_split();
        let wait = write.stopped();
        drop(write);
        assert_eq!(wait.await, Ok(None));
        let open = dialer.open_stream(Some("test"), Priority::default()).expect("it is open");
        let wait = waiting(&open);
        tokio::task::yield_now().await;
        dialer.close(3, "");
        dialer.transport_closed().await;
        for task in wait {
            let error = task.await.expect("no panic").expect_err("the connection ends first");
            assert_eq!(error.code(), Some(ErrorCode::Application(3)));
        }
    });
}

#[test]
fn who_is_not_polled_keeps_no_connection_from_others() {
    run(30, || async {
        let listener = Listener::bind("127.0.0.1:0", responder_key(), Config::default()).await.expect("it listens");
        let mut parked = pin!(listener.next_outcome());
        assert!(poll_times(1, parked.as_mut()).await.is_none());
        for _ in 0..2 {
            let address = [listener.local_addr()];
            let (dialed, accepted) = tokio::join!(dial_any(&address, Config::default()), listener.accept());
            assert!(dialed.0.is_ok() && accepted.is_ok());
        }
    });
}

#[test]
fn a_refusal_reaches_the_dialer_with_its_code_and_reason() {
    run(30, || async {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("loopback listens");
        let config = Config { approve_peers: true, ..Config::default() };
        let refuse = |_: &peermux_tokio::PeerInfo| Approval::refuse(77, "not today");
        let listener = Listener::from_listener(socket, || responder_key().into(), config, refuse).expect("it is valid");
        let error = dial_any(&[listener.local_addr()], Config::default()).await.0.expect_err("it is refused");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        let error = connection_error(&error).clone();
        let ConnectionError::Closed { by: Side::Peer, closed, .. } = error else { panic!("it is refused: {error}") };
        assert_eq!((closed.code, &*closed.reason), (ErrorCode::Application(77), "not today"));
        let refused = listener.next_outcome().await.expect("the runtime lives").expect_err("it is refused");
        assert_eq!(connection_error(&refused.error).code(), Some(ErrorCode::Application(77)));
    });
}

#[test]
fn an_attestation_that_comes_in_a_frame_reaches_the_application() {
    run(30, || async {
        let long: Arc<[u8]> = (0..1024).map(|n| n as u8).collect();
        let config = Config { attestation: Some(long.clone()), ..Config::default() };
        let listener = Listener::bind("127.0.0.1:0", responder_key(), config).await.expect("loopback listens");
        let remote = ExpectedPeer::Key(responder_key().public_key());
        let short = Config { attestation: Some([5; 112].into()), ..Config::default() };
        let (dialer, accepted) =
            tokio::join!(connect(listener.local_addr(), initiator_key(), remote, short), listener.accept());
        let (dialer, accepted) = (dialer.expect("it listens"), accepted.expect("it dials"));
        assert_eq!(dialer.attestation().await.expect("it lives").as_deref(), Some(&*long));
        assert_eq!(accepted.attestation().await.expect("it lives").as_deref(), Some(&[5; 112][..]));
        // A peer that attests nothing may still do so, as long as it has sent little.
        let (dialer, listener) = pair().await;
        assert!(tokio::time::timeout(Duration::from_millis(20), dialer.attestation()).await.is_err());
        let waiting = tokio::spawn(async move { dialer.attestation().await });
        listener.close(4, "");
        listener.transport_closed().await;
        assert_eq!(waiting.await.expect("no panic").expect_err("it has ended").code(), Some(ErrorCode::Application(4)));
    });
}

/// The client uploads to a server which answers before it has read the request, and stops it.
#[test]
fn a_relay_passes_on_the_whole_answer_of_a_server_that_stops_the_request() {
    const ANSWER: usize = 3_000_000;
    const REQUEST: usize = 10_000_000;
    run(60, || async {
        let (_dialer, _listener, stream, served) = streams().await;
        let (mut read, mut write) = served.into_split();
        let server = tokio::spawn(async move {
            read.read_exact(&mut [0; 100_000]).await.expect("the request begins");
            let answer = pattern(5, 0..ANSWER as u64);
            write.write_all(&answer[..ANSWER / 2]).await.expect("the client reads");
            read.stop(ErrorCode::Application(1));
            write.write_all(&answer[ANSWER / 2..]).await.expect("the client reads");
            write.shutdown().await.expect("the client reads");
            read.stats().expect("it is held").received
        });
        let front = TcpListener::bind("127.0.0.1:0").await.expect("loopback listens");
        let client = TcpStream::connect(front.local_addr().expect("it is bound")).await.expect("it listens");
        let (mut answer, mut request) = client.into_split();
        let upload = tokio::spawn(async move { request.write_all(&vec![8; REQUEST]).await });
        let download = tokio::spawn(async move {
            let mut all = Vec::new();
            answer.read_to_end(&mut all).await.expect("it ends in good order");
            all
        });
        let mut local = front.accept().await.expect("it dials").0;
        let (sent, received) = relay(&mut local, stream).await.expect("it is no error");
        drop(local);
        upload.await.expect("no panic").expect("somebody takes all of it");
        assert!(download.await.expect("no panic") == pattern(5, 0..ANSWER as u64), "the answer is another one");
        let arrived = server.await.expect("no panic");
        assert!((100_000..REQUEST as u64).contains(&sent) && arrived <= sent, "{sent} sent, {arrived} arrived");
        assert_eq!(received, ANSWER as u64);
    });
}

#[test]
fn a_relay_tells_of_an_answer_that_is_cut() {
    run(30, || async {
        let (dialer, _listener, stream, mut served) = streams().await;
        let (mut local, mut far) = tokio::io::duplex(100);
        let relaying = tokio::spawn(async move { relay(&mut local, stream).await });
        served.write_all(b"half").await.expect("the client reads");
        far.read_exact(&mut [0; 4]).await.expect("it arrives");
        served.write_half().reset(ErrorCode::Application(9));
        let error = relaying.await.expect("no panic").expect_err("the answer is cut");
        assert_eq!(
            error.get_ref().and_then(|error| error.downcast_ref()),
            Some(&ReadError::Reset(ErrorCode::Application(9)))
        );
        drop(dialer);
    });
}
