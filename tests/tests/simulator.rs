//! The simulator over many seeds, and those that once failed.
//!
//! `PEERMUX_SIM_SEEDS` says how many seeds are run, `PEERMUX_SIM_FROM` from which one on. `PEERMUX_SIM_LINE` is a line of the regression file that is
//! run besides it, and minimised if it fails.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use peermux_tests::sim::{Cut, Scenario, check_seed};

const SEEDS: u64 = 600;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
#[expect(clippy::print_stdout, reason = "the pace is worth seeing")]
fn every_seed_keeps_every_invariant() {
    let (from, count) = (number("PEERMUX_SIM_FROM", 1), number("PEERMUX_SIM_SEEDS", SEEDS));
    let (next, early, records) = (AtomicU64::new(from), AtomicUsize::new(0), AtomicUsize::new(0));
    let start = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count {
                        return;
                    }
                    match check_seed(seed) {
                        Ok(report) => {
                            early.fetch_add(usize::from(report.ended_early), Ordering::Relaxed);
                            records.fetch_add(report.records, Ordering::Relaxed);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    let (early, records) = (early.into_inner(), records.into_inner());
    println!(
        "{count} seeds in {seconds:.1} s, {:.0} seeds/s; {records} records; {early} ended early",
        count as f64 / seconds
    );
}

#[test]
fn seeds_that_once_failed_fail_no_more() {
    let given = std::env::var("PEERMUX_SIM_LINE").unwrap_or_default();
    for line in include_str!("../regressions/seeds.txt").lines().chain([&given[..]]) {
        let Some(scenario) = Scenario::from_line(line) else { continue };
        if scenario.try_run().is_err() {
            let (shortest, error) = scenario.shrink(Duration::from_secs(30));
            panic!("{line}: {error}\n{}", shortest.describe());
        }
    }
}

#[test]
fn the_same_run_gives_the_same_bytes() {
    for seed in 1..60 {
        let scenario = Scenario::from_seed(seed);
        assert_eq!(scenario.run(), scenario.run(), "seed {seed}");
    }
}

#[test]
fn however_the_input_is_cut_the_same_is_delivered_and_answered() {
    for seed in 1000..1060 {
        let cut = |pieces| Scenario { pieces: Some(pieces), ..Scenario::from_seed(seed) }.run();
        let whole = cut(Cut::All);
        for pieces in [Cut::One, Cut::Edge(-1), Cut::Edge(1), Cut::Some(1000)] {
            assert_eq!(cut(pieces), whole, "seed {seed}, {pieces:?}");
        }
    }
}
