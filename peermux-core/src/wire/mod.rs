//! What stands on the wire inside the encryption: frames, and the payloads of the handshake.
//!
//! One file for each kind of frame holds its layout, its struct and its codec. Nothing here knows a state: a frame
//! that decodes is well formed, no more.

mod attestation;
mod close;
mod credit;
mod frame;
mod hello;
mod open;
mod ping;
mod priority;
mod reset;
mod settings;
mod stream;

pub use attestation::{Attestation, ED25519_SCHEME, MAX_FRAME_ATTESTATION, MAX_TLV_ATTESTATION};
pub use close::{Close, Drain, MAX_REASON};
pub use credit::{MaxData, MaxStreamData, MaxStreams};
pub use frame::{Frame, FrameError, FrameKind, Frames};
pub use hello::{Flags, Hello, MAX_TLVS, Suites, Versions};
pub use open::{MAX_NAME, MAX_NAMES, Name, Open, is_name};
pub use ping::{Ping, Pong};
pub use priority::{Priority, PriorityUpdate};
pub use reset::{Reset, Stop};
pub use settings::{Settings, SettingsError, Shaping};
pub use stream::StreamData;

/// The quantum: everything on the wire is a whole number of these ([spec](crate::spec) section 1).
pub const QUANTUM: usize = 1408;

/// The largest record, in quanta.
pub const MAX_RECORD: u8 = 16;

/// The version of the protocol that this crate speaks.
pub const VERSION: u8 = 1;

/// Bytes of frames in P1, in P3, and in i2r record 0 in IK ([spec](crate::spec) section 4.1).
pub const HANDSHAKE_FRAMES: usize = 1136;
