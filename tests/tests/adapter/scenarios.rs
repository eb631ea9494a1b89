//! What must hold through every adapter.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use peermux_core::code::{ErrorCode, ProtocolErrorCode};
use peermux_core::error::{ConnectionError, HandshakeError, OpenError, ReadError, Side, WriteError};
use peermux_core::wire::Priority;
use peermux_core::{Config, ExpectedPeer};
use peermux_tests::initiator_key;

use super::dialers::Relay;
use super::*;

const NAME: &str = "test/one";

fn some() -> Priority {
    Priority::default()
}

pub fn echo<D: Face, L: Face>() {
    let ends = ends::<D, L>(&Config::default());
    let listener = ends.listener.clone();
    let echo = thread::spawn(move || {
        let mut stream = listener.accept_stream().expect("it opens");
        assert_eq!(stream.protocol(), NAME);
        let mut request = Vec::new();
        stream.read_to_end(&mut request).expect("it finishes");
        stream.write_all(&request).expect("it reads");
        stream.finish().expect("it reads");
    });
    let mut stream = ends.dialer.open_stream(Some(NAME), some()).expect("it is open");
    stream.write_all(b"hello").expect("there is room");
    stream.finish().expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    assert_eq!(answer, b"hello");
    echo.join().expect("it echoes");
}

/// `len` bytes each way at once, on `streams` streams.
pub fn bulk_both_ways<D: Face, L: Face>(len: u64, streams: u64) {
    let ends = ends::<D, L>(&Config::default());
    let mut threads = Vec::new();
    for number in 0..streams {
        let stream = ends.dialer.open_stream(Some(NAME), some()).expect("it is open");
        threads.push(both_ways(stream, number, len));
        // One after the other, so that both sides give them the same numbers: OPEN leaves with the first bytes.
        let stream = ends.listener.accept_stream().expect("it opens");
        threads.push(both_ways(stream, number, len));
    }
    threads.into_iter().for_each(|thread| thread.join().expect("it is all there"));
    ends.dialer.close(0, "");
    assert!(matches!(ends.listener.closed(), ConnectionError::Closed { by: Side::Peer, .. }));
}

fn both_ways<S: Duplex>(stream: S, number: u64, len: u64) -> thread::JoinHandle<()> {
    let (mut read, mut write) = stream.halves();
    thread::spawn(move || {
        let writer = thread::spawn(move || {
            write_pattern(&mut write, number, len).expect("the peer reads");
            S::finish_half(&mut write).expect("the peer reads");
        });
        read_pattern(&mut read, number, len);
        writer.join().expect("it is all written");
    })
}

pub fn half_close_then_a_long_reply<D: Face, L: Face>() {
    const LEN: u64 = 3_000_000;
    let ends = ends::<D, L>(&Config::default());
    let mut stream = ends.dialer.open_stream(Some(NAME), some()).expect("it is open");
    stream.write_all(b"all of it, please").expect("there is room");
    stream.finish().expect("it leaves");
    let mut served = ends.listener.accept_stream().expect("it opens");
    let mut request = String::new();
    served.read_to_string(&mut request).expect("it is finished");
    assert_eq!(request, "all of it, please");
    let server = thread::spawn(move || {
        write_pattern(&mut served, 7, LEN).expect("the peer reads");
        served.finish().expect("the peer reads");
    });
    read_pattern(&mut stream, 7, LEN);
    server.join().expect("it is all written");
}

pub fn a_thousand_streams_at_once<D: Face, L: Face>() {
    const STREAMS: u64 = 1000;
    // No more than what each of so many streams has credit for before anything is read.
    const LEN: u64 = 2000;
    let ends = ends::<D, L>(&Config::default());
    let listener = ends.listener.clone();
    let server = thread::spawn(move || {
        // All are open before the first is answered.
        let streams: Vec<_> = (0..STREAMS).map(|_| listener.accept_stream().expect("it opens")).collect();
        for mut stream in streams {
            let mut request = Vec::new();
            stream.read_to_end(&mut request).expect("it is finished");
            stream.write_all(&request).expect("the peer reads");
            stream.finish().expect("the peer reads");
        }
    });
    let mut streams: Vec<_> =
        (0..STREAMS).map(|_| ends.dialer.open_stream(Some(NAME), some()).expect("it is open")).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&pattern(number as u64, 0..LEN)).expect("the connection has room");
        stream.finish().expect("the peer reads");
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        read_pattern(stream, number as u64, LEN);
    }
    server.join().expect("all are served");
}

