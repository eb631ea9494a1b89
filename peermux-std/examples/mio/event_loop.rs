//! Any number of connections in one thread: sockets and readiness by mio, a `peermux_core::Connection` for each, one timer for each.
//!
//! There is no driver, no lock and no waker here. `docs/adapters.md` says why each step is as it is.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use mio::event::Event as Readiness;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use peermux_core::time::Instant;
use peermux_core::{Connection, Event, Transmit};

/// What is done with connections.
pub(crate) trait Application {
    /// What belongs to one connection.
    type Session;

    /// A socket was accepted: who this side is.
    fn accepted(&mut self, now: Instant) -> io::Result<(Connection, Self::Session)>;

    fn on_event(&mut self, session: &mut Self::Session, connection: &mut Connection, event: Event);
}

/// The largest record, in bytes.
const LARGEST: usize = 16 * 1408;
/// What is read at once. At least as much as the largest record.
const INPUT: usize = 64 * 1024;
/// Reads, in one turn of one connection, before the others have theirs.
const READS: usize = 4;
/// Bytes that wait in the kernel before a socket is not writable any more: about one record, so that what is urgent does not wait behind more.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "ios"))]
const NOT_SENT_LOW_WATER: u32 = 16 * 1024;
/// How long the last bytes of a connection that is over may wait for a peer that does not read.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the listener rests when descriptors are used up.
const REST: Duration = Duration::from_millis(100);

const LISTENER: Token = Token(0);
/// mio reports changes, not states; this is asked for once, and `reregister` makes it tell the state again.
const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// What a socket can do now, as far as it is known.
#[derive(Clone, Copy, Default)]
struct Ready {
    readable: bool,
    writable: bool,
}

impl Ready {
    fn from_mio(event: &Readiness) -> Self {
        // An error or an end shows when the socket is used.
        let ended = event.is_error() || event.is_read_closed();
        Self { readable: event.is_readable() || ended, writable: event.is_writable() || event.is_write_closed() }
    }
}

/// A socket and its connection. An idle one holds no buffer: both vectors are empty then.
struct Peer<S> {
    socket: TcpStream,
    connection: Connection,
    session: S,
    /// Dialled, and not yet there.
    connecting: bool,
    /// The beginning of a record.
    rest: Vec<u8>,
    /// The end of a record. Its nonce is used up: it is sent, or the transport is over.
    unsent: Vec<u8>,
    /// The peer sends nothing more.
    ended: bool,
    /// Reading stopped, for the sake of others, before there was nothing to read.
    read_on: bool,
    /// mio will report when the socket is writable: it was asked, and has not answered yet.
    write_asked: bool,
    over_since: Option<Instant>,
    /// This connection's entry among the timers.
    timer: Option<Instant>,
}

impl<S> Peer<S> {
    fn new(socket: TcpStream, connection: Connection, session: S, connecting: bool) -> Self {
        Self {
            socket,
            connection,
            session,
            connecting,
            rest: Vec::new(),
            unsent: Vec::new(),
            ended: false,
            read_on: false,
            // By the registration.
            write_asked: true,
            over_since: None,
            timer: None,
        }
    }

    /// Timers, input, events, output; and events again, since room for more is an event.
    fn turn<A>(&mut self, ready: Ready, now: Instant, application: &mut A, buffer: &mut [u8])
    where
        A: Application<Session = S>,
    {
        // First, and whatever the socket can do: a peer that has vanished is the one whose socket is full.
        if self.connection.poll_timeout().is_some_and(|timer| timer <= now) {
            self.connection.handle_timeout(now);
        }
        self.write_asked &= !ready.writable;
        let mut ready = ready;
        if self.connecting && ready.writable {
            match self.connected() {
                Ok(connected) => self.connecting = !connected,
                Err(error) => self.fail(now, &error),
            }
        }
        if self.connecting {
            ready = Ready::default();
        }
        if ready.readable && !self.ended {
            self.receive(now, buffer);
        }
        self.events(application);
        // One record, and only now: what goes into it is decided here, and the socket has room.
        if ready.writable {
            self.send(now, &mut buffer[..LARGEST]);
            self.events(application);
        }
        if self.connection.is_closed() {
            self.over_since.get_or_insert(now);
        }
    }

