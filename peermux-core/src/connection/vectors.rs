//! The vectors that need a connection: `docs/spec.md` section 21.6, all kinds but those of the handshake's flights.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Connection, Event, PeerInfo, Phase, Transmit};
use crate::codec::Reader;
use crate::config::{Config, ExpectedPeer};
use crate::crypto::{PublicKey, Rng, RustCrypto, StaticSecret, Suite};
use crate::error::{ConnectionError, HandshakeError};
use crate::handshake::vectors::{frames, hello as hello_of, read_m1, start_initiator};
use crate::handshake::{Established, FLIGHT_LEN, M1_LEN, initiator, responder};
use crate::id::{HandshakeMode, Role};
use crate::mux::{Limits, Mux};
use crate::record::{Opener, Sealer, TAG};
use crate::time::Instant;
use crate::vectors::{Outputs, area, array, bytes, flag, list, number, outputs, provider, size, suite, text};
use crate::wire::{Frame, Frames, Hello, Priority, QUANTUM, Settings};

const NOW: Instant = Instant::ZERO;

fn rng(seed: u8) -> Rng {
    Rng::from_seed(&[seed; 32])
}

fn initiator_secret() -> StaticSecret {
    StaticSecret::from_bytes(&[1; 32])
}

fn responder_secret() -> StaticSecret {
    StaticSecret::from_bytes(&[2; 32])
}

/// The least that a payload says; `raw` is what is written instead.
fn hello(raw: Option<Vec<u8>>) -> Hello {
    let mut hello = Hello { raw, ..Hello::default() };
    hello.versions.push(1);
    hello.suites.push(1);
    hello
}

/// What a connection does that these vectors presuppose.
fn config() -> Config {
    Config {
        max_record_quanta: 1,
        max_idle_timeout: None,
        keep_alive_interval: None,
        grease: false,
        provider: &RustCrypto,
        ..Config::default()
    }
}

/// A connection that sent the settings that `settings` lists, and of the others what holds if they are absent.
fn new(role: Role, config: Config, settings: &[Value], remote: ExpectedPeer) -> Connection {
    let config = Arc::new(config);
    let mut connection = match role {
        Role::Initiator => Connection::initiator(config, initiator_secret().into(), remote, NOW, &mut rng(3)),
        Role::Responder => Connection::responder(config, responder_secret().into(), NOW, &mut rng(4)),
    }
    .expect("a valid configuration");
    let mut ours = Settings::default();
    for setting in settings {
        let value = number(&setting[1]);
        match number(&setting[0]) {
            2 => ours.initial_max_data = value,
            3 => ours.initial_max_stream_data = value,
            4 => ours.initial_max_streams = value,
            id => panic!("setting {id}"),
        }
    }
    // A receiver may give less than ours does.
    let limits = Limits {
        ours,
        receive_window: 1 << 30,
        max_streams: ours.initial_max_streams,
        stream_send_buffer: 1 << 20,
        send_buffer: 1 << 20,
    };
    connection.mux = Mux::new(role, limits, NOW);
    connection
}

/// What the connection sends next, if it sends anything.
fn sent<const N: usize>(connection: &mut Connection) -> Option<Box<[u8; N]>> {
    let mut out = Box::new([0; N]);
    match connection.poll_transmit(NOW, &mut out[..]).expect("there is room") {
        Transmit::Bytes(len) => {
            assert_eq!(len, N);
            Some(out)
        }
        Transmit::Idle | Transmit::Finished => None,
    }
}

fn receives(connection: &mut Connection, bytes: &mut [u8]) {
    assert_eq!(connection.handle_slice(NOW, bytes), bytes.len());
}

/// M1 of a peer that is no connection, with `raw` for P1.
fn dial(known: bool, raw: Option<Vec<u8>>) -> (initiator::AwaitM2, Box<[u8; M1_LEN]>) {
    let remote = known.then(|| responder_secret().public_key());
    begin(remote, &hello(raw), &[])
}

fn begin(remote: Option<PublicKey>, hello: &Hello, early: &[u8]) -> (initiator::AwaitM2, Box<[u8; M1_LEN]>) {
    let await_m2 = initiator::start(&RustCrypto, &mut rng(5), &initiator_secret(), remote, hello, early).expect("M1");
    let m1 = Box::new(*await_m2.m1());
    (await_m2, m1)
}

