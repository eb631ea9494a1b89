//! X25519 and its keys: RFC 7748, agreement of the providers, points of low order, and keys as text.

use core::fmt;

use peermux_core::crypto::{EphemeralSecret, ParseKeyError, ParseSecretError, PublicKey, Rng, StaticSecret, providers};
use rand_core::{Rng as _, TryCryptoRng, TryRng};

fn decode(text: &str) -> [u8; 32] {
    hex::decode(text).unwrap().try_into().unwrap()
}

/// X25519 by every provider and by a static secret, which must agree.
fn x25519(scalar: &[u8; 32], point: [u8; 32]) -> [u8; 32] {
    let answer = *StaticSecret::from_bytes(scalar).diffie_hellman(&PublicKey::from_bytes(point)).unwrap().as_bytes();
    for &provider in providers() {
        assert_eq!(*provider.x25519(scalar).diffie_hellman(&point), answer, "{provider:?}");
    }
    answer
}

/// Section 5.2; the second point has the bit set that X25519 ignores.
#[test]
fn scalar_multiplication_answers_as_rfc_7748_says() {
    let vectors = [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ];
    for (scalar, point, expected) in vectors {
        assert_eq!(hex::encode(x25519(&decode(scalar), decode(point))), expected);
    }
}

/// Section 5.2, the second kind of test.
#[test]
fn a_thousand_multiplications_answer_as_rfc_7748_says() {
    let mut scalar = [0; 32];
    scalar[0] = 9;
    let mut point = scalar;
    for round in 1..=1000 {
        (scalar, point) = (x25519(&scalar, point), scalar);
        if round == 1 {
            assert_eq!(hex::encode(scalar), "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079");
        }
    }
    assert_eq!(hex::encode(scalar), "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51");
}

/// Section 6.1.
#[test]
fn two_sides_agree_as_rfc_7748_says() {
    let alice = decode("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
    let bob = decode("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
    let alice_public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
    let bob_public = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f";
    for &provider in providers() {
        assert_eq!(hex::encode(provider.x25519(&alice).public_key()), alice_public, "{provider:?}");
        assert_eq!(hex::encode(provider.x25519(&bob).public_key()), bob_public, "{provider:?}");
    }
    let (alice, bob) = (StaticSecret::from_bytes(&alice), StaticSecret::from_bytes(&bob));
    assert_eq!(alice.public_key().to_string(), alice_public);
    assert_eq!(bob.public_key().to_string(), bob_public);
    let shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742";
    for agreed in [alice.diffie_hellman(&bob.public_key()), bob.diffie_hellman(&alice.public_key())] {
        assert_eq!(hex::encode(agreed.unwrap().as_bytes()), shared);
    }
}

/// Secrets, and points of every kind: on the curve and on its twist, and with coordinates that are not reduced.
#[test]
fn the_providers_agree() {
    let mut rng = Rng::from_seed(&[3; 32]);
    for round in 0..200 {
        let (mut secret, mut point) = ([0; 32], [0xff; 32]);
        rng.fill_bytes(&mut secret);
        if round % 10 != 0 {
            rng.fill_bytes(&mut point);
        } else {
            // From 2^255 - 19 + 2, which is 2, to 2^255 - 1, which is 18.
            point[0] = 0xef + round / 10 % 17;
        }
        let expected = StaticSecret::from_bytes(&secret);
        x25519(&secret, point);
        for &provider in providers() {
            let public = provider.x25519(&secret).public_key();
            assert_eq!(&public, expected.public_key().as_bytes(), "{provider:?}");
        }
    }
}

/// Every encoding of a point whose order divides 8, with and without the bit that X25519 ignores.
#[test]
fn points_of_low_order_yield_nothing() {
    let points = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
    let Ok(secret) = StaticSecret::generate_from(&mut Rng::from_seed(&[1; 32]));
    let ephemeral = |provider| EphemeralSecret::generate(provider, &mut Rng::from_seed(&[2; 32]));
    let ephemerals: Vec<_> = providers().iter().copied().map(ephemeral).collect();
    for point in points {
        let mut point = decode(point);
        for top_bit in [0x00, 0x80] {
            point[31] = point[31] & 0x7f | top_bit;
            let public = PublicKey::from_bytes(point);
            assert!(secret.diffie_hellman(&public).is_none(), "{public}");
            assert!(ephemerals.iter().all(|secret| secret.diffie_hellman(&public).is_none()), "{public}");
            for &provider in providers() {
                assert_eq!(*provider.x25519(&[7; 32]).diffie_hellman(&point), [0; 32], "{provider:?}");
            }
        }
    }
}

#[test]
fn secrets_survive_being_stored_and_are_not_printed() {
    let mut rng = Rng::from_seed(&[4; 32]);
    let Ok(secret) = StaticSecret::generate_from(&mut rng);
    let Ok(other) = StaticSecret::generate_from(&mut rng);
    assert_eq!(StaticSecret::from_bytes(&secret.to_bytes()), secret);
    assert_ne!(secret, other);
    let public = secret.public_key();
    assert_eq!(format!("{secret:?}"), format!("StaticSecret {{ public: PublicKey({public}), .. }}"));

    for &provider in providers() {
        let ephemeral = EphemeralSecret::generate(provider, &mut rng);
        let shared = secret.diffie_hellman(&ephemeral.public_key()).unwrap();
        assert_eq!(ephemeral.diffie_hellman(&public).unwrap().as_bytes(), shared.as_bytes());
        let public = ephemeral.public_key();
        assert_eq!(format!("{ephemeral:?}"), format!("EphemeralSecret {{ public: PublicKey({public}), .. }}"));
        assert_eq!(format!("{shared:?}"), "SharedSecret { .. }");
    }
}

#[derive(Debug, PartialEq)]
struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken")
    }
}

