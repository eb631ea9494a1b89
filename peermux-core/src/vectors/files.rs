//! Runs the vectors in the files: every output is computed anew from the inputs, and every file must come out as it is, byte
//! for byte; so the same code checks the files and writes them.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use serde_json::{Value, json};

use super::{LONG, Outputs, PROVIDER, bytes, frames, list, number, outputs, provider, rules, text};
use crate::crypto::{Suite, default_provider, providers};
use crate::wire::{Frame, Frames};
use crate::{connection, handshake, record, varint};

const FILES: [(&str, &str); 6] = [
    ("varints", include_str!("../../vectors/varints.json")),
    ("frames", include_str!("../../vectors/frames.json")),
    ("handshake", include_str!("../../vectors/handshake.json")),
    ("records", include_str!("../../vectors/records.json")),
    ("rules", include_str!("../../vectors/rules.json")),
    ("negative", include_str!("../../vectors/negative.json")),
];

fn vectors(stem: &str) -> Vec<Value> {
    let (_, text) = FILES.iter().find(|(name, _)| *name == stem).expect("a file");
    let file: Value = serde_json::from_str(text).expect("JSON");
    list(&file["vectors"]).to_vec()
}

fn run_varint(vector: &Value) -> Outputs {
    let value = number(&vector["value"]);
    let mut out = [0; 8];
    let len = varint::encode(value, &mut out).expect("a varint's value");
    assert_eq!(varint::decode(&out[..len]), Ok((value, len)));
    outputs(json!({ "hex": hex::encode(&out[..len]) }))
}

fn run_negative(vector: &Value, handshakes: &[Value]) -> Outputs {
    match text(&vector["kind"]) {
        "varint" => {
            let error = varint::decode(&bytes(&vector["hex"])).err().map(|_| "MALFORMED");
            outputs(json!({ "error": error }))
        }
        "area" => outputs(json!({ "error": outcome(&bytes(&vector["hex"])) })),
        "handshake" => {
            let base = handshakes.iter().find(|base| base["name"] == vector["base"]).expect("the base");
            handshake::vectors::run_negative(vector, base)
        }
        "record" => connection::vectors::run_record(vector),
        "payload" => connection::vectors::run_payload(vector),
        "choice" => connection::vectors::run_choice(vector),
        "connection" => connection::vectors::run_connection(vector),
        "early" => connection::vectors::run_early(vector),
        "answers" => connection::vectors::run_answers(vector),
        "p3" => connection::vectors::run_p3(vector),
        "attestation" => rules::attestation(vector),
        "key_limit" => record::vectors::run_key_limit(vector),
        "own_key" => {
            let base = handshakes.iter().find(|base| base["name"] == vector["base"]).expect("the base");
            connection::vectors::run_own_key(vector, base)
        }
        kind => panic!("an unknown kind: {kind}"),
    }
}

/// What is wrong with a frame area, by syntax alone. That CLOSE stands last is the connection's to check.
pub(super) fn outcome(area: &[u8]) -> Option<&'static str> {
    let mut close = false;
    for frame in Frames::new(area) {
        match frame {
            Ok(frame) => close |= matches!(frame, Frame::Close(_)),
            Err(error) => return error.code().name(),
        }
    }
    if close { connection::vectors::last_record(area) } else { None }
}

/// Whether a vector needs what is not there: RustCrypto has no AES, and without Ed25519 there is no attestation.
fn may_be_skipped(vector: &Value) -> bool {
    (!provider().supports(Suite::Aes256Gcm) && vector["suite"] == Suite::Aes256Gcm.as_byte())
        || (cfg!(not(feature = "ed25519")) && vector["kind"] == "attestation")
}