/// M2 of a peer that is no connection, with `raw` for P2.
fn answer(m1: &[u8; M1_LEN], raw: Option<Vec<u8>>) -> (Box<[u8; FLIGHT_LEN]>, responder::Answered) {
    let start = responder::Start::new(&RustCrypto, responder_secret().into(), true);
    let trial = start.read(&mut rng(6), m1, |_| true).expect("M1 is read");
    trial.answer(&hello(raw), &[]).expect("M2")
}

/// A connection after the decision, and what seals the records that it receives.
fn established(role: Role, config: Config) -> (Connection, Sealer) {
    let (connection, sealer, _) = after_flight3(role, config, &[]);
    assert!(connection.is_established(), "{:?}", connection.close_reason());
    (connection, sealer)
}

/// A connection after flight 3; what seals the records that it receives, and what opens those that it sends.
fn after_flight3(role: Role, config: Config, settings: &[Value]) -> (Connection, Sealer, Opener) {
    let mut connection = new(role, config, settings, ExpectedPeer::Key(responder_secret().public_key()));
    let (suite, secret, answers) = match role {
        Role::Initiator => {
            let m1 = sent(&mut connection).expect("M1");
            let (mut m2, answered) = answer(&m1, None);
            let responder::Answered::Ik(established) = answered else { panic!("no IK") };
            receives(&mut connection, &mut m2[..]);
            (established.suite, established.secrets.r2i(), established.secrets.i2r())
        }
        Role::Responder => {
            let (await_m2, mut m1) = dial(true, None);
            receives(&mut connection, &mut m1[..]);
            let mut m2 = sent(&mut connection).expect("M2");
            let proved = await_m2.read(&mut m2).expect("M2 is read");
            let established = proved.finish_ik(Suite::ChaCha20Poly1305).expect("IK");
            (established.suite, established.secrets.i2r(), established.secrets.r2i())
        }
    };
    let mut sealer = Sealer::new(&RustCrypto, suite, secret, 1, 0, NOW).expect("a suite");
    let opener = Opener::new(&RustCrypto, suite, answers, 1, 16, 0).expect("a suite");
    if role == Role::Responder {
        receives(&mut connection, &mut record(&mut sealer, &[], false));
    }
    (connection, sealer, opener)
}

/// A record of one quantum.
fn record(sealer: &mut Sealer, area: &[u8], end: bool) -> Vec<u8> {
    let mut record = vec![0; QUANTUM];
    record[1..=area.len()].copy_from_slice(area);
    sealer.seal(&mut record, 1, end, NOW).expect("it can be sealed");
    record
}

fn outcome(connection: &Connection) -> Option<&'static str> {
    match connection.close_reason() {
        None | Some(ConnectionError::Closed { .. }) => None,
        Some(ConnectionError::Protocol(violation)) => violation.code.name(),
        Some(ConnectionError::DecryptError) => Some("AUTH"),
        Some(ConnectionError::Handshake(_)) => Some("HANDSHAKE_FAILED"),
        Some(error) => panic!("{error}"),
    }
}

/// What is wrong with `area` as that of a last record.
pub(crate) fn last_record(area: &[u8]) -> Option<&'static str> {
    let (mut connection, mut sealer) = established(Role::Responder, config());
    receives(&mut connection, &mut record(&mut sealer, area, true));
    outcome(&connection)
}

/// A record in the middle of a connection's life.
pub(crate) fn run_record(vector: &Value) -> Outputs {
    let suite = suite(&vector["suite"])?;
    let (mut connection, _) = established(Role::Responder, config());
    let key = Zeroizing::new(array(&vector["key"]));
    let (n, max_record) = (number(&vector["n"]), size(&vector["max_record"]));
    connection.opener = Opener::new(provider(), suite, key, size(&vector["size"]), max_record, n);
    connection.first_is_short = !vector["area"].is_null();
    receives(&mut connection, &mut bytes(&vector["bytes"]));
    outputs(json!({ "error": outcome(&connection) }))
}

