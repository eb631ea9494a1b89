//! The vectors of whole handshakes: `docs/spec.md` sections 21.4 and 21.6.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::convert::Infallible;

use rand_core::{TryCryptoRng, TryRng};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Established, FLIGHT_LEN, M1_LEN, initiator, responder};
use crate::codec::{Reader, Writer};
use crate::config::ResponderKeys;
use crate::crypto::{PublicKey, StaticSecret, Suite, export, traffic_secret};
use crate::error::HandshakeError;
use crate::id::{HandshakeMode, Role};
use crate::record::{Header, KEY_AGE, OVERHEAD, OpenError, Opener, Sealer, TAG};
use crate::time::Instant;
use crate::vectors::{Outputs, area, array, bytes, flag, list, number, outputs, provider, size, suite};
use crate::wire::{HANDSHAKE_FRAMES, Hello};

/// Gives out what it was told to, and nothing more.
struct Script(VecDeque<u8>);

impl Script {
    fn new<const N: usize>(parts: [&Value; N]) -> Self {
        Self(parts.into_iter().filter(|part| !part.is_null()).flat_map(bytes).collect())
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        core::array::from_fn(|_| self.0.pop_front().expect("the script is long enough"))
    }
}

impl TryRng for Script {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(self.take()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(self.take()))
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        for byte in dst {
            [*byte] = self.take();
        }
        Ok(())
    }
}

impl TryCryptoRng for Script {}

/// What a payload says, with the TLVs as the vector has them: in its order, and with those that nobody knows.
pub(crate) fn hello(payload: &Value) -> Hello {
    let mut tlvs = Vec::new();
    for tlv in list(&payload["tlvs"]) {
        let value = bytes(&tlv[1]);
        tlvs.extend([size(&tlv[0]), u8::try_from(value.len()).expect("a short value")]);
        tlvs.extend(value);
    }
    let mut raw = u16::try_from(tlvs.len()).expect("a short list").to_be_bytes().to_vec();
    raw.extend(tlvs);
    let mut hello = Hello::decode(&mut Reader::new(&raw), true).expect("a valid payload");
    check_settings(&hello, &payload["settings"]);
    hello.raw = Some(raw);
    hello
}

/// The decoded settings are those that the vector lists, and the others are absent.
fn check_settings(hello: &Hello, settings: &Value) {
    let mut ours = [0; 64];
    let mut writer = Writer::new(&mut ours);
    hello.settings.encode(&mut writer);
    let len = writer.len();
    let mut reader = Reader::new(&ours[..len]);
    let listed = |id: u64| list(settings).iter().find(|pair| number(&pair[0]) == id).map(|pair| number(&pair[1]));
    for (absent, id) in [1, 2048, 2048, 16, 0, 0].into_iter().zip(1..) {
        assert_eq!(reader.varint("id"), Ok(id));
        assert_eq!(reader.varint("value"), Ok(listed(id).unwrap_or(absent)), "setting {id}");
    }
}

/// The same without what it is written as: what a receiver makes of it.
fn as_received(mut hello: Hello) -> Hello {
    hello.raw = None;
    hello
}

/// The frame area of a payload; empty for a payload that is not there, or has none.
pub(crate) fn frames(payload: &Value) -> Vec<u8> {
    let len = list(&payload["frames"]).iter().map(|_| HANDSHAKE_FRAMES).max().unwrap_or(0);
    area(&payload["frames"], len)
}

pub(crate) fn start_initiator(vector: &Value) -> Result<(initiator::AwaitM2, Box<[u8; M1_LEN]>), HandshakeError> {
    let side = &vector["initiator"];
    let secret = StaticSecret::from_bytes(&array(&side["static"]));
    let known = (!side["known"].is_null()).then(|| PublicKey::from_bytes(array(&side["known"])));
    let p1 = &vector["p1"];
    let (hello, early) = if p1.is_null() { (Hello::default(), Vec::new()) } else { (hello(p1), frames(p1)) };
    let mut script = Script::new([&side["ephemeral"], &side["kem_seed"], &side["filler"]]);
    let started = initiator::start(provider(), &mut script, &secret, known, &hello, &early)?;
    assert!(script.0.is_empty());
    let m1 = Box::new(*started.m1());
    Ok((started, m1))
}

pub(crate) fn read_m1(vector: &Value, m1: &[u8; M1_LEN]) -> Result<responder::Trial, HandshakeError> {
    let side = &vector["responder"];
    let mut secrets = list(&side["statics"]).iter().map(|secret| StaticSecret::from_bytes(&array(secret)));
    let keys = ResponderKeys { current: secrets.next().expect("a key"), previous: secrets.next() };
    assert!(secrets.next().is_none());
    let mut script = Script::new([&side["kem_random"], &side["ephemeral"]]);
    responder::Start::new(provider(), keys, true).read(&mut script, m1, |_| true)
}

