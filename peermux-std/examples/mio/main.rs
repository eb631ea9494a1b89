//! Thousands of connections in one thread, on `peermux_core::Connection` and mio alone.
//!
//! ```text
//! cargo run --release -p peermux-std --example mio -- demo [CONNECTIONS]
//! cargo run --release -p peermux-std --example mio -- server ADDRESS
//! cargo run --release -p peermux-std --example mio -- client ADDRESS KEY [CONNECTIONS]
//! ```
//!
//! `server` prints the KEY that `client` needs; `any` takes whoever is there. `demo` runs both, each in one thread.
//! Each takes one descriptor for a connection, so `demo` takes two. The limit is raised as far as the system lets a process raise it.
//! `--key-log FILE` writes the secrets for `tools/peermux.lua`.
//!
//! [`event_loop`] is what to copy from. This file is what an application adds: streams, and what is done about their events.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod event_loop;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mio::net::TcpListener;
use peermux_core::code::{Code, ProtocolCode};
use peermux_core::crypto::StaticSecret;
use peermux_core::error::{ReadError, WriteError};
use peermux_core::wire::Priority;
use peermux_core::{
    Config, Connection, Event, Identity, KeyLog, Remote, ResponderKeys, StreamId, TrafficSecrets, time,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use event_loop::{Application, EventLoop};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Sends back what comes.
const ECHO: &str = "example/echo";
/// Sends as many bytes of the pattern as the request says: 8 bytes, big-endian.
const BULK: &str = "example/bulk";

/// Byte i of a bulk answer is i mod 251.
const PERIOD: usize = 251;
static PATTERN: [u8; 256 * PERIOD] = {
    let mut pattern = [0; 256 * PERIOD];
    let mut i = 0;
    while i < pattern.len() {
        pattern[i] = (i % PERIOD) as u8;
        i += 1;
    }
    pattern
};

/// What each connection of the client does: so many bytes at low urgency, and beside them so many questions, one after the other, at high urgency.
const BULK_BYTES: u64 = 256 * 1024;
const QUESTIONS: usize = 10;
const QUESTION: [u8; 512] = [b'?'; 512];
/// Handshakes that the client has under way at once: beyond it they would only make each other late.
const DIALS: usize = 128;

// The server.

struct Server {
    key: StaticSecret,
    config: Arc<Config>,
}

/// The streams of one connection.
type Streams = BTreeMap<StreamId, Service>;

enum Service {
    /// What was read and is not yet written.
    Echo(Bytes),
    Bulk {
        request: Vec<u8>,
        sent: u64,
    },
}

impl Application for Server {
    type Session = Streams;

    fn accepted(&mut self, now: time::Instant) -> io::Result<(Connection, Streams)> {
        let keys = ResponderKeys::from(self.key.clone());
        let connection = Connection::responder(self.config.clone(), keys, now, &mut getrandom::SysRng);
        Ok((connection.map_err(io::Error::other)?, Streams::new()))
    }

    fn on_event(&mut self, streams: &mut Streams, connection: &mut Connection, event: Event) {
        match event {
            Event::StreamOpened => {
                while let Some(id) = connection.accept() {
                    let service = match connection.recv(id).protocol().as_deref() {
                        Some(ECHO) => Service::Echo(Bytes::new()),
                        Some(BULK) => Service::Bulk { request: Vec::new(), sent: 0 },
                        _ => {
                            connection.refuse(id, Code::Protocol(ProtocolCode::UNKNOWN_PROTOCOL));
                            continue;
                        }
                    };
                    streams.insert(id, service);
                    // Events come only to those who asked and were told `Blocked`; so reading begins here.
                    serve(streams, connection, id);
                }
            }
            Event::Readable(id) | Event::Writable(id) => serve(streams, connection, id),
            _ => {}
        }
    }
}

/// Goes on with a stream as far as it goes. What is blocked will be told of by an event.
fn serve(streams: &mut Streams, connection: &mut Connection, id: StreamId) {
    // An event can be older than the command that let go of its stream.
    let Some(service) = streams.get_mut(&id) else { return };
    match service.go_on(connection, id) {
        Err(Pause::Blocked) => return,
        // FIN follows what is queued, even if the stream is let go of now.
        Ok(()) => _ = connection.send(id).finish(),
        // The peer gave it up, or the connection is over.
        Err(Pause::Gone) => {}
    }
    streams.remove(&id);
    connection.release(id);
}

enum Pause {
    Blocked,
    Gone,
}

impl From<ReadError> for Pause {
    fn from(error: ReadError) -> Self {
        if matches!(error, ReadError::Blocked) { Self::Blocked } else { Self::Gone }
    }
}

impl From<WriteError> for Pause {
    fn from(error: WriteError) -> Self {
        if matches!(error, WriteError::Blocked) { Self::Blocked } else { Self::Gone }
    }
}

impl Service {
    /// `Ok` once all is answered.
    fn go_on(&mut self, connection: &mut Connection, id: StreamId) -> std::result::Result<(), Pause> {
        match self {
            // It reads only what it can write again. That is all of back-pressure: what is not read gives the peer no credit.
            Self::Echo(held) => loop {
                while !held.is_empty() {
                    connection.send(id).write_chunk(held)?;
                }
                match connection.recv(id).read_chunk(16 * 1024)? {
                    Some(chunk) => *held = chunk,
                    None => return Ok(()),
                }
            },
            Self::Bulk { request, sent } => {
                let mut bytes = [0; 8];
                while request.len() < 8 {
                    match connection.recv(id).read(&mut bytes[request.len()..])? {
                        0 => return Err(Pause::Gone),
                        len => request.extend_from_slice(&bytes[request.len()..][..len]),
                    }
                }
                bytes.copy_from_slice(request);
                let wanted = u64::from_be_bytes(bytes);
                while *sent < wanted {
                    let from = (*sent % PERIOD as u64) as usize;
                    let len = (PATTERN.len() - from).min(usize::try_from(wanted - *sent).unwrap_or(usize::MAX));
                    // Not copied: what is queued refers to the pattern.
                    let mut chunk = Bytes::from_static(&PATTERN[from..from + len]);
                    *sent += connection.send(id).write_chunk(&mut chunk)? as u64;
                }
                Ok(())
            }
        }
    }
}

fn config(key_log: Option<Arc<dyn KeyLog>>) -> Arc<Config> {
    // For very many connections: less of everything that a slow peer could fill.
    let (receive_window, send_buffer) = (1 << 20, 1 << 20);
    Arc::new(Config {
        receive_window,
        send_buffer,
        stream_send_buffer: 64 << 10,
        max_streams: 64,
        key_log,
        ..Config::default()
    })
}

fn serve_on(listener: TcpListener, key: StaticSecret, config: Arc<Config>) -> Result<()> {
    let mut event_loop = EventLoop::new(Server { key, config })?;
    event_loop.listen(listener)?;
    loop {
        event_loop.turn()?;
    }
}

// The client.

#[derive(Default)]
struct Client {
    established: usize,
    done: usize,
    bytes: u64,
    round_trips: Vec<Duration>,
    /// What went wrong first.
    error: Option<String>,
}

#[derive(Default)]
struct Dialogue {
    echo: Option<StreamId>,
    asked: Option<Instant>,
    answered: usize,
    answers: usize,
    bulk: Option<StreamId>,
    received: u64,
}

impl Dialogue {
    fn start(&mut self, connection: &mut Connection) -> Result<()> {
        let bulk = connection.open(Some(BULK), Priority::new(6, true))?;
        connection.send(bulk).write(&BULK_BYTES.to_be_bytes())?;
        connection.send(bulk).finish()?;
        let echo = connection.open(Some(ECHO), Priority::new(1, false))?;
        (self.bulk, self.echo) = (Some(bulk), Some(echo));
        self.ask(connection, echo)?;
        // There is nothing to read yet. From here on events will tell.
        for id in [bulk, echo] {
            assert!(matches!(connection.recv(id).read(&mut [0]), Err(ReadError::Blocked)));
        }
        Ok(())
    }

    fn ask(&mut self, connection: &mut Connection, echo: StreamId) -> Result<()> {
        (self.asked, self.answered) = (Some(Instant::now()), 0);
        // A stream with an empty queue takes so little at once.
        assert_eq!(connection.send(echo).write(&QUESTION)?, QUESTION.len());
        Ok(())
    }

    fn read(&mut self, client: &mut Client, connection: &mut Connection, id: StreamId) -> Result<()> {
        loop {
            let chunk = match connection.recv(id).read_chunk(usize::MAX) {
                Ok(chunk) => chunk,
                Err(ReadError::Blocked) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let Some(chunk) = chunk else {
                self.ended(client, id)?;
                connection.release(id);
                return Ok(());
            };
            client.bytes += chunk.len() as u64;
            if self.bulk == Some(id) {
                let from = (self.received % PERIOD as u64) as usize;
                let good = chunk.iter().zip(PATTERN.iter().cycle().skip(from)).all(|(one, other)| one == other);
                if !good {
                    return Err("a bulk answer is wrong".into());
                }
                self.received += chunk.len() as u64;
            } else {
                if QUESTION.get(self.answered..self.answered + chunk.len()) != Some(&chunk[..]) {
                    return Err("an echo is wrong".into());
                }
                self.answered += chunk.len();
                if self.answered == QUESTION.len() {
                    client.round_trips.extend(self.asked.map(|asked| asked.elapsed()));
                    self.answers += 1;
                    if self.answers == QUESTIONS {
                        connection.send(id).finish()?;
                    } else {
                        self.ask(connection, id)?;
                    }
                }
            }
        }
    }

    fn ended(&mut self, client: &mut Client, id: StreamId) -> Result<()> {
        if self.bulk == Some(id) {
            self.bulk = None;
        } else {
            self.echo = None;
        }
        if self.bulk.is_none() && self.echo.is_none() {
            if self.received != BULK_BYTES || self.answers != QUESTIONS {
                return Err("an answer is too short".into());
            }
            client.done += 1;
        }
        Ok(())
    }
}

impl Application for Client {
    type Session = Dialogue;

    fn accepted(&mut self, _: time::Instant) -> io::Result<(Connection, Dialogue)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn on_event(&mut self, dialogue: &mut Dialogue, connection: &mut Connection, event: Event) {
        let result = match event {
            Event::Established(_) => {
                self.established += 1;
                Ok(())
            }
            Event::Readable(id) if connection.has_stream(id) => dialogue.read(self, connection, id),
            Event::Closed(error) if !error.is_orderly() => Err(error.into()),
            _ => Ok(()),
        };
        if let Err(error) = result {
            self.error.get_or_insert(error.to_string());
        }
    }
}

fn run_client(address: SocketAddr, remote: Remote, connections: usize, config: &Arc<Config>) -> Result<()> {
    let mut event_loop = EventLoop::new(Client::default())?;
    let turn_until = |event_loop: &mut EventLoop<Client>, done: &dyn Fn(&EventLoop<Client>) -> bool| -> Result<()> {
        while !done(event_loop) {
            event_loop.turn()?;
            if let Some(error) = event_loop.application.error.take() {
                return Err(error.into());
            }
        }
        Ok(())
    };

    if connections == 0 {
        return Err("at least one connection".into());
    }
    let begin = Instant::now();
    let key = StaticSecret::generate()?;
    for dialled in 0..connections {
        turn_until(&mut event_loop, &|event_loop| dialled < event_loop.application.established + DIALS)?;
        let (identity, now) = (Identity::Known(key.clone()), event_loop.now());
        let connection = Connection::initiator(config.clone(), identity, remote, now, &mut getrandom::SysRng)?;
        event_loop.dial(address, connection, Dialogue::default())?;
    }
    turn_until(&mut event_loop, &|event_loop| event_loop.application.established == connections)?;
    let took = begin.elapsed().as_secs_f64();
    println!("{connections} connections in {took:.2} s: {:.0} per second{}", connections as f64 / took, memory());

    let begin = Instant::now();
    let mut result = Ok(());
    event_loop.for_each(|connection, dialogue| {
        if result.is_ok() {
            result = dialogue.start(connection);
        }
    })?;
    result?;
    turn_until(&mut event_loop, &|event_loop| event_loop.application.done == connections)?;
    let took = begin.elapsed().as_secs_f64();
    let Client { bytes, round_trips, .. } = &mut event_loop.application;
    println!(
        "{:.1} MB verified in {took:.2} s: {:.1} MB/s over all connections at once{}",
        *bytes as f64 / 1e6,
        *bytes as f64 / 1e6 / took,
        memory()
    );
    round_trips.sort_unstable();
    let [median, late] = [50, 99].map(|percent| round_trips[round_trips.len() * percent / 100]);
    println!("{} echoes beside it: half within {median:.1?}, 99 % within {late:.1?}", round_trips.len());

    event_loop.for_each(|connection, _| connection.close(Code::NO_ERROR, "done"))?;
    turn_until(&mut event_loop, &|event_loop| event_loop.len() == 0)?;
    println!("all are closed");
    Ok(())
}

/// What this process holds, where the system tells.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    resident.map_or_else(String::new, |resident| format!("; the process holds {}", resident.trim()))
}

/// Raises the limit of descriptors to `wanted`, or as far as it goes, and gives what it is then.
fn raise_limit(wanted: u64) -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = wanted.min(maximum.unwrap_or(u64::MAX));
    match current {
        Some(current) if current < wanted => {
            setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })?;
            Ok(wanted)
        }
        current => Ok(current.unwrap_or(u64::MAX)),
    }
}