/// Neither side reads before all is written, and the socket holds next to nothing.
pub fn both_sides_only_write_into_tiny_sockets<D: Face, L: Face>() {
    const STREAMS: u64 = 60;
    const LEN: u64 = 60_000;
    let socket = TcpListener::bind("127.0.0.1:0").expect("loopback listens");
    socket2::SockRef::from(&socket).set_recv_buffer_size(4096).expect("a small buffer");
    socket2::SockRef::from(&socket).set_send_buffer_size(4096).expect("a small buffer");
    let address = socket.local_addr().expect("it is bound");
    let listening = L::listen(socket, Config::default());
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    socket.set_send_buffer_size(4096).expect("a small buffer");
    socket.connect(&address.into()).expect("it listens");
    let ends = ends_over::<D, L>(listening, address, socket.into(), &Config::default());
    fn side<C: Connected>(connection: C) -> thread::JoinHandle<()> {
        thread::spawn(move || {
            let mut ours: Vec<_> =
                (0..STREAMS).map(|_| connection.open_stream(Some(NAME), some()).expect("it is open")).collect();
            for (number, stream) in ours.iter_mut().enumerate() {
                stream.write_all(&pattern(number as u64, 0..LEN)).expect("the window takes it");
                stream.finish().expect("the peer's connection reads");
            }
            for number in 0..STREAMS {
                read_pattern(&mut connection.accept_stream().expect("it opens"), number, LEN);
            }
            drop(ours);
        })
    }
    let sides = [side(ends.dialer.clone()), side(ends.listener.clone())];
    sides.into_iter().for_each(|side| side.join().expect("all is written and read"));
}

pub fn a_dropped_handle_leaves_its_streams_to_finish<D: Face, L: Face>() {
    let ends = ends::<D, L>(&Config::default());
    let mut stream = ends.dialer.open_stream(Some(NAME), some()).expect("it is open");
    stream.write_all(b"first").expect("there is room");
    stream.flush().expect("it leaves");
    drop(ends.dialer);
    let mut served = ends.listener.accept_stream().expect("it opens");
    eventually("DRAIN arrives", || ends.listener.is_draining());
    assert!(matches!(ends.listener.open_stream(Some(NAME), some()), Err(OpenError::Draining)));
    stream.write_all(b" second").expect("the stream lives");
    stream.finish().expect("the stream lives");
    let mut all = String::new();
    served.read_to_string(&mut all).expect("the stream lives");
    assert_eq!(all, "first second");
    drop((stream, served));
    let (by, code, _) = closed(&ends.listener.closed());
    assert_eq!((by, code), (Side::Peer, ErrorCode::NO_ERROR));
}

/// `async fn dial() -> Stream`: the connection's handle is gone before anything is written.
pub fn streams_outlive_their_connection_handle<D: Face, L: Face>() {
    let Ends { dialer, listener, .. } = ends::<D, L>(&Config::default());
    let mut stream = dialer.open_stream(Some(NAME), some()).expect("it is open");
    drop(dialer);
    stream.write_all(b"request").expect("the stream keeps its connection");
    stream.finish().expect("the stream keeps its connection");
    let mut served = listener.accept_stream().expect("it opens");
    drop(listener);
    let mut request = String::new();
    served.read_to_string(&mut request).expect("it is whole");
    served.write_all(b"answer").expect("the stream keeps its connection");
    served.finish().expect("the stream keeps its connection");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it is whole");
    assert_eq!((&*request, &*answer), ("request", "answer"));
}

