//! The key schedule. The expected values were computed with the modules `hmac` and `hashlib` of Python's standard library.

use peermux_core::crypto::{Suite, blake2b_256, export, traffic_secret};

#[test]
fn traffic_secrets_depend_on_label_and_suite() {
    let chaining_key = core::array::from_fn(|index| index as u8);
    let hash = core::array::from_fn(|index| index as u8 + 64);
    let expected = [
        ("peermux/1 i2r", Suite::ChaCha20Poly1305, "57586fb655a52232e08c944bdc5c999bd2881a90321ab621b768df6a550e7f92"),
        ("peermux/1 i2r", Suite::Aes256Gcm, "464a4120686b161f9025e93b3e7191e6e99c8a7d14dad1059729a36f580d7a3c"),
        ("peermux/1 r2i", Suite::ChaCha20Poly1305, "e777a0cc44dd5a774bc68ac686b38882c4b818bd2db7c35d3d19dcfc5241044e"),
        ("peermux/1 r2i", Suite::Aes256Gcm, "1329df750c2fec762a2c190c65a2bbf86ca9da1cb9bf9aafd005b4123a031690"),
    ];
    for (label, suite, secret) in expected {
        assert_eq!(hex::encode(traffic_secret(&chaining_key, label.as_bytes(), suite, &hash)), secret);
    }
}

#[test]
fn exported_material_is_hkdf_expand() {
    let secret = core::array::from_fn(|index| index as u8);
    let expected = concat!(
        "feb7e53925636d90ec311854020585437b3ea42afb141624e33a01ad5eec88410e53c2b98109fc348df38373962527ec",
        "2055823cd2bc28c1b1570fd89046f1254b6b0abce44196c35faada15c31bc02aca0f75f3e4a575ae481fc66785d7c4bb",
        "b89df1db"
    );
    for length in [1, 63, 64, 65, 100] {
        let mut out = vec![0; length];
        assert_eq!(export(&secret, b"EXPORTER test", b"context", &mut out), Some(()));
        assert_eq!(hex::encode(out), expected[..2 * length]);
    }
    let mut longest = vec![0; 16_320];
    assert_eq!(export(&secret, b"EXPORTER test", b"context", &mut longest), Some(()));
    assert_eq!(hex::encode(blake2b_256(&longest)), "79ce54b1d5490593307335fa015ad17380e9c86478df23a5239d6d9f8dca9896");
}

#[test]
fn what_cannot_be_exported_leaves_the_buffer_alone() {
    let mut out = vec![7; 16_321];
    assert_eq!(export(&[0; 32], b"label", b"", &mut out), None);
    assert_eq!(export(&[0; 32], b"label", b"", &mut []), None);
    assert_eq!(export(&[0; 32], &[b'x'; 256], b"", &mut out[..10]), None);
    assert!(out.iter().all(|byte| *byte == 7));
    assert_eq!(export(&[0; 32], &[b'x'; 255], b"", &mut out[..10]), Some(()));
}
