//! An adapter in one thread: a socket, `poll`, and a connection. `docs/adapters.md` walks through it.
//!
//! ```text
//! cargo run -p peermux-std --example one_thread
//! ```
//!
//! The host here is the loop; the renter is `peermux-std` in another thread.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use peermux_core::error::{ReadError, WriteError};
use peermux_core::time::Instant;
use peermux_core::{Config, Connection, Event, ResponderKeys, StreamId, Transmit};
use peermux_std::{Priority, Remote, StaticSecret, connect};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The largest record, in bytes, and so the largest piece of input that can be incomplete.
const LARGEST: usize = 16 * 1408;

/// How long the last bytes of a connection that is over may wait for a peer that does not read.
const PATIENCE: Duration = Duration::from_secs(3);

/// Microseconds since the loop began.
struct Clock(std::time::Instant);

impl Clock {
    fn now(&self) -> Instant {
        Instant::from_micros(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

/// Drives `connection` over `socket` until both are over.
fn drive(
    socket: &mut TcpStream,
    connection: &mut Connection,
    clock: &Clock,
    mut on_event: impl FnMut(&mut Connection, Event),
) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    let (mut input, mut filled) = (vec![0; LARGEST], 0);
    let (mut output, mut unsent) = (vec![0; LARGEST], 0..0);
    let (mut ended, mut over_since) = (false, None);
    loop {
        // Events first: what the application does about them may be something to send.
        while let Some(event) = connection.poll_event() {
            on_event(connection, event);
        }
        let now = clock.now();
        if connection.is_closed() {
            // The last record may still be here. It is worth some patience, and no more than that.
            let since = *over_since.get_or_insert(now);
            if unsent.is_empty() || now.saturating_since(since) >= PATIENCE {
                return Ok(());
            }
        }

        // Wait for input always, for room only with something to send, and never longer than the timer says.
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, !ended);
        wanted.set(PollFlags::OUT, !unsent.is_empty() || connection.wants_transmit());
        let timer = over_since.map(|since| since + PATIENCE).or(connection.poll_timeout());
        let ready = wait(socket, wanted, timer.map(|timer| timer.saturating_since(now)))?;

        let now = clock.now();
        if connection.poll_timeout().is_some_and(|timer| timer <= now) {
            connection.handle_timeout(now);
        }
        if !ended && ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            match socket.read(&mut input[filled..]) {
                Ok(0) => {
                    ended = true;
                    connection.handle_eof(now);
                }
                Ok(len) => {
                    filled += len;
                    let taken = connection.handle_slice(now, &mut input[..filled]);
                    input.copy_within(taken..filled, 0);
                    filled -= taken;
                }
                Err(error) if is_temporary(&error) => {}
                Err(error) => connection.handle_transport_error(now, &error),
            }
        }
        if ready.contains(PollFlags::OUT) {
            if unsent.is_empty() {
                match connection.poll_transmit(now, &mut output).map_err(io::Error::other)? {
                    Transmit::Bytes(len) => unsent = 0..len,
                    Transmit::Idle => {}
                    Transmit::Finished => socket.shutdown(Shutdown::Write).or_else(gone)?,
                }
            }
            match socket.write(&output[unsent.clone()]) {
                Ok(len) => unsent.start += len,
                Err(error) if is_temporary(&error) => {}
                Err(error) => {
                    unsent = 0..0;
                    connection.handle_transport_error(now, &error);
                }
            }
        }
    }
}

/// Waits until `socket` is ready, at the latest for `timeout`.
fn wait(socket: &TcpStream, wanted: PollFlags, timeout: Option<Duration>) -> io::Result<PollFlags> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let mut sockets = [PollFd::new(socket, wanted)];
    match poll(&mut sockets, timeout.as_ref()) {
        Ok(_) => Ok(sockets[0].revents()),
        Err(rustix::io::Errno::INTR) => Ok(PollFlags::empty()),
        Err(error) => Err(error.into()),
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A peer that has gone leaves nothing to half-close.
fn gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected { Ok(()) } else { Err(error) }
}

/// Answers each stream, when its question has ended, in capitals.
#[derive(Default)]
struct Shout {
    streams: BTreeMap<StreamId, Dialogue>,
}

#[derive(Default)]
struct Dialogue {
    text: Vec<u8>,
    asked: bool,
    answered: usize,
}

impl Shout {
    fn on_event(&mut self, connection: &mut Connection, event: Event) {
        match event {
            Event::StreamOpened => {
                while let Some(id) = connection.accept() {
                    self.streams.insert(id, Dialogue::default());
                    self.move_on(connection, id);
                }
            }
            Event::Readable(id) | Event::Writable(id) => self.move_on(connection, id),
            Event::Closed(error) => println!("host: {error}"),
            _ => {}
        }
    }

    /// Goes on as far as it goes. What is blocked will be told of by an event.
    fn move_on(&mut self, connection: &mut Connection, id: StreamId) {
        let Some(dialogue) = self.streams.get_mut(&id) else { return };
        if !dialogue.move_on(connection, id) {
            self.streams.remove(&id);
            connection.release(id);
        }
    }
}

impl Dialogue {
    /// False once there is nothing more to do.
    fn move_on(&mut self, connection: &mut Connection, id: StreamId) -> bool {
        while !self.asked {
            let mut chunk = [0; 1024];
            match connection.recv(id).read(&mut chunk) {
                Ok(0) => {
                    self.asked = true;
                    self.text.make_ascii_uppercase();
                }
                Ok(len) => self.text.extend_from_slice(&chunk[..len]),
                Err(ReadError::Blocked) => return true,
                // The peer gave it up, or the connection is over.
                Err(_) => return false,
            }
        }
        while self.answered < self.text.len() {
            match connection.send(id).write(&self.text[self.answered..]) {
                Ok(len) => self.answered += len,
                Err(WriteError::Blocked) => return true,
                Err(_) => return false,
            }
        }
        // FIN follows what is queued, even if the stream is let go of now.
        let _ = connection.send(id).finish();
        false
    }
}

fn main() -> io::Result<()> {
    let new_key = StaticSecret::generate;
    let (host_key, renter_key) = (new_key()?, new_key()?);
    let host = host_key.public_key();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;

    let renter = thread::spawn(move || -> io::Result<usize> {
        let connection = connect(address, renter_key, Remote::Key(host), peermux_std::Config::default())?;
        let mut stream = connection.open("example/shout", Priority::default())?;
        // More than all windows and buffers hold.
        stream.write_all(&vec![b'a'; 3_000_000])?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        assert!(answer.iter().all(|&byte| byte == b'A'));
        drop(stream);
        connection.close(0, "done");
        Ok(answer.len())
    });

    let (mut socket, _) = listener.accept()?;
    let clock = Clock(std::time::Instant::now());
    let config = Arc::new(Config::default());
    let keys = ResponderKeys::from(host_key);
    let mut connection =
        Connection::responder(config, keys, clock.now(), &mut getrandom::SysRng).map_err(io::Error::other)?;
    let mut shout = Shout::default();
    drive(&mut socket, &mut connection, &clock, |connection, event| shout.on_event(connection, event))?;
    drop(socket);

    let answered = renter.join().expect("the renter does not panic")?;
    println!("renter: {answered} bytes came back");
    Ok(())
}