/// The file as this implementation makes it, and the number of vectors in it.
fn regenerate(stem: &str, text: &str) -> (String, usize) {
    let file: Value = serde_json::from_str(text).expect("JSON");
    let handshakes = vectors("handshake");
    let mut lines = Vec::new();
    for vector in list(&file["vectors"]) {
        let outputs = match stem {
            "varints" => run_varint(vector),
            "frames" => frames::run(vector),
            "handshake" => handshake::vectors::run(vector),
            "records" => record::vectors::run(vector),
            "rules" if vector["kind"] == "replies" => connection::vectors::run_replies(vector),
            "rules" => rules::run(vector),
            _ => run_negative(vector, &handshakes),
        };
        let mut made = vector.clone();
        match outputs {
            Some(outputs) => {
                for (name, value) in outputs {
                    assert!(vector.get(&name).is_some(), "{}: no member {name}", vector["name"]);
                    made[name] = value;
                }
            }
            None => assert!(may_be_skipped(vector), "{stem}.json: {} is not computed", vector["name"]),
        }
        lines.push(made.to_string());
    }
    let made = format!("{{\"about\":{},\"vectors\":[\n{}\n]}}\n", file["about"], lines.join(",\n"));
    (made, lines.len())
}

fn check(stem: &str) {
    for &provider in providers() {
        PROVIDER.set(provider);
        check_one(stem);
    }
}

fn check_one(stem: &str) {
    let (_, text) = FILES.iter().find(|(name, _)| *name == stem).expect("a file");
    let (made, count) = regenerate(stem, text);
    for (line, (ours, theirs)) in made.lines().zip(text.lines()).enumerate() {
        if ours != theirs {
            let (ours, theirs): (Value, Value) = match (parse(ours), parse(theirs)) {
                (Some(ours), Some(theirs)) => (ours, theirs),
                _ => panic!("{stem}.json, line {}, {:?}: {ours} instead of {theirs}", line + 1, provider()),
            };
            for (member, theirs) in theirs.as_object().expect("a vector") {
                assert_eq!(
                    &ours[member],
                    theirs,
                    "{stem}.json, {:?}: {} differs in {member}",
                    provider(),
                    ours["name"]
                );
            }
        }
    }
    assert_eq!(made, *text, "{stem}.json");
    assert!(count > 0);
}

/// A line of a file: a vector and perhaps a comma.
fn parse(line: &str) -> Option<Value> {
    serde_json::from_str(line.strip_suffix(',').unwrap_or(line)).ok()
}

/// Checks the form of every number in `value`; `long` says whether it stands in a member that holds strings.
fn check_numbers(value: &Value, is_long: bool) {
    match value {
        Value::Object(members) => {
            // Of shaping the two sides are pairs of settings.
            let shaping = members.get("kind").is_some_and(|kind| kind == "shaping");
            for (name, value) in members {
                let pair = shaping && ["initiator", "responder", "holds"].contains(&name.as_str());
                check_numbers(value, pair || LONG.contains(&name.as_str()));
            }
        }
        Value::Array(values) => values.iter().for_each(|value| check_numbers(value, is_long)),
        Value::String(digits) if is_long => {
            let number: u64 = digits.parse().expect("a decimal number");
            assert_eq!(number.to_string(), *digits, "no digit too many");
        }
        Value::Number(number) => {
            assert!(!is_long, "{number} is not a string");
            assert!(number.as_u64().is_some_and(|number| number < 1 << 53), "{number} is too large for a JSON number");
        }
        _ => {}
    }
}

#[test]
fn numbers_that_may_be_long_are_strings() {
    for (stem, _) in FILES {
        vectors(stem).iter().for_each(|vector| check_numbers(vector, false));
    }
}

#[test]
fn rules_of_one_side() {
    check("rules");
}

#[test]
fn varints() {
    check("varints");
}

#[test]
fn frames_one_by_one() {
    check("frames");
}

#[test]
fn handshakes() {
    check("handshake");
}

#[test]
fn records() {
    check("records");
}

#[test]
fn negative() {
    check("negative");
}

/// Writes the files as this implementation computes them. The inputs stay what they are.
#[test]
#[ignore = "writes peermux-core/vectors"]
fn write() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    PROVIDER.set(default_provider());
    for (stem, text) in FILES {
        std::fs::write(folder.join(format!("{stem}.json")), regenerate(stem, text).0).expect("written");
    }
}
