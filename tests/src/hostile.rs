//! A peer that holds valid keys and can say anything.
//!
//! It is not a `Connection`: it is a second implementation of the handshake and of records, written from `docs/spec.md` on nothing but the crypto floor,
//! and it checks nothing of what it sends. Every payload, header byte, size and frame is the caller's.

use std::sync::Arc;

use bytes::BytesMut;
use peermux_core::code::Code;
use peermux_core::crypto::{
    KemSecret, Provider, PublicKey, StaticSecret, Suite, SymmetricState, blake2b_256, default_provider, rekey,
    traffic_secret,
};
use peermux_core::error::ConnectionError;
use peermux_core::time::Instant;
use peermux_core::wire::{
    Close, Drain, Frame, Frames, MaxData, MaxStreamData, MaxStreams, Name, Open, Ping, Pong, Priority, PriorityUpdate,
    Reset, Stop, StreamData,
};
use peermux_core::{Config, Connection, Event, Identity, Mode, Remote, Role, Transmit, varint};
use rand_core::Rng as _;

use crate::{initiator_key, responder_key, rng};

/// The quantum, in bytes.
pub const Q: usize = 1408;
/// Bytes of P1.
pub const P1: usize = 1536;
/// Bytes of P2 in IK.
pub const P2_IK: usize = 256;
/// Bytes of P2 in fallback.
pub const P2_FALLBACK: usize = 208;
/// Bytes of P3.
pub const P3: usize = 1344;
/// Bytes of the frame area of P1, P3 and flight 3 of IK.
pub const AREA: usize = 1136;

const IK: &[u8] = b"Noise_IKchfs_25519+MLKEM768_ChaChaPoly_BLAKE2b";
const FALLBACK: &[u8] = b"Noise_XXfallback+chfs_25519+MLKEM768_ChaChaPoly_BLAKE2b";
const PROLOGUE: &[u8] = b"peermux/1";

fn provider() -> &'static dyn Provider {
    default_provider()
}

/// X25519, and zeros where the result is zeros: a hostile peer does not mind.
fn dh(secret: &StaticSecret, public: &[u8]) -> [u8; 32] {
    let public = PublicKey::from_bytes(public.try_into().expect("32 bytes"));
    secret.diffie_hellman(&public).map_or([0; 32], |shared| *shared.as_bytes())
}

fn secret(seed: u64, which: u64) -> StaticSecret {
    StaticSecret::generate_from(&mut rng(seed ^ which << 32)).expect("it does not fail")
}

fn begin_ik(responder: &PublicKey, e: &[u8], e1: &[u8]) -> SymmetricState {
    let mut state = SymmetricState::initialize(provider(), IK);
    for part in [PROLOGUE, responder.as_bytes(), e, e1] {
        state.mix_hash(part);
    }
    state
}

fn begin_fallback(m1: &[u8], e: &[u8], e1: &[u8]) -> SymmetricState {
    let mut state = SymmetricState::initialize(provider(), FALLBACK);
    state.mix_hash(&[PROLOGUE, &blake2b_256(m1)].concat());
    state.mix_hash(e);
    state.mix_hash(e1);
    state
}

fn encrypt(state: &mut SymmetricState, plaintext: &[u8]) -> Vec<u8> {
    let mut buffer = [plaintext, &[0; 16]].concat();
    state.encrypt_and_hash(&mut buffer).expect("there is a key");
    buffer
}

fn decrypt(state: &mut SymmetricState, ciphertext: &[u8]) -> Option<Vec<u8>> {
    let mut buffer = ciphertext.to_vec();
    state.decrypt_and_hash(&mut buffer).ok()?;
    buffer.truncate(ciphertext.len() - 16);
    Some(buffer)
}

/// What a flight of the other side said.
#[derive(Clone, Debug)]
pub struct Read {
    /// The mode that it was read under.
    pub mode: Mode,
    /// The static key that it proved or claimed; in M1 of fallback there is none.
    pub key: Option<PublicKey>,
    /// The payload; in M1 of fallback it is empty.
    pub payload: Vec<u8>,
}

