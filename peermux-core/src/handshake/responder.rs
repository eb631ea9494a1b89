//! The responder: M1, M2, flight 3 ([spec](crate::spec) section 3.7).

use alloc::boxed::Box;
use alloc::vec::Vec;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::payload::Payload;
use super::{Established, FLIGHT_LEN, M1_LEN, Secrets, at, begin_fallback, begin_ik, nonzero};
use crate::config::ResponderKeys;
use crate::crypto::{EphemeralSecret, Provider, PublicKey, SharedSecret, StaticSecret, Suite, SymmetricState};
use crate::error::HandshakeError;
use crate::wire::Hello;

/// Nothing has arrived.
pub(crate) struct Start {
    provider: &'static dyn Provider,
    keys: ResponderKeys,
    fallback: bool,
}

/// M1 was read, under IK or not. M2 is to be written at once.
pub(crate) struct Trial {
    ephemeral: EphemeralSecret,
    ct: Box<[u8; 1088]>,
    kem_secret: Zeroizing<[u8; 32]>,
    e_i: PublicKey,
    path: Path,
    /// The initiator used the previous key.
    by_previous: bool,
}

enum Path {
    Ik { state: SymmetricState, key: PublicKey, hello: Box<Hello>, frames: Vec<u8> },
    Fallback { state: SymmetricState, current: PublicKey, es: Option<SharedSecret> },
}

/// What an initiator says in M1: not confirmed, since M1 can be replayed.
pub(crate) struct Claimed<'a> {
    pub(crate) key: PublicKey,
    pub(crate) ephemeral: PublicKey,
    pub(crate) hello: &'a Hello,
    /// The frame area of P1: early data, if the flag says so. Refused early data is not parsed.
    pub(crate) frames: &'a [u8],
}

/// M2 was written.
pub(crate) enum Answered {
    /// The keys are there; flight 3 is i2r record 0. The suite is the one that `hello` chose.
    Ik(Established),
    Fallback(AwaitFlight3),
}

/// M2 of fallback was sent.
pub(crate) struct AwaitFlight3 {
    ephemeral: EphemeralSecret,
    state: SymmetricState,
}

/// Flight 3 of fallback, authenticated.
pub(crate) struct Flight3 {
    pub(crate) initiator: PublicKey,
    pub(crate) header: u8,
    pub(crate) hello: Hello,
    pub(crate) frames: Vec<u8>,
    pub(crate) established: Established,
}

impl Start {
    pub(crate) const fn new(provider: &'static dyn Provider, keys: ResponderKeys, fallback: bool) -> Self {
        Self { provider, keys, fallback }
    }

    /// Reads M1. `acceptable` says whether this side takes a version and a suite of an offer.
    pub(crate) fn read(
        self,
        rng: &mut impl CryptoRng,
        m1: &[u8; M1_LEN],
        acceptable: impl Fn(&Hello) -> bool,
    ) -> Result<Trial, HandshakeError> {
        let Self { provider, keys, fallback } = self;
        // Random bytes never pass this; so whoever scans ports costs nothing.
        let (e1, _) = m1[at::M1_E1].split_first_chunk::<1184>().ok_or(HandshakeError::EncapsulationKey)?;
        if !provider.kem_check(e1) {
            return Err(HandshakeError::EncapsulationKey);
        }
        let mut randomness = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut randomness[..]);
        let (ct, kem_secret) = provider.kem_encapsulate(e1, &randomness).ok_or(HandshakeError::EncapsulationKey)?;
        let ephemeral = EphemeralSecret::generate(provider, rng);
        let mut e_i = [0; 32];
        e_i.copy_from_slice(&m1[at::E]);
        let e_i = PublicKey::from_bytes(e_i);

        // All keys are tried, whichever succeeds, so that the time does not tell.
        let try_key = |secret: &StaticSecret| {
            let secret = secret.prepare(provider);
            let es = secret.diffie_hellman(&e_i);
            let path = try_ik(provider, &secret, es.as_ref(), &e_i, m1, &acceptable);
            (path, es)
        };
        let (current, es) = try_key(&keys.current);
        let previous = keys.previous.as_ref().and_then(|previous| try_key(previous).0);
        let by_previous = current.is_none() && previous.is_some();
        let path = match current.or(previous) {
            Some(path) => path,
            None if !fallback => return Err(HandshakeError::NoFallback),
            None => {
                let state = begin_fallback(provider, m1);
                Path::Fallback { state, current: keys.current.public_key(), es }
            }
        };
        Ok(Trial { ephemeral, ct, kem_secret, e_i, path, by_previous })
    }
}

