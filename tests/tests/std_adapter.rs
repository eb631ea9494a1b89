//! The std adapter over real sockets, and between it and the Tokio adapter.

mod adapter;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use adapter::dialers::{BlackHole, Refusing};
use adapter::std_face::Std;
use adapter::tokio_face::Tokio;
use adapter::{pattern, read_error, within, write_error};
use bytes::Bytes;
use peermux_core::error::{ReadError, WriteError};
use peermux_core::{Config, ExpectedPeer};
use peermux_std::{ConnectError, Connection, ErrorCode, Listener, Priority, Stream, connect};
use peermux_tests::{initiator_key, responder_key};

scenarios! { Std, Std:
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

    scenarios! { Std, Tokio:
        bulk_both_ways(1_000_000, 2) within 60;
        close_tells_code_and_reason_and_every_call_after_it_says_so() within 20;
        a_close_amid_a_download_ends_at_the_border_of_a_quantum_and_is_answered() within 60;
    }
}

/// Through both adapters at once, since it takes as long as a handshake may.
#[test]
fn dialers_that_are_no_peers() {
    within(60, || {
        let tokio = thread::spawn(adapter::dialers::dialers_that_are_no_peers::<Tokio, Tokio>);
        adapter::dialers::dialers_that_are_no_peers::<Std, Std>();
        tokio.join().expect("no panic");
    });
}

#[test]
fn one_script_through_both_adapters_gives_the_same_log() {
    let logs = within(40, || {
        [
            adapter::script::run::<Std, Std>(),
            adapter::script::run::<Tokio, Tokio>(),
            adapter::script::run::<Std, Tokio>(),
            adapter::script::run::<Tokio, Std>(),
        ]
    });
    assert!(logs[0].len() > 30, "{:#?}", logs[0]);
    for log in &logs[1..] {
        assert_eq!(*log, logs[0]);
    }
}

fn pair() -> (Connection, Connection) {
    let listener = Listener::bind("127.0.0.1:0", responder_key(), Config::default()).expect("loopback listens");
    let address = listener.local_addr();
    let remote = ExpectedPeer::Key(responder_key().public_key());
    let dialer = connect(address, initiator_key(), remote, Config::default()).expect("it listens");
    (dialer, listener.accept().expect("it dials"))
}

fn streams() -> (Connection, Connection, Stream, Stream) {
    let (dialer, listener) = pair();
    let mut one = dialer.open_stream(Some("test"), Priority::default()).expect("it is open");
    one.flush().expect("it leaves");
    let two = listener.accept_stream().expect("it opens");
    (dialer, listener, one, two)
}

#[test]
fn timeouts_end_reads_and_writes_that_have_taken_nothing() {
    within(30, || {
        const TIME: Option<Duration> = Some(Duration::from_millis(80));
        let (_dialer, _listener, mut one, mut two) = streams();
        assert_eq!((one.read_timeout(), one.write_timeout()), (None, None));
        one.set_read_timeout(TIME).expect("it is not zero");
        let begin = Instant::now();
        let error = one.read(&mut [0; 10]).expect_err("nothing comes");
        assert_eq!((error.kind(), read_error(&error)), (ErrorKind::WouldBlock, &ReadError::Blocked));
        assert_eq!(one.read_chunk(10), Err(ReadError::Blocked));
        let took = begin.elapsed();
        assert!((Duration::from_millis(160)..Duration::from_secs(2)).contains(&took), "{took:?}");

        // Nobody reads: what was taken is counted, and the rest was not taken.
        one.set_write_timeout(TIME).expect("it is not zero");
        let all = pattern(5, 0..10_000_000);
        let mut at = 0;
        let error = loop {
            match one.write(&all[at..]) {
                Ok(written) => at += written,
                Err(error) => break error,
            }
        };
        assert_eq!((error.kind(), write_error(&error)), (ErrorKind::WouldBlock, &WriteError::Blocked));
        assert!(at < all.len(), "the window ends it");
        let mut chunk = Bytes::copy_from_slice(&all[at..]);
        assert_eq!(one.write_chunk(&mut chunk), Err(WriteError::Blocked));
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            two.read_to_end(&mut all).map(|_| all)
        });
        one.set_write_timeout(None).expect("none is not zero");
        one.write_chunk(&mut chunk).expect("it is read now");
        one.shutdown(Shutdown::Write).expect("it is read now");
        assert!(reader.join().expect("no panic").expect("it ends") == all, "lost or doubled");

        let zero = one.set_read_timeout(Some(Duration::ZERO)).expect_err("zero is no time");
        assert_eq!(zero.kind(), ErrorKind::InvalidInput);
        one.set_read_timeout(Some(Duration::MAX)).expect("it is not zero");
    });
}

