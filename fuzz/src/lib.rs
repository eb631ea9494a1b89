//! What the fuzz targets share: cryptography that hides nothing, so that a fuzzer can say what it wants, and an application that does
//! something with whatever comes.

#![forbid(unsafe_code)]

use std::sync::Arc;

use peermux_core::code::{ErrorCode, ProtocolErrorCode};
use peermux_core::crypto::{
    AeadKey, AuthError, Encapsulated, KemKey, KemSecret, Provider, Rng, SealError, StaticSecret, Suite, TAG_LEN,
};
use peermux_core::time::Instant;
use peermux_core::wire::Priority;
use peermux_core::{Config, Connection, Event, ExpectedPeer, Identity, Role, StreamId, Transmit};
use zeroize::Zeroizing;

/// Every ciphertext is its plaintext, and this.
pub const TAG: [u8; TAG_LEN] = *b"peermux fuzz tag";

/// Cryptography that hides nothing and takes everything that ends with [`TAG`].
#[derive(Clone, Copy, Debug)]
pub struct Fake;

impl Provider for Fake {
    fn supports(&self, suite: Suite) -> bool {
        suite == Suite::ChaCha20Poly1305
    }

    fn aead(&self, suite: Suite, _key: &[u8; 32]) -> Option<Box<dyn AeadKey>> {
        self.supports(suite).then(|| Box::new(Self) as Box<dyn AeadKey>)
    }

    fn kem_generate(&self, _seed: &[u8; 64]) -> (Box<[u8; 1184]>, KemSecret) {
        (Box::new([0; 1184]), Box::new(Self))
    }

    fn kem_check(&self, encapsulation_key: &[u8; 1184]) -> bool {
        encapsulation_key[0] != 0xff
    }

    fn kem_encapsulate(&self, encapsulation_key: &[u8; 1184], _randomness: &[u8; 32]) -> Option<Encapsulated> {
        self.kem_check(encapsulation_key).then(|| (Box::new([0; 1088]), Zeroizing::new([0; 32])))
    }
}

impl KemKey for Fake {
    fn decapsulate(&self, _ciphertext: &[u8; 1088]) -> Zeroizing<[u8; 32]> {
        Zeroizing::new([0; 32])
    }
}

impl AeadKey for Fake {
    fn seal(&self, _nonce: u64, _aad: &[u8], buf: &mut [u8]) -> Result<(), SealError> {
        *buf.last_chunk_mut().ok_or(SealError)? = TAG;
        Ok(())
    }

    fn open(&self, _nonce: u64, _aad: &[u8], buf: &mut [u8]) -> Result<(), AuthError> {
        if buf.last_chunk() == Some(&TAG) { Ok(()) } else { Err(AuthError) }
    }
}

/// Takes bytes from the front of the fuzzer's input; zeros when there are no more.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub fn short(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    /// At most `len` bytes.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

pub fn responder_key() -> StaticSecret {
    StaticSecret::from_bytes(&[2; 32])
}

/// A small configuration, some of whose fields the fuzzer picks.
pub fn config(pick: u8) -> Config {
    let small = pick & 1 == 0;
    Config {
        max_record_quanta: if pick & 2 == 0 { 1 } else { 16 },
        receive_window: if small { 64 << 10 } else { 1 << 20 },
        stream_receive_window: if small { 2048 } else { 1 << 16 },
        max_streams: if small { 16 } else { 200 },
        send_buffer: if small { 4096 } else { 1 << 16 },
        stream_send_buffer: if small { 2048 } else { 1 << 14 },
        approve_peers: pick & 4 != 0,
        allow_fallback: pick & 8 == 0,
        provider: &Fake,
        ..Config::default()
    }
}

/// A connection that has neither sent nor received anything.
pub fn fresh(role: Role, remote: ExpectedPeer, config: Config) -> Connection {
    let (config, rng) = (Arc::new(config), &mut Rng::from_seed(&[7; 32]));
    match role {
        Role::Initiator => {
            let identity = Identity::Static(StaticSecret::from_bytes(&[1; 32]));
            Connection::initiator(config, identity, remote, Instant::ZERO, rng)
        }
        Role::Responder => Connection::responder(config, responder_key().into(), Instant::ZERO, rng),
    }
    .expect("a valid configuration")
}

/// Moves what `from` wants to send to `to`, until it has nothing more to say.
pub fn carry(from: &mut Connection, to: &mut Connection, now: Instant) {
    let mut buffer = vec![0; 16 * 1408];
    while let Ok(Transmit::Bytes(len)) = from.poll_transmit(now, &mut buffer) {
        to.handle_slice(now, &mut buffer[..len]);
    }
}