    /// Whether the socket that was dialled is there; an error if it never will be.
    fn connected(&self) -> io::Result<bool> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        match self.socket.peer_addr() {
            Ok(_) => prepare(&self.socket).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads until there is nothing more, or it is time for others. The application has no say in this: credit limits what a peer may send.
    fn receive(&mut self, now: Instant, buffer: &mut [u8]) {
        let mut filled = self.rest.len();
        buffer[..filled].copy_from_slice(&self.rest);
        self.read_on = true;
        for _ in 0..READS {
            match self.socket.read(&mut buffer[filled..]) {
                Ok(0) => {
                    self.ended = true;
                    self.connection.handle_eof(now);
                }
                Ok(len) => {
                    filled += len;
                    let taken = self.connection.handle_slice(now, &mut buffer[..filled]);
                    buffer.copy_within(taken..filled, 0);
                    filled -= taken;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => self.fail(now, &error),
            }
            self.read_on = false;
            break;
        }
        self.rest = buffer[..filled].to_vec();
    }

    /// Sends what is left of a record, or the next one.
    fn send(&mut self, now: Instant, buffer: &mut [u8]) {
        if self.unsent.is_empty() {
            match self.connection.poll_transmit(now, buffer).expect("the largest record fits") {
                Transmit::Bytes(len) => self.write(now, &buffer[..len]),
                Transmit::Idle => {}
                Transmit::Finished => {
                    // Half-closed and not closed: the peer's last record may still come. A peer that has gone leaves nothing to half-close.
                    let _ = self.socket.shutdown(Shutdown::Write);
                }
            }
        } else {
            let unsent = std::mem::take(&mut self.unsent);
            self.write(now, &unsent);
        }
    }

    fn write(&mut self, now: Instant, bytes: &[u8]) {
        match self.socket.write(bytes) {
            Ok(len) => self.unsent = bytes[len..].to_vec(),
            Err(error) if is_temporary(&error) => self.unsent = bytes.to_vec(),
            Err(error) => self.fail(now, &error),
        }
    }

    /// Nothing can be sent or received any more.
    fn fail(&mut self, now: Instant, error: &io::Error) {
        self.unsent = Vec::new();
        self.connection.handle_transport_error(now, error);
    }

    fn events<A: Application<Session = S>>(&mut self, application: &mut A) {
        while let Some(event) = self.connection.poll_event() {
            application.on_event(&mut self.session, &mut self.connection, event);
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.over_since.is_some_and(|since| self.unsent.is_empty() || now.saturating_since(since) >= PATIENCE)
    }

    /// Has mio report again what it has reported already, if that is wanted: there is more to read, or something to send. Asked only once for room, so that
    /// a socket that is always readable and never writable does not keep the loop busy.
    fn ask(&mut self, token: Token, registry: &Registry) -> io::Result<()> {
        let sends = !self.connecting && (!self.unsent.is_empty() || self.connection.wants_transmit());
        if self.read_on || (sends && !self.write_asked) {
            registry.reregister(&mut self.socket, token, INTEREST)?;
            self.read_on = false;
            self.write_asked = true;
        }
        Ok(())
    }

    /// Keeps one entry among `timers`. A timer that becomes later is left where it is: an early call does no harm, and each record that comes makes
    /// the idle timeout later.
    fn set_timer(&mut self, token: Token, timers: &mut BTreeSet<(Instant, Token)>) {
        let wanted = self.over_since.map(|since| since + PATIENCE).or(self.connection.poll_timeout());
        if let Some(wanted) = wanted
            && self.timer.is_none_or(|timer| wanted < timer)
        {
            self.forget_timer(token, timers);
            self.timer = Some(wanted);
            timers.insert((wanted, token));
        }
    }

    fn forget_timer(&mut self, token: Token, timers: &mut BTreeSet<(Instant, Token)>) {
        if let Some(timer) = self.timer.take() {
            timers.remove(&(timer, token));
        }
    }
}

/// Sets what a connection needs of its socket.
fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "ios"))]
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(NOT_SENT_LOW_WATER)?;
    Ok(())
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The loop of one thread.
pub(crate) struct EventLoop<A: Application> {
    pub(crate) application: A,
    poll: Poll,
    listener: Option<TcpListener>,
    peers: HashMap<Token, Peer<A::Session>>,
    /// Tokens are never used again, so nothing that is late is taken for another's.
    last_token: usize,
    timers: BTreeSet<(Instant, Token)>,
    /// The moment from which all times here are counted.
    epoch: std::time::Instant,
    /// What all connections read into and write from.
    buffer: Vec<u8>,
    events: Events,
    /// Who has something to do in this turn.
    ready: Vec<(Token, Ready)>,
}