/// More streams than the peer allows at once are written, finished and dropped, and so is the connection.
pub fn what_was_finished_before_the_handle_was_dropped_arrives<D: Face, L: Face>() {
    const STREAMS: u64 = 60;
    let Ends { dialer, listener, .. } = ends::<D, L>(&Config { max_streams: 16, ..Config::default() });
    let writers: Vec<_> = (0..STREAMS)
        .map(|number| {
            let mut stream = dialer.open_stream(Some(NAME), some()).expect("it is open");
            thread::spawn(move || {
                stream.write_all(&pattern(number, 0..100)).expect("there is room");
                stream.finish().expect("it leaves");
            })
        })
        .collect();
    drop(dialer);
    let mut all = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = listener.accept_stream().expect("it opens");
        let mut one = Vec::new();
        stream.read_to_end(&mut one).expect("it is whole");
        all.push(one);
    }
    writers.into_iter().for_each(|writer| writer.join().expect("it is sent"));
    all.sort();
    let mut expected: Vec<_> = (0..STREAMS).map(|number| pattern(number, 0..100)).collect();
    expected.sort();
    assert!(all == expected, "lost, doubled or cut");
    assert!(listener.closed().is_orderly());
}

pub fn stopped_says_how_the_sending_half_has_ended<D: Face, L: Face>() {
    let ends = ends::<D, L>(&Config::default());
    let (one, mut two) = opened(&ends);
    two.stop(7);
    assert_eq!(one.stopped(), Ok(Some(ErrorCode::Application(7))));
    two.finish().expect("it leaves");
    assert_eq!(two.stopped(), Ok(None));
    let (mut one, two) = opened(&ends);
    one.reset(8);
    assert_eq!(one.stopped(), Ok(None));
    // It waits for the end of a half that is open.
    let waiting = thread::spawn(move || two.stopped());
    thread::sleep(Duration::from_millis(50));
    assert!(!waiting.is_finished());
    ends.dialer.close(3, "");
    let error = waiting.join().expect("no panic").expect_err("the connection ends first");
    assert_eq!(error.code(), Some(ErrorCode::Application(3)));
}

pub fn connections_and_streams_say_what_they_are_and_have_done<D: Face, L: Face>() {
    let ends = ends::<D, L>(&Config::default());
    let (dialer, listener) = (&ends.dialer, &ends.listener);
    let [local, peer] = dialer.addresses();
    assert_eq!((listener.addresses(), peer), ([peer, local], ends.address));
    let binding = dialer.channel_binding();
    assert_eq!(listener.channel_binding(), binding);
    assert_ne!(binding, [0; 64]);
    assert!(dialer.exported(b"label").is_some());
    assert_eq!(dialer.exported(b"label"), listener.exported(b"label"));
    assert_eq!(dialer.exported(&[0; 256]), None);

    let mut one = dialer.open_stream(Some("test"), Priority::default()).expect("it is open");
    assert_eq!(one.id(), None);
    one.write_all(b"hello").expect("there is room");
    one.flush().expect("it leaves");
    let mut two = listener.accept_stream().expect("it was opened");
    two.read_exact(&mut [0; 5]).expect("it comes");
    assert_eq!((one.id(), two.id()), (Some(0), Some(0)));
    assert!(!one.is_early() && !two.is_early());
    assert_eq!(one.stats().expect("it is held").sent, 5);
    assert_eq!(two.stats().expect("it is held").received, 5);
    assert_eq!((dialer.stats().payload_sent, listener.stats().payload_received), (5, 5));
    assert_eq!(dialer.stats().rtt, dialer.rtt());

    // What is known of a connection is known after its end.
    dialer.close(0, "");
    listener.closed();
    assert_eq!((dialer.channel_binding(), listener.channel_binding()), (binding, binding));
    assert_eq!(listener.addresses(), [peer, local]);
}

