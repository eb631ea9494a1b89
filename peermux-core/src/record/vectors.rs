//! The vectors of records: `docs/spec.md` section 21.5.

use alloc::vec;
use alloc::vec::Vec;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Header, KEY_AGE, OVERHEAD, OpenError, Opener, Sealer, TAG};
use crate::crypto::rekey;
use crate::time::Instant;
use crate::vectors::{Outputs, area, array, bytes, flag, list, long, number, outputs, provider, size, suite};
use crate::wire::QUANTUM;

pub(crate) fn run(vector: &Value) -> Outputs {
    let suite = suite(&vector["suite"])?;
    let mut key = array(&vector["key"]);
    let (first_n, first_size) = (number(&vector["first_n"]), size(&vector["first_size"]));
    let mut now = Instant::ZERO;
    let secret = || Zeroizing::new(array(&vector["key"]));
    let mut sealer = Sealer::new(provider(), suite, secret(), first_size, first_n, now)?;
    let mut opener = Opener::new(provider(), suite, secret(), first_size, size(&vector["max_record"]), first_n)?;
    let mut records = Vec::new();
    for given in list(&vector["records"]) {
        let mut made = given.clone();
        let len = sealer.next_len();
        assert_eq!(opener.next_len(), len);
        made["n"] = long(sealer.count());
        made["size"] = json!(len / QUANTUM);
        made["key"] = json!(hex::encode(key));
        let header = Header {
            next: size(&given["next_size"]),
            key_update: flag(&given["key_update"]),
            end: flag(&given["end"]),
        };
        if header.key_update {
            // A sender updates a key that has grown old.
            now = now + KEY_AGE;
            key = *rekey(provider(), suite, &key)?;
        }
        let frames = area(&given["frames"], len - OVERHEAD);
        let mut record = vec![0; len];
        record[1..len - TAG].copy_from_slice(&frames);
        sealer.seal(&mut record, header.next, header.end, now).expect("it can be sealed");
        made["bytes"] = json!(hex::encode(&record));
        assert_eq!(opener.open(&mut record), Ok(header));
        assert_eq!(record[1..len - TAG], frames[..]);
        records.push(made);
    }
    outputs(json!({ "records": records, "last_key": hex::encode(key) }))
}

/// A record after many under one key.
pub(crate) fn run_key_limit(vector: &Value) -> Outputs {
    let suite = suite(&vector["suite"])?;
    let key = array(&vector["key"]);
    // The last of them is opened in earnest.
    let before = u32::try_from(number(&vector["used"])).expect("a count") - 1;
    let n = u64::from(before);
    let mut opener = Opener::new(provider(), suite, Zeroizing::new(key), 1, 16, n)?;
    opener.has_used(before);
    let header = Header { next: 1, key_update: flag(&vector["key_update"]), end: false };
    let mut last = vec![0; QUANTUM];
    last[0] = header.byte();
    provider().aead(suite, &key)?.seal(n, &[], &mut last).expect("it can be sealed");
    assert_eq!(opener.open(&mut last), Ok(header));
    let error = match opener.open(&mut bytes(&vector["bytes"])) {
        Ok(_) => None,
        Err(OpenError::NotAuthentic) => Some("AUTH"),
        Err(OpenError::Violation(violation)) => violation.code.name(),
    };
    outputs(json!({ "error": error }))
}
