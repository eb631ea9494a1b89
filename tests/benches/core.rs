//! What the core costs by itself, in time: `cargo bench -p peermux-tests --bench core`.
//!
//! `docs/performance.md` says how to read it. For a table of instructions, which do not depend on the mood of the machine, see `instructions.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use peermux_core::wire::QUANTUM;
use peermux_core::{Config, Role};
use peermux_tests::bench::{Bare, Bulk, Cipher, Frames, Handshake, Many, Requests, config};

/// Runs `batch`, which measures itself and makes `each` iterations at once, until there were `iterations`. What it takes is told by the median, so that a batch during which
/// the machine did something else does not count.
fn batches(iterations: u64, each: usize, mut batch: impl FnMut() -> Duration) -> Duration {
    let each = each as u64;
    let mut times: Vec<_> = (0..iterations.div_ceil(each)).map(|_| batch()).collect();
    times.sort_unstable();
    times[times.len() / 2].mul_f64(iterations as f64 / each as f64)
}

/// A record from the application to the application, and beside it the AEAD alone on as many bytes.
fn records(criterion: &mut Criterion) {
    for cipher in Cipher::REAL.iter().copied().chain([Cipher::Plain]) {
        let mut group = criterion.benchmark_group(format!("record/{}", cipher.name()));
        group.sampling_mode(SamplingMode::Flat);
        for quanta in [1, 2, 4, 8, 16] {
            group.throughput(Throughput::Bytes(u64::from(quanta) * QUANTUM as u64));
            let mut bulk = Bulk::new(config(cipher, quanta));
            group.bench_function(BenchmarkId::new("core", quanta), |bencher| {
                bencher.iter_custom(|iterations| batches(iterations, bulk.records(), || bulk.batch()));
            });
            if cipher != Cipher::Plain {
                let mut bare = Bare::new(cipher, quanta);
                group.bench_function(BenchmarkId::new("bare AEAD", quanta), |bencher| {
                    bencher.iter_custom(|iterations| batches(iterations, bare.records(), || bare.batch()));
                });
            }
        }
    }
}

/// 64 frames of 16 bytes, of as many streams, in one record.
fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frames");
    group.throughput(Throughput::Elements(Frames::COUNT as u64));
    for cipher in [Cipher::Plain, Cipher::RingAes] {
        let mut frames = Frames::new(config(cipher, 16));
        group.bench_function(cipher.name(), |bencher| bencher.iter(|| frames.record()));
    }
}

/// 100 bytes there and back.
fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    group.throughput(Throughput::Elements(1));
    for cipher in Cipher::REAL.iter().copied().chain([Cipher::Plain]) {
        let mut requests = Requests::new(config(cipher, 16));
        group.bench_function(BenchmarkId::new("reused stream", cipher.name()), |bencher| {
            bencher.iter(|| requests.reused());
        });
        group.bench_function(BenchmarkId::new("fresh stream", cipher.name()), |bencher| {
            bencher.iter(|| requests.fresh());
        });
    }
}

/// One record of one stream, with others beside it.
fn streams(criterion: &mut Criterion) {
    for busy in [false, true] {
        let mut group = criterion.benchmark_group(if busy { "streams/all with data" } else { "streams/three used" });
        group.throughput(Throughput::Elements(1));
        for count in [3, 10, 1000, 100_000] {
            let mut many = Many::new(config(Cipher::Plain, 1), count, busy);
            group.bench_function(BenchmarkId::from_parameter(count), |bencher| bencher.iter(|| many.record()));
        }
    }
}

/// The handshake, the part of each side by itself.
fn handshakes(criterion: &mut Criterion) {
    for cipher in Cipher::REAL.iter().filter(|cipher| **cipher != Cipher::RingChaCha) {
        let config = Arc::new(Config { provider: cipher.provider(), ..Config::default() });
        for role in [Role::Initiator, Role::Responder] {
            let mut group = criterion.benchmark_group(format!("handshake/{}/{role:?}", cipher.name()));
            group.throughput(Throughput::Elements(1));
            for handshake in Handshake::ALL {
                group.bench_function(handshake.name(), |bencher| {
                    bencher.iter_custom(|iterations| {
                        let mut spent = Duration::ZERO;
                        for _ in 0..iterations {
                            handshake.run(&config, |by, act| {
                                let start = Instant::now();
                                act();
                                if by == role {
                                    spent += start.elapsed();
                                }
                            });
                        }
                        spent
                    });
                });
            }
        }
    }
}

criterion_group! {
    name = core;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(20);
    targets = records, frames, requests, streams, handshakes
}
criterion_main!(core);