fn receiver(vector: &Value) -> Role {
    match text(&vector["receiver"]) {
        "initiator" => Role::Initiator,
        "responder" => Role::Responder,
        role => panic!("{role}"),
    }
}

/// The frames in `area` that answer something of the peer's, each as its bytes.
fn replies(area: &[u8]) -> Vec<Vec<u8>> {
    let encoded = |frame: Frame<'_>| {
        let mut out = vec![0; QUANTUM];
        let len = frame.encode(&mut out).expect("there is room");
        out.truncate(len);
        out
    };
    Frames::new(area)
        .map(|frame| frame.expect("a valid frame"))
        .filter(|frame| matches!(frame, Frame::Pong(_) | Frame::Reset(_) | Frame::Stop(_) | Frame::Close(_)))
        .map(encoded)
        .collect()
}

/// What a connection sends because of what it received.
pub(crate) fn run_replies(vector: &Value) -> Outputs {
    let ask = vector.get("undecided").is_some_and(flag);
    let config = Config { approve_peers: ask, ..config() };
    let (mut connection, mut sealer, mut opener) = after_flight3(receiver(vector), config, list(&vector["settings"]));
    assert_eq!(connection.is_established(), !ask, "{}: {:?}", vector["name"], connection.close_reason());
    for _ in 0..number(&vector["opened"]) {
        connection.open_stream(None, Priority::default()).expect("it may open streams");
    }
    if vector.get("drained").is_some_and(flag) {
        connection.drain(crate::code::ProtocolErrorCode::GOING_AWAY);
    }
    let mut said = |connection: &mut Connection| {
        let mut frames = Vec::new();
        while let Some(mut record) = sent::<QUANTUM>(connection) {
            opener.open(&mut record[..]).expect("it authenticates");
            frames.extend(replies(&record[1..QUANTUM - TAG]));
        }
        frames.sort();
        frames
    };
    assert_eq!(said(&mut connection), [[0_u8; 0]; 0], "{}: it answers nothing yet", vector["name"]);
    for area in list(&vector["areas"]) {
        receives(&mut connection, &mut record(&mut sealer, &bytes(area), false));
    }
    assert_eq!(outcome(&connection), None, "{}", vector["name"]);
    let mut expected = replies(&area(&vector["frames"], QUANTUM - TAG - 1));
    expected.sort();
    let same = said(&mut connection) == expected;
    outputs(json!({ "frames": if same { vector["frames"].clone() } else { Value::Null } }))
}

pub(crate) fn run_connection(vector: &Value) -> Outputs {
    let role = receiver(vector);
    let ask = vector.get("undecided").is_some_and(flag);
    let config = Config { approve_peers: ask, ..config() };
    let (mut connection, mut sealer, _) = after_flight3(role, config, list(&vector["settings"]));
    assert_eq!(connection.is_established(), !ask, "{}: {:?}", vector["name"], connection.close_reason());
    // The first of `areas` stands in the first record of its direction, for which `after_flight3` has sent an empty one.
    sealer.start_at(0);
    if let Some(opener) = &mut connection.opener {
        opener.start_at(0);
    }
    for _ in 0..number(&vector["opened"]) {
        connection.open_stream(None, Priority::default()).expect("it may open streams");
    }
    while sent::<QUANTUM>(&mut connection).is_some() {}
    if vector.get("drained").is_some_and(flag) {
        connection.drain(crate::code::ProtocolErrorCode::GOING_AWAY);
        sent::<QUANTUM>(&mut connection).expect("DRAIN");
    }
    for area in list(&vector["areas"]) {
        assert_eq!(outcome(&connection), None, "{}: before the last record", vector["name"]);
        receives(&mut connection, &mut record(&mut sealer, &bytes(area), false));
    }
    outputs(json!({ "error": outcome(&connection) }))
}

/// Whether an initiator goes on after this P2.
fn after_p2(remote: ExpectedPeer, raw: Vec<u8>) -> Connection {
    let mut connection = new(Role::Initiator, config(), &[], remote);
    let m1 = sent(&mut connection).expect("M1");
    let (mut m2, _) = answer(&m1, Some(raw));
    receives(&mut connection, &mut m2[..]);
    connection
}