/// Tries M1 under IK with one static key.
fn try_ik(
    provider: &'static dyn Provider,
    secret: &EphemeralSecret,
    es: Option<&SharedSecret>,
    e_i: &PublicKey,
    m1: &[u8; M1_LEN],
    acceptable: &impl Fn(&Hello) -> bool,
) -> Option<Path> {
    let mut state = begin_ik(provider, &secret.public_key(), &m1[at::E], &m1[at::M1_E1]);
    let zeros = [0; 32];
    state.mix_key(es.map_or(&zeros, |es| es.as_bytes()));
    let mut s_i = [0; 48];
    s_i.copy_from_slice(&m1[at::M1_S]);
    let s_is_authentic = state.decrypt_and_hash(&mut s_i).is_ok();
    let (key, _) = s_i.split_first_chunk::<32>()?;
    // As many operations as in a trial that gets further.
    let key = if s_is_authentic { PublicKey::from_bytes(*key) } else { *e_i };
    let ss = secret.diffie_hellman(&key);
    let (Some(_), true, Some(ss)) = (es, s_is_authentic, ss) else { return None };
    state.mix_key(ss.as_bytes());
    let mut payload = Zeroizing::new(m1[at::M1_P].to_vec());
    state.decrypt_and_hash(&mut payload).ok()?;
    let plaintext = payload.len() - super::TAG;
    let (_, hello, frames) = Payload::P1.read(&payload[..plaintext]).ok()?;
    acceptable(&hello).then(|| Path::Ik { state, key, hello: Box::new(hello), frames })
}

impl Trial {
    /// What the initiator claims, if M1 was read under IK.
    pub(crate) fn claimed(&self) -> Option<Claimed<'_>> {
        match &self.path {
            Path::Ik { key, hello, frames, .. } => Some(Claimed { key: *key, ephemeral: self.e_i, hello, frames }),
            Path::Fallback { .. } => None,
        }
    }

    /// Whether M1 was read under the previous key.
    pub(crate) const fn is_by_previous(&self) -> bool {
        self.by_previous
    }

    /// Writes M2. In IK `hello` is a choice, and `frames` the frame area of P2; in fallback it is an offer.
    pub(crate) fn answer(
        self,
        hello: &Hello,
        frames: &[u8],
    ) -> Result<(Box<[u8; FLIGHT_LEN]>, Answered), HandshakeError> {
        let Self { ephemeral, ct, kem_secret, e_i, path, .. } = self;
        let mut m2 = Box::new([0; FLIGHT_LEN]);
        m2[at::E].copy_from_slice(ephemeral.public_key().as_bytes());
        m2[at::M2_CT.start..at::M2_CT.end - super::TAG].copy_from_slice(&ct[..]);
        let ee = nonzero(ephemeral.diffie_hellman(&e_i))?;
        let mix = |state: &mut SymmetricState, m2: &mut [u8; FLIGHT_LEN]| -> Result<(), HandshakeError> {
            state.mix_hash(&m2[at::E]);
            state.mix_key(ee.as_bytes());
            state.encrypt_and_hash(&mut m2[at::M2_CT]).map_err(|_| HandshakeError::Provider)?;
            state.mix_key(&kem_secret[..]);
            Ok(())
        };
        match path {
            Path::Ik { mut state, key, .. } => {
                mix(&mut state, &mut m2)?;
                state.mix_key(nonzero(ephemeral.diffie_hellman(&key))?.as_bytes());
                Payload::P2Ik.write(&mut m2[at::M2_IK_P.start..at::M2_IK_P.end - super::TAG], 0, hello, frames);
                state.encrypt_and_hash(&mut m2[at::M2_IK_P]).map_err(|_| HandshakeError::Provider)?;
                let suite = hello.suites.first().copied().and_then(Suite::from_byte).ok_or(HandshakeError::Suite)?;
                let secrets = Secrets::derive(&state, suite);
                Ok((m2, Answered::Ik(Established { suite, secrets })))
            }
            Path::Fallback { mut state, current, es } => {
                mix(&mut state, &mut m2)?;
                // `es` is known from the trial; this takes its time instead of `se`.
                let _ = ephemeral.diffie_hellman(&e_i);
                m2[at::M2_S.start..at::M2_S.start + 32].copy_from_slice(current.as_bytes());
                state.encrypt_and_hash(&mut m2[at::M2_S]).map_err(|_| HandshakeError::Provider)?;
                state.mix_key(nonzero(es)?.as_bytes());
                Payload::P2Fallback.write(&mut m2[at::M2_P.start..at::M2_P.end - super::TAG], 0, hello, frames);
                state.encrypt_and_hash(&mut m2[at::M2_P]).map_err(|_| HandshakeError::Provider)?;
                Ok((m2, Answered::Fallback(AwaitFlight3 { ephemeral, state })))
            }
        }
    }
}

impl AwaitFlight3 {
    /// Reads flight 3 of fallback.
    pub(crate) fn read(self, flight3: &mut [u8; FLIGHT_LEN]) -> Result<Flight3, HandshakeError> {
        let Self { ephemeral, mut state } = self;
        state.decrypt_and_hash(&mut flight3[at::F3_S]).map_err(|_| HandshakeError::ThirdFlight)?;
        let (s_i, _) = flight3.split_first_chunk::<32>().ok_or(HandshakeError::ThirdFlight)?;
        let initiator = PublicKey::from_bytes(*s_i);
        state.mix_key(nonzero(ephemeral.diffie_hellman(&initiator))?.as_bytes());
        let payload = &mut flight3[at::F3_P];
        state.decrypt_and_hash(payload).map_err(|_| HandshakeError::ThirdFlight)?;
        let plaintext = payload.len() - super::TAG;
        let (header, hello, frames) = Payload::P3.read(&payload[..plaintext]).map_err(HandshakeError::Payload)?;
        let suite = hello.suites.first().copied().and_then(Suite::from_byte).ok_or(HandshakeError::Suite)?;
        let established = Established { suite, secrets: Secrets::derive(&state, suite) };
        Ok(Flight3 { initiator, header, hello, frames, established })
    }
}
