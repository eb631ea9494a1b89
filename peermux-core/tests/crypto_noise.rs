//! The symmetric state, driven through whole handshakes of plain Noise: against snow, and against a published fallback.

use blake2::Blake2b512;
use hmac::{KeyInit as _, Mac as _, SimpleHmac};
use peermux_core::crypto::{
    AeadKey, Provider, PublicKey, StaticSecret, Suite, SymmetricState, TAG_LEN, providers, rekey,
};

const PROLOGUE: &[u8] = b"a prologue";
const IK: &[&str] = &["e es s ss", "e ee se"];
const XX: &[&str] = &["e", "e ee s es", "s se"];

/// One side of a handshake of plain Noise: it does what the tokens say.
struct Side {
    initiator: bool,
    state: SymmetricState,
    has_key: bool,
    s: StaticSecret,
    e: StaticSecret,
    rs: Option<PublicKey>,
    re: Option<PublicKey>,
}

impl Side {
    fn new(
        provider: &'static dyn Provider,
        name: &str,
        prologue: &[u8],
        initiator: bool,
        s: [u8; 32],
        e: [u8; 32],
    ) -> Self {
        let mut state = SymmetricState::initialize(provider, name.as_bytes());
        state.mix_hash(prologue);
        let (s, e) = (StaticSecret::from_bytes(&s), StaticSecret::from_bytes(&e));
        Self { initiator, state, has_key: false, s, e, rs: None, re: None }
    }

    fn mix_dh(&mut self, token: &str) {
        let (local, remote) = match (token, self.initiator) {
            ("ee", _) => (&self.e, self.re),
            ("ss", _) => (&self.s, self.rs),
            ("es", true) | ("se", false) => (&self.e, self.rs),
            ("se", true) | ("es", false) => (&self.s, self.re),
            _ => panic!("unknown token {token}"),
        };
        self.state.mix_key(local.diffie_hellman(&remote.unwrap()).unwrap().as_bytes());
        self.has_key = true;
    }

    fn put(&mut self, text: &[u8], message: &mut Vec<u8>) {
        let start = message.len();
        message.extend(text);
        if self.has_key {
            message.extend([0; TAG_LEN]);
            self.state.encrypt_and_hash(&mut message[start..]).unwrap();
        } else {
            self.state.mix_hash(text);
        }
    }

    fn take(&mut self, length: usize, message: &mut &[u8]) -> Vec<u8> {
        let (now, later) = message.split_at(length + if self.has_key { TAG_LEN } else { 0 });
        *message = later;
        let mut text = now.to_vec();
        if self.has_key {
            self.state.decrypt_and_hash(&mut text).unwrap();
            text.truncate(length);
        } else {
            self.state.mix_hash(now);
        }
        text
    }

    fn write(&mut self, tokens: &str, payload: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        for token in tokens.split(' ') {
            match token {
                "e" => {
                    message.extend(self.e.public_key().as_bytes());
                    self.state.mix_hash(self.e.public_key().as_bytes());
                }
                "s" => {
                    let key = self.s.public_key();
                    self.put(key.as_bytes(), &mut message);
                }
                dh => self.mix_dh(dh),
            }
        }
        self.put(payload, &mut message);
        message
    }

    fn read(&mut self, tokens: &str, mut message: &[u8]) -> Vec<u8> {
        for token in tokens.split(' ') {
            match token {
                "e" => {
                    let (key, rest) = message.split_first_chunk().unwrap();
                    self.re = Some(PublicKey::from_bytes(*key));
                    self.state.mix_hash(key);
                    message = rest;
                }
                "s" => {
                    let key = self.take(32, &mut message).try_into().unwrap();
                    self.rs = Some(PublicKey::from_bytes(key));
                }
                dh => self.mix_dh(dh),
            }
        }
        let length = message.len() - if self.has_key { TAG_LEN } else { 0 };
        self.take(length, &mut message)
    }

    /// Noise's Split, written anew: the initiator's key for sending, and the responder's.
    fn split(&self) -> [[u8; 32]; 2] {
        let mac = |key: &[u8], data: &[u8]| {
            let hmac = SimpleHmac::<Blake2b512>::new_from_slice(key).unwrap();
            <[u8; 64]>::from(hmac.chain_update(data).finalize().into_bytes())
        };
        let temp_key = mac(self.state.chaining_key(), &[]);
        let first = mac(&temp_key, &[1]);
        let second = mac(&temp_key, &[&first[..], &[2]].concat());
        [first, second].map(|output| output[..32].try_into().unwrap())
    }
}

fn seal(key: &dyn AeadKey, nonce: u64, text: &[u8]) -> Vec<u8> {
    let mut sealed = [text, &[0; TAG_LEN]].concat();
    key.seal(nonce, &[], &mut sealed).unwrap();
    sealed
}

