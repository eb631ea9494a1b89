//! Tables of what was measured.

use std::fmt::Write as _;

use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::measure::Values;
use crate::metric::{Metric, ROUND_TRIP};
use crate::targets;

/// What one measurement gave.
#[derive(Serialize)]
pub(crate) struct Sample {
    pub(crate) contestant: String,
    #[serde(serialize_with = "by_name")]
    pub(crate) metric: Metric,
    pub(crate) round: usize,
    pub(crate) values: Values,
}

fn by_name<S: Serializer>(metric: &Metric, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(metric)
}

/// A row of the table.
struct Row {
    metric: &'static str,
    value: &'static str,
    title: &'static str,
    /// What a value is multiplied with.
    scale: f64,
    decimals: usize,
}

const fn row(metric: &'static str, value: &'static str, title: &'static str, scale: f64, decimals: usize) -> Row {
    Row { metric, value, title, scale, decimals }
}

const TRIPS: f64 = 1e-3 / ROUND_TRIP.as_secs_f64();

/// From GB/s to Mbit/s.
const MEGABITS: f64 = 8e3;

const ROWS: [Row; 55] = [
    row("bulk-1", "gb_per_s", "bulk, 1 stream, GB/s", 1.0, 2),
    row("bulk-10", "gb_per_s", "bulk, 10 streams, GB/s", 1.0, 2),
    row("bulk-100", "gb_per_s", "bulk, 100 streams, GB/s", 1.0, 2),
    row("both", "gb_per_s", "both directions, GB/s in sum", 1.0, 2),
    row("bulk-1", "cpu_s_per_gb", "CPU s per GB, both ends, 1 stream", 1.0, 2),
    row("bulk-10", "cpu_s_per_gb", "CPU s per GB, both ends, 10 streams", 1.0, 2),
    row("bulk-100", "cpu_s_per_gb", "CPU s per GB, both ends, 100 streams", 1.0, 2),
    row("latency", "reused_p50_us", "100 B request, reused stream, p50 µs", 1.0, 1),
    row("latency", "reused_p99_us", "100 B request, reused stream, p99 µs", 1.0, 0),
    row("latency", "fresh_p50_us", "100 B request, fresh stream, p50 µs", 1.0, 1),
    row("latency", "fresh_p99_us", "100 B request, fresh stream, p99 µs", 1.0, 0),
    row("one-cpu", "reused_p50_us", "both ends on one CPU, reused stream, p50 µs", 1.0, 1),
    row("one-cpu", "fresh_p50_us", "both ends on one CPU, fresh stream, p50 µs", 1.0, 1),
    row("churn", "streams_per_s", "streams per s, 100 tasks, thousands", 1e-3, 1),
    row("setup", "cpu_us", "connection set-up and end, CPU µs, both ends", 1.0, 0),
    row("setup", "p50_us", "connect to first answer, loopback, p50 µs", 1.0, 0),
    row("round-trips", "first_answer_ms", "connect to first answer, round trips", TRIPS, 2),
    row("round-trips", "early_answer_ms", "the same with early data", TRIPS, 2),
    row("request-20ms-1g", "small_p50_ms", "100 B request, 100 B answer, 20 ms and 1 Gbit/s, p50 ms", 1.0, 3),
    row("request-20ms-1g", "up_p50_ms", "64 KiB request, 100 B answer, 20 ms and 1 Gbit/s, p50 ms", 1.0, 3),
    row("request-20ms-1g", "down_p50_ms", "100 B request, 64 KiB answer, 20 ms and 1 Gbit/s, p50 ms", 1.0, 3),
    row("request-20ms-100m", "small_p50_ms", "100 B request, 100 B answer, 20 ms and 100 Mbit/s, p50 ms", 1.0, 3),
    row("request-20ms-100m", "up_p50_ms", "64 KiB request, 100 B answer, 20 ms and 100 Mbit/s, p50 ms", 1.0, 3),
    row("request-20ms-100m", "down_p50_ms", "100 B request, 64 KiB answer, 20 ms and 100 Mbit/s, p50 ms", 1.0, 3),
    row("long-fat", "gb_per_s", "goodput at 100 ms and 1 Gbit/s, Mbit/s", MEGABITS, 1),
    row("long-fat", "begin_gb_per_s", "the same in the first 3 s, Mbit/s", MEGABITS, 1),
    row("link-1g", "gb_per_s", "goodput at 1 Gbit/s, Mbit/s", MEGABITS, 1),
    row("link-1g", "wire_per_byte", "bytes on the wire per byte at 1 Gbit/s", 1.0, 4),
    row("link-100m", "gb_per_s", "goodput at 100 Mbit/s, Mbit/s", MEGABITS, 2),
    row("link-100m", "wire_per_byte", "bytes on the wire per byte at 100 Mbit/s", 1.0, 4),
    row("link-both-1g", "gb_per_s", "both directions at 1 Gbit/s, Mbit/s in sum", MEGABITS, 1),
    row("load-up-1g", "p50_ms", "request beside bulk to the server, 1 Gbit/s, p50 ms", 1.0, 2),
    row("load-up-1g", "p99_ms", "the same, p99 ms", 1.0, 2),
    row("load-up-1g", "bulk_gb_per_s", "the same, bulk Mbit/s", MEGABITS, 1),
    row("load-down-1g", "p50_ms", "request beside bulk from the server, 1 Gbit/s, p50 ms", 1.0, 2),
    row("load-down-1g", "p99_ms", "the same, p99 ms", 1.0, 2),
    row("load-down-1g", "bulk_gb_per_s", "the same, bulk Mbit/s", MEGABITS, 1),
    row("load-up-100m", "p50_ms", "request beside bulk to the server, 100 Mbit/s, p50 ms", 1.0, 2),
    row("load-up-100m", "p99_ms", "the same, p99 ms", 1.0, 2),
    row("load-up-100m", "bulk_gb_per_s", "the same, bulk Mbit/s", MEGABITS, 2),
    row("load-down-100m", "p50_ms", "request beside bulk from the server, 100 Mbit/s, p50 ms", 1.0, 2),
    row("load-down-100m", "p99_ms", "the same, p99 ms", 1.0, 2),
    row("load-down-100m", "bulk_gb_per_s", "the same, bulk Mbit/s", MEGABITS, 2),
    row("unread", "others_gb_per_s", "beside a stream that nobody reads, GB/s", 1.0, 2),
    row("unread", "unread_mb", "the unread stream took, of 268 MB offered, MB", 1.0, 1),
    row("unread", "client_mb", "memory that it cost the client, MB", 1.0, 1),
    row("unread", "server_mb", "memory that it cost the server, MB", 1.0, 1),
    row("stream-memory", "client", "memory per idle stream, opener, bytes", 1.0, 0),
    row("stream-memory", "server", "memory per idle stream, acceptor, bytes", 1.0, 0),
    row("connection-memory", "client", "memory per idle connection with one stream, dialer, bytes", 1.0, 0),
    row("connection-memory", "server", "memory per idle connection with one stream, listener, bytes", 1.0, 0),
    row("load-up-1g", "requests", "requests measured, each of the rows at 1 Gbit/s", 1.0, 0),
    row("load-down-1g", "requests", "the same, from the server", 1.0, 0),
    row("load-up-100m", "requests", "requests measured, each of the rows at 100 Mbit/s", 1.0, 0),
    row("load-down-100m", "requests", "the same, from the server", 1.0, 0),
];