impl std::error::Error for Broken {}

/// A source of randomness that fails.
struct BrokenRng;

impl TryRng for BrokenRng {
    type Error = Broken;

    fn try_next_u32(&mut self) -> Result<u32, Broken> {
        Err(Broken)
    }

    fn try_next_u64(&mut self) -> Result<u64, Broken> {
        Err(Broken)
    }

    fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Broken> {
        Err(Broken)
    }
}

impl TryCryptoRng for BrokenRng {}

#[test]
fn failing_randomness_is_an_error() {
    assert_eq!(StaticSecret::generate_from(&mut BrokenRng).err(), Some(Broken));
    assert_eq!(Rng::from_rng(&mut BrokenRng).err(), Some(Broken));
}

#[test]
fn public_keys_are_64_lowercase_digits_and_are_read_in_either_case() {
    let mut bytes = [0; 32];
    (bytes[0], bytes[31]) = (0xab, 0x0c);
    let key = PublicKey::from_bytes(bytes);
    let text = format!("ab{}0c", "00".repeat(30));
    assert_eq!(key.to_string(), text);
    assert_eq!(text.parse(), Ok(key));
    assert_eq!(text.to_uppercase().parse(), Ok(key));
    assert_eq!(format!("{key:?}"), format!("PublicKey({text})"));
}

#[test]
fn a_text_that_is_no_key_says_why() {
    let parse = |text: &str| text.parse::<PublicKey>().unwrap_err();
    let digits = "0".repeat(64);
    assert_eq!(parse(""), ParseKeyError::Length(0));
    assert_eq!(parse(&digits[1..]), ParseKeyError::Length(63));
    assert_eq!(parse(&"0".repeat(1000)), ParseKeyError::Length(1000));
    assert_eq!(parse("0x00"), ParseKeyError::Digit { position: 1, found: 'x' });
    assert_eq!(parse(&format!("{digits}\n")), ParseKeyError::Digit { position: 64, found: '\n' });
    assert_eq!(parse("ä"), ParseKeyError::Digit { position: 0, found: 'ä' });
    assert_eq!(parse("+1").to_string(), "invalid key: '+' at position 0 is not a hexadecimal digit");
    assert_eq!(parse("12").to_string(), "invalid key: expected 64 hexadecimal digits, got 2");
}

#[test]
fn a_secret_is_read_from_its_digits_and_an_error_contains_none_of_them() {
    let bytes: [u8; 32] = std::array::from_fn(|index| index as u8 * 7 + 3);
    let secret = StaticSecret::from_bytes(&bytes);
    let text = secret.expose_hex();
    assert_eq!(*text, hex::encode(bytes));
    assert_eq!(StaticSecret::from_hex(&text), Ok(secret.clone()));
    assert_eq!(StaticSecret::from_hex(&text.to_uppercase()), Ok(secret));

    let refused = |text: &str| StaticSecret::from_hex(text).unwrap_err();
    assert_eq!(refused(""), ParseSecretError::Length(0));
    assert_eq!(refused(&text[2..]), ParseSecretError::Length(62));
    assert_eq!(refused(&format!("{}00", &*text)), ParseSecretError::Length(66));
    assert_eq!(refused(&format!("{}\n", &*text)), ParseSecretError::Digit { position: 64 });
    let wrong = refused(&text.replace("0a", "0q"));
    assert_eq!(wrong, ParseSecretError::Digit { position: 3 });
    assert_eq!(wrong.to_string(), "invalid secret: the character at position 3 is not a hexadecimal digit");
    assert_eq!(refused("12").to_string(), "invalid secret: expected 64 hexadecimal digits, got 2");
    // As many bytes as digits are needed, but fewer characters.
    assert_eq!(refused(&"ä".repeat(32)), ParseSecretError::Digit { position: 0 });
}

#[cfg(feature = "getrandom")]
#[test]
fn secrets_of_the_operating_system_differ() {
    let (one, other) = (StaticSecret::generate().unwrap(), StaticSecret::generate().unwrap());
    assert_ne!(one, other);
    assert_ne!(one.public_key(), other.public_key());
}

#[test]
fn keys_are_padded_as_texts_are() {
    let key = PublicKey::from_bytes([0xaa; 32]);
    assert_eq!(format!("{key:>66}"), format!("  {}", "aa".repeat(32)));
    assert_eq!(format!("{key:.8}"), "aaaaaaaa");
}

#[test]
fn public_keys_are_ordered_by_their_bytes() {
    let key = |first, last| {
        let mut bytes = [0; 32];
        (bytes[0], bytes[31]) = (first, last);
        PublicKey::from_bytes(bytes)
    };
    assert!(key(1, 0) < key(1, 1) && key(1, 255) < key(2, 0));
}