/// The hostile peer as an initiator.
pub struct Dialer {
    /// Its static key.
    pub secret: StaticSecret,
    /// Its ephemeral key.
    pub ephemeral: StaticSecret,
    /// What it sends as `e`: that of [`Dialer::ephemeral`], unless a test changes it.
    pub e: [u8; 32],
    /// What it sends as `e1`.
    pub e1: Vec<u8>,
    kem: KemSecret,
    seed: u64,
    remote: Option<PublicKey>,
    m1: Vec<u8>,
    ik: Option<SymmetricState>,
    state: Option<SymmetricState>,
    e_r: [u8; 32],
}

impl Dialer {
    /// One that knows `remote`, or nobody.
    pub fn new(seed: u64, remote: Option<PublicKey>) -> Self {
        let ephemeral = secret(seed, 1);
        let mut kem_seed = [0; 64];
        rng(seed ^ 2 << 32).fill_bytes(&mut kem_seed);
        let (e1, kem) = provider().kem_generate(&kem_seed);
        Self {
            secret: initiator_key(),
            e: *ephemeral.public_key().as_bytes(),
            ephemeral,
            e1: e1.to_vec(),
            kem,
            seed,
            remote,
            m1: Vec::new(),
            ik: None,
            state: None,
            e_r: [0; 32],
        }
    }

    /// M1, with the payload `p1` in IK.
    pub fn m1(&mut self, p1: &[u8]) -> Vec<u8> {
        let claimed = *self.secret.public_key().as_bytes();
        self.m1_as(&claimed, p1)
    }

    /// M1 that claims the static key `claimed`. Where that is a point of low order, so is what it agrees on.
    pub fn m1_as(&mut self, claimed: &[u8; 32], p1: &[u8]) -> Vec<u8> {
        let mut m1 = [&self.e[..], &self.e1].concat();
        match self.remote {
            Some(remote) => {
                let mut state = begin_ik(&remote, &self.e, &self.e1);
                state.mix_key(&dh(&self.ephemeral, remote.as_bytes()));
                m1.extend(encrypt(&mut state, claimed));
                let is_own = claimed == self.secret.public_key().as_bytes();
                state.mix_key(&if is_own { dh(&self.secret, remote.as_bytes()) } else { [0; 32] });
                m1.extend(encrypt(&mut state, p1));
                self.ik = Some(state);
            }
            None => {
                let mut filler = [0; 1600];
                rng(self.seed ^ 3 << 32).fill_bytes(&mut filler);
                m1.extend(filler);
            }
        }
        assert_eq!(m1.len(), 2 * Q);
        self.m1.clone_from(&m1);
        m1
    }

    /// Reads M2 under IK, and then under fallback.
    pub fn m2(&mut self, m2: &[u8]) -> Option<Read> {
        assert_eq!(m2.len(), Q);
        self.e_r.copy_from_slice(&m2[..32]);
        let ee = dh(&self.ephemeral, &self.e_r);
        let kem = &self.kem;
        let answer = |state: &mut SymmetricState| {
            state.mix_hash(&m2[..32]);
            state.mix_key(&ee);
            let ct: [u8; 1088] = decrypt(state, &m2[32..1136])?.try_into().ok()?;
            state.mix_key(&kem.decapsulate(&ct)[..]);
            Some(())
        };
        if let Some(mut state) = self.ik.take()
            && answer(&mut state).is_some()
        {
            state.mix_key(&dh(&self.secret, &self.e_r));
            if let Some(payload) = decrypt(&mut state, &m2[1136..]) {
                self.state = Some(state);
                return Some(Read { mode: Mode::Ik, key: self.remote, payload });
            }
        }
        let mut state = begin_fallback(&self.m1, &self.e, &self.e1);
        answer(&mut state)?;
        let s_r = decrypt(&mut state, &m2[1136..1184])?;
        state.mix_key(&dh(&self.ephemeral, &s_r));
        let payload = decrypt(&mut state, &m2[1184..])?;
        self.state = Some(state);
        let key = PublicKey::from_bytes(s_r.try_into().expect("32 bytes"));
        Some(Read { mode: Mode::Fallback, key: Some(key), payload })
    }

