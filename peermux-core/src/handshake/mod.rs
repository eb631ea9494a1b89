//! The handshake: [spec](crate::spec) sections 3 to 5.
//!
//! One type for each message that is awaited; reading the message consumes it and gives the next. The words *initiator* and *responder* are those of TCP
//! in both modes, and so are the tokens: `es` is always the initiator's ephemeral key with the responder's static one.

pub(crate) mod initiator;
mod payload;
pub(crate) mod responder;
#[cfg(test)]
pub(crate) mod vectors;

use zeroize::Zeroizing;

use crate::crypto::{Provider, PublicKey, SharedSecret, Suite, SymmetricState, blake2b_256, traffic_secret};
use crate::error::HandshakeError;

/// The length of M1, in bytes.
pub(crate) const M1_LEN: usize = 2816;
/// The length of M2 and of flight 3, in bytes.
pub(crate) const FLIGHT_LEN: usize = 1408;

const IK: &[u8] = b"Noise_IKchfs_25519+MLKEM768_ChaChaPoly_BLAKE2b";
const FALLBACK: &[u8] = b"Noise_XXfallback+chfs_25519+MLKEM768_ChaChaPoly_BLAKE2b";
const PROLOGUE: &[u8] = b"peermux/1";

const DH: usize = 32;
const TAG: usize = 16;
const EK: usize = 1184;
const CT: usize = 1088;

/// Where the fields of the flights stand ([spec](crate::spec) section 3.3).
mod at {
    use core::ops::Range;

    use super::{CT, DH, EK, FLIGHT_LEN, M1_LEN, TAG};

    pub(super) const E: Range<usize> = 0..DH;
    pub(super) const M1_E1: Range<usize> = DH..DH + EK;
    pub(super) const M1_S: Range<usize> = M1_E1.end..M1_E1.end + DH + TAG;
    pub(super) const M1_P: Range<usize> = M1_S.end..M1_LEN;
    pub(super) const M2_CT: Range<usize> = DH..DH + CT + TAG;
    pub(super) const M2_IK_P: Range<usize> = M2_CT.end..FLIGHT_LEN;
    pub(super) const M2_S: Range<usize> = M2_CT.end..M2_CT.end + DH + TAG;
    pub(super) const M2_P: Range<usize> = M2_S.end..FLIGHT_LEN;
    pub(super) const F3_S: Range<usize> = 0..DH + TAG;
    pub(super) const F3_P: Range<usize> = F3_S.end..FLIGHT_LEN;
}

/// What the handshake leaves behind.
pub(crate) struct Established {
    pub(crate) suite: Suite,
    pub(crate) secrets: Secrets,
}

/// The secrets of a connection, and its channel binding ([spec](crate::spec) section 5).
pub(crate) struct Secrets {
    i2r: Zeroizing<[u8; 32]>,
    r2i: Zeroizing<[u8; 32]>,
    exporter: Zeroizing<[u8; 32]>,
    binding: [u8; 64],
    /// Nothing but test vectors needs it any more.
    #[cfg(test)]
    chaining_key: [u8; 64],
}

impl Secrets {
    fn derive(state: &SymmetricState, suite: Suite) -> Self {
        let secret = |label: &[u8]| traffic_secret(state.chaining_key(), label, suite, state.handshake_hash());
        Self {
            i2r: secret(b"peermux/1 i2r"),
            r2i: secret(b"peermux/1 r2i"),
            exporter: secret(b"peermux/1 exporter"),
            binding: *state.handshake_hash(),
            #[cfg(test)]
            chaining_key: *state.chaining_key(),
        }
    }

    pub(crate) fn i2r(&self) -> Zeroizing<[u8; 32]> {
        self.i2r.clone()
    }

    pub(crate) fn r2i(&self) -> Zeroizing<[u8; 32]> {
        self.r2i.clone()
    }

    /// Forgets the traffic secrets: they live on in the records' keys only.
    pub(crate) fn into_exporter(mut self) -> Self {
        self.i2r = Zeroizing::new([0; 32]);
        self.r2i = Zeroizing::new([0; 32]);
        self
    }

    pub(crate) const fn binding(&self) -> &[u8; 64] {
        &self.binding
    }

    pub(crate) fn exporter(&self) -> &[u8; 32] {
        &self.exporter
    }
}

/// The symmetric state of IK up to and with M1's `e1`.
fn begin_ik(provider: &'static dyn Provider, responder: &PublicKey, e: &[u8], e1: &[u8]) -> SymmetricState {
    let mut state = SymmetricState::initialize(provider, IK);
    state.mix_hash(PROLOGUE);
    state.mix_hash(responder.as_bytes());
    state.mix_hash(e);
    state.mix_hash(e1);
    state
}

/// The symmetric state of fallback up to and with the pre-message.
fn begin_fallback(provider: &'static dyn Provider, m1: &[u8; M1_LEN]) -> SymmetricState {
    let mut prologue = [0; PROLOGUE.len() + 32];
    prologue[..PROLOGUE.len()].copy_from_slice(PROLOGUE);
    prologue[PROLOGUE.len()..].copy_from_slice(&blake2b_256(m1));
    let mut state = SymmetricState::initialize(provider, FALLBACK);
    state.mix_hash(&prologue);
    state.mix_hash(&m1[at::E]);
    state.mix_hash(&m1[at::M1_E1]);
    state
}

/// A DH result that must not be zero.
fn nonzero(result: Option<SharedSecret>) -> Result<SharedSecret, HandshakeError> {
    result.ok_or(HandshakeError::ZeroResult)
}