/// It is too long for a handshake, so it travels in a frame.
pub fn a_long_attestation_reaches_the_application<D: Face, L: Face>() {
    let attestation = pattern(3, 0..1024);
    let config = Config { attestation: Some((&*attestation).into()), ..Config::default() };
    let ends = ends::<D, L>(&config);
    assert_eq!(ends.dialer.attestation(), Ok(Some(attestation.clone().into())));
    assert_eq!(ends.listener.attestation(), Ok(Some(attestation.into())));
}

/// What the two sides of an exchange do. All of these are programs of honest people.
#[derive(Clone, Copy, Debug)]
enum Habit {
    /// The client drops the stream when it has read the answer to its end, and never shuts it down.
    DropsUnfinished,
    /// The client shuts down when it has read the answer; the server reads exactly the request, answers, shuts down and drops.
    ShutsDownLast,
    /// The client shuts down before it reads; the server as before.
    ShutsDownFirst,
}

/// Exchanges one after the other, on one connection.
pub fn exchanges_of_honest_programs_never_fail<D: Face, L: Face>(exchanges: u64) {
    let ends = ends::<D, L>(&Config::default());
    let listener = ends.listener.clone();
    let server = thread::spawn(move || {
        let mut failed = 0_u64;
        while let Ok(mut stream) = listener.accept_stream() {
            let mut request = [0; 16];
            stream.read_exact(&mut request).expect("a request is whole");
            stream.write_all(&request).expect("the client reads");
            failed += u64::from(stream.finish().is_err());
        }
        failed
    });
    for habit in [Habit::DropsUnfinished, Habit::ShutsDownLast, Habit::ShutsDownFirst] {
        for number in 0..exchanges {
            let mut stream = ends.dialer.open_stream(Some(NAME), some()).expect("the connection lives");
            let failed = |error| panic!("{habit:?}, exchange {number}: {error}");
            stream.write_all(&[7; 16]).unwrap_or_else(failed);
            if matches!(habit, Habit::ShutsDownFirst) {
                stream.finish().unwrap_or_else(failed);
            }
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap_or_else(|error| panic!("{habit:?}, exchange {number}: {error}"));
            assert_eq!(answer, [7; 16]);
            if matches!(habit, Habit::ShutsDownLast) {
                stream.finish().unwrap_or_else(failed);
            }
        }
    }
    assert_eq!((ends.dialer.close_reason(), ends.listener.close_reason()), (None, None));
    ends.dialer.close(0, "");
    assert_eq!(server.join().expect("no panic"), 0, "shutdowns of the server fail");
}

/// Streams are dropped at every moment, on both sides, and the connection lives.
pub fn careless_drops_never_end_the_connection<D: Face, L: Face>(exchanges: u64) {
    let ends = ends::<D, L>(&Config::default());
    let listener = ends.listener.clone();
    let server = thread::spawn(move || {
        let mut number = 0_u64;
        while let Ok(mut stream) = listener.accept_stream() {
            number += 1;
            if number.is_multiple_of(5) {
                continue;
            }
            let read = stream.read(&mut [0; 16]);
            if number % 5 > 1 && read.is_ok() {
                let _ = stream.write_all(&[8; 40]);
            }
            if number % 5 > 2 {
                let _ = stream.finish();
            }
        }
    });
    for number in 0..exchanges {
        let mut stream = ends.dialer.open_stream(Some(NAME), some()).expect("the connection lives");
        let _ = match number % 7 {
            0 => Ok(()),
            1 => stream.write_all(&[7; 16]),
            2 => stream.write_all(&[7; 16]).and_then(|()| stream.flush()),
            3 => stream.write_all(&[7; 16]).and_then(|()| stream.finish()),
            4 => stream.write_all(&[7; 16]).and_then(|()| stream.read(&mut [0; 8])).map(drop),
            _ => stream.write_all(&[7; 16]).and_then(|()| stream.read_to_end(&mut Vec::new())).map(drop),
        };
    }
    assert_eq!((ends.dialer.close_reason(), ends.listener.close_reason()), (None, None));
    ends.dialer.close(0, "");
    server.join().expect("no panic");
}

