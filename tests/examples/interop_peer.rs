//! A peer over real TCP, for `tests/interop/run.py`: the counterpart of `tests/interop/peer.py`, with the same arguments and the same line of JSON.
//!
//! ```text
//! interop_peer dial HOST PORT --key HEX [--known HEX | --hint HEX | --unknown] [--script echo|multi|close] [--suite 1|2] [--anonymous] [--early]
//! interop_peer listen PORT --key HEX [--previous HEX] [--suite 1|2] [--no-fallback] [--early accept|refuse]
//! interop_peer suites
//! ```
//!
//! It handles one connection, prints one line, and exits with 0 if all went as it should, else with 1.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it says is what it is for")]

use std::error::Error;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peermux_core::crypto::{RustCrypto, Suite, default_provider};
use peermux_core::error::Side;
use peermux_tokio::{
    AcceptError, Config, Connecting, Connection, ConnectionError, ExpectedPeer, HandshakeMode, Identity, Listener,
    Priority, PublicKey, ResponderKeys, StaticSecret, Stream, StrikeRegister,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PROTOCOL: &str = "interop/echo";
/// For everything; the Python peer has the same.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The arguments after the first.
struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|argument| argument == name)
    }

    fn value(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|argument| argument == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn position(&self, at: usize) -> Result<&str> {
        Ok(self.0.get(at).ok_or("too few arguments")?)
    }

    fn secret(&self, name: &str) -> Result<Option<StaticSecret>> {
        let Some(text) = self.value(name) else { return Ok(None) };
        let bytes: [u8; 32] = hex::decode(text)?.try_into().map_err(|_| "a key has 32 bytes")?;
        Ok(Some(StaticSecret::from_bytes(&bytes)))
    }

    fn public(&self, name: &str) -> Result<Option<PublicKey>> {
        Ok(self.value(name).map(str::parse).transpose()?)
    }

    fn key(&self) -> Result<StaticSecret> {
        Ok(self.secret("--key")?.ok_or("--key is missing")?)
    }

    /// A configuration whose preferred suite is the one asked for, if it is there.
    fn config(&self) -> Config {
        let config = Config {
            allow_fallback: !self.flag("--no-fallback"),
            early_data: self.flag("--early"),
            ..Config::default()
        };
        match self.value("--suite") {
            Some("2") => config,
            _ => Config { provider: &RustCrypto, ..config },
        }
    }
}

/// Suite bytes that it offers at most.
fn suites() -> Vec<u8> {
    let aes = default_provider().prefers_aes().then_some(Suite::Aes256Gcm.as_byte());
    aes.into_iter().chain([Suite::ChaCha20Poly1305.as_byte()]).collect()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 251) as u8).collect()
}

/// Sends `data`, of which the first `sent` bytes are written already, and says whether the same comes back.
async fn echoed(mut stream: Stream, data: Vec<u8>, sent: usize) -> std::io::Result<bool> {
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let mut got = Vec::new();
    let send = async {
        write.write_all(&data[sent..]).await?;
        write.shutdown().await
    };
    let (sent, received) = tokio::join!(send, read.read_to_end(&mut got));
    sent?;
    received?;
    Ok(got == data)
}

async fn echo(mut stream: Stream) -> std::io::Result<u64> {
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let bytes = tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await?;
    Ok(bytes)
}

/// What is known of a connection, and how it ended.
fn report(role: &str, connection: &Connection, ok: bool, bytes: u64) -> Value {
    let peer = connection.peer();
    let (binding, (sent, received)) =
        connection.driver().with(|core| (core.channel_binding().copied(), core.record_counts()));
    let (closed, answer) = match connection.close_reason() {
        Some(ConnectionError::Closed { closed, answer, .. }) => {
            (Some(closed.to_string()), answer.map(|answer| answer.to_string()))
        }
        error => (error.map(|error| error.to_string()), None),
    };
    json!({
        "role": role,
        "ok": ok,
        "mode": match peer.mode {
            HandshakeMode::Ik => "ik",
            HandshakeMode::Fallback => "fallback",
        },
        "peer": peer.key.to_string(),
        "anonymous": peer.anonymous,
        "suite": peer.suite.as_byte(),
        "h": binding.map(hex::encode),
        "bytes": bytes,
        "closed": closed,
        "answer": answer,
        "records_sent": sent,
        "records_received": received,
    })
}

/// Waits until both sides have said their last.
async fn over(connection: &Connection) -> ConnectionError {
    connection.transport_closed().await;
    connection.closed().await
}