/// A payload, received by a connection.
pub(crate) fn run_payload(vector: &Value) -> Outputs {
    let plaintext = bytes(&vector["plaintext"]);
    let malformed = match text(&vector["payload"]) {
        "P1" => {
            // A trial that fails shows in the mode that the responder goes on in.
            let mut connection = new(Role::Responder, config(), &[], ExpectedPeer::Any);
            let (await_m2, mut m1) = dial(true, Some(plaintext));
            receives(&mut connection, &mut m1[..]);
            let mut m2 = sent(&mut connection).expect("M2");
            await_m2.read(&mut m2).expect("M2 is read").mode() == HandshakeMode::Fallback
        }
        "P2-IK" => after_p2(ExpectedPeer::Key(responder_secret().public_key()), plaintext).close_reason().is_some(),
        "P2-fallback" => after_p2(ExpectedPeer::Any, plaintext).close_reason().is_some(),
        "P3" => {
            let mut connection = new(Role::Responder, config(), &[], ExpectedPeer::Any);
            let (await_m2, mut m1) = dial(false, None);
            receives(&mut connection, &mut m1[..]);
            let mut m2 = sent(&mut connection).expect("M2");
            let proved = await_m2.read(&mut m2).expect("M2 is read");
            let (header, raw) = plaintext.split_first().expect("a header");
            let hello = hello(Some(raw.to_vec()));
            let (mut flight3, _) =
                proved.finish_fallback(Suite::ChaCha20Poly1305, *header, &hello, &[]).expect("flight 3");
            receives(&mut connection, &mut flight3[..]);
            connection.close_reason().is_some()
        }
        payload => panic!("{payload}"),
    };
    outputs(json!({ "error": malformed.then_some("MALFORMED") }))
}

/// A choice in P2, judged by a connection whose offer is that of `p1`.
pub(crate) fn run_choice(vector: &Value) -> Outputs {
    let offer = Hello::decode(&mut Reader::new(&bytes(&vector["p1"])), true).expect("a valid offer");
    assert_eq!((&offer.versions[..], &offer.suites[..]), (&[1][..], &[1][..]));
    let connection = after_p2(ExpectedPeer::Key(responder_secret().public_key()), bytes(&vector["p2"]));
    outputs(json!({ "error": outcome(&connection) }))
}

const WALL_CLOCK: u64 = 1_800_000_000_000;

/// Early data that a responder accepts or refuses, and what follows it.
pub(crate) fn run_early(vector: &Value) -> Outputs {
    let config = Config { early_data: true, ..config() };
    let mut connection = new(Role::Responder, config, list(&vector["settings"]), ExpectedPeer::Any);
    connection.set_wall_clock(NOW, WALL_CLOCK);
    let mut hello = Hello { timestamp: Some(WALL_CLOCK), ..hello(None) };
    hello.flags.early = true;
    let remote = Some(responder_secret().public_key());
    let early = bytes(&vector["early"]);
    let (await_m2, mut m1) = begin(remote, &hello, &early);
    receives(&mut connection, &mut m1[..]);
    assert!(matches!(connection.poll_event(), Some(Event::EarlyData(_))), "{}: no offer", vector["name"]);
    if flag(&vector["accepted"]) {
        assert!(connection.accept_early());
    }
    let mut m2 = sent(&mut connection).expect("M2");
    let established = await_m2.read(&mut m2).expect("M2 is read").finish_ik(Suite::ChaCha20Poly1305).expect("IK");
    assert_eq!(outcome(&connection), None, "{}: nothing is said before flight 3", vector["name"]);
    outputs(json!({ "error": after_records(connection, &established, vector) }))
}

/// The outcome after the records with the vector's `areas`, which follow the record or flight with n 0.
fn after_records(mut connection: Connection, established: &Established, vector: &Value) -> Value {
    let mut sealer =
        Sealer::new(&RustCrypto, established.suite, established.secrets.i2r(), 1, 0, NOW).expect("a suite");
    for area in list(&vector["areas"]) {
        assert_eq!(outcome(&connection), None, "{}: before the last record", vector["name"]);
        receives(&mut connection, &mut record(&mut sealer, &bytes(area), false));
    }
    json!(outcome(&connection))
}