const fn name(mode: HandshakeMode) -> &'static str {
    match mode {
        HandshakeMode::Ik => "ik",
        HandshakeMode::Fallback => "fallback",
    }
}

/// i2r record 0 of IK.
fn seal_flight3(record0: &Value, established: &Established) -> [u8; FLIGHT_LEN] {
    seal_record0(record0, HANDSHAKE_FRAMES, established.suite, established.secrets.i2r())
}

/// A record 0 with a frame area of `len` bytes.
fn seal_record0(record0: &Value, len: usize, suite: Suite, secret: Zeroizing<[u8; 32]>) -> [u8; FLIGHT_LEN] {
    let mut sealer = Sealer::new(provider(), suite, secret, 1, 0, Instant::ZERO).expect("a suite");
    let mut record = [0; FLIGHT_LEN];
    record[1..=len].copy_from_slice(&area(&record0["frames"], len));
    // A sender updates a key that has grown old.
    let now = if flag(&record0["key_update"]) { Instant::ZERO + KEY_AGE } else { Instant::ZERO };
    sealer.seal(&mut record, size(&record0["next_size"]), flag(&record0["end"]), now).expect("it can be sealed");
    record
}

/// r2i record 0, if it answers early data before flight 3.
fn seal_answers(vector: &Value, ours: &Established, theirs: &Established) -> Option<[u8; FLIGHT_LEN]> {
    let answers = vector.get("answers")?;
    let len = FLIGHT_LEN - OVERHEAD;
    let sealed = seal_record0(answers, len, theirs.suite, theirs.secrets.r2i());
    let mut opened = sealed;
    let header = Opener::new(provider(), ours.suite, ours.secrets.r2i(), 1, 16, 0).expect("a suite").open(&mut opened);
    assert_eq!(header.map(|header| header.next), Ok(size(&answers["next_size"])));
    assert_eq!(opened[1..=len], area(&answers["frames"], len));
    Some(sealed)
}

#[cfg(not(feature = "ed25519"))]
const fn check_attestation(_: &Hello, _: Role, _: &PublicKey) {}

/// What a side attests binds its key until the time that all attestations in these vectors name.
#[cfg(feature = "ed25519")]
fn check_attestation(hello: &Hello, role: Role, key: &PublicKey) {
    use crate::attestation::ed25519::{Invalid, verify};

    const NOT_AFTER: u64 = 4_000_000_000;
    if let Some(attestation) = &hello.attestation {
        verify(attestation, role, key, Some(NOT_AFTER)).expect("it binds");
        assert_eq!(verify(attestation, role, key, Some(NOT_AFTER + 1)), Err(Invalid::Expired));
    }
}

fn open_flight3(flight3: &mut [u8; FLIGHT_LEN], established: &Established) -> Result<Header, OpenError> {
    Opener::new(provider(), established.suite, established.secrets.i2r(), 1, 16, 0).expect("a suite").open(flight3)
}

