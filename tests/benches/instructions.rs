//! What the core costs by itself, in instructions: `cargo bench -p peermux-tests --bench instructions`.
//!
//! They are counted by callgrind, so the mood of the machine does not matter. That needs valgrind, and gungraun's runner in the version of the library:
//! `cargo install gungraun-runner --version VERSION`. Valgrind shows programs no AVX-512, so ciphers may run other code than they do without it.
#![expect(missing_docs, reason = "the macros make items of their own")]

use std::sync::Arc;

use gungraun::{Callgrind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use peermux_core::{Config, Connection, Role};
use peermux_tests::bench::{Bare, Bulk, Cipher, Frames, Handshake, Many, Requests, config};

// What is none of the core's work runs in a function `unmeasured…`. Callgrind stops counting when it enters one, and goes on when it leaves it; but where it does not count, it
// is the other way round, so none may be part of a setup. Nor may closures of a benchmark run in one: it counts in whatever bears a benchmark's name.

#[inline(never)]
fn unmeasured_act(act: &mut dyn FnMut()) {
    act();
}

#[inline(never)]
fn unmeasured_transport(bulk: &mut Bulk) {
    bulk.transport();
}

// States are boxed, or what is counted is their way in and out too.
fn bulk(cipher: Cipher, quanta: u8) -> Box<Bulk> {
    let mut bulk = Bulk::new(config(cipher, quanta));
    bulk.batch();
    Box::new(bulk)
}

// 128 quanta from the application to the application, in records of 1 to 16, without the copy that stands for the transport.
#[library_benchmark(setup = bulk)]
#[bench::plain_1(Cipher::Plain, 1)]
#[bench::plain_2(Cipher::Plain, 2)]
#[bench::plain_4(Cipher::Plain, 4)]
#[bench::plain_8(Cipher::Plain, 8)]
#[bench::plain_16(Cipher::Plain, 16)]
#[bench::rust_chacha_1(Cipher::RustChaCha, 1)]
#[bench::rust_chacha_16(Cipher::RustChaCha, 16)]
#[bench::ring_chacha_1(Cipher::RingChaCha, 1)]
#[bench::ring_chacha_16(Cipher::RingChaCha, 16)]
#[bench::ring_aes_1(Cipher::RingAes, 1)]
#[bench::ring_aes_16(Cipher::RingAes, 16)]
fn quanta_128(mut bulk: Box<Bulk>) -> Box<Bulk> {
    bulk.seal();
    unmeasured_transport(&mut bulk);
    bulk.open();
    bulk
}

// The AEAD alone on as many bytes.
#[library_benchmark(setup = Bare::new)]
#[bench::rust_chacha_1(Cipher::RustChaCha, 1)]
#[bench::rust_chacha_16(Cipher::RustChaCha, 16)]
#[bench::ring_chacha_1(Cipher::RingChaCha, 1)]
#[bench::ring_chacha_16(Cipher::RingChaCha, 16)]
#[bench::ring_aes_1(Cipher::RingAes, 1)]
#[bench::ring_aes_16(Cipher::RingAes, 16)]
fn bare_128(mut bare: Bare) -> Bare {
    bare.batch();
    bare
}

fn requests(cipher: Cipher) -> Box<Requests> {
    Box::new(Requests::new(config(cipher, 16)))
}

// 100 bytes there and back, on a stream that is there.
#[library_benchmark(setup = requests)]
#[bench::plain(Cipher::Plain)]
#[bench::rust_chacha(Cipher::RustChaCha)]
#[bench::ring_chacha(Cipher::RingChaCha)]
#[bench::ring_aes(Cipher::RingAes)]
fn request_reused(mut requests: Box<Requests>) -> Box<Requests> {
    requests.reused();
    requests
}

// The same on a stream that is opened for it, and closed.
#[library_benchmark(setup = requests)]
#[bench::plain(Cipher::Plain)]
#[bench::rust_chacha(Cipher::RustChaCha)]
#[bench::ring_chacha(Cipher::RingChaCha)]
#[bench::ring_aes(Cipher::RingAes)]
fn request_fresh(mut requests: Box<Requests>) -> Box<Requests> {
    requests.fresh();
    requests
}

fn frames(cipher: Cipher) -> Box<Frames> {
    Box::new(Frames::new(config(cipher, 16)))
}

// 64 frames of 16 bytes, of as many streams, in one record.
#[library_benchmark(setup = frames)]
#[bench::plain(Cipher::Plain)]
fn frames_64(mut frames: Box<Frames>) -> Box<Frames> {
    frames.record();
    frames
}

fn many(count: usize, busy: bool) -> Box<Many> {
    Box::new(Many::new(config(Cipher::Plain, 1), count, busy))
}

// 60 records, each of one stream, where three are used.
#[library_benchmark(setup = many)]
#[bench::of_3(3, false)]
#[bench::of_10(10, false)]
#[bench::of_1_000(1000, false)]
#[bench::of_100_000(100_000, false)]
fn stream_used(mut many: Box<Many>) -> Box<Many> {
    (0..60).for_each(|_| many.record());
    many
}

// 60 records, each of one stream, where all have data.
#[library_benchmark(setup = many)]
#[bench::of_3(3, true)]
#[bench::of_10(10, true)]
#[bench::of_1_000(1000, true)]
#[bench::of_100_000(100_000, true)]
fn stream_busy(mut many: Box<Many>) -> Box<Many> {
    (0..60).for_each(|_| many.record());
    many
}

fn handshake(known: bool, authenticated: bool, role: Role) -> (Handshake, Role, Arc<Config>) {
    (Handshake { known, authenticated }, role, Arc::new(Config::default()))
}

fn part(handshake: Handshake, role: Role, config: &Arc<Config>) -> (Connection, Connection) {
    handshake.run(config, |by, act| if by == role { act() } else { unmeasured_act(act) })
}

// One side's part of a handshake.
#[library_benchmark(setup = handshake)]
#[bench::ik_authenticated_initiator(true, true, Role::Initiator)]
#[bench::ik_authenticated_responder(true, true, Role::Responder)]
#[bench::ik_anonymous_initiator(true, false, Role::Initiator)]
#[bench::ik_anonymous_responder(true, false, Role::Responder)]
#[bench::fallback_authenticated_initiator(false, true, Role::Initiator)]
#[bench::fallback_authenticated_responder(false, true, Role::Responder)]
#[bench::fallback_anonymous_initiator(false, false, Role::Initiator)]
#[bench::fallback_anonymous_responder(false, false, Role::Responder)]
fn handshakes((handshake, role, config): (Handshake, Role, Arc<Config>)) -> (Connection, Connection) {
    part(handshake, role, &config)
}

library_benchmark_group!(
    name = core;
    benchmarks = quanta_128, bare_128, request_reused, request_fresh, frames_64, stream_used, stream_busy, handshakes
);
main!(
    config = LibraryBenchmarkConfig::default()
        .tool(Callgrind::with_args(["--toggle-collect=instructions::unmeasured*", "--cache-sim=no"]))
        // Callgrind counts each byte of a copy that one instruction makes; with this, glibc copies by vectors.
        .env("GLIBC_TUNABLES", "glibc.cpu.x86_rep_movsb_threshold=100000000:glibc.cpu.x86_rep_stosb_threshold=100000000");
    library_benchmark_groups = core
);
