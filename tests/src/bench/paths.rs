//! Paths through two connections: bulk, requests, many frames, many streams.

use std::time::{Duration, Instant as Clock};

use bytes::{Bytes, BytesMut};
use peermux_core::crypto::AeadKey;
use peermux_core::wire::{Priority, QUANTUM};
use peermux_core::{Config, MAX_INPUT_BUFFER, Role, StreamId, Transmit};

use super::{Cipher, Direct, drain_events};

/// One stream that always has something to send. Records go in batches, so that looking at the clock costs next to nothing.
pub struct Bulk {
    direct: Direct,
    from: StreamId,
    to: StreamId,
    /// What the application writes, and the rest of it that the stream has not yet taken.
    source: Bytes,
    rest: Bytes,
    quanta: usize,
    /// The records of a batch, as they leave and as they arrive.
    sealed: Vec<Box<[u8]>>,
    arrived: Vec<BytesMut>,
    /// Payload that was read.
    read: u64,
}

/// A batch has as many bytes as all its buffers together: they stay in a cache.
const BATCH_QUANTA: usize = 128;

impl Bulk {
    /// A stream that sends records of `config.max_record` quanta.
    pub fn new(config: Config) -> Self {
        Self::with_chunks(config, 64 << 10)
    }

    /// The same, where the application writes chunks of `len` bytes.
    pub fn with_chunks(mut config: Config, len: usize) -> Self {
        let quanta = usize::from(config.max_record_quanta);
        // A batch is sent before the receiver sees any of it.
        config.receive_window = config.receive_window.max(128 << 20);
        config.stream_receive_window = 1 << 20;
        config.stream_send_buffer = 512 << 10;
        let mut direct = Direct::new(config);
        let (from, to) = direct.open(1, Priority::from_urgency(3).with_incremental(true))[0];
        let batch = BATCH_QUANTA / quanta;
        let source = Bytes::from(vec![7; len]);
        let mut bulk = Self {
            direct,
            from,
            to,
            rest: source.clone(),
            source,
            quanta,
            sealed: vec![vec![0; quanta * QUANTUM].into(); batch],
            arrived: vec![BytesMut::new(); batch],
            read: 0,
        };
        // Until it is known how fast the line is, records are short; and windows grow.
        while bulk.direct.now.as_micros() < 100_000 {
            bulk.write();
            bulk.direct.carry(Role::Initiator);
            bulk.receive();
        }
        bulk
    }

    /// Records in a batch.
    pub fn records(&self) -> usize {
        self.sealed.len()
    }

    /// Payload that was received so far.
    pub const fn payload(&self) -> u64 {
        self.read
    }

    /// One batch, from the application to the application; the time that it took, without that for which a transport would answer.
    pub fn batch(&mut self) -> Duration {
        let start = Clock::now();
        self.seal();
        let sealed = start.elapsed();
        self.transport();
        let start = Clock::now();
        self.open();
        sealed + start.elapsed()
    }

    /// The sender's part: writes, and makes the records.
    pub fn seal(&mut self) {
        for index in 0..self.sealed.len() {
            self.write();
            let Self { direct, sealed, quanta, .. } = self;
            let made = direct.initiator.poll_transmit(direct.now, &mut sealed[index]);
            assert_eq!(made, Ok(Transmit::Bytes(*quanta * QUANTUM)));
            drain_events(&mut direct.initiator);
            direct.pass(*quanta * QUANTUM);
        }
    }

    /// What stands for the transport: the bytes move into the receiver's buffers.
    pub fn transport(&mut self) {
        for (sealed, arrived) in self.sealed.iter().zip(&mut self.arrived) {
            if !arrived.try_reclaim(MAX_INPUT_BUFFER) {
                *arrived = BytesMut::with_capacity(MAX_INPUT_BUFFER);
            }
            arrived.extend_from_slice(sealed);
        }
    }

    /// The receiver's part: opens the records, and reads; and the sender's, who learns of the credit.
    pub fn open(&mut self) {
        for index in 0..self.arrived.len() {
            let Direct { responder, now, .. } = &mut self.direct;
            responder.handle_input(*now, &mut self.arrived[index]);
            drain_events(responder);
            self.receive();
        }
    }