impl<A: Application> EventLoop<A> {
    pub(crate) fn new(application: A) -> io::Result<Self> {
        Ok(Self {
            application,
            poll: Poll::new()?,
            listener: None,
            peers: HashMap::new(),
            last_token: LISTENER.0,
            timers: BTreeSet::new(),
            epoch: std::time::Instant::now(),
            buffer: vec![0; INPUT],
            events: Events::with_capacity(1024),
            ready: Vec::new(),
        })
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::from_micros(u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Connections, of which some may still be dialled, or about to end.
    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(crate) fn listen(&mut self, mut listener: TcpListener) -> io::Result<()> {
        self.poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Dials `address`. `connection` begins now, so the deadline of its handshake holds for the socket as well.
    pub(crate) fn dial(&mut self, address: SocketAddr, connection: Connection, session: A::Session) -> io::Result<()> {
        let socket = TcpStream::connect(address)?;
        self.add(Peer::new(socket, connection, session, true))
    }

    fn add(&mut self, mut peer: Peer<A::Session>) -> io::Result<()> {
        self.last_token += 1;
        let token = Token(self.last_token);
        self.poll.registry().register(&mut peer.socket, token, INTEREST)?;
        peer.set_timer(token, &mut self.timers);
        self.peers.insert(token, peer);
        Ok(())
    }

    /// Gives commands to all connections.
    pub(crate) fn for_each(&mut self, mut command: impl FnMut(&mut Connection, &mut A::Session)) -> io::Result<()> {
        for peer in self.peers.values_mut() {
            command(&mut peer.connection, &mut peer.session);
        }
        // Something may be to be sent now, and there may be events.
        self.ready.extend(self.peers.keys().map(|&token| (token, Ready::default())));
        self.work()
    }

    /// Waits until something happens, and does what is to be done about it.
    pub(crate) fn turn(&mut self) -> io::Result<()> {
        let timeout = self.timers.first().map(|(timer, _)| timer.saturating_since(self.now()));
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        self.ready.extend(self.events.iter().map(|event| (event.token(), Ready::from_mio(event))));
        let now = self.now();
        while let Some(&(timer, token)) = self.timers.first()
            && timer <= now
        {
            self.timers.pop_first();
            if let Some(peer) = self.peers.get_mut(&token) {
                peer.timer = None;
            }
            self.ready.push((token, Ready::default()));
        }
        self.work()
    }

    fn work(&mut self) -> io::Result<()> {
        let mut ready = std::mem::take(&mut self.ready);
        for (token, ready) in ready.drain(..) {
            if token == LISTENER {
                self.accept()?;
                continue;
            }
            // Handshakes take their time, so each has its own `now`.
            let now = self.now();
            let Some(peer) = self.peers.get_mut(&token) else { continue };
            peer.turn(ready, now, &mut self.application, &mut self.buffer);
            if peer.is_over(now) {
                peer.forget_timer(token, &mut self.timers);
                self.poll.registry().deregister(&mut peer.socket)?;
                self.peers.remove(&token);
            } else {
                peer.ask(token, self.poll.registry())?;
                peer.set_timer(token, &mut self.timers);
            }
        }
        self.ready = ready;
        Ok(())
    }

    /// Accepts until nobody waits: mio tells only of those who come after.
    fn accept(&mut self) -> io::Result<()> {
        while let Some(listener) = &self.listener {
            match listener.accept() {
                Ok((socket, _)) => {
                    let (connection, session) = self.application.accepted(self.now())?;
                    // Who has gone already is not missed.
                    if prepare(&socket).is_ok() {
                        self.add(Peer::new(socket, connection, session, false))?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {
                }
                Err(_) => {
                    // No descriptors are left, as a rule. Those who wait are not told of again.
                    self.timers.insert((self.now() + REST, LISTENER));
                    break;
                }
            }
        }
        Ok(())
    }
}
