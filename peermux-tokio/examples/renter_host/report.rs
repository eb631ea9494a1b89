//! The table at the end, and what it shows.

use std::time::Duration;

use crate::demo::Way;
use crate::player::Played;

/// How the story went one way.
pub struct Outcome {
    pub way: Way,
    /// Until the last transfer was done.
    pub total: Duration,
    pub played: Played,
    /// Delays of gossip while transfers went on, sorted.
    pub to_host: Vec<Duration>,
    pub from_host: Vec<Duration>,
    pub connections: u64,
    /// Bytes on the wire, both ways, if something counted them.
    pub carried: Option<u64>,
    /// Bytes that were of use.
    pub data: u64,
}

impl Outcome {
    fn per_byte(&self) -> Option<f64> {
        self.carried.map(|carried| carried as f64 / self.data as f64)
    }
}

pub fn seconds(time: Duration) -> String {
    format!("{:5.2} s", time.as_secs_f64())
}

pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

pub fn stalls(played: &Played) -> String {
    match played.stalls {
        0 => "no stall".into(),
        1 => format!("1 stall of {:.2} s", played.stalled.as_secs_f64()),
        n => format!("{n} stalls, {:.2} s", played.stalled.as_secs_f64()),
    }
}

fn millis(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

/// The value below which `part` of all lie.
fn quantile(sorted: &[Duration], part: f64) -> Option<Duration> {
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[(last as f64 * part).round() as usize])
}

fn delays(sorted: &[Duration]) -> String {
    match (quantile(sorted, 0.5), quantile(sorted, 0.99)) {
        (Some(p50), Some(p99)) => format!("{:.0} / {:.0} ms", p50.as_secs_f64() * 1e3, p99.as_secs_f64() * 1e3),
        _ => "none".into(),
    }
}

/// Prints the table, and what it shows.
pub fn print(outcomes: &[Outcome]) {
    say!();
    row("", outcomes, |outcome| outcome.way.short().into());
    row("connections", outcomes, |outcome| outcome.connections.to_string());
    row("encrypted, peers authenticated", outcomes, |outcome| match outcome.way {
        Way::Single | Way::PerJob => "no".into(),
        Way::Peermux => "yes".into(),
    });
    row("all transfers done", outcomes, |outcome| seconds(outcome.total).trim().into());
    row("video: first byte after the click", outcomes, |outcome| millis(outcome.played.first_byte));
    row("video: stalls", outcomes, |outcome| stalls(&outcome.played));
    row("gossip to the host, p50 / p99", outcomes, |outcome| delays(&outcome.to_host));
    row("gossip from the host, p50 / p99", outcomes, |outcome| delays(&outcome.from_host));
    row("bytes on the wire per byte", outcomes, |outcome| match outcome.per_byte() {
        Some(per_byte) => format!("{per_byte:.4}"),
        None => "not counted".into(),
    });
    say!();
    let Some(peermux) = outcomes.iter().find(|outcome| outcome.way == Way::Peermux) else {
        return;
    };
    for other in outcomes.iter().filter(|outcome| outcome.way != Way::Peermux) {
        compare(peermux, other);
    }
    for line in WHY {
        say!("{line}");
    }
}

fn row(name: &str, outcomes: &[Outcome], value: impl Fn(&Outcome) -> String) {
    let values: Vec<_> = outcomes.iter().map(|outcome| format!("{:>18}", value(outcome))).collect();
    say!("{name:<34}{}", values.concat());
}

/// Says in what peermux was better and in what it was not, whichever way it came out.
fn compare(peermux: &Outcome, other: &Outcome) {
    let (mut better, mut same, mut worse) = (Vec::new(), Vec::new(), Vec::new());
    for (name, least, value) in MEASURES {
        let (Some(mine), Some(theirs)) = (value(peermux), value(other)) else {
            continue;
        };
        if (mine - theirs).abs() < *least {
            same.push((*name).to_string());
        } else if mine < theirs {
            better.push(format!("{name} ({})", times(theirs, mine)));
        } else {
            worse.push(format!("{name} ({})", times(mine, theirs)));
        }
    }
    say!("Against {}, peermux is", other.way.short());
    for (what, names) in [("better in", better), ("much the same in", same), ("worse in", worse)] {
        if !names.is_empty() {
            say!("  {what:<16}  {}", names.join(", "));
        }
    }
}

/// By how much a figure that is worse is more than one that is better.
fn times(more: f64, less: f64) -> String {
    match more / less {
        _ if less <= 0.0 => "none against some".into(),
        ratio if ratio < 1.1 => format!("{:.1} %", (ratio - 1.0) * 100.0),
        ratio => format!("{ratio:.1} times"),
    }
}

type Measure = (&'static str, f64, fn(&Outcome) -> Option<f64>);

/// What is compared, the smaller the better, and how much is no difference yet.
const MEASURES: &[Measure] = &[
    ("total time", 0.1, |outcome| Some(outcome.total.as_secs_f64())),
    ("first byte", 0.005, |outcome| Some(outcome.played.first_byte.as_secs_f64())),
    ("stalls", 0.02, |outcome| Some(outcome.played.stalled.as_secs_f64())),
    ("gossip to the host", 0.003, |outcome| Some(quantile(&outcome.to_host, 0.5)?.as_secs_f64())),
    ("from the host", 0.003, |outcome| Some(quantile(&outcome.from_host, 0.5)?.as_secs_f64())),
    ("bytes on the wire", 0.0005, |outcome| outcome.per_byte()),
];

/// What does not depend on the figures.
const WHY: &[&str] = &[
    "Job by job, the link rests between jobs and never works both ways at once, and urgent jobs wait for",
    "the one that runs. With a connection each, all jobs get the same share of the link, the video no more",
    "than the rest (fewer jobs at once would help there: --jobs 4). Over peermux the urgent goes first and",
    "files are finished one after the other; what it puts on the wire besides is encryption, padding and",
    "credit, and what is urgent still waits for what the link's own queue holds, as on any connection.",
    "One run each: figures vary. This link loses nothing; where packets are lost, one connection stops all",
    "its streams for a round trip, and beside strangers' connections it gets one share where many get many.",
];