async fn dial(arguments: &Arguments) -> Result<Value> {
    let address = (arguments.position(0)?, arguments.position(1)?.parse::<u16>()?);
    let identity = if arguments.flag("--anonymous") { Identity::Anonymous } else { arguments.key()?.into() };
    let remote = match (arguments.public("--known")?, arguments.public("--hint")?) {
        (Some(known), _) => ExpectedPeer::Key(known),
        (None, Some(hint)) => ExpectedPeer::KeyOrApprove(hint),
        (None, None) => ExpectedPeer::Any,
    };
    let dialing = Connecting::new(address, identity, remote, arguments.config()).await?;
    let mut echoes = tokio::task::JoinSet::new();
    let mut bytes = 0;
    if arguments.flag("--early") {
        // One request that early data holds whole, and one of which it holds the beginning.
        for size in [300, 3000] {
            let data = pattern(size);
            bytes += size as u64;
            let mut stream = dialing.open_early(Some(PROTOCOL), Priority::default())?;
            // No more is taken before the responder says what it gives.
            let sent = stream.write(&data).await?;
            echoes.spawn(echoed(stream, data, sent));
        }
    }
    let connection = dialing.handshake(|_| true).await?;
    let (streams, size, code) = match arguments.value("--script").unwrap_or("echo") {
        "echo" => (1, 100_000, 0),
        "multi" => (8, 20_000, 0),
        "close" => (0, 0, 77),
        script => return Err(format!("no script {script}").into()),
    };
    for i in 0..streams {
        let data = pattern(size + i);
        bytes += data.len() as u64;
        let priority = Priority::from_urgency(3).with_incremental(i % 2 == 1);
        echoes.spawn(echoed(connection.open_stream(Some(PROTOCOL), priority)?, data, 0));
    }
    let mut good = true;
    while let Some(echo) = echoes.join_next().await {
        good &= echo??;
    }
    connection.close(code, "at once");
    let answered = matches!(over(&connection).await, ConnectionError::Closed { by: Side::Local, answer: Some(_), .. });
    Ok(report("initiator", &connection, good && answered, bytes))
}

/// A dialer whose CLOSE stands in flight 3 never was a connection to the application. Its error says that it closed.
async fn closed_in_flight_3(error: std::io::Error) -> Result<Value> {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let Some(ConnectionError::Closed { by: Side::Peer, closed, .. }) = inner else { return Err(error.into()) };
    // There is no handle to wait with until the answer is sent.
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(json!({ "role": "responder", "ok": true, "closed_in_flight_3": closed.to_string() }))
}

async fn listen(arguments: &Arguments) -> Result<Value> {
    let (key, previous) = (arguments.key()?, arguments.secret("--previous")?);
    let socket = TcpListener::bind(("127.0.0.1", arguments.position(0)?.parse::<u16>()?)).await?;
    eprintln!("listening on port {} with key {}", socket.local_addr()?.port(), key.public_key());
    let keys = move || ResponderKeys { current: key.clone(), previous: previous.clone() };
    // The key counts as made for this process.
    let register = (arguments.value("--early") == Some("accept")).then(|| StrikeRegister::for_new_key(16, 0));
    let register = register.map(|register| Arc::new(Mutex::new(register)));
    let listener = Listener::with_strike_register(socket, keys, arguments.config(), register, |_| true)?;
    let connection = match listener.next_outcome().await.ok_or("the listener ended")? {
        Ok(connection) => connection,
        Err(AcceptError { error, .. }) => return closed_in_flight_3(error).await,
    };
    let mut echoes = tokio::task::JoinSet::new();
    let mut early = false;
    while let Ok(stream) = connection.accept_stream().await {
        early |= stream.is_early();
        echoes.spawn(echo(stream));
    }
    let mut bytes = 0;
    let mut good = true;
    while let Some(echo) = echoes.join_next().await {
        match echo? {
            Ok(len) => bytes += len,
            Err(_) => good = false,
        }
    }
    let closed = matches!(over(&connection).await, ConnectionError::Closed { by: Side::Peer, .. });
    let mut report = report("responder", &connection, good && closed, bytes);
    // Accepted, or refused and sent again: the stream says the same.
    report["early"] = json!(early.then_some("early"));
    Ok(report)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let arguments = Arguments(arguments.collect());
    let run = async {
        match what.as_str() {
            "dial" => dial(&arguments).await,
            "listen" => listen(&arguments).await,
            "suites" => Ok(json!({ "ok": true, "suites": suites() })),
            _ => Err("dial, listen or suites".into()),
        }
    };
    let line = match timeout(TIMEOUT, run).await {
        Ok(Ok(line)) => line,
        Ok(Err(error)) => json!({ "ok": false, "error": error.to_string() }),
        Err(_) => json!({ "ok": false, "error": "time is over" }),
    };
    println!("{line}");
    if line["ok"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