pub fn streams_that_nobody_can_accept_any_more_are_refused<D: Face, L: Face>() {
    let ends = ends::<D, L>(&Config::default());
    let mut stream = ends.listener.open_stream(Some(NAME), some()).expect("it is open");
    stream.write_all(b"anybody?").expect("there is room");
    stream.flush().expect("it leaves");
    eventually("it arrives", || ends.dialer.has_incoming());
    drop(ends.dialer);
    let error = stream.read(&mut [0; 8]).expect_err("nobody accepts it");
    assert_eq!(*read_error(&error), ReadError::Reset(ErrorCode::REFUSED));
    drop(stream);
    assert_eq!(closed(&ends.listener.closed()).1, ErrorCode::NO_ERROR);
}

pub fn a_stream_that_is_dropped_is_reset_and_never_ends<D: Face, L: Face>() {
    let ends = ends::<D, L>(&Config::default());
    let mut stream = ends.dialer.open_stream(Some(NAME), some()).expect("it is open");
    stream.write_all(b"cut").expect("there is room");
    stream.flush().expect("it leaves");
    let mut served = ends.listener.accept_stream().expect("it opens");
    served.read_exact(&mut [0; 3]).expect("it is there");
    drop(stream);
    let error = served.read(&mut [0; 8]).expect_err("it is reset");
    assert_eq!(*read_error(&error), ReadError::Reset(ErrorCode::CANCELLED));
    let error = served.read(&mut [0; 8]).expect_err("and stays so");
    assert_eq!(*read_error(&error), ReadError::Reset(ErrorCode::CANCELLED));
    eventually("STOP arrives", || served.write_all(b"who reads?").is_err());
    let error = served.write_all(b"nobody").expect_err("and stays so");
    assert_eq!(*write_error(&error), WriteError::Stopped(ErrorCode::CANCELLED));
}

pub fn codes_of_resets_stops_and_refusals_arrive<D: Face, L: Face>() {
    let ends = ends::<D, L>(&Config::default());
    let (mut one, mut two) = opened(&ends);
    one.reset(41);
    let error = two.read(&mut [0; 8]).expect_err("it is reset");
    assert_eq!(*read_error(&error), ReadError::Reset(ErrorCode::Application(41)));
    assert_eq!(*write_error(&one.write(b"x").expect_err("it is reset")), WriteError::Closed);
    // The other direction goes on.
    two.write_all(b"still").expect("only one half is reset");
    two.finish().expect("only one half is reset");
    let mut rest = String::new();
    one.read_to_string(&mut rest).expect("only one half is reset");
    assert_eq!(rest, "still");

    let (mut one, mut two) = opened(&ends);
    two.stop(42);
    is_stopped(&mut two);
    eventually("STOP arrives", || one.write_all(&[7; 100]).is_err());
    assert_eq!(
        *write_error(&one.write(b"x").expect_err("nobody reads")),
        WriteError::Stopped(ErrorCode::Application(42))
    );
    fails_only_as(one.finish(), 42);
    thread::sleep(Duration::from_millis(20));
    is_stopped(&mut two);

    // A FIN behind what was discarded does not look like the end either.
    let (mut one, mut two) = opened(&ends);
    one.write_all(b"discarded").expect("there is room");
    two.stop(42);
    let _ = one.finish();
    thread::sleep(Duration::from_millis(20));
    is_stopped(&mut two);

    let (mut one, two) = opened(&ends);
    two.refuse(43);
    assert_eq!(
        *read_error(&one.read(&mut [0; 8]).expect_err("it is refused")),
        ReadError::Reset(ErrorCode::Application(43))
    );
    eventually("STOP arrives", || one.write_all(&[7; 100]).is_err());
    fails_only_as(one.flush(), 43);
}

/// After STOP, finishing and flushing fail only if something that was written was dropped, and with the peer's code.
fn fails_only_as(result: io::Result<()>, code: u64) {
    if let Err(error) = result {
        assert_eq!(*write_error(&error), WriteError::Stopped(ErrorCode::Application(code)));
    }
}