pub(crate) fn run(vector: &Value) -> Outputs {
    suite(&vector["suite"])?;
    let initiator_public = StaticSecret::from_bytes(&array(&vector["initiator"]["static"])).public_key();
    let (await_m2, m1) = start_initiator(vector).expect("M1");
    let trial = read_m1(vector, &m1).expect("M1 is read");
    if let Some(claimed) = trial.claimed() {
        assert_eq!(claimed.key, initiator_public);
        assert_eq!(*claimed.hello, as_received(hello(&vector["p1"])));
        assert_eq!(claimed.frames, area(&vector["p1"]["frames"], HANDSHAKE_FRAMES));
        check_attestation(claimed.hello, Role::Initiator, &claimed.key);
    }
    let p2 = hello(&vector["p2"]);
    let (m2, answered) = trial.answer(&p2, &frames(&vector["p2"])).expect("M2");
    let mut proved = await_m2.read(&mut m2.clone()).expect("M2 is read");
    let (mode, responder_public) = (proved.mode(), proved.responder());
    assert_eq!(*proved.hello(), as_received(p2));
    check_attestation(proved.hello(), Role::Responder, &responder_public);
    let answers = proved.take_frames();
    assert_eq!(answers, area(&vector["p2"]["frames"], answers.len()));

    let (flight3, ours, theirs) = match answered {
        responder::Answered::Ik(theirs) => {
            let ours = proved.finish_ik(theirs.suite).expect("IK on both sides");
            let record0 = &vector["record0"];
            let flight3 = seal_flight3(record0, &ours);
            let mut opened = flight3;
            let header = open_flight3(&mut opened, &theirs).expect("it authenticates");
            let (next, end) = (size(&record0["next_size"]), flag(&record0["end"]));
            assert_eq!(header, Header { next, key_update: flag(&record0["key_update"]), end });
            let (frames, zeros) = opened[1..FLIGHT_LEN - TAG].split_at(HANDSHAKE_FRAMES);
            assert_eq!(frames, area(&record0["frames"], HANDSHAKE_FRAMES));
            assert!(zeros.iter().all(|&byte| byte == 0));
            (flight3, ours, theirs)
        }
        responder::Answered::Fallback(await_flight3) => {
            let p3 = &vector["p3"];
            let hello = hello(p3);
            let chosen = suite(&json!(hello.suites[0]))?;
            let (flight3, ours) = proved
                .finish_fallback(chosen, size(&p3["header"]), &hello, &frames(p3))
                .expect("fallback on both sides");
            let read = await_flight3.read(&mut flight3.clone()).expect("flight 3 is read");
            assert_eq!(read.initiator, initiator_public);
            assert_eq!(read.header, size(&p3["header"]));
            assert_eq!(read.hello, as_received(hello));
            check_attestation(&read.hello, Role::Initiator, &read.initiator);
            assert_eq!(read.frames, area(&p3["frames"], HANDSHAKE_FRAMES));
            (*flight3, ours, read.established)
        }
    };
    let (secrets, suite) = (&ours.secrets, ours.suite);
    assert_eq!(suite, theirs.suite);
    assert_eq!(secrets.binding(), theirs.secrets.binding());
    assert_eq!(secrets.chaining_key, theirs.secrets.chaining_key);
    let mut exports = Vec::new();
    for given in list(&vector["exports"]) {
        let mut out = vec![0; usize::try_from(number(&given["length"])).expect("a length")];
        export(secrets.exporter(), &bytes(&given["label"]), &bytes(&given["context"]), &mut out)
            .expect("it can be exported");
        let mut made = given.clone();
        made["output"] = json!(hex::encode(out));
        exports.push(made);
    }
    let mut made = outputs(json!({
        "mode": name(mode),
        "initiator_public": hex::encode(initiator_public.as_bytes()),
        "responder_public": hex::encode(responder_public.as_bytes()),
        "m1": hex::encode(&m1[..]),
        "m2": hex::encode(&m2[..]),
        "flight3": hex::encode(flight3),
        "suite": suite.as_byte(),
        "h": hex::encode(secrets.binding()),
        "ck": hex::encode(secrets.chaining_key),
        "i2r": hex::encode(secrets.i2r()),
        "r2i": hex::encode(secrets.r2i()),
        "exporter": hex::encode(secrets.exporter()),
        // Version 1 does not use it, so nothing else computes it.
        "ratchet": hex::encode(traffic_secret(&secrets.chaining_key, b"peermux/1 ratchet", suite, secrets.binding())),
        "exports": exports,
    }))?;
    if let Some(record) = seal_answers(vector, &ours, &theirs) {
        made.insert("r2i_record0".into(), json!(hex::encode(record)));
    }
    Some(made)
}

/// A handshake with something changed on its way: which side finds that it has failed, and the mode that the responder went on in.
pub(crate) fn run_negative(vector: &Value, base: &Value) -> Outputs {
    let change = |name: &str, flight: &mut [u8]| {
        if vector["flight"] == name {
            let offset = usize::try_from(number(&vector["offset"])).expect("an offset");
            let new = bytes(&vector["bytes"]);
            flight[offset..offset + new.len()].copy_from_slice(&new);
        }
    };
    let mut reached = None;
    let mut handshake = || -> Result<(), &str> {
        let (await_m2, mut m1) = start_initiator(base).map_err(|_| "initiator")?;
        change("m1", &mut m1[..]);
        let trial = read_m1(base, &m1).map_err(|_| "responder")?;
        reached = Some(name(if trial.claimed().is_some() { HandshakeMode::Ik } else { HandshakeMode::Fallback }));
        let p2 = vector.get("p2").unwrap_or(&base["p2"]);
        let (mut m2, answered) = trial.answer(&hello(p2), &frames(p2)).map_err(|_| "responder")?;
        change("m2", &mut m2[..]);
        let proved = await_m2.read(&mut m2).map_err(|_| "initiator")?;
        match answered {
            responder::Answered::Ik(established) => {
                let mut flight3 =
                    seal_flight3(&base["record0"], &proved.finish_ik(established.suite).map_err(|_| "initiator")?);
                change("flight3", &mut flight3);
                open_flight3(&mut flight3, &established).map_err(|_| "responder")?;
            }
            responder::Answered::Fallback(await_flight3) => {
                let p3 = &base["p3"];
                let hello = hello(p3);
                let chosen = suite(&json!(hello.suites[0])).ok_or("initiator")?;
                let (mut flight3, _) = proved
                    .finish_fallback(chosen, size(&p3["header"]), &hello, &frames(p3))
                    .map_err(|_| "initiator")?;
                change("flight3", &mut flight3[..]);
                await_flight3.read(&mut flight3).map_err(|_| "responder")?;
            }
        }
        Ok(())
    };
    let side = handshake().err();
    let error = side.map(|_| "HANDSHAKE_FAILED");
    outputs(json!({ "error": error, "side": side, "responder_mode": reached }))
}