    /// Flight 3 of fallback, which shows `shown` and proves [`Dialer::secret`].
    pub fn flight3_as(&mut self, shown: &[u8; 32], p3: &[u8]) -> Vec<u8> {
        let state = self.state.as_mut().expect("M2 was read");
        let mut flight = encrypt(state, shown);
        state.mix_key(&dh(&self.secret, &self.e_r));
        flight.extend(encrypt(state, p3));
        assert_eq!(flight.len(), Q);
        flight
    }

    /// Flight 3 of fallback.
    pub fn flight3(&mut self, p3: &[u8]) -> Vec<u8> {
        let shown = *self.secret.public_key().as_bytes();
        self.flight3_as(&shown, p3)
    }

    /// The records that follow. `first` is the size of i2r record 0.
    pub fn wire(&self, suite: Suite, first: u8) -> Wire {
        Wire::new(Role::Initiator, self.state.as_ref().expect("the handshake is over"), suite, first, 1)
    }
}

/// The hostile peer as a responder.
pub struct Listener {
    /// Its static key.
    pub secret: StaticSecret,
    /// Its ephemeral key.
    pub ephemeral: StaticSecret,
    /// What it sends as `e`.
    pub e: [u8; 32],
    seed: u64,
    m1: Vec<u8>,
    mode: Mode,
    s_i: [u8; 32],
    state: Option<SymmetricState>,
}

impl Listener {
    /// One that holds `secret`.
    pub fn new(seed: u64, static_key: StaticSecret) -> Self {
        let ephemeral = secret(seed, 4);
        Self {
            secret: static_key,
            e: *ephemeral.public_key().as_bytes(),
            ephemeral,
            seed,
            m1: Vec::new(),
            mode: Mode::Fallback,
            s_i: [0; 32],
            state: None,
        }
    }

    /// Reads M1 under IK; if that fails, it is fallback.
    pub fn m1(&mut self, m1: &[u8]) -> Read {
        assert_eq!(m1.len(), 2 * Q);
        self.m1 = m1.to_vec();
        let (e, e1) = (&m1[..32], &m1[32..1216]);
        let mut state = begin_ik(&self.secret.public_key(), e, e1);
        state.mix_key(&dh(&self.secret, e));
        if let Some(s_i) = decrypt(&mut state, &m1[1216..1264]) {
            state.mix_key(&dh(&self.secret, &s_i));
            if let Some(payload) = decrypt(&mut state, &m1[1264..]) {
                self.s_i.copy_from_slice(&s_i);
                self.mode = Mode::Ik;
                self.state = Some(state);
                return Read { mode: Mode::Ik, key: Some(PublicKey::from_bytes(self.s_i)), payload };
            }
        }
        self.fall_back();
        Read { mode: Mode::Fallback, key: None, payload: Vec::new() }
    }

    /// Goes on in fallback, whatever M1 was.
    pub fn fall_back(&mut self) {
        self.mode = Mode::Fallback;
        self.state = Some(begin_fallback(&self.m1, &self.m1[..32], &self.m1[32..1216]));
    }

    /// M2, with the payload `p2`.
    pub fn m2(&mut self, p2: &[u8]) -> Vec<u8> {
        let shown = *self.secret.public_key().as_bytes();
        self.m2_as(&shown, p2)
    }

    /// M2 that shows the static key `shown`, where that is fallback. Where it is a point of low order, so is what it agrees on.
    pub fn m2_as(&mut self, shown: &[u8; 32], p2: &[u8]) -> Vec<u8> {
        let state = self.state.as_mut().expect("M1 was read");
        let mut randomness = [0; 32];
        rng(self.seed ^ 5 << 32).fill_bytes(&mut randomness);
        let e1 = self.m1[32..1216].try_into().expect("1184 bytes");
        let (ct, shared) = provider().kem_encapsulate(e1, &randomness).expect("it is valid");
        let mut m2 = self.e.to_vec();
        state.mix_hash(&self.e);
        state.mix_key(&dh(&self.ephemeral, &self.m1[..32]));
        m2.extend(encrypt(state, &ct[..]));
        state.mix_key(&shared[..]);
        match self.mode {
            Mode::Ik => state.mix_key(&dh(&self.ephemeral, &self.s_i)),
            Mode::Fallback => {
                m2.extend(encrypt(state, shown));
                let is_own = shown == self.secret.public_key().as_bytes();
                state.mix_key(&if is_own { dh(&self.secret, &self.m1[..32]) } else { [0; 32] });
            }
        }
        m2.extend(encrypt(state, p2));
        assert_eq!(m2.len(), Q);
        m2
    }