/// Reading fails, before the RESET is there that answers STOP and after it.
fn is_stopped(stream: &mut impl Read) {
    let error = stream.read(&mut [0; 8]).expect_err("it was stopped");
    assert_eq!(*read_error(&error), ReadError::Stopped);
}

type StreamsOf<D, L> = (
    <<D as Face>::Connection as Connected>::Stream,
    <<<L as Face>::Listener as Listening>::Connection as Connected>::Stream,
);

/// A stream that the other side has accepted, and nothing on it.
fn opened<D: Face, L: Face>(ends: &Ends<D, L>) -> StreamsOf<D, L> {
    let mut one = ends.dialer.open_stream(Some(NAME), some()).expect("it is open");
    one.flush().expect("it leaves");
    let two = ends.listener.accept_stream().expect("it opens");
    (one, two)
}

pub fn flush_and_shutdown_twice<D: Face, L: Face>() {
    let ends = ends::<D, L>(&Config::default());
    let (mut one, mut two) = opened(&ends);
    one.write_all(b"once").expect("there is room");
    one.flush().expect("it leaves");
    one.flush().expect("it has left");
    one.finish().expect("it leaves");
    one.finish().expect("it has left");
    one.flush().expect("it has left");
    assert_eq!(*write_error(&one.write(b"more").expect_err("it is finished")), WriteError::Closed);
    let mut all = Vec::new();
    two.read_to_end(&mut all).expect("it is finished");
    assert_eq!(all, b"once");
    for _ in 0..2 {
        assert_eq!(two.read(&mut [0; 8]).expect("the end stays"), 0);
    }
    // Empty calls never wait.
    assert_eq!(one.read(&mut []).expect("nothing is asked"), 0);
    assert_eq!(two.write(&[]).expect("nothing is asked"), 0);
}

pub fn close_tells_code_and_reason_and_every_call_after_it_says_so<D: Face, L: Face>() {
    let ends = ends::<D, L>(&Config::default());
    let (mut one, mut two) = opened(&ends);
    // A reader and an acceptor that wait are woken.
    let listener = ends.listener.clone();
    let acceptor = thread::spawn(move || listener.accept_stream().err().expect("it is closed"));
    let reader = thread::spawn(move || {
        let error = two.read(&mut [0; 8]).expect_err("it is closed");
        (two, error)
    });
    thread::sleep(Duration::from_millis(50));
    let begin = Instant::now();
    ends.dialer.close(1234, "enough");
    assert!(begin.elapsed() < Duration::from_secs(2), "closing took {:?}", begin.elapsed());

    let expected = |by| (by, ErrorCode::Application(1234), "enough".to_string());
    assert_eq!(closed(&acceptor.join().expect("no panic")), expected(Side::Peer));
    let (mut two, error) = reader.join().expect("no panic");
    assert_eq!(closed(connection_error(&error)), expected(Side::Peer));
    assert_eq!(closed(&ends.listener.closed()), expected(Side::Peer));
    assert_eq!(closed(&ends.dialer.closed()), expected(Side::Local));
    for _ in 0..2 {
        for error in [
            one.read(&mut [0; 8]).expect_err("it is closed"),
            one.write(b"x").expect_err("it is closed"),
            one.flush().expect_err("it is closed"),
            one.finish().expect_err("it is closed"),
        ] {
            assert_eq!(closed(connection_error(&error)), expected(Side::Local));
        }
        let error = two.write(b"x").expect_err("it is closed");
        assert_eq!(closed(connection_error(&error)), expected(Side::Peer));
        assert!(matches!(ends.dialer.open_stream(Some(NAME), some()), Err(OpenError::Connection(_))));
        ends.dialer.close(5, "late");
        ends.listener.drain();
    }
    assert_eq!(closed(&ends.dialer.close_reason().expect("it is closed")), expected(Side::Local));
}