/// An initiator that sent early data, and what a responder that accepts or refuses it says in P2.
pub(crate) fn run_answers(vector: &Value) -> Outputs {
    let config = Config { early_data: true, ..config() };
    let mut connection = new(Role::Initiator, config, &[], ExpectedPeer::Key(responder_secret().public_key()));
    connection.set_wall_clock(NOW, WALL_CLOCK);
    let stream = connection.open_early(None, Priority::default()).expect("it may open a stream");
    assert_eq!(connection.send_stream(stream).write(b"x"), Ok(1));
    let m1 = sent(&mut connection).expect("M1");
    let start = responder::Start::new(&RustCrypto, responder_secret().into(), true);
    let trial = start.read(&mut rng(6), &m1, |_| true).expect("M1 is read");
    assert!(trial.claimed().is_some_and(|claimed| claimed.hello.flags.early), "{}: no early data", vector["name"]);
    let mut answer = hello(None);
    answer.flags.early = flag(&vector["accepted"]);
    let (mut m2, _) = trial.answer(&answer, &bytes(&vector["area"])).expect("M2");
    receives(&mut connection, &mut m2[..]);
    outputs(json!({ "error": outcome(&connection) }))
}

/// Flight 3 of fallback and the records after it, received by a responder.
pub(crate) fn run_p3(vector: &Value) -> Outputs {
    let mut connection = new(Role::Responder, config(), &[], ExpectedPeer::Any);
    let (await_m2, mut m1) = dial(false, None);
    receives(&mut connection, &mut m1[..]);
    let mut m2 = sent(&mut connection).expect("M2");
    let proved = await_m2.read(&mut m2).expect("M2 is read");
    let (mut flight3, established) = proved
        .finish_fallback(Suite::ChaCha20Poly1305, size(&vector["header"]), &hello(None), &bytes(&vector["area"]))
        .expect("flight 3");
    receives(&mut connection, &mut flight3[..]);
    outputs(json!({ "error": after_records(connection, &established, vector) }))
}

/// The handshake of `base`, of which both sides have the same static key: a connection that goes on where the vector's random values were used up.
pub(crate) fn run_own_key(vector: &Value, base: &Value) -> Outputs {
    let mut base = base.clone();
    base["initiator"]["static"] = base["responder"]["statics"][0].clone();
    let own = StaticSecret::from_bytes(&array(&base["initiator"]["static"]));
    let config = Arc::new(config());
    let connection = if vector["side"] == "initiator" {
        let (await_m2, _) = start_initiator(&base).expect("M1");
        let mut connection = Connection::initiator(config, own.into(), ExpectedPeer::Any, NOW, &mut rng(3))
            .expect("a valid configuration");
        connection.phase = Phase::AwaitM2(await_m2, ExpectedPeer::Any);
        receives(&mut connection, &mut bytes(&vector["m2"]));
        connection
    } else {
        let mut connection =
            Connection::responder(config, own.into(), NOW, &mut rng(4)).expect("a valid configuration");
        let trial = read_m1(&base, &array(&vector["m1"])).expect("M1 is read");
        let claimed = trial.claimed().map(|claimed| claimed.key);
        let (_, answered) = trial.answer(&hello_of(&base["p2"]), &frames(&base["p2"])).expect("M2");
        match answered {
            responder::Answered::Ik(established) => {
                let (mode, suite) = (HandshakeMode::Ik, established.suite);
                let key = claimed.expect("it is claimed in IK");
                connection.peer = Some(PeerInfo { key, anonymous: false, mode, suite, version: 1, attestation: None });
                connection.keys_are_there(established, mode, 1, 1).expect("a suite");
            }
            responder::Answered::Fallback(await_flight3) => connection.phase = Phase::AwaitFlight3(await_flight3),
        }
        assert_eq!(outcome(&connection), None, "{}: before flight 3", vector["name"]);
        receives(&mut connection, &mut bytes(&vector["flight3"]));
        connection
    };
    assert_eq!(connection.close_reason(), Some(&ConnectionError::Handshake(HandshakeError::SelfConnection)));
    outputs(json!({ "error": outcome(&connection) }))
}
