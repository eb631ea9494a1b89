//! Public keys, priorities and statistics in the formats of serde.

use peermux_core::crypto::PublicKey;
use peermux_core::wire::{FrameKind, Priority};
use peermux_core::{Stats, StreamStats};
use serde_test::{Configure as _, Token, assert_de_tokens, assert_de_tokens_error, assert_tokens};

const KEY: PublicKey = PublicKey::from_bytes([0xab; 32]);
const DIGITS: &str = "abababababababababababababababababababababababababababababababab";
const BYTES: &[u8] = &[0xab; 32];

#[test]
fn keys_are_digits_where_people_read_and_bytes_elsewhere() {
    assert_tokens(&KEY.readable(), &[Token::BorrowedStr(DIGITS)]);
    assert_de_tokens(&KEY.readable(), &[Token::String(DIGITS)]);
    assert_tokens(&KEY.compact(), &[Token::BorrowedBytes(BYTES)]);
    assert_de_tokens(&KEY.compact(), &[Token::ByteBuf(BYTES)]);
    let mut sequence = vec![Token::U8(0xab); 34];
    (sequence[0], sequence[33]) = (Token::Seq { len: Some(32) }, Token::SeqEnd);
    assert_de_tokens(&KEY.compact(), &sequence);
    assert_eq!(serde_json::to_value(KEY).unwrap(), DIGITS);
}

#[test]
fn what_is_no_key_is_refused_with_a_reason() {
    let parse = |json: &str| serde_json::from_str::<PublicKey>(json).unwrap_err().to_string();
    assert!(parse("\"12\"").starts_with("invalid key: expected 64 hexadecimal digits, got 2"), "{}", parse("\"12\""));
    assert!(parse("\"0x\"").starts_with("invalid key: 'x' at position 1 is not"), "{}", parse("\"0x\""));
    assert!(parse("7").contains("expected a public key of 64 hexadecimal digits"), "{}", parse("7"));
    type Compact = serde_test::Compact<PublicKey>;
    for len in [31, 33] {
        let error = format!("invalid length {len}, expected a public key of 32 bytes");
        let bytes = &[0xab; 33][..len];
        assert_de_tokens_error::<Compact>(&[Token::Bytes(bytes.to_vec().leak())], &error);
        let mut sequence = vec![Token::Seq { len: None }];
        sequence.extend(bytes.iter().map(|&byte| Token::U8(byte)));
        sequence.extend((len < 33).then_some(Token::SeqEnd));
        assert_de_tokens_error::<Compact>(&sequence, &error);
    }
}

#[test]
fn priorities_are_checked() {
    let priority = Priority::new(5, false);
    let json = serde_json::to_string(&priority).unwrap();
    assert_eq!(json, r#"{"urgency":5,"incremental":false}"#);
    assert_eq!(serde_json::from_str::<Priority>(&json).unwrap(), priority);
    let error = serde_json::from_str::<Priority>(r#"{"urgency":8,"incremental":true}"#).unwrap_err();
    assert!(error.to_string().contains("`urgency` must be 0 to 7"), "{error}");
}

#[test]
fn statistics_are_maps() {
    let stats = serde_json::to_value(Stats::default()).unwrap();
    assert_eq!(stats["frames_sent"].as_object().unwrap().len(), FrameKind::COUNT);
    assert_eq!(stats["frames_sent"]["max_stream_data"], 0);
    assert_eq!(stats["waited"]["credit"]["secs"], 0);
    assert_eq!(serde_json::to_value(StreamStats::default()).unwrap()["unread"], 0);
}