pub fn drain_lets_all_finish<D: Face, L: Face>() {
    const LEN: u64 = 500_000;
    let ends = ends::<D, L>(&Config::default());
    let (mut one, mut two) = opened(&ends);
    let dialer = ends.dialer.clone();
    let drain = thread::spawn(move || dialer.drain());
    eventually("DRAIN arrives", || ends.listener.is_draining());
    assert!(matches!(ends.listener.open_stream(Some(NAME), some()), Err(OpenError::Draining)));
    assert!(matches!(ends.dialer.open_stream(Some(NAME), some()), Err(OpenError::Draining)));
    let writer = thread::spawn(move || {
        write_pattern(&mut one, 3, LEN).expect("it may finish");
        one.finish().expect("it may finish");
        read_pattern(&mut one, 4, LEN);
    });
    read_pattern(&mut two, 3, LEN);
    write_pattern(&mut two, 4, LEN).expect("it may finish");
    two.finish().expect("it may finish");
    drop(two);
    writer.join().expect("it finishes");
    drain.join().expect("it ends");
    assert_eq!(closed(&ends.dialer.closed()).1, ErrorCode::NO_ERROR);
    assert_eq!(closed(&ends.listener.closed()).1, ErrorCode::Protocol(ProtocolErrorCode::NO_ERROR));
}

pub fn a_wrong_key_is_found_by_the_dialer<D: Face, L: Face>() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("loopback listens");
    let address = socket.local_addr().expect("it is bound");
    let listening = L::listen(socket, Config::default());
    let socket = TcpStream::connect(address).expect("it listens");
    // The initiator's own key would be refused for another reason, so take one that is nobody's.
    let nobody = peermux_core::crypto::StaticSecret::from_bytes(&[0x77; 32]).public_key();
    assert_ne!(nobody, initiator_key().public_key());
    let begin = Instant::now();
    let error = D::dial(socket, ExpectedPeer::Key(nobody), Config::default()).err().expect("it is another key");
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    let (expected, proved) = (nobody, responder_key().public_key());
    let wrong = HandshakeError::UnexpectedKey { expected, proved };
    assert_eq!(*connection_error(&error), ConnectionError::Handshake(wrong));
    assert!(error.to_string().contains(&expected.to_string()) && error.to_string().contains(&proved.to_string()));
    drop(listening);
}

pub fn a_transport_that_is_reset_wakes_everyone<D: Face, L: Face>() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("loopback listens");
    let address = socket.local_addr().expect("it is bound");
    let listening = L::listen(socket, Config::default());
    let relay = Relay::to(address);
    let ends = ends_over::<D, L>(listening, address, relay.dial(), &Config::default());
    let (mut one, mut two) = opened(&ends);
    let listener = ends.listener.clone();
    let acceptor = thread::spawn(move || listener.accept_stream().err().expect("it is gone"));
    let reader = thread::spawn(move || one.read(&mut [0; 8]).expect_err("it is gone"));
    thread::sleep(Duration::from_millis(50));
    relay.reset();
    let error = reader.join().expect("no panic");
    assert!(matches!(connection_error(&error), ConnectionError::Transport(_)), "{error:?}");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(matches!(acceptor.join().expect("no panic"), ConnectionError::Transport(_)));
    let error = two.write_all(&[1; 100]).expect_err("it is gone");
    assert!(matches!(connection_error(&error), ConnectionError::Transport(_)), "{error:?}");
    assert!(matches!(ends.dialer.closed(), ConnectionError::Transport(_)));
}

/// The peer's process is there and its kernel takes nothing more.
pub fn a_peer_that_stopped_reading_does_not_keep_close_from_ending<D: Face, L: Face>() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("loopback listens");
    let address = socket.local_addr().expect("it is bound");
    let listening = L::listen(socket, Config::default());
    let relay = Relay::to(address);
    let ends = ends_over::<D, L>(listening, address, relay.dial(), &Config::default());
    let dialer = ends.dialer.clone();
    let (mut one, _two) = opened(&ends);
    relay.pause();
    // More than the kernel's buffers hold, on as many streams as that takes.
    let writer = thread::spawn(move || {
        let mut streams = Vec::new();
        while let Ok(mut stream) = dialer.open_stream(Some(NAME), some()) {
            if stream.write_all(&[9; 60_000]).is_err() {
                break;
            }
            streams.push(stream);
        }
        streams.len()
    });
    thread::sleep(Duration::from_millis(700));
    let begin = Instant::now();
    ends.dialer.close(9, "you do not listen");
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(8), "closing took {took:?}");
    assert!(writer.join().expect("it is woken") > 0);
    assert_eq!(
        closed(connection_error(&one.read(&mut [0; 8]).expect_err("it is closed"))).1,
        ErrorCode::Application(9)
    );
    drop(relay);
}