#[test]
fn threads_that_share_a_stream_are_all_woken() {
    within(30, || {
        let (_dialer, _listener, one, two) = streams();
        // Many readers of the same half: each byte goes to one of them, and the end to all.
        let readers: Vec<_> = (0..8)
            .map(|_| {
                let mut two = two.try_clone().expect("a clone");
                thread::spawn(move || {
                    let mut all = Vec::new();
                    two.read_to_end(&mut all).expect("it ends");
                    all.len()
                })
            })
            .collect();
        let writers: Vec<_> = (0..8)
            .map(|_| {
                let one = one.try_clone().expect("a clone");
                thread::spawn(move || (&one).write_all(&[3; 100_000]).expect("it is read"))
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().expect("no panic"));
        one.shutdown(Shutdown::Write).expect("it is read");
        let read: usize = readers.into_iter().map(|reader| reader.join().expect("no panic")).sum();
        assert_eq!(read, 800_000);
    });
}

#[test]
fn a_shutdown_wakes_the_threads_that_use_the_half() {
    within(30, || {
        let (_dialer, _listener, one, two) = streams();
        let mut clone = one.try_clone().expect("a clone");
        let reader = thread::spawn(move || clone.read(&mut [0; 10]).expect_err("it is stopped"));
        let clone = one.try_clone().expect("a clone");
        let writer = thread::spawn(move || (&clone).write_all(&[0; 50_000_000]).expect_err("it is reset"));
        thread::sleep(Duration::from_millis(100));
        one.shutdown(Shutdown::Read).expect("it cannot fail");
        assert_eq!(*read_error(&reader.join().expect("no panic")), ReadError::Stopped);
        one.reset(ErrorCode::Application(1));
        assert_eq!(*write_error(&writer.join().expect("no panic")), WriteError::Closed);
        // A stream is held by the last of its clones.
        let clone = two.try_clone().expect("a clone");
        drop(two);
        assert_eq!(
            clone.read_chunk(1).and_then(|_| loop {
                clone.read_chunk(usize::MAX)?;
            }),
            Err::<(), _>(ReadError::Reset(ErrorCode::Application(1)))
        );
    });
}

#[test]
fn dropped_handles_end_at_once_whatever_is_under_way() {
    within(30, || {
        let listener = Listener::bind("127.0.0.1:0", responder_key(), Config::default()).expect("loopback listens");
        let address = listener.local_addr();
        let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(address).expect("it listens")).collect();
        thread::sleep(Duration::from_millis(100));
        let begin = Instant::now();
        drop(listener);
        assert!(begin.elapsed() < Duration::from_secs(1), "it took {:?}", begin.elapsed());
        assert_eq!(TcpStream::connect(address).expect_err("nobody listens").kind(), ErrorKind::ConnectionRefused);
        drop(silent);

        // A thread that waits holds its handle; all others can go.
        let (dialer, listener, mut one, two) = streams();
        let acceptor = thread::spawn(move || listener.accept_stream().expect_err("it ends"));
        let reader = thread::spawn(move || one.read(&mut [0; 10]).expect_err("it is reset"));
        drop(dialer);
        drop(two);
        assert_eq!(*read_error(&reader.join().expect("no panic")), ReadError::Reset(ErrorCode::CANCELLED));
        assert!(acceptor.join().expect("no panic").is_orderly());
    });
}

