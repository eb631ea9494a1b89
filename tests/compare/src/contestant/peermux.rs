//! peermux over Tokio.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use peermux_core::crypto::{AeadKey, AwsLc, Encapsulated, KemSecret, Provider, Ring, RustCrypto, Suite};
use peermux_tokio::{
    Config, Connecting, ExpectedPeer, Listener, Priority, PublicKey, ResponderKeys, StaticSecret, StrikeRegister,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Boxed, Client, Connection, Contestant, Duplex, Handler, Setting, Stream, Use};
use crate::socket;

/// The static key of every server.
const SERVER: [u8; 32] = [1; 32];

/// The static key of every client.
const CLIENT: [u8; 32] = [2; 32];

/// The name that streams are opened with; none.
const PROTOCOL: &str = "";

/// Streams that may be open where thousands of them are.
const MANY_STREAMS: u64 = 5_000;

/// First flights with early data that are remembered.
const FIRST_FLIGHTS: usize = 1 << 10;

pub(super) struct Peermux {
    describe: &'static str,
    provider: &'static dyn Provider,
}

impl Peermux {
    pub(super) fn aes() -> Self {
        Self { describe: "peermux-tokio, AES-256-GCM (ring)", provider: &Ring }
    }

    pub(super) fn chacha() -> Self {
        Self { describe: "peermux-tokio, ChaCha20-Poly1305 (ring)", provider: &ChaChaOnly }
    }

    pub(super) fn aws() -> Self {
        Self { describe: "peermux-tokio, AES-256-GCM (aws-lc-rs)", provider: &AwsLc }
    }

    pub(super) fn rust() -> Self {
        Self { describe: "peermux-tokio, ChaCha20-Poly1305 (RustCrypto)", provider: &RustCrypto }
    }

    fn config(&self, setting: &Setting) -> Config {
        let defaults = Config::default();
        let max_streams = if setting.many_streams { MANY_STREAMS } else { defaults.max_streams };
        Config { provider: self.provider, max_streams, early_data: setting.early, ..defaults }
    }
}

/// ring without its AES.
#[derive(Debug)]
struct ChaChaOnly;

impl Provider for ChaChaOnly {
    fn supports(&self, suite: Suite) -> bool {
        suite == Suite::ChaCha20Poly1305
    }

    fn aead(&self, suite: Suite, key: &[u8; 32]) -> Option<Box<dyn AeadKey>> {
        if self.supports(suite) { Ring.aead(suite, key) } else { None }
    }

    fn kem_generate(&self, seed: &[u8; 64]) -> (Box<[u8; 1184]>, KemSecret) {
        Ring.kem_generate(seed)
    }

    fn kem_check(&self, encapsulation_key: &[u8; 1184]) -> bool {
        Ring.kem_check(encapsulation_key)
    }

    fn kem_encapsulate(&self, encapsulation_key: &[u8; 1184], randomness: &[u8; 32]) -> Option<Encapsulated> {
        Ring.kem_encapsulate(encapsulation_key, randomness)
    }
}

/// The opener's priority holds at both ends.
fn priority(purpose: Use) -> Priority {
    match purpose {
        Use::Urgent => Priority::from_urgency(0),
        Use::Bulk => Priority::from_urgency(5).with_incremental(true),
    }
}

impl Duplex for peermux_tokio::Stream {}

impl Contestant for Peermux {
    fn describe(&self) -> &'static str {
        self.describe
    }

    fn serve(&self, addr: SocketAddr, setting: Setting, handler: Handler) -> Boxed<'_, (SocketAddr, Vec<u8>)> {
        Box::pin(async move {
            let socket = socket::listen(addr)?;
            let addr = socket.local_addr()?;
            let key = StaticSecret::from_bytes(&SERVER);
            let keys = move || ResponderKeys::from(key.clone());
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let now = u64::try_from(now.as_millis()).unwrap_or_default();
            let register = setting.early.then(|| Arc::new(Mutex::new(StrikeRegister::for_new_key(FIRST_FLIGHTS, now))));
            let listener = Listener::with_strike_register(socket, keys, self.config(&setting), register, |_| true)?;
            tokio::spawn(async move {
                while let Ok(connection) = listener.accept().await {
                    let handler = handler.clone();
                    tokio::spawn(async move {
                        while let Ok(stream) = connection.accept_stream().await {
                            handler(Box::new(stream));
                        }
                    });
                }
            });
            Ok((addr, Vec::new()))
        })
    }

    fn client(&self, addr: SocketAddr, setting: &Setting) -> io::Result<Box<dyn Client>> {
        let server = StaticSecret::from_bytes(&SERVER).public_key();
        let identity = StaticSecret::from_bytes(&CLIENT);
        Ok(Box::new(Dialer { addr, config: self.config(setting), server, identity }))
    }
}

struct Dialer {
    addr: SocketAddr,
    config: Config,
    server: PublicKey,
    identity: StaticSecret,
}

impl Dialer {
    async fn dial(&self) -> io::Result<Connecting> {
        let socket = socket::dial(self.addr).await?;
        Connecting::from_socket(socket, self.identity.clone(), ExpectedPeer::Key(self.server), self.config.clone())
    }
}

impl Client for Dialer {
    fn connect(&self) -> Boxed<'_, Box<dyn Connection>> {
        Box::pin(async move {
            let connection = self.dial().await?.handshake(|_| true).await?;
            Ok(Box::new(connection) as Box<dyn Connection>)
        })
    }

    fn early<'a>(&'a self, request: &'a [u8]) -> Option<Boxed<'a, Duration>> {
        Some(Box::pin(async move {
            let begin = Instant::now();
            let dialing = self.dial().await?;
            let mut stream = dialing.open_early(Some(PROTOCOL), priority(Use::Urgent)).map_err(io::Error::other)?;
            stream.write_all(request).await?;
            let mut answer = vec![0; request.len()];
            let answered = async {
                stream.read_exact(&mut answer).await?;
                Ok(begin.elapsed())
            };
            let (connection, elapsed) = tokio::try_join!(dialing.handshake(|_| true), answered)?;
            drop(connection);
            Ok(elapsed)
        }))
    }
}

impl Connection for peermux_tokio::Connection {
    fn open(&self, purpose: Use) -> Boxed<'_, Stream> {
        let stream = self.open_stream(Some(PROTOCOL), priority(purpose));
        Box::pin(async move { Ok(Box::new(stream.map_err(io::Error::other)?) as Stream) })
    }
}