pub fn a_peer_that_is_silent_is_given_up_after_the_idle_timeout<D: Face, L: Face>() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("loopback listens");
    let address = socket.local_addr().expect("it is bound");
    let config = Config {
        max_idle_timeout: Some(Duration::from_secs(1)),
        keep_alive_interval: Some(Duration::from_millis(400)),
        ..Config::default()
    };
    let listening = L::listen(socket, config.clone());
    let relay = Relay::to(address);
    let ends = ends_over::<D, L>(listening, address, relay.dial(), &config);
    // Keepalive keeps it.
    thread::sleep(Duration::from_millis(2500));
    assert_eq!((ends.dialer.close_reason(), ends.listener.close_reason()), (None, None));
    relay.pause();
    let begin = Instant::now();
    assert_eq!(ends.dialer.closed(), ConnectionError::IdleTimeout);
    assert_eq!(ends.listener.closed(), ConnectionError::IdleTimeout);
    assert!(begin.elapsed() < Duration::from_secs(4), "it took {:?}", begin.elapsed());
}

pub fn a_close_amid_a_download_ends_at_the_border_of_a_quantum_and_is_answered<D: Face, L: Face>() {
    for round in 0..12 {
        let socket = TcpListener::bind("127.0.0.1:0").expect("loopback listens");
        let address = socket.local_addr().expect("it is bound");
        // Sockets that are accepted have the same.
        socket2::SockRef::from(&socket).set_send_buffer_size(1).expect("a socket");
        let listening = L::listen(socket, Config::default());
        let relay = Relay::with_receive_buffer(address, Some(4 << 10));
        let ends = ends_over::<D, L>(listening, address, relay.dial(), &Config::default());
        let uploads = ends.listener.clone();
        let server = thread::spawn(move || {
            let mut stream = uploads.accept_stream().expect("it was opened");
            let bytes = vec![7; 256 << 10];
            while stream.write_all(&bytes).is_ok() {}
        });
        let mut stream = ends.dialer.open_stream(Some("download"), Priority::default()).expect("it opens");
        stream.write_all(b"all of it").expect("there is room");
        let mut buffer = vec![0; 64 << 10];
        let mut left = (100 << 10) + round * 20_001;
        while left > 0_usize {
            left = left.saturating_sub(stream.read(&mut buffer).expect("it goes on"));
        }
        relay.trickle();
        ends.dialer.close(9, "enough");
        for error in [ends.dialer.closed(), ends.listener.closed()] {
            let ConnectionError::Closed { closed, answer, .. } = error else { panic!("round {round}: {error}") };
            assert_eq!((closed.code, answer.is_some()), (ErrorCode::Application(9), true), "round {round}");
        }
        server.join().expect("no panic");
        drop(ends);
        let begin = Instant::now();
        while relay.ended.load(SeqCst) < 2 {
            assert!(begin.elapsed() < Duration::from_secs(10), "round {round}: the transport ends in good order");
            thread::yield_now();
        }
        for carried in relay.carried.iter() {
            assert_eq!(carried.load(SeqCst) % 1408, 0, "round {round}: a part of a quantum");
        }
    }
}

/// One test function for each scenario: through one adapter as `dialer` and another as `listener`.
#[macro_export]
macro_rules! scenarios {
    ($dialer:ty, $listener:ty: $($name:ident($($argument:expr),*) within $seconds:literal;)*) => {
        $(
            #[test]
            fn $name() {
                adapter::within($seconds, || adapter::scenarios::$name::<$dialer, $listener>($($argument),*));
            }
        )*
    };
}