fn dial(addresses: &[SocketAddr]) -> std::io::Result<Connection> {
    connect(addresses, initiator_key(), ExpectedPeer::Key(responder_key().public_key()), Config::default())
}

#[test]
fn of_several_addresses_the_first_that_answers_is_taken() {
    within(30, || {
        let listener = Listener::bind("127.0.0.1:0", responder_key(), Config::default()).expect("loopback listens");
        let (good, hole) = (listener.local_addr(), BlackHole::new());
        let refusing = Refusing::several(18);
        let refused = refusing[0].address;
        // One that is silent costs a quarter of a second, and many that refuse cost no time.
        let begin = Instant::now();
        dial(&[hole.address, good]).expect("the second one listens");
        assert!(begin.elapsed() >= Duration::from_millis(240), "it took {:?}", begin.elapsed());
        let begin = Instant::now();
        let many: Vec<_> = refusing.iter().map(|one| one.address).chain([hole.address, good]).collect();
        dial(&many).expect("the last one listens");
        assert!(begin.elapsed() < Duration::from_secs(3), "it took {:?}", begin.elapsed());
        // All errors are told, with their addresses.
        let error = dial(&[refused, refused, many[1]]).expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ConnectError>()).expect("it says");
        assert_eq!(inner.attempts().len(), 2, "{error}");
        assert!(error.to_string().contains(&refused.to_string()), "{error}");
        assert_eq!(dial(&[]).expect_err("there is nobody to dial").kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn a_configuration_that_is_out_of_range_is_told_before_anybody_is_dialled() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback listens");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("it is bound");
    let config = Config { max_streams: 1, ..Config::default() };
    let remote = ExpectedPeer::Key(responder_key().public_key());
    let error = connect(address, initiator_key(), remote, config).expect_err("it is out of range");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(listener.accept().expect_err("nobody dials").kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_burst_of_dialers_waits_in_the_kernel() {
    within(30, || {
        let listener = Listener::bind("127.0.0.1:0", responder_key(), Config::default()).expect("loopback listens");
        // As many as may be in a handshake: nobody else is accepted. A queue of 128 would drop those beyond it, and they would try again after a second.
        let mut dialers = Vec::new();
        for number in 0..256 + 200 {
            let socket = TcpStream::connect_timeout(&listener.local_addr(), Duration::from_millis(900));
            dialers.push(socket.unwrap_or_else(|error| panic!("dialer {number}: {error}")));
        }
    });
}

#[test]
fn stopped_waits_for_the_end_of_the_sending_half() {
    within(30, || {
        let (dialer, _listener, one, two) = streams();
        // Several threads wait, and all are told.
        let waiting = |stream: &Stream| {
            [(); 2].map(|()| {
                let stream = stream.try_clone().expect("a clone");
                thread::spawn(move || stream.stopped())
            })
        };
        let wait = waiting(&one);
        thread::sleep(Duration::from_millis(50));
        assert!(wait.iter().all(|thread| !thread.is_finished()));
        two.stop(ErrorCode::Application(7));
        for thread in wait {
            assert_eq!(thread.join().expect("no panic"), Ok(Some(ErrorCode::Application(7))));
        }
        let wait = waiting(&two);
        two.shutdown(Shutdown::Write).expect("it leaves");
        for thread in wait {
            assert_eq!(thread.join().expect("no panic"), Ok(None));
        }
        let open = dialer.open_stream(Some("test"), Priority::default()).expect("it is open");
        let wait = waiting(&open);
        dialer.close(3, "");
        dialer.transport_closed();
        for thread in wait {
            let error = thread.join().expect("no panic").expect_err("the connection ends first");
            assert_eq!(error.code(), Some(ErrorCode::Application(3)));
        }
    });
}
