//! The codes of this protocol: what RESET and CLOSE say.

use peermux_tokio::ErrorCode;

/// The bytes at a stream's beginning are no target.
pub const BAD_TARGET: ErrorCode = ErrorCode::Application(1);
/// The far side does not connect to this target for this peer.
pub const NOT_ALLOWED: ErrorCode = ErrorCode::Application(2);
/// The target's name leads to no address.
pub const NO_ADDRESS: ErrorCode = ErrorCode::Application(3);
/// The target refused the connection, or cannot be reached.
pub const UNREACHABLE: ErrorCode = ErrorCode::Application(4);
/// The target, or the dialer, did not answer in time.
pub const TIMED_OUT: ErrorCode = ErrorCode::Application(5);
/// The TCP connection broke.
pub const BROKEN: ErrorCode = ErrorCode::Application(6);
/// The far side has as many connections as it takes.
pub const BUSY: ErrorCode = ErrorCode::Application(7);

/// In words, for whoever got the code.
pub fn explain(code: ErrorCode) -> String {
    let text = match code {
        BAD_TARGET => "the far side does not understand the target",
        NOT_ALLOWED => "the far side does not allow this target",
        NO_ADDRESS => "the far side finds no address for the target",
        UNREACHABLE => "the far side cannot connect to the target",
        TIMED_OUT => "the target did not answer in time",
        BROKEN => "the TCP connection at the other side broke",
        BUSY => "the far side has as many connections as it takes",
        code => return format!("the other side gave the connection up: {code}"),
    };
    text.into()
}
