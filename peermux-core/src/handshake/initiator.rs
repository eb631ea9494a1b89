//! The initiator: M1, M2, flight 3 ([spec](crate::spec) section 3.6).

use alloc::boxed::Box;
use alloc::vec::Vec;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::payload::Payload;
use super::{Established, FLIGHT_LEN, M1_LEN, Secrets, at, begin_fallback, begin_ik, nonzero};
use crate::crypto::{
    EphemeralSecret, KemSecret, Provider, PublicKey, SharedSecret, StaticSecret, Suite, SymmetricState,
};
use crate::error::HandshakeError;
use crate::id::Mode;
use crate::wire::Hello;

/// M1 was sent.
pub(crate) struct AwaitM2 {
    provider: &'static dyn Provider,
    secret: EphemeralSecret,
    anonymous: bool,
    ephemeral: EphemeralSecret,
    kem: KemSecret,
    /// Fallback hashes it.
    m1: Box<[u8; M1_LEN]>,
    /// The state after M1, and whom it was for, if this is IK.
    ik: Option<(SymmetricState, PublicKey)>,
}

/// M2 authenticated: the responder has proved its static key.
pub(crate) struct Proved {
    mode: Mode,
    state: SymmetricState,
    responder: PublicKey,
    hello: Hello,
    frames: Vec<u8>,
    /// This side's static key.
    public: PublicKey,
    anonymous: bool,
    se: SharedSecret,
}

/// Writes M1: for the holder of `remote`, or for whoever is there. `early` is the frame area of P1.
pub(crate) fn start(
    provider: &'static dyn Provider,
    rng: &mut impl CryptoRng,
    secret: &StaticSecret,
    remote: Option<PublicKey>,
    hello: &Hello,
    early: &[u8],
) -> Result<AwaitM2, HandshakeError> {
    let secret = secret.prepare(provider);
    let ephemeral = EphemeralSecret::generate(provider, rng);
    let mut seed = Zeroizing::new([0; 64]);
    rng.fill_bytes(&mut seed[..]);
    let (e1, kem) = provider.kem_generate(&seed);

    let mut m1 = Box::new([0; M1_LEN]);
    m1[at::E].copy_from_slice(ephemeral.public_key().as_bytes());
    m1[at::M1_E1].copy_from_slice(&e1[..]);
    let ik = match remote {
        Some(responder) => {
            let mut state = begin_ik(provider, &responder, &m1[at::E], &m1[at::M1_E1]);
            state.mix_key(nonzero(ephemeral.diffie_hellman(&responder))?.as_bytes());
            m1[at::M1_S.start..at::M1_S.start + 32].copy_from_slice(secret.public_key().as_bytes());
            state.encrypt_and_hash(&mut m1[at::M1_S]).map_err(|_| HandshakeError::Provider)?;
            state.mix_key(nonzero(secret.diffie_hellman(&responder))?.as_bytes());
            Payload::P1.write(&mut m1[at::M1_P.start..at::M1_P.end - super::TAG], 0, hello, early);
            state.encrypt_and_hash(&mut m1[at::M1_P]).map_err(|_| HandshakeError::Provider)?;
            Some((state, responder))
        }
        None => {
            // The same two operations, so that the time does not tell the mode.
            let anyone = ephemeral.public_key();
            let _ = (ephemeral.diffie_hellman(&anyone), secret.diffie_hellman(&anyone));
            rng.fill_bytes(&mut m1[at::M1_S.start..]);
            None
        }
    };
    Ok(AwaitM2 { provider, anonymous: hello.flags.anonymous, secret, ephemeral, kem, m1, ik })
}

impl AwaitM2 {
    pub(crate) const fn m1(&self) -> &[u8; M1_LEN] {
        &self.m1
    }

