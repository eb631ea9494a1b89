//! Days of traffic in virtual time: key updates by records and by time, idle nights, no nonce twice, nothing that grows.

#![allow(clippy::print_stdout, reason = "figures, for those who ask for them")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peermux_core::crypto::{AeadKey, AuthError, Encapsulated, KemSecret, Provider, RustCrypto, SealError, Suite};
use peermux_core::wire::Priority;
use peermux_core::{Config, Role};
use peermux_tests::PairBuilder;

/// The keys that were used for sealing, each with its nonces: the first, the last, and how many.
type Used = Mutex<HashMap<[u8; 32], (u64, u64, u64)>>;

/// A provider whose AEADs do no more than mark and check, and that remembers each nonce. The handshake's messages are sealed by it too.
#[derive(Debug)]
struct Watched {
    used: Arc<Used>,
}

struct WatchedKey {
    key: [u8; 32],
    used: Arc<Used>,
}

impl AeadKey for WatchedKey {
    fn seal(&self, nonce: u64, _: &[u8], buf: &mut [u8]) -> Result<(), SealError> {
        // REKEY's nonce is used once for each key, by both sides.
        if nonce != u64::MAX {
            let mut used = self.used.lock().expect("nobody panics");
            let entry = used.entry(self.key).or_insert((nonce, nonce, 0));
            assert!(entry.2 == 0 || nonce > entry.1, "nonce {nonce} after {}", entry.1);
            *entry = (entry.0, nonce, entry.2 + 1);
        }
        let (text, tag) = buf.split_last_chunk_mut::<16>().ok_or(SealError)?;
        let mut mark = u64::from_le_bytes(self.key[..8].try_into().expect("8 bytes")) ^ nonce.rotate_left(17);
        if nonce == u64::MAX {
            // The next key must depend on this one.
            for (index, byte) in text.iter_mut().enumerate() {
                mark = mark.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index as u64 + 1);
                *byte ^= (mark >> 32) as u8;
            }
        }
        tag[..8].copy_from_slice(&mark.to_le_bytes());
        tag[8..].copy_from_slice(&nonce.to_le_bytes());
        Ok(())
    }

    fn open(&self, nonce: u64, _: &[u8], buf: &mut [u8]) -> Result<(), AuthError> {
        let mark = u64::from_le_bytes(self.key[..8].try_into().expect("8 bytes")) ^ nonce.rotate_left(17);
        let (_, tag) = buf.split_last_chunk_mut::<16>().ok_or(AuthError)?;
        let same = tag[..8] == mark.to_le_bytes() && tag[8..] == nonce.to_le_bytes();
        same.then_some(()).ok_or(AuthError)
    }
}

impl Provider for Watched {
    fn supports(&self, _: Suite) -> bool {
        true
    }

    fn aead(&self, _: Suite, key: &[u8; 32]) -> Option<Box<dyn AeadKey>> {
        Some(Box::new(WatchedKey { key: *key, used: self.used.clone() }))
    }

    fn kem_generate(&self, seed: &[u8; 64]) -> (Box<[u8; 1184]>, KemSecret) {
        RustCrypto.kem_generate(seed)
    }

    fn kem_check(&self, encapsulation_key: &[u8; 1184]) -> bool {
        RustCrypto.kem_check(encapsulation_key)
    }

    fn kem_encapsulate(&self, encapsulation_key: &[u8; 1184], randomness: &[u8; 32]) -> Option<Encapsulated> {
        RustCrypto.kem_encapsulate(encapsulation_key, randomness)
    }
}

#[test]
fn two_days_of_traffic_use_no_nonce_twice_and_leave_nothing_behind() {
    let long = std::env::var_os("PEERMUX_LONG").is_some();
    let hours = 48u64;
    // 2^22 records in all; an eighth of that where time matters.
    let records = if long { 1u64 << 22 } else { 1 << 19 };
    let used = Arc::new(Used::default());
    let provider: &'static Watched = Box::leak(Box::new(Watched { used: used.clone() }));
    let config = || Config { provider, ..Config::default() };
    let mut pair = PairBuilder {
        initiator_config: config(),
        responder_config: config(),
        latency: Duration::from_millis(1),
        ..PairBuilder::default()
    }
    .establish();
    let ours = pair.initiator.conn.open_stream(Some("test/long"), Priority::default()).expect("it opens");
    pair.initiator.conn.send_stream(ours).write(b"!").expect("there is room");
    pair.settle();
    let theirs = pair.responder.conn.accept_stream().expect("it was opened");
    // Nights of 8 hours are idle but for keepalive; the rest is spread over the days.
    let busy_hours = hours - 2 * 8;
    let each = records / busy_hours / 2;
    for hour in 0..hours {
        if hour % 24 >= 8 {
            for _ in 0..each {
                pair.initiator.conn.send_stream(ours).write(&[1; 100]).expect("there is room");
                pair.responder.conn.send_stream(theirs).write(&[2; 100]).expect("there is room");
                pair.transmit(Role::Initiator);
                pair.transmit(Role::Responder);
                pair.now = pair.now + Duration::from_millis(1);
                pair.deliver(Role::Initiator);
                pair.deliver(Role::Responder);
                let mut buffer = [0; 200];
                assert!(pair.initiator.conn.recv_stream(ours).read(&mut buffer).is_ok());
                assert!(pair.responder.conn.recv_stream(theirs).read(&mut buffer).is_ok());
            }
            // A stream comes and goes.
            let id = pair.responder.conn.open_stream(Some("test/short"), Priority::default()).expect("it opens");
            pair.responder.conn.send_stream(id).finish().expect("it is open");
            pair.responder.conn.release(id);
            pair.settle();
            let id = pair.initiator.conn.accept_stream().expect("it was opened");
            pair.initiator.conn.release(id);
        }
        pair.initiator.events.clear();
        pair.responder.events.clear();
        pair.initiator.trace.clear();
        pair.responder.trace.clear();
        let elapsed = Duration::from_micros(pair.now.as_micros() % 3_600_000_000);
        pair.run_for(Duration::from_secs(3600) - elapsed);
        assert!(pair.initiator.conn.is_established() && pair.responder.conn.is_established(), "hour {hour}");
    }
    let (sent, received) = pair.initiator.conn.record_counts();
    assert!(sent + received >= records * 9 / 10, "{sent} + {received}");
    assert_eq!((pair.initiator.conn.stream_count(), pair.responder.conn.stream_count()), (1, 1));
    let used = used.lock().expect("nobody panics");
    let largest = used.values().map(|(_, _, count)| *count).max().expect("keys were used");
    println!("{} records under {} keys, at most {largest} under one", sent + received, used.len());
    assert!(largest <= 1 << 16);
    // At least one update each hour and direction, since something is sent in each hour.
    assert!(used.len() as u64 >= 2 * (hours - 1), "{} keys", used.len());
}