/// Makes sure that there are descriptors for so many sockets, and for what else a process has.
fn reserve(sockets: usize) -> Result<()> {
    let needed = sockets as u64 + 50;
    match raise_limit(needed)? {
        limit if limit < needed => {
            Err(format!("{needed} descriptors are needed, and the hard limit (`ulimit -Hn`) is {limit}").into())
        }
        _ => Ok(()),
    }
}

/// A file for Wireshark. Whoever has it reads and forges everything.
struct KeyLogFile(Mutex<File>);

impl KeyLog for KeyLogFile {
    fn log(&self, secrets: &TrafficSecrets<'_>) {
        let mut file = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // In one piece, so that two processes may write into one file.
        let _ = file.write_all(format!("{secrets}\n").as_bytes());
    }
}

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut key_log: Option<Arc<dyn KeyLog>> = None;
    if let Some(at) = arguments.iter().position(|argument| argument == "--key-log") {
        let path = arguments.get(at + 1).ok_or("--key-log FILE")?;
        let file = File::options().create(true).append(true).open(path)?;
        key_log = Some(Arc::new(KeyLogFile(Mutex::new(file))));
        arguments.drain(at..at + 2);
    }
    let config = config(key_log);
    let host_key = StaticSecret::generate()?;
    let resolve = |address: &str| -> Result<SocketAddr> { Ok(address.to_socket_addrs()?.next().ok_or("no address")?) };
    let count = |argument: Option<&&str>| argument.map_or(Ok(1000), |argument| argument.parse());

    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["server", address] => {
            // As many as will come. A server that has no more goes on with those that it has.
            raise_limit(1 << 20)?;
            let listener = TcpListener::bind(resolve(address)?)?;
            println!("listening on {} with key {}", listener.local_addr()?, host_key.public_key());
            serve_on(listener, host_key, config)
        }
        ["client", address, key, ref rest @ ..] => {
            let remote = if key == "any" { Remote::Anyone } else { Remote::Key(key.parse()?) };
            let connections = count(rest.first())?;
            reserve(connections)?;
            run_client(resolve(address)?, remote, connections, &config)
        }
        ["demo", ref rest @ ..] => {
            let listener = TcpListener::bind(resolve("127.0.0.1:0")?)?;
            let (address, host) = (listener.local_addr()?, host_key.public_key());
            let connections = count(rest.first())?;
            reserve(connections.saturating_mul(2))?;
            let server_config = config.clone();
            std::thread::spawn(move || {
                serve_on(listener, host_key, server_config).unwrap_or_else(|error| panic!("server: {error}"))
            });
            run_client(address, Remote::Key(host), connections, &config)
        }
        _ => Err("demo [CONNECTIONS], server ADDRESS, or client ADDRESS KEY [CONNECTIONS]; and --key-log FILE".into()),
    }
}