/// Runs a handshake with payloads and a first message each way, once before and once after REKEY.
fn run_against_snow(provider: &'static dyn Provider, pattern: &str, messages: &[&str], ours_initiates: bool) {
    let name = format!("Noise_{pattern}_25519_ChaChaPoly_BLAKE2b");
    let their_static = [0x21; 32];
    let mut ours = Side::new(provider, &name, PROLOGUE, ours_initiates, [0x11; 32], [0x12; 32]);
    let their_public = StaticSecret::from_bytes(&their_static).public_key();
    let our_public = ours.s.public_key();

    let mut builder = snow::Builder::new(name.parse().unwrap())
        .prologue(PROLOGUE)
        .unwrap()
        .local_private_key(&their_static)
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(&[0x22; 32]);
    if pattern == "IK" {
        // The pre-message: the responder's static key.
        if ours_initiates {
            ours.rs = Some(their_public);
            ours.state.mix_hash(their_public.as_bytes());
        } else {
            ours.state.mix_hash(our_public.as_bytes());
            builder = builder.remote_public_key(our_public.as_bytes()).unwrap();
        }
    }
    let mut theirs = if ours_initiates { builder.build_responder() } else { builder.build_initiator() }.unwrap();

    let mut buf = [0; 1024];
    for (index, tokens) in messages.iter().enumerate() {
        let payload = format!("payload {index}");
        if (index % 2 == 0) == ours_initiates {
            let length = theirs.read_message(&ours.write(tokens, payload.as_bytes()), &mut buf).unwrap();
            assert_eq!(&buf[..length], payload.as_bytes());
        } else {
            let length = theirs.write_message(payload.as_bytes(), &mut buf).unwrap();
            assert_eq!(ours.read(tokens, &buf[..length]), payload.as_bytes());
        }
        assert_eq!(theirs.get_handshake_hash(), ours.state.handshake_hash(), "{pattern}, message {index}");
    }
    assert_eq!(theirs.get_remote_static(), Some(&our_public.as_bytes()[..]));
    assert_eq!(ours.rs, Some(their_public));

    let [of_initiator, of_responder] = ours.split();
    let (mut our_key, mut their_key) =
        if ours_initiates { (of_initiator, of_responder) } else { (of_responder, of_initiator) };
    let mut theirs = theirs.into_transport_mode().unwrap();
    for nonce in 0..2 {
        let aead = |key| provider.aead(Suite::ChaCha20Poly1305, key).unwrap();
        let length = theirs.read_message(&seal(&*aead(&our_key), nonce, b"to them"), &mut buf).unwrap();
        assert_eq!(&buf[..length], b"to them");
        let length = theirs.write_message(b"to us", &mut buf).unwrap();
        assert_eq!(&buf[..length], seal(&*aead(&their_key), nonce, b"to us"));

        theirs.rekey_incoming();
        theirs.rekey_outgoing();
        our_key = *rekey(provider, Suite::ChaCha20Poly1305, &our_key).unwrap();
        their_key = *rekey(provider, Suite::ChaCha20Poly1305, &their_key).unwrap();
    }
}

#[test]
fn ik_is_what_snow_takes_it_for() {
    for &provider in providers() {
        run_against_snow(provider, "IK", IK, true);
        run_against_snow(provider, "IK", IK, false);
    }
}

#[test]
fn xx_is_what_snow_takes_it_for() {
    for &provider in providers() {
        run_against_snow(provider, "XX", XX, true);
        run_against_snow(provider, "XX", XX, false);
    }
}

fn decode<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).unwrap().try_into().unwrap()
}

/// snow has no fallback, so this is the vector `Noise_XXfallback_25519_ChaChaPoly_BLAKE2b` of noise-c. The first 32 bytes of its
/// IK message are the pre-message; the rest of that message does not matter.
#[test]
fn xxfallback_answers_as_noise_c_does() {
    for &provider in providers() {
        let side = |initiator, s, e| {
            let name = "Noise_XXfallback_25519_ChaChaPoly_BLAKE2b";
            Side::new(provider, name, b"Prologue123", initiator, decode(s), decode(e))
        };
        let mut initiator = side(
            true,
            "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1",
            "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
        );
        let mut responder = side(
            false,
            "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
            "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
        );
        let e = initiator.e.public_key();
        assert_eq!(e.to_string(), "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944");
        initiator.state.mix_hash(e.as_bytes());
        responder.state.mix_hash(e.as_bytes());
        responder.re = Some(e);

        let second = responder.write(XX[1], b"Murray Rothbard");
        assert_eq!(
            hex::encode(&second),
            concat!(
                "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f1448088437714fb2cf42a1fc018c24b3bd16731f9",
                "a1c1e476d4bd0d0ebcc53cd970d46776ce4e0dff06f00d13dcbac05019986e45929d9e70ce9f27b60ddc4b7ecbc06093",
                "bfe336d88f9fc2f0c923439b76bd3b"
            )
        );
        assert_eq!(initiator.read(XX[1], &second), b"Murray Rothbard");
        let third = initiator.write(XX[2], b"F. A. Hayek");
        assert_eq!(
            hex::encode(&third),
            concat!(
                "fb87f74cbf441d50f7ebe2e1cb265138de3f2070cc34a12461382ecbef625feed719f4e89385e0875a81e64228b6763b",
                "4eaf0ea4d6f0f9822534909bdcd0f5d1966f62be436195577993c7"
            )
        );
        assert_eq!(responder.read(XX[2], &third), b"F. A. Hayek");

        let hash = concat!(
            "9ca839672840ab3f239a4d1d7136ecde9b3cb8244c0fdc7d6c56f4e394144a54",
            "d28326d042ef30d8f253c977efce03d8f728686540672a9eac53dbf9b4c28b57"
        );
        assert_eq!(hex::encode(initiator.state.handshake_hash()), hash);
        assert_eq!(hex::encode(responder.state.handshake_hash()), hash);

        // Whoever answered the IK message began the fallback, so the first key of Split() is the one it sends under.
        let [first, second] = responder.split();
        assert_eq!([first, second], initiator.split());
        let aead = |key| provider.aead(Suite::ChaCha20Poly1305, key).unwrap();
        let fourth = "a1ad6dc722186ef50b242f90f68a7c713e922f257c2739d5dfc956";
        assert_eq!(hex::encode(seal(&*aead(&first), 0, b"Carl Menger")), fourth);
        let fifth = "733ad645ff63a8fc84129292f40ea7436b7277637a57b434a2d72eccf5fcaf36dc";
        assert_eq!(hex::encode(seal(&*aead(&second), 0, b"Jean-Baptiste Say")), fifth);
    }
}