    /// Reads flight 3 of fallback.
    pub fn flight3(&mut self, flight3: &[u8]) -> Option<Read> {
        let state = self.state.as_mut().expect("M2 was written");
        let s_i = decrypt(state, &flight3[..48])?;
        state.mix_key(&dh(&self.ephemeral, &s_i));
        let payload = decrypt(state, &flight3[48..])?;
        let key = PublicKey::from_bytes(s_i.try_into().expect("32 bytes"));
        Some(Read { mode: Mode::Fallback, key: Some(key), payload })
    }

    /// The records that follow. `first` is the size of i2r record 0, as P3 announced it.
    pub fn wire(&self, suite: Suite, first: u8) -> Wire {
        Wire::new(Role::Responder, self.state.as_ref().expect("the handshake is over"), suite, 1, first)
    }
}

/// One direction of records.
struct Direction {
    suite: Suite,
    key: [u8; 32],
    n: u64,
    /// Records under this key.
    under_key: u64,
    quanta: usize,
}

impl Direction {
    fn after(&mut self, header: u8) {
        self.n += 1;
        self.under_key += 1;
        self.quanta = usize::from(header & 0x0f) + 1;
        if header & 0x10 != 0 {
            self.key = *rekey(provider(), self.suite, &self.key).expect("the suite is supported");
            self.under_key = 0;
        }
    }
}

/// A record that was opened.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Its header byte.
    pub header: u8,
    /// Its frame area.
    pub area: Vec<u8>,
}

impl Heard {
    /// Its frames, but for those that are to be skipped.
    pub fn frames(&self) -> Vec<Frame<'_>> {
        Frames::new(&self.area)
            .map(|frame| frame.expect("the frames are well formed"))
            .filter(|frame| !matches!(frame, Frame::Skipped(_)))
            .collect()
    }
}

/// All frames of some records, in order.
pub fn frames(heard: &[Heard]) -> Vec<Frame<'_>> {
    heard.iter().flat_map(Heard::frames).collect()
}

/// Records, both ways, under valid keys.
pub struct Wire {
    out: Direction,
    back: Direction,
    /// The channel binding.
    pub binding: [u8; 64],
}

impl Wire {
    fn new(role: Role, state: &SymmetricState, suite: Suite, sends: u8, receives: u8) -> Self {
        let key = |label: &[u8]| *traffic_secret(state.chaining_key(), label, suite, state.handshake_hash());
        let (i2r, r2i) = (key(b"peermux/1 i2r"), key(b"peermux/1 r2i"));
        let (ours, theirs) = if role == Role::Initiator { (i2r, r2i) } else { (r2i, i2r) };
        let direction = |key, quanta| Direction { suite, key, n: 0, under_key: 0, quanta: usize::from(quanta) };
        Self { out: direction(ours, sends), back: direction(theirs, receives), binding: *state.handshake_hash() }
    }

    /// The size that the next record should have, in quanta.
    pub fn quanta(&self) -> usize {
        self.out.quanta
    }

    /// Seals `plaintext` as it is, as the record that is next. `header` is what is taken for its header byte from there on.
    pub fn seal_raw(&mut self, header: u8, plaintext: &[u8]) -> Vec<u8> {
        let mut record = [plaintext, &[0; 16]].concat();
        let aead = provider().aead(self.out.suite, &self.out.key).expect("the suite is supported");
        aead.seal(self.out.n, &[], &mut record).expect("it has room");
        self.out.after(header);
        record
    }

