//! The internal generator: what it gives out is determined by its seed alone.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};
use peermux_core::crypto::Rng;
use rand_core::Rng as _;

/// The bytes that follow from a seed by the generator's description.
fn described(mut key: [u8; 32], length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let mut block = [0; 256];
        ChaCha20::new(&key.into(), &[0; 12].into()).apply_keystream(&mut block);
        key.copy_from_slice(&block[..32]);
        bytes.extend(&block[32..]);
    }
    bytes.truncate(length);
    bytes
}

/// RFC 8439, appendix A.1, test vector 1: the generator gives out the block's second half, and keeps the first.
#[test]
fn it_begins_with_the_keystream_of_chacha20() {
    let mut bytes = [0; 32];
    Rng::from_seed(&[0; 32]).fill_bytes(&mut bytes);
    assert_eq!(hex::encode(bytes), "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586");
}

#[test]
fn it_gives_the_same_bytes_however_they_are_asked_for() {
    let expected = described([9; 32], 2000);
    let mut whole = vec![0; 2000];
    Rng::from_seed(&[9; 32]).fill_bytes(&mut whole);
    assert_eq!(whole, expected);

    let mut rng = Rng::from_seed(&[9; 32]);
    let mut rest = &expected[..];
    for length in (0..50).cycle() {
        let mut bytes = vec![0; length];
        rng.fill_bytes(&mut bytes);
        let Some((now, later)) = rest.split_at_checked(length) else { break };
        assert_eq!(bytes, now);
        rest = later;
    }
}

#[test]
fn numbers_are_little_endian() {
    let expected = described([9; 32], 12);
    let mut rng = Rng::from_seed(&[9; 32]);
    assert_eq!(rng.next_u32().to_le_bytes(), expected[..4]);
    assert_eq!(rng.next_u64().to_le_bytes(), expected[4..]);
}

#[test]
fn one_generator_seeds_another() {
    let mut first = Rng::from_seed(&[9; 32]);
    let Ok(mut second) = Rng::from_rng(&mut first);
    let seed = described([9; 32], 32).try_into().unwrap();
    assert_eq!(second.next_u64(), Rng::from_seed(&seed).next_u64());
}

#[test]
fn uniform_numbers_stay_in_their_range_and_fill_it() {
    let mut rng = Rng::from_seed(&[9; 32]);
    let mut seen = [0; 7];
    for _ in 0..7000 {
        seen[usize::try_from(rng.uniform(10, 17)).unwrap() - 10] += 1;
    }
    // Each is expected a thousand times, with a standard deviation of 29.
    assert!(seen.iter().all(|count| (850..1150).contains(count)), "{seen:?}");
    for _ in 0..1000 {
        assert!(rng.uniform(1 << 63, u64::MAX) >= 1 << 63);
    }
}

#[test]
fn a_range_of_one_or_none_gives_its_lower_end() {
    let mut rng = Rng::from_seed(&[9; 32]);
    assert_eq!(rng.uniform(5, 6), 5);
    assert_eq!(rng.uniform(5, 5), 5);
    assert_eq!(rng.uniform(5, 4), 5);
}

#[test]
fn it_is_not_printed() {
    assert_eq!(format!("{:?}", Rng::from_seed(&[9; 32])), "Rng { .. }");
}
