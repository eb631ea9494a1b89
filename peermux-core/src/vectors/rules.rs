//! Rules that one side applies by itself: attestations, shaping, the strike register (`docs/spec.md` sections 4.5, 6 and 19).

use alloc::vec::Vec;

use serde_json::{Value, json};

use super::{Outputs, array, list, long, number, optional, outputs, size, text};
use crate::crypto::PublicKey;
use crate::early::StrikeRegister;
use crate::shape::{agree, padme};
use crate::wire::Shaping;

pub(super) fn run(vector: &Value) -> Outputs {
    match text(&vector["kind"]) {
        "padme" => outputs(json!({ "padded": padme(number(&vector["quanta"])) })),
        "shaping" => {
            let side = |name: &str| {
                let side = &vector[name];
                (size(&side[0]), Shaping::from_value(number(&side[1])).expect("a valid setting"))
            };
            let ((largest, ours), (their_largest, theirs)) = (side("initiator"), side("responder"));
            let largest = largest.min(their_largest);
            let agreed = agree(ours, theirs, largest);
            assert_eq!(agree(theirs, ours, largest), agreed);
            outputs(json!({ "holds": long(agreed.value()) }))
        }
        "strike" => outputs(json!({ "offers": strike(vector) })),
        kind => panic!("an unknown kind: {kind}"),
    }
}

fn strike(vector: &Value) -> Vec<Value> {
    let (started, made) = (number(&vector["started"]), number(&vector["key_made"]));
    let capacity = usize::try_from(number(&vector["capacity"])).expect("a capacity");
    let make = if started < made { StrikeRegister::for_new_key } else { StrikeRegister::new };
    let mut register = make(capacity, started);
    let decide = |offer: &Value| {
        let mut offer = offer.clone();
        let ephemeral = PublicKey::from_bytes(array(&offer["ephemeral"]));
        let now = number(&offer["now"]);
        // Without TIMESTAMP nothing is offered to the register.
        let timestamp = optional(&offer["timestamp"]);
        let accepted = timestamp.is_some_and(|timestamp| register.strike(&ephemeral, timestamp, now).is_ok());
        offer["accepted"] = json!(accepted);
        offer
    };
    list(&vector["offers"]).iter().map(decide).collect()
}

#[cfg(not(feature = "ed25519"))]
pub(super) const fn attestation(_: &Value) -> Outputs {
    None
}

#[cfg(feature = "ed25519")]
pub(super) fn attestation(vector: &Value) -> Outputs {
    use crate::attestation::ed25519::verify;
    use crate::id::Role;

    let role = if number(&vector["role"]) == 0 { Role::Initiator } else { Role::Responder };
    let key = PublicKey::from_bytes(array(&vector["static"]));
    let bound = verify(&super::bytes(&vector["attestation"]), role, &key, super::optional(&vector["now"]));
    let identity = bound.as_ref().ok().map(|identity| hex::encode(identity.as_bytes()));
    outputs(json!({ "identity": identity, "error": bound.err().map(|_| "UNBOUND") }))
}