    /// Seals a record of the announced size with this header and these frames, and zeros after them.
    pub fn seal(&mut self, header: u8, frames: &[u8]) -> Vec<u8> {
        let mut plaintext = vec![header];
        plaintext.extend(frames);
        let len = self.out.quanta * Q - 16;
        assert!(plaintext.len() <= len, "{} bytes do not fit", frames.len());
        plaintext.resize(len, 0);
        self.seal_raw(header, &plaintext)
    }

    /// Opens what the other side wrote.
    pub fn open(&mut self, mut bytes: &[u8]) -> Vec<Heard> {
        let mut heard = Vec::new();
        while !bytes.is_empty() {
            let (record, rest) = bytes.split_at(self.back.quanta * Q);
            bytes = rest;
            let mut record = record.to_vec();
            let aead = provider().aead(self.back.suite, &self.back.key).expect("the suite is supported");
            aead.open(self.back.n, &[], &mut record).expect("it is authentic");
            record.truncate(record.len() - 16);
            self.back.after(record[0]);
            heard.push(Heard { header: record[0], area: record.split_off(1) });
        }
        heard
    }
}

/// A varint.
pub fn number(value: u64) -> Vec<u8> {
    let mut buffer = [0; 8];
    let len = varint::encode(value, &mut buffer).expect("it has an encoding");
    buffer[..len].to_vec()
}

/// One TLV.
pub fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut tlv = vec![kind, u8::try_from(value.len()).expect("it is short")];
    tlv.extend(value);
    tlv
}

/// The value of the TLV SETTINGS.
pub fn settings(values: &[(u64, u64)]) -> Vec<u8> {
    values.iter().flat_map(|&(id, value)| [number(id), number(value)].concat()).collect()
}

/// The TLVs of a peer that takes version 1 and ChaCha20-Poly1305.
pub fn usual(values: &[(u64, u64)]) -> Vec<u8> {
    [tlv(1, &[1]), tlv(2, &[1]), tlv(5, &settings(values))].concat()
}

/// A payload of `size` bytes; P3 has a header.
pub fn payload(size: usize, header: Option<u8>, tlvs: &[u8], area: &[u8]) -> Vec<u8> {
    let mut payload: Vec<u8> = header.into_iter().collect();
    payload.extend(u16::try_from(tlvs.len()).expect("they are few").to_be_bytes());
    payload.extend(tlvs);
    payload.extend(area);
    assert!(payload.len() <= size);
    payload.resize(size, 0);
    payload
}

/// Frames, one after the other.
pub fn encode(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in frames {
        let mut buffer = vec![0; 32 * 1024];
        let len = frame.encode(&mut buffer).expect("there is room");
        out.extend(&buffer[..len]);
    }
    out
}

/// The credit that OPEN and MAX_STREAMS give where a test does not say otherwise.
pub const OPEN_WINDOW: u64 = 64 << 10;

/// OPEN without a name, at the priority that nobody asked for.
pub fn open(stream: u64) -> Vec<u8> {
    encode(&[Frame::Open(Open { stream, priority: Priority::default(), window: OPEN_WINDOW, name: Name::None })])
}

/// STREAM.
pub fn data(stream: u64, payload: &[u8]) -> Vec<u8> {
    encode(&[Frame::Stream(StreamData { stream, fin: false, payload })])
}

/// STREAM with FIN.
pub fn fin(stream: u64, payload: &[u8]) -> Vec<u8> {
    encode(&[Frame::Stream(StreamData { stream, fin: true, payload })])
}

/// RESET.
pub fn reset(stream: u64, code: u64) -> Vec<u8> {
    encode(&[Frame::Reset(Reset { stream, code: Code::Application(code) })])
}

/// STOP.
pub fn stop(stream: u64, code: u64) -> Vec<u8> {
    encode(&[Frame::Stop(Stop { stream, code: Code::Application(code) })])
}

/// MAX_DATA.
pub fn max_data(maximum: u64) -> Vec<u8> {
    encode(&[Frame::MaxData(MaxData(maximum))])
}

/// MAX_STREAM_DATA.
pub fn max_stream_data(stream: u64, maximum: u64) -> Vec<u8> {
    encode(&[Frame::MaxStreamData(MaxStreamData { stream, maximum })])
}

