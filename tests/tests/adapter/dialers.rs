//! Peers that are none, and what stands between peers.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use peermux_core::error::{ConnectionError, HandshakeError};
use peermux_core::{Config, ExpectedPeer};
use peermux_tests::responder_key;

use super::{Face, Listening, connection_error};

/// Carries the bytes of one connection, until it is told otherwise.
pub struct Relay {
    pub address: SocketAddr,
    sockets: Arc<Mutex<Vec<TcpStream>>>,
    paused: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    /// It takes little from the listener, and seldom.
    trickles: Arc<AtomicBool>,
    /// Bytes that it has carried from the dialer, and from the listener; and how many of the two have ended in good order.
    pub carried: Arc<[AtomicUsize; 2]>,
    pub ended: Arc<AtomicUsize>,
}

impl Relay {
    pub fn to(target: SocketAddr) -> Self {
        Self::with_receive_buffer(target, None)
    }

    /// Its socket to the listener has room for so many bytes that it has not yet read.
    pub fn with_receive_buffer(target: SocketAddr, room: Option<usize>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback listens");
        let address = listener.local_addr().expect("it is bound");
        let sockets = Arc::new(Mutex::new(Vec::new()));
        let (paused, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (carried, ended) = (Arc::<[AtomicUsize; 2]>::default(), Arc::<AtomicUsize>::default());
        let trickles = Arc::new(AtomicBool::new(false));
        let relay = Self {
            address,
            sockets: sockets.clone(),
            paused: paused.clone(),
            over: over.clone(),
            trickles: trickles.clone(),
            carried: carried.clone(),
            ended: ended.clone(),
        };
        thread::spawn(move || {
            let (near, _) = listener.accept().expect("somebody dials");
            let far = socket2::Socket::new(socket2::Domain::for_address(target), socket2::Type::STREAM, None)
                .expect("a socket");
            if let Some(room) = room {
                far.set_recv_buffer_size(room).expect("a socket");
            }
            far.connect(&target.into()).expect("it listens");
            let far = TcpStream::from(far);
            for (index, (from, to)) in [(&near, &far), (&far, &near)].into_iter().enumerate() {
                let (from, to) = (from.try_clone().expect("a clone"), to.try_clone().expect("a clone"));
                let (paused, over) = (paused.clone(), over.clone());
                let trickles = if index == 1 { trickles.clone() } else { Arc::default() };
                let (carried, ended) = (carried.clone(), ended.clone());
                thread::spawn(move || {
                    if carry(from, to, &paused, &over, &trickles, &carried[index]) {
                        ended.fetch_add(1, SeqCst);
                    }
                });
            }
            sockets.lock().expect("no panic").extend([near, far]);
        });
        relay
    }

    pub fn dial(&self) -> TcpStream {
        TcpStream::connect(self.address).expect("the relay listens")
    }

    /// From now on nothing is carried or read, and nothing ends.
    pub fn pause(&self) {
        self.paused.store(true, SeqCst);
    }

    /// From now on it takes little from the listener, and seldom, so that the listener's socket is full.
    pub fn trickle(&self) {
        self.trickles.store(true, SeqCst);
    }

    /// RST to both sides.
    pub fn reset(&self) {
        let sockets = std::mem::take(&mut *self.sockets.lock().expect("no panic"));
        for socket in &sockets {
            socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO)).expect("a socket");
        }
        self.over.store(true, SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
    }
}

/// Whether `from` ended in good order.
fn carry(
    mut from: TcpStream,
    mut to: TcpStream,
    paused: &AtomicBool,
    over: &AtomicBool,
    trickles: &AtomicBool,
    carried: &AtomicUsize,
) -> bool {
    from.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket");
    let mut buffer = vec![0; 16_384];
    while !over.load(SeqCst) {
        if paused.load(SeqCst) {
            thread::sleep(Duration::from_millis(20));
            continue;
        }
        let room = if trickles.load(SeqCst) {
            thread::sleep(Duration::from_millis(2));
            701
        } else {
            buffer.len()
        };
        match from.read(&mut buffer[..room]) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return true;
            }
            Ok(_) if paused.load(SeqCst) => {}
            Ok(read) => {
                carried.fetch_add(read, SeqCst);
                if to.write_all(&buffer[..read]).is_err() {
                    return false;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return false,
        }
    }
    false
}