    fn write(&mut self) {
        while self.direct.initiator.send_stream(self.from).write_chunk(&mut self.rest).is_ok() {
            if self.rest.is_empty() {
                self.rest = self.source.clone();
            }
        }
    }

    fn receive(&mut self) {
        while let Ok(Some(chunk)) = self.direct.responder.recv_stream(self.to).read_chunk(usize::MAX) {
            self.read += chunk.len() as u64;
        }
        while self.direct.carry(Role::Responder) > 0 {}
    }
}

/// Requests of 100 bytes, and answers of as many.
pub struct Requests {
    direct: Direct,
    /// A stream that is used again and again, as its two ends know it.
    reused: (StreamId, StreamId),
}

const REQUEST: [u8; 100] = [7; 100];

impl Requests {
    /// Two connections with one stream.
    pub fn new(config: Config) -> Self {
        let mut direct = Direct::new(config);
        let reused = direct.open(1, Priority::from_urgency(2))[0];
        let mut requests = Self { direct, reused };
        for _ in 0..100 {
            requests.reused();
            requests.fresh();
        }
        requests
    }

    /// A request and its answer on the stream that is there.
    pub fn reused(&mut self) {
        let (client, server) = self.reused;
        self.ask(client);
        self.direct.carry(Role::Initiator);
        self.answer(server);
        self.direct.carry(Role::Responder);
        self.take(client);
    }

    /// Opens a stream, asks, answers, and closes it: each side says FIN with what it writes.
    pub fn fresh(&mut self) {
        let client =
            self.direct.initiator.open_stream(Some("bench/path"), Priority::from_urgency(2)).expect("it opens");
        self.ask(client);
        self.direct.initiator.send_stream(client).finish().expect("it is open");
        self.direct.carry(Role::Initiator);
        let server = self.direct.responder.accept_stream().expect("it was opened");
        self.answer(server);
        self.direct.responder.send_stream(server).finish().expect("it is open");
        self.direct.responder.release(server);
        self.direct.carry(Role::Responder);
        self.take(client);
        self.direct.initiator.release(client);
    }

    fn ask(&mut self, client: StreamId) {
        assert_eq!(self.direct.initiator.send_stream(client).write(&REQUEST), Ok(REQUEST.len()));
        assert!(self.direct.initiator.recv_stream(client).read(&mut [0]).is_err());
    }

    fn answer(&mut self, server: StreamId) {
        let mut request = [0; 2 * REQUEST.len()];
        assert_eq!(self.direct.responder.recv_stream(server).read(&mut request), Ok(REQUEST.len()));
        assert_eq!(self.direct.responder.send_stream(server).write(&request[..REQUEST.len()]), Ok(REQUEST.len()));
    }

    fn take(&mut self, client: StreamId) {
        let mut answer = [0; 2 * REQUEST.len()];
        assert_eq!(self.direct.initiator.recv_stream(client).read(&mut answer), Ok(REQUEST.len()));
        assert_eq!(answer[..REQUEST.len()], REQUEST);
    }
}

/// Many small STREAM frames in each record.
pub struct Frames {
    direct: Direct,
    streams: Vec<(StreamId, StreamId)>,
}

impl Frames {
    /// As many as fit into a record of one quantum with [`Frames::PAYLOAD`] bytes each.
    pub const COUNT: usize = 64;
    /// Bytes in each frame.
    pub const PAYLOAD: usize = 16;

    /// Streams that have nothing to send yet.
    pub fn new(config: Config) -> Self {
        let mut direct = Direct::new(config);
        let streams = direct.open(Self::COUNT, Priority::from_urgency(3).with_incremental(true));
        let mut frames = Self { direct, streams };
        frames.record();
        frames
    }