/// MAX_STREAMS.
pub fn max_streams(maximum: u64) -> Vec<u8> {
    encode(&[Frame::MaxStreams(MaxStreams { maximum, window: OPEN_WINDOW })])
}

/// PRIORITY.
pub fn priority(stream: u64, urgency: u8, incremental: bool) -> Vec<u8> {
    encode(&[Frame::Priority(PriorityUpdate { stream, priority: Priority::new(urgency, incremental) })])
}

/// PING.
pub fn ping(data: u64) -> Vec<u8> {
    encode(&[Frame::Ping(Ping(data.to_be_bytes()))])
}

/// PONG.
pub fn pong(data: u64) -> Vec<u8> {
    encode(&[Frame::Pong(Pong(data.to_be_bytes()))])
}

/// DRAIN.
pub fn drain(code: u64) -> Vec<u8> {
    encode(&[Frame::Drain(Drain(peermux_core::code::ProtocolCode(code)))])
}

/// CLOSE.
pub fn close(code: Code, reason: &str) -> Vec<u8> {
    encode(&[Frame::Close(Close { code, reason })])
}

/// How a duel begins.
#[expect(missing_docs, reason = "each field is a parameter of one of the two")]
pub struct DuelBuilder {
    /// The role of the connection.
    pub role: Role,
    pub mode: Mode,
    pub config: Config,
    /// The settings of the hostile peer.
    pub settings: Vec<(u64, u64)>,
    /// What the hostile initiator says in flight 3.
    pub flight3: Vec<u8>,
    pub seed: u64,
}

impl Default for DuelBuilder {
    fn default() -> Self {
        Self {
            role: Role::Responder,
            mode: Mode::Ik,
            config: Config::default(),
            settings: vec![(1, 16), (2, 1 << 30), (3, 1 << 20), (4, 1 << 20)],
            flight3: Vec::new(),
            seed: 7,
        }
    }
}

impl DuelBuilder {
    /// The connection, and the hostile peer after a handshake that is in order.
    pub fn build(self) -> Duel {
        let now = Instant::ZERO;
        let (config, tlvs) = (Arc::new(self.config), usual(&self.settings));
        match self.role {
            Role::Responder => {
                let conn =
                    Connection::responder(config, responder_key().into(), now, &mut rng(self.seed)).expect("valid");
                let remote = (self.mode == Mode::Ik).then(|| responder_key().public_key());
                let mut dialer = Dialer::new(self.seed, remote);
                let mut talk = Talk::new(conn);
                talk.feed(now, &dialer.m1(&payload(P1, None, &tlvs, &[])));
                let read = dialer.m2(&talk.take(now)).expect("M2 is in order");
                assert_eq!(read.mode, self.mode);
                let wire = match self.mode {
                    Mode::Ik => {
                        let mut wire = dialer.wire(Suite::ChaCha20Poly1305, 1);
                        let record = wire.seal(0, &self.flight3);
                        talk.feed(now, &record);
                        wire
                    }
                    Mode::Fallback => {
                        let flight3 = dialer.flight3(&payload(P3, Some(0), &tlvs, &self.flight3));
                        talk.feed(now, &flight3);
                        dialer.wire(Suite::ChaCha20Poly1305, 1)
                    }
                };
                Duel { talk, wire, now }
            }
            Role::Initiator => {
                let remote = match self.mode {
                    Mode::Ik => Remote::Key(responder_key().public_key()),
                    Mode::Fallback => Remote::Anyone,
                };
                let conn =
                    Connection::initiator(config, Identity::Known(initiator_key()), remote, now, &mut rng(self.seed))
                        .expect("valid");
                let mut talk = Talk::new(conn);
                let mut listener = Listener::new(self.seed, responder_key());
                assert_eq!(listener.m1(&talk.take(now)).mode, self.mode);
                let size = if self.mode == Mode::Ik { P2_IK } else { P2_FALLBACK };
                let m2 = listener.m2(&payload(size, None, &tlvs, &[]));
                talk.feed(now, &m2);
                let mut wire = match self.mode {
                    Mode::Ik => listener.wire(Suite::ChaCha20Poly1305, 1),
                    Mode::Fallback => {
                        let mut buffer = [0; Q];
                        let sent = talk.conn.poll_transmit(now, &mut buffer);
                        assert_eq!(sent, Ok(Transmit::Bytes(Q)));
                        let read = listener.flight3(&buffer).expect("flight 3 is in order");
                        listener.wire(Suite::ChaCha20Poly1305, (read.payload[0] & 0x0f) + 1)
                    }
                };
                wire.open(&talk.take(now));
                Duel { talk, wire, now }
            }
        }
    }
}

