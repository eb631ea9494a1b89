//! The AEADs: published answers, agreement of the providers, and what they refuse.

use peermux_core::crypto::{AeadKey, AuthError, Rng, SealError, Suite, TAG_LEN, providers, rekey};
use rand_core::Rng as _;

const SUITES: [Suite; 2] = [Suite::ChaCha20Poly1305, Suite::Aes256Gcm];

/// Every AEAD of every provider under `key`.
fn aeads(key: &[u8; 32]) -> Vec<Box<dyn AeadKey>> {
    let all = providers().iter().copied().flat_map(|provider| SUITES.map(|suite| provider.aead(suite, key)));
    all.flatten().collect()
}

fn decode<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).unwrap().try_into().unwrap()
}

/// RFC 8439, appendix A.5: the vector of that document whose nonce has Noise's form, four zeros and a counter.
#[test]
fn chacha20_poly1305_answers_as_rfc_8439_says() {
    let key = decode("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0");
    let nonce = u64::from_le_bytes(decode("0102030405060708"));
    let aad = decode::<12>("f33388860000000000004e91");
    let plaintext = "Internet-Drafts are draft documents valid for a maximum of six months and may be updated, \
        replaced, or obsoleted by other documents at any time. It is inappropriate to use Internet-Drafts as \
        reference material or to cite them other than as /\u{201c}work in progress./\u{201d}";
    let expected = hex::decode(concat!(
        "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0",
        "bdb7b73c321b0100d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855",
        "9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4b9166c767b804d46a59b5216cde7a4e9",
        "9040c5a40433225ee282a1b0a06c523eaf4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a",
        "0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a1049e617d91d361094fa68f0ff77987130",
        "305beaba2eda04df997b714d6c6f2c29a6ad5cb4022b02709b",
        "eead9d67890cbb22392336fea1851f38",
    ));
    for &provider in providers() {
        let aead = provider.aead(Suite::ChaCha20Poly1305, &key).unwrap();
        let mut buf = plaintext.as_bytes().to_vec();
        buf.extend([0; TAG_LEN]);
        aead.seal(nonce, &aad, &mut buf).unwrap();
        assert_eq!(&buf, expected.as_ref().unwrap(), "{provider:?}");
        aead.open(nonce, &aad, &mut buf).unwrap();
        assert_eq!(&buf[..buf.len() - TAG_LEN], plaintext.as_bytes(), "{provider:?}");
    }
}

/// Test cases 13 and 14 of the specification of GCM that was submitted to NIST.
#[test]
fn aes_256_gcm_answers_as_its_specification_says() {
    for aead in providers().iter().copied().filter_map(|provider| provider.aead(Suite::Aes256Gcm, &[0; 32])) {
        let mut tag = [0; TAG_LEN];
        aead.seal(0, &[], &mut tag).unwrap();
        assert_eq!(hex::encode(tag), "530f8afbc74536b9a963b4f1c4cb738b");
        let mut block = [0; 16 + TAG_LEN];
        aead.seal(0, &[], &mut block).unwrap();
        assert_eq!(hex::encode(block), "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919");
    }
}

#[cfg(feature = "ring")]
#[test]
fn the_counter_of_aes_256_gcm_is_big_endian() {
    use peermux_core::crypto::Provider as _;

    use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

    let key = [7; 32];
    let mut ours = *b"text and a tag: ................";
    peermux_core::crypto::Ring
        .aead(Suite::Aes256Gcm, &key)
        .unwrap()
        .seal(0x0102_0304_0506_0708, b"aad", &mut ours)
        .unwrap();

    let mut theirs = b"text and a tag: ".to_vec();
    let nonce = Nonce::assume_unique_for_key([0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    let theirs_key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
    theirs_key.seal_in_place_append_tag(nonce, Aad::from(b"aad"), &mut theirs).unwrap();
    assert_eq!(ours.as_slice(), theirs);
}

/// Lengths around the blocks of both ciphers, and those of records of 1 and 16 quanta. Without a feature there is one
/// provider, which then agrees with itself.
#[test]
fn the_providers_agree() {
    let mut rng = Rng::from_seed(&[1; 32]);
    for length in (0..200).chain([1408 - TAG_LEN, 16 * 1408 - TAG_LEN]) {
        for suite in SUITES {
            let mut key = [0; 32];
            rng.fill_bytes(&mut key);
            let nonce = rng.next_u64();
            let mut aad = vec![0; length % 70];
            rng.fill_bytes(&mut aad);
            let mut plaintext = vec![0; length + TAG_LEN];
            rng.fill_bytes(&mut plaintext);
            let aeads: Vec<_> = providers().iter().copied().filter_map(|provider| provider.aead(suite, &key)).collect();
            let seal = |aead: &dyn AeadKey| {
                let mut sealed = plaintext.clone();
                aead.seal(nonce, &aad, &mut sealed).unwrap();
                sealed
            };
            let sealed: Vec<_> = aeads.iter().map(|aead| seal(&**aead)).collect();
            for (index, aead) in aeads.iter().enumerate() {
                assert_eq!(sealed[index], sealed[0], "{suite:?}, {length}");
                let mut opened = sealed[0].clone();
                aead.open(nonce, &aad, &mut opened).unwrap();
                assert_eq!(opened[..length], plaintext[..length]);
            }
        }
    }
}

#[test]
fn whatever_is_changed_does_not_authenticate() {
    let text = *b"some plaintext, and room for tag----------------";
    for aead in aeads(&[3; 32]) {
        let mut sealed = text;
        aead.seal(5, b"aad", &mut sealed).unwrap();
        for position in 0..sealed.len() {
            for bit in [0x01, 0x80] {
                let mut changed = sealed;
                changed[position] ^= bit;
                assert_eq!(aead.open(5, b"aad", &mut changed), Err(AuthError));
                assert_ne!(changed[..32], text[..32], "plaintext was left behind");
            }
        }
        let open = |nonce, aad: &[u8], length| aead.open(nonce, aad, &mut sealed[..length].to_vec());
        assert_eq!(open(6, b"aad", 48), Err(AuthError));
        assert_eq!(open(5, b"aae", 48), Err(AuthError));
        assert_eq!(open(5, b"", 48), Err(AuthError));
        assert_eq!(open(5, b"aad", 47), Err(AuthError));
        assert_eq!(open(5, b"aad", 48), Ok(()));
    }
}

#[test]
fn a_buffer_shorter_than_a_tag_is_refused() {
    for aead in aeads(&[3; 32]) {
        for length in 0..TAG_LEN {
            assert_eq!(aead.seal(0, &[], &mut vec![0; length]), Err(SealError));
            assert_eq!(aead.open(0, &[], &mut vec![0; length]), Err(AuthError));
        }
    }
}

#[test]
fn every_provider_has_chacha20_poly1305_and_says_what_else_it_has() {
    for &provider in providers() {
        assert!(provider.supports(Suite::ChaCha20Poly1305));
        for suite in SUITES {
            assert_eq!(provider.supports(suite), provider.aead(suite, &[0; 32]).is_some());
            assert_eq!(provider.supports(suite), rekey(provider, suite, &[0; 32]).is_some());
        }
        assert!(!provider.prefers_aes() || provider.supports(Suite::Aes256Gcm));
    }
}

#[test]
fn suites_are_known_by_their_bytes() {
    for byte in 0..=u8::MAX {
        assert_eq!(Suite::from_byte(byte).map(Suite::as_byte), (1..=2).contains(&byte).then_some(byte));
    }
}