/// A median and the range around it.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Of these; `None` of nothing.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { low, median, high })
    }

    pub(crate) fn show(self, decimals: usize) -> String {
        let Self { low, median, high } = self;
        let median = format!("{median:.decimals$}");
        let (low, high) = (format!("{low:.decimals$}"), format!("{high:.decimals$}"));
        if low == high { median } else { format!("{median} ({low}–{high})") }
    }
}

/// What a contestant reached, by round.
pub(crate) fn figures(samples: &[Sample], contestant: &str, metric: &str, value: &str) -> Vec<(usize, f64)> {
    samples
        .iter()
        .filter(|sample| sample.contestant == contestant && sample.metric.to_string() == metric)
        .filter_map(|sample| Some((sample.round, sample.values.get(value)?.as_f64()?)))
        .collect()
}

/// Everything, in Markdown.
pub(crate) fn markdown(run: &Value, names: &[&str], samples: &[Sample], notes: &[String], quick: bool) -> String {
    let mut text = String::new();
    let machine = &run["machine"];
    let of = |key: &str| match &machine[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let versions = machine["versions"].as_object().map(|versions| {
        let each = versions.iter().map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or_default()));
        each.collect::<Vec<_>>().join(", ")
    });
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "Measured {}, {} CPUs ({}), Linux {}, congestion control {} on every socket; load before: {}.\n\n{}.\n",
        of("date"),
        of("cpus"),
        of("processor"),
        of("kernel"),
        of("congestion_control"),
        of("load_before"),
        versions.unwrap_or_default()
    );
    if quick {
        let _ = writeln!(text, "A quick run: the figures mean nothing.\n");
    }
    let _ = writeln!(
        text,
        "Medians of {} rounds, and their ranges; on links with a rate of 3 at most, of memory, the unread stream and round trips 1.\n",
        run["rounds"]
    );
    let _ = writeln!(text, "| | {} |\n| --- |{}", names.join(" | "), " --- |".repeat(names.len()));
    for row in &ROWS {
        let cells: Vec<String> = names
            .iter()
            .map(|name| {
                let figures = figures(samples, name, row.metric, row.value);
                let spread = Spread::of(figures.into_iter().map(|(_, value)| value * row.scale).collect());
                spread.map_or(String::new(), |spread| spread.show(row.decimals))
            })
            .collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            let _ = writeln!(text, "| {} | {} |", row.title, cells.join(" | "));
        }
    }
    text.push_str(&targets::markdown(samples));
    if !notes.is_empty() {
        text.push_str("\nWhat did not work:\n\n");
        for note in notes {
            let _ = writeln!(text, "- {note}");
        }
    }
    text
}