/// A connection, and what goes in and out.
pub struct Talk {
    /// The connection.
    pub conn: Connection,
    /// What it told.
    pub events: Vec<Event>,
    /// Bytes that it wrote.
    pub written: usize,
    /// It said that it will never write again.
    pub finished: bool,
    input: BytesMut,
}

impl Talk {
    /// A connection that has been told nothing.
    pub fn new(conn: Connection) -> Self {
        Self { conn, events: Vec::new(), written: 0, finished: false, input: BytesMut::new() }
    }

    /// Bytes arrive.
    pub fn feed(&mut self, now: Instant, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.conn.handle_input(now, &mut self.input);
        self.events.extend(std::iter::from_fn(|| self.conn.poll_event()));
    }

    /// All that the connection wants to write.
    pub fn take(&mut self, now: Instant) -> Vec<u8> {
        let mut out = Vec::new();
        let mut buffer = vec![0; 16 * Q];
        loop {
            match self.conn.poll_transmit(now, &mut buffer).expect("the buffer takes the largest record") {
                Transmit::Bytes(len) => out.extend(&buffer[..len]),
                Transmit::Idle => break,
                Transmit::Finished => {
                    self.finished = true;
                    break;
                }
            }
        }
        self.written += out.len();
        self.events.extend(std::iter::from_fn(|| self.conn.poll_event()));
        out
    }

    /// The time is `now`.
    pub fn time(&mut self, now: Instant) {
        self.conn.handle_timeout(now);
        self.events.extend(std::iter::from_fn(|| self.conn.poll_event()));
    }
}

/// A connection and a hostile peer, after the handshake, in virtual time without latency.
pub struct Duel {
    /// The connection.
    pub talk: Talk,
    /// The hostile peer.
    pub wire: Wire,
    /// The time.
    pub now: Instant,
}

impl Duel {
    /// The usual one: the connection is a responder.
    pub fn new() -> Self {
        DuelBuilder::default().build()
    }

    /// One against a connection of this role.
    pub fn against(role: Role) -> Self {
        DuelBuilder { role, ..DuelBuilder::default() }.build()
    }

    /// The connection.
    pub const fn conn(&mut self) -> &mut Connection {
        &mut self.talk.conn
    }

    /// The hostile peer says `frames` in one record of one quantum.
    pub fn say(&mut self, frames: &[u8]) {
        // The 65,536th record under a key updates it.
        let header = if self.wire.out.under_key == 65_535 { 0x10 } else { 0 };
        let record = self.wire.seal(header, frames);
        self.feed(&record);
    }

    /// The same with a header byte.
    pub fn say_with(&mut self, header: u8, frames: &[u8]) {
        let record = self.wire.seal(header, frames);
        self.feed(&record);
    }

    /// Bytes arrive at the connection.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.talk.feed(self.now, bytes);
    }

    /// What the connection says.
    pub fn hear(&mut self) -> Vec<Heard> {
        let bytes = self.talk.take(self.now);
        self.wire.open(&bytes)
    }

    /// The code of the CLOSE that the connection says now, if it does.
    pub fn hear_close(&mut self) -> Option<Code> {
        let heard = self.hear();
        frames(&heard).iter().find_map(|frame| match frame {
            Frame::Close(close) => Some(close.code),
            _ => None,
        })
    }

    /// Why the connection ended.
    pub fn error(&self) -> Option<&ConnectionError> {
        self.talk.conn.error()
    }
}

impl Default for Duel {
    fn default() -> Self {
        Self::new()
    }
}
