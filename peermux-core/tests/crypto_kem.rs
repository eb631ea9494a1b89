//! ML-KEM-768: published answers, agreement with a second implementation, and what is refused.

use libcrux_ml_kem::mlkem768 as libcrux;
use peermux_core::crypto::{Provider, Rng, RustCrypto, providers};
use rand_core::Rng as _;
use shake::{ExtendableOutput as _, Shake128, Update as _, XofReader as _};

const MODULUS: u16 = 3329;

/// The accumulated vectors of Go's crypto/mlkem (`TestAccumulated`): `runs` times, SHAKE-128 of nothing gives a seed, a message and a
/// ciphertext that belongs to no key, and what comes out goes into another SHAKE-128.
fn accumulate(provider: &dyn Provider, runs: usize) -> String {
    let mut input = Shake128::default().finalize_xof();
    let mut output = Shake128::default();
    for _ in 0..runs {
        let (mut seed, mut randomness, mut wrong_ciphertext) = ([0; 64], [0; 32], [0; 1088]);
        input.read(&mut seed);
        input.read(&mut randomness);
        input.read(&mut wrong_ciphertext);

        let (encapsulation_key, secret) = provider.kem_generate(&seed);
        assert!(provider.kem_check(&encapsulation_key));
        let (ciphertext, shared) = provider.kem_encapsulate(&encapsulation_key, &randomness).unwrap();
        assert_eq!(secret.decapsulate(&ciphertext), shared);

        output.update(&encapsulation_key[..]);
        output.update(&ciphertext[..]);
        output.update(&shared[..]);
        output.update(&secret.decapsulate(&wrong_ciphertext)[..]);
    }
    let mut hash = [0; 32];
    output.finalize_xof().read(&mut hash);
    hex::encode(hash)
}

#[test]
fn a_hundred_runs_answer_as_go_does() {
    for &provider in providers() {
        let expected = "1114b1b6699ed191734fa339376afa7e285c9e6acf6ff0177d346696ce564415";
        assert_eq!(accumulate(provider, 100), expected, "{provider:?}");
    }
}

#[test]
#[ignore = "takes seconds without optimisation"]
fn ten_thousand_runs_answer_as_go_does() {
    for &provider in providers() {
        let expected = "8a518cc63da366322a8e7a818c7a0d63483cb3528d34a4cf42f35d5ad73f22fc";
        assert_eq!(accumulate(provider, 10_000), expected, "{provider:?}");
    }
}

/// Each provider against ml-kem and libcrux themselves.
#[test]
fn each_implementation_reads_what_the_other_writes() {
    let mut rng = Rng::from_seed(&[5; 32]);
    for _ in 0..100 {
        let (mut seed, mut randomness) = ([0; 64], [0; 32]);
        rng.fill_bytes(&mut seed);
        rng.fill_bytes(&mut randomness);
        let theirs = libcrux::generate_key_pair(seed);
        let (their_ciphertext, their_shared) = libcrux::encapsulate(theirs.public_key(), randomness);
        let (_, portable) = RustCrypto.kem_generate(&seed);
        // A ciphertext that nobody made: all reject it implicitly, and alike.
        let mut wrong = *their_ciphertext.as_slice();
        wrong[usize::from(seed[0])] ^= 1;
        let rejected = libcrux::decapsulate(theirs.private_key(), &wrong.into());
        assert_ne!(rejected, their_shared);

        for &provider in providers() {
            let (ours, secret) = provider.kem_generate(&seed);
            assert_eq!(&ours[..], theirs.pk(), "{provider:?}");
            let (our_ciphertext, our_shared) = provider.kem_encapsulate(&ours, &randomness).unwrap();
            assert_eq!(&our_ciphertext[..], their_ciphertext.as_ref(), "{provider:?}");
            assert_eq!(our_shared[..], their_shared, "{provider:?}");
            assert_eq!(secret.decapsulate(their_ciphertext.as_slice())[..], their_shared, "{provider:?}");
            assert_eq!(portable.decapsulate(&our_ciphertext)[..], their_shared, "{provider:?}");
            assert_eq!(secret.decapsulate(&wrong)[..], rejected, "{provider:?}");
        }
    }
}

/// Writes a coefficient into an encapsulation key.
fn set_coefficient(key: &mut [u8; 1184], index: usize, value: u16) {
    let at = index / 2 * 3;
    let [low, high] = value.to_le_bytes();
    if index.is_multiple_of(2) {
        key[at] = low;
        key[at + 1] = key[at + 1] & 0xf0 | high;
    } else {
        key[at + 1] = key[at + 1] & 0x0f | low << 4;
        key[at + 2] = low >> 4 | high << 4;
    }
}

/// Every position with the first values on either side of the modulus, and the largest.
#[test]
fn the_modulus_check_looks_at_every_coefficient() {
    let (valid, _) = RustCrypto.kem_generate(&[6; 64]);
    for index in 0..768 {
        let mut key = *valid;
        set_coefficient(&mut key, index, MODULUS - 1);
        assert!(providers().iter().copied().all(|provider| provider.kem_check(&key)), "{index}");
        for value in [MODULUS, 4095] {
            set_coefficient(&mut key, index, value);
            assert!(!providers().iter().copied().any(|provider| provider.kem_check(&key)), "{index}");
        }
    }
}

#[test]
fn the_modulus_check_draws_the_line_where_fips_203_does() {
    let (valid, _) = RustCrypto.kem_generate(&[6; 64]);
    for value in 0..4096 {
        for index in [0, 767] {
            let mut key = *valid;
            set_coefficient(&mut key, index, value);
            for &provider in providers() {
                assert_eq!(provider.kem_check(&key), value < MODULUS);
            }
            assert_eq!(libcrux::validate_public_key(&key.into()), value < MODULUS);
        }
    }
}

#[test]
fn a_key_that_fails_the_check_is_not_encapsulated_to() {
    for &provider in providers() {
        let (mut key, _) = provider.kem_generate(&[6; 64]);
        assert!(provider.kem_encapsulate(&key, &[0; 32]).is_some());
        set_coefficient(&mut key, 500, MODULUS);
        assert!(provider.kem_encapsulate(&key, &[0; 32]).is_none(), "{provider:?}");
    }
}

#[test]
fn random_bytes_do_not_pass_the_check() {
    let mut rng = Rng::from_seed(&[8; 32]);
    for _ in 0..10_000 {
        let mut key = [0; 1184];
        rng.fill_bytes(&mut key);
        assert!(!providers().iter().copied().any(|provider| provider.kem_check(&key)));
    }
}