    /// Reads M2: under IK if M1 was, and then under fallback.
    pub(crate) fn read(self, m2: &mut [u8; FLIGHT_LEN]) -> Result<Proved, HandshakeError> {
        let Self { provider, secret, anonymous, ephemeral, kem, m1, ik } = self;
        let mut e_r = [0; 32];
        e_r.copy_from_slice(&m2[at::E]);
        let e_r = PublicKey::from_bytes(e_r);
        let public = secret.public_key();
        let ee = nonzero(ephemeral.diffie_hellman(&e_r))?;
        let se = nonzero(secret.diffie_hellman(&e_r))?;

        if let Some((state, responder)) = ik {
            let mut trial = Box::new(*m2);
            if let Ok((state, payload)) = read_ik(state, &mut trial, &ee, &se, &kem) {
                let (hello, frames) = payload?;
                // As many operations as fallback takes.
                let _ = ephemeral.diffie_hellman(&responder);
                return Ok(Proved { mode: Mode::Ik, state, responder, hello, frames, public, anonymous, se });
            }
        }

        let mut state = begin_fallback(provider, &m1);
        mix_answer(&mut state, m2, &ee, &kem)?;
        state.decrypt_and_hash(&mut m2[at::M2_S]).map_err(|_| HandshakeError::Answer)?;
        let mut s_r = [0; 32];
        s_r.copy_from_slice(&m2[at::M2_S.start..at::M2_S.start + 32]);
        let responder = PublicKey::from_bytes(s_r);
        state.mix_key(nonzero(ephemeral.diffie_hellman(&responder))?.as_bytes());
        let payload = &mut m2[at::M2_P];
        state.decrypt_and_hash(payload).map_err(|_| HandshakeError::Answer)?;
        let plaintext = &payload[..payload.len() - super::TAG];
        let (_, hello, _) = Payload::P2Fallback.read(plaintext).map_err(HandshakeError::Payload)?;
        let frames = Vec::new();
        Ok(Proved { mode: Mode::Fallback, state, responder, hello, frames, public, anonymous, se })
    }
}

/// The tokens `e, ee, ekem1` of M2.
fn mix_answer(
    state: &mut SymmetricState,
    m2: &mut [u8; FLIGHT_LEN],
    ee: &SharedSecret,
    kem: &KemSecret,
) -> Result<(), HandshakeError> {
    state.mix_hash(&m2[at::E]);
    state.mix_key(ee.as_bytes());
    state.decrypt_and_hash(&mut m2[at::M2_CT]).map_err(|_| HandshakeError::Answer)?;
    let (ct, _) = m2[at::M2_CT].split_first_chunk().ok_or(HandshakeError::Answer)?;
    state.mix_key(&kem.decapsulate(ct)[..]);
    Ok(())
}

/// The payload of an M2 that authenticates.
type Read = Result<(Hello, Vec<u8>), HandshakeError>;

/// Tries M2 under IK. The outer error says that it is none; the inner one that it is one, and malformed.
fn read_ik(
    mut state: SymmetricState,
    m2: &mut [u8; FLIGHT_LEN],
    ee: &SharedSecret,
    se: &SharedSecret,
    kem: &KemSecret,
) -> Result<(SymmetricState, Read), HandshakeError> {
    mix_answer(&mut state, m2, ee, kem)?;
    state.mix_key(se.as_bytes());
    let payload = &mut m2[at::M2_IK_P];
    state.decrypt_and_hash(payload).map_err(|_| HandshakeError::Answer)?;
    let read = Payload::P2Ik.read(&payload[..payload.len() - super::TAG]);
    Ok((state, read.map(|(_, hello, frames)| (hello, frames)).map_err(HandshakeError::Payload)))
}

impl Proved {
    pub(crate) const fn mode(&self) -> Mode {
        self.mode
    }

    /// The responder's static key, proved.
    pub(crate) const fn responder(&self) -> PublicKey {
        self.responder
    }

    pub(crate) const fn hello(&self) -> &Hello {
        &self.hello
    }

    /// The frame area of P2; empty in fallback.
    pub(crate) fn take_frames(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.frames)
    }

    pub(crate) const fn is_anonymous(&self) -> bool {
        self.anonymous
    }

    /// IK: the keys are there. Flight 3 is i2r record 0.
    pub(crate) fn finish_ik(self, suite: Suite) -> Result<Established, HandshakeError> {
        if self.mode != Mode::Ik {
            return Err(HandshakeError::Provider);
        }
        Ok(Established { suite, secrets: Secrets::derive(&self.state, suite) })
    }

    /// Fallback: writes flight 3, which shows and proves this side's static key.
    pub(crate) fn finish_fallback(
        mut self,
        suite: Suite,
        header: u8,
        hello: &Hello,
        frames: &[u8],
    ) -> Result<(Box<[u8; FLIGHT_LEN]>, Established), HandshakeError> {
        if self.mode != Mode::Fallback {
            return Err(HandshakeError::Provider);
        }
        let mut flight3 = Box::new([0; FLIGHT_LEN]);
        flight3[..32].copy_from_slice(self.public.as_bytes());
        self.state.encrypt_and_hash(&mut flight3[at::F3_S]).map_err(|_| HandshakeError::Provider)?;
        self.state.mix_key(self.se.as_bytes());
        Payload::P3.write(&mut flight3[at::F3_P.start..at::F3_P.end - super::TAG], header, hello, frames);
        self.state.encrypt_and_hash(&mut flight3[at::F3_P]).map_err(|_| HandshakeError::Provider)?;
        Ok((flight3, Established { suite, secrets: Secrets::derive(&self.state, suite) }))
    }
}