/// A connection after the handshake, whose peer the fuzzer is.
pub fn established(role: Role, remote: ExpectedPeer, config: Config) -> Connection {
    let config = Config { allow_fallback: true, ..config };
    let (mut initiator, mut responder) = match role {
        Role::Initiator => (fresh(Role::Initiator, remote, config), fresh(Role::Responder, remote, self::config(3))),
        Role::Responder => (fresh(Role::Initiator, remote, self::config(3)), fresh(Role::Responder, remote, config)),
    };
    for _ in 0..3 {
        carry(&mut initiator, &mut responder, Instant::ZERO);
        initiator.accept_peer();
        carry(&mut responder, &mut initiator, Instant::ZERO);
        responder.accept_peer();
    }
    let connection = if role == Role::Initiator { initiator } else { responder };
    assert!(connection.is_established(), "{:?}", connection.close_reason());
    connection
}

/// An application that does something with whatever comes, and checks that nothing goes on for ever.
#[derive(Default)]
pub struct Application {
    streams: Vec<StreamId>,
    buffer: Vec<u8>,
}

impl Application {
    /// Does what the fuzzer picks, and then takes all outputs.
    pub fn act(&mut self, connection: &mut Connection, now: Instant, input: &mut Input<'_>) {
        let pick = input.byte();
        match pick & 0x0f {
            0 => self.streams.extend(
                connection
                    .open_stream(
                        Some("fuzz/protocol"),
                        Priority::from_urgency(pick >> 4).with_incremental(pick & 0x80 != 0),
                    )
                    .ok(),
            ),
            1 => {
                if let Some(id) = self.streams.pop() {
                    connection.release(id);
                }
            }
            2 => connection.handle_timeout(now),
            3 => connection.accept_peer(),
            4 => connection.refuse_peer(ErrorCode::Application(1), "refused"),
            5 if pick & 0x80 != 0 => connection.close(ErrorCode::Application(2), "done"),
            6 if pick & 0x80 != 0 => connection.drain(ProtocolErrorCode::GOING_AWAY),
            7 if pick & 0x80 != 0 => connection.handle_eof(now),
            8 => self.streams.truncate(64),
            _ => self.act_on_stream(connection, pick >> 4, input.byte()),
        }
        self.outputs(connection, now, pick & 0x10 != 0);
    }

    fn act_on_stream(&mut self, connection: &mut Connection, pick: u8, which: u8) {
        let Some(&id) = self.streams.get(usize::from(which) % self.streams.len().max(1)) else { return };
        let mut out = [0; 700];
        match pick {
            0..=3 => _ = connection.recv_stream(id).read(&mut out),
            4 | 5 => _ = connection.recv_stream(id).read_chunk(3000),
            6..=8 => _ = connection.send_stream(id).write(&out),
            9 => _ = connection.send_stream(id).finish(),
            10 => connection.send_stream(id).reset(ErrorCode::Application(3)),
            11 => connection.recv_stream(id).stop(ErrorCode::CANCELLED),
            12 => connection.recv_stream(id).request_priority(Priority::from_urgency(which).with_incremental(true)),
            13 => connection.send_stream(id).set_priority(Priority::from_urgency(which)),
            14 => connection.refuse(id, ErrorCode::UNKNOWN_PROTOCOL),
            _ => connection.release(id),
        }
    }

    /// Takes events, streams and bytes; the latter only if the transport is writable.
    pub fn outputs(&mut self, connection: &mut Connection, now: Instant, writable: bool) {
        let mut told = 0;
        while let Some(event) = connection.poll_event() {
            told += 1;
            assert!(told < 100_000, "events without end: {event:?}");
            if let Event::StreamOpened = event {
                while let Some(id) = connection.accept_stream() {
                    self.streams.push(id);
                }
            }
        }
        while connection.poll_waker().is_some() {}
        if !writable {
            return;
        }
        self.buffer.resize(16 * 1408, 0);
        for _ in 0..10_000 {
            let needed = connection.next_transmit_len();
            match connection.poll_transmit(now, &mut self.buffer).expect("the largest record fits") {
                Transmit::Bytes(len) => {
                    assert!(
                        len > 0 && len % 1408 == 0 && len == needed,
                        "a write of {len} bytes after {needed} were announced"
                    );
                }
                Transmit::Idle | Transmit::Finished => return,
            }
        }
        panic!("records without end");
    }

    /// Whatever happened: once nobody says anything any more, it ends.
    pub fn end(mut self, connection: &mut Connection, mut now: Instant) {
        connection.handle_eof(now);
        self.outputs(connection, now, true);
        for _ in 0..100 {
            match connection.poll_timeout() {
                Some(at) => now = now.max(at),
                None => break,
            }
            connection.handle_timeout(now);
            self.outputs(connection, now, true);
        }
        assert!(connection.is_closed(), "it never ends: {:?}", connection.close_reason());
        for &id in &self.streams {
            let mut out = [0; 64];
            let _ = connection.recv_stream(id).read(&mut out);
            let _ = connection.send_stream(id).write(&out);
            connection.release(id);
        }
    }
}
