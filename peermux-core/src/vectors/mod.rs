//! The vectors in `vectors/`, which an independent implementation made: `docs/spec.md` section 21.
//!
//! Imports go one way. Here is what every vector needs: values out of JSON, and frames. What a vector needs from inside of a
//! floor stands there, in a file of the same name, and imports from here: `handshake/vectors.rs`, `record/vectors.rs`,
//! `connection/vectors.rs`. [`files`] imports from all of them, and holds the tests.

mod files;
mod frames;
mod rules;

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::cell::Cell;

use serde_json::{Map, Value};

pub(crate) use frames::area;

use crate::crypto::{Provider, RustCrypto, Suite};

/// The outputs of a vector by name; `None` if the provider at hand does not have its suite.
pub(crate) type Outputs = Option<Map<String, Value>>;

/// The bytes that a member holds as hexadecimal.
pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value)).expect("hexadecimal")
}

/// The same where it has one length only.
pub(crate) fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().expect("the length that the specification gives")
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// The members whose value may not fit into a double: decimal strings, wherever they occur. All other numbers are JSON numbers.
const LONG: [&str; 14] = [
    "value",
    "stream",
    "maximum",
    "window",
    "index",
    "code",
    "number",
    "settings",
    "n",
    "first_n",
    "now",
    "timestamp",
    "started",
    "key_made",
];

/// A number in either form: [`numbers_that_may_be_long_are_strings`] checks which one it has.
pub(crate) fn number(value: &Value) -> u64 {
    optional(value).expect("a number")
}

/// The same where a member may be null, or may not be there.
pub(crate) fn optional(value: &Value) -> Option<u64> {
    match value {
        Value::Null => None,
        Value::String(digits) => Some(digits.parse().expect("a decimal number")),
        value => Some(value.as_u64().expect("a number")),
    }
}

/// A number as a member in [`LONG`] holds it.
pub(crate) fn long(number: u64) -> Value {
    Value::String(number.to_string())
}

pub(crate) fn flag(value: &Value) -> bool {
    value.as_bool().expect("true or false")
}

/// A number of quanta.
pub(crate) fn size(value: &Value) -> u8 {
    u8::try_from(number(value)).expect("at most 16")
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().expect("an array")
}

/// The suite of this byte, if the provider has it.
pub(crate) fn suite(value: &Value) -> Option<Suite> {
    let suite = Suite::from_byte(size(value)).expect("a suite");
    provider().supports(suite).then_some(suite)
}

std::thread_local! {
    static PROVIDER: Cell<&'static dyn Provider> = const { Cell::new(&RustCrypto) };
}

/// The provider whose turn it is.
pub(crate) fn provider() -> &'static dyn Provider {
    PROVIDER.get()
}

pub(crate) fn outputs(value: Value) -> Outputs {
    match value {
        Value::Object(members) => Some(members),
        _ => panic!("outputs are an object"),
    }
}