/// An address that accepts no connection and refuses none, as long as this lives.
pub struct BlackHole {
    pub address: SocketAddr,
    _listener: socket2::Socket,
    _queue: Vec<TcpStream>,
}

impl BlackHole {
    pub fn new() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("it binds");
        listener.listen(0).expect("it listens");
        let address = listener.local_addr().expect("it is bound").as_socket().expect("it is of TCP");
        // The kernel accepts a few, and drops what comes then.
        let mut queue = Vec::new();
        while let Ok(socket) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            queue.push(socket);
            assert!(queue.len() < 100, "the queue is short");
        }
        Self { address, _listener: listener, _queue: queue }
    }
}

/// Dialers that are no peers, at once, and one that is, which they do not hold up. Each is told apart by its address, with the
/// layer and the reason.
pub fn dialers_that_are_no_peers<D: Face, L: Face>() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("loopback listens");
    let address = socket.local_addr().expect("it is bound");
    let listening = L::listen(socket, Config::default());
    let dial = || {
        let socket = TcpStream::connect(address).expect("it listens");
        let local = socket.local_addr().expect("it is connected");
        (socket, local)
    };
    let noise = |len: usize| super::pattern(99, 0..len as u64);

    let (silent, silent_at) = dial();
    let (mut http, http_at) = dial();
    http.write_all(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n").expect("it is taken");
    let (mut garbage, garbage_at) = dial();
    garbage.write_all(&noise(2816)).expect("it is taken");
    let (mut cut, cut_at) = dial();
    cut.write_all(&noise(1000)).expect("it is taken");
    drop(cut);
    let (gone, gone_at) = dial();
    socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(gone);

    let begin = Instant::now();
    let socket = TcpStream::connect(address).expect("it listens");
    let peer_at = socket.local_addr().expect("it is connected");
    let peer =
        D::dial(socket, ExpectedPeer::Key(responder_key().public_key()), Config::default()).expect("it is a peer");
    assert!(begin.elapsed() < Duration::from_secs(5), "a peer waited {:?}", begin.elapsed());

    let mut connections = 0;
    let mut errors = Vec::new();
    while connections + errors.len() < 6 {
        match listening.outcome() {
            Ok(_) => connections += 1,
            Err((from, error)) => errors.push((from.expect("somebody dialled"), error)),
        }
    }
    assert_eq!(connections, 1, "{peer_at} is the only peer");
    let error_of = |at| {
        let found = errors.iter().find(|(from, _)| *from == at);
        found.map(|(_, error)| connection_error(error)).unwrap_or_else(|| panic!("nothing of {at}: {errors:?}"))
    };
    let handshake = ConnectionError::Handshake;
    assert_eq!(*error_of(silent_at), handshake(HandshakeError::Timeout));
    assert_eq!(*error_of(http_at), handshake(HandshakeError::Timeout));
    assert_eq!(*error_of(garbage_at), handshake(HandshakeError::EncapsulationKey));
    assert_eq!(*error_of(cut_at), handshake(HandshakeError::Truncated));
    assert!(
        matches!(
            error_of(gone_at),
            ConnectionError::Transport(_) | ConnectionError::Handshake(HandshakeError::Truncated)
        ),
        "{:?}",
        error_of(gone_at)
    );
    // A prober gets no byte, and sees the end at the deadline like everybody else.
    let mut answer = Vec::new();
    let _ = garbage.read_to_end(&mut answer);
    assert_eq!(answer, b"");
    let waited = begin.elapsed();
    assert!((Duration::from_secs(14)..Duration::from_secs(20)).contains(&waited), "closed after {waited:?}");
    drop((silent, http, peer));
}

/// An address that refuses every connection, as long as this lives: nobody else can be given its port.
pub struct Refusing {
    pub address: SocketAddr,
    _socket: socket2::Socket,
}

impl Refusing {
    pub fn several(count: usize) -> Vec<Self> {
        std::iter::repeat_with(Self::new).take(count).collect()
    }

    fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("it binds");
        let address = socket.local_addr().expect("it is bound").as_socket().expect("it is of TCP");
        Self { address, _socket: socket }
    }
}