    /// Each stream sends a frame: one record carries them all.
    pub fn record(&mut self) {
        for (from, _) in &self.streams {
            assert_eq!(self.direct.initiator.send_stream(*from).write(&[7; Self::PAYLOAD]), Ok(Self::PAYLOAD));
        }
        assert_eq!(self.direct.carry(Role::Initiator), QUANTUM);
        let mut bytes = [0; 2 * Self::PAYLOAD];
        for (_, to) in &self.streams {
            assert_eq!(self.direct.responder.recv_stream(*to).read(&mut bytes), Ok(Self::PAYLOAD));
        }
        while self.direct.carry(Role::Responder) > 0 {}
    }
}

/// Many streams, and one record of one quantum at a time.
pub struct Many {
    direct: Direct,
    streams: Vec<(StreamId, StreamId)>,
    /// What each stream has to send, again and again; none if they are idle.
    source: Option<Bytes>,
    next: usize,
}

impl Many {
    /// Of streams that are idle, this many are used.
    const USED: usize = 3;

    /// `count` streams; each has data if they are `busy`.
    pub fn new(mut config: Config, count: usize, busy: bool) -> Self {
        config.max_record_quanta = 1;
        config.max_streams = config.max_streams.max(count as u64);
        config.receive_window = config.receive_window.max(8192 * config.max_streams);
        config.send_buffer = usize::MAX >> 8;
        let mut direct = Direct::new(config);
        let streams = direct.open(count, Priority::from_urgency(3).with_incremental(true));
        let source = busy.then(|| Bytes::from(vec![7; 8 << 10]));
        if let Some(source) = &source {
            for (from, _) in &streams {
                let written = direct.initiator.send_stream(*from).write_chunk(&mut source.clone());
                assert_eq!(written, Ok(source.len()));
            }
        }
        let mut many = Self { direct, streams, source, next: 0 };
        for _ in 0..10 {
            many.record();
        }
        many
    }

    /// The next stream that has something to send, or is given something, sends one record. What was sent is read, and written anew.
    pub fn record(&mut self) {
        let index = match self.source {
            Some(_) => self.next,
            // They lie apart from each other.
            None => self.next % Self::USED * (self.streams.len() / Self::USED),
        };
        let (from, to) = self.streams[index];
        self.next = (self.next + 1) % self.streams.len();
        if self.source.is_none() {
            assert_eq!(self.direct.initiator.send_stream(from).write(&REQUEST), Ok(REQUEST.len()));
        }
        assert_eq!(self.direct.carry(Role::Initiator), QUANTUM);
        let mut bytes = [0; QUANTUM];
        let read = self.direct.responder.recv_stream(to).read(&mut bytes).expect("it was this stream's turn");
        if let Some(source) = &self.source {
            let written = self.direct.initiator.send_stream(from).write_chunk(&mut source.slice(..read));
            assert_eq!(written, Ok(read));
        }
        while self.direct.carry(Role::Responder) > 0 {}
    }
}

/// Seals and opens one buffer of the size of a record, and nothing else: what an AEAD costs by itself.
pub struct Bare {
    key: Box<dyn AeadKey>,
    /// As many as a batch of [`Bulk`] has, so that as much of the cache is used.
    buffers: Vec<Box<[u8]>>,
    nonce: u64,
}

impl Bare {
    /// Buffers of `quanta`.
    pub fn new(cipher: Cipher, quanta: u8) -> Self {
        let quanta = usize::from(quanta);
        let buffers = vec![vec![7; quanta * QUANTUM].into(); BATCH_QUANTA / quanta];
        Self { key: cipher.key(), buffers, nonce: 0 }
    }

    /// Buffers in a batch.
    pub fn records(&self) -> usize {
        self.buffers.len()
    }

    /// Seals all buffers, and opens them; the time that it took.
    pub fn batch(&mut self) -> Duration {
        let start = Clock::now();
        for (buffer, nonce) in self.buffers.iter_mut().zip(self.nonce..) {
            self.key.seal(nonce, &[], buffer).expect("it can be sealed");
        }
        for (buffer, nonce) in self.buffers.iter_mut().zip(self.nonce..) {
            self.key.open(nonce, &[], buffer).expect("it is authentic");
        }
        self.nonce += self.buffers.len() as u64;
        start.elapsed()
    }
}
