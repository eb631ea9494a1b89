//! What was measured: for people, and as JSON.

use std::fmt::Write;
use std::time::Duration;

use crate::Plan;
use crate::client::{Interval, Phase};

/// One line of progress.
pub fn interval(name: &str, at: Duration, interval: &Interval) -> String {
    let Interval { took, up, down } = *interval;
    let mut line = format!("{name:<4} {:5.1} s", at.as_secs_f64());
    for (label, bytes) in [("up", up), ("down", down)] {
        if bytes > 0 {
            let _ = write!(line, "  {label} {:8.1} Mbit/s", megabits(bytes, took));
        }
    }
    line
}

/// The whole, as a table.
pub fn table(plan: &Plan, phases: &[Phase]) -> String {
    let mut table = format!(
        "\n{} stream(s) each way at urgency {}; requests of {} bytes at urgency {}, in ms\n\
         part  up Mbit/s  down Mbit/s  requests    median       99 %       most",
        plan.streams, plan.urgency, plan.request_bytes, plan.request_urgency
    );
    for phase in phases {
        let rate = |bytes| if bytes == 0 { "-".into() } else { format!("{:.1}", megabits(bytes, phase.took)) };
        let of = |share| millis(quantile(&phase.requests, share));
        let _ = write!(
            table,
            "\n{:<4} {:>10} {:>12} {:>9} {:>9.3} {:>10.3} {:>10.3}",
            phase.name,
            rate(phase.up),
            rate(phase.down),
            phase.requests.len(),
            of(0.5),
            of(0.99),
            of(1.0)
        );
    }
    table
}

/// The whole, as JSON. All of it is numbers and names of ours, so nothing needs escaping.
pub fn json(plan: &Plan, phases: &[Phase]) -> String {
    let phases: Vec<_> = phases.iter().map(json_phase).collect();
    format!(
        "{{\"streams\":{},\"urgency\":{},\"request_bytes\":{},\"request_urgency\":{},\"phases\":[{}]}}",
        plan.streams,
        plan.urgency,
        plan.request_bytes,
        plan.request_urgency,
        phases.join(",")
    )
}

fn json_phase(phase: &Phase) -> String {
    let of = |share| millis(quantile(&phase.requests, share));
    let intervals: Vec<_> = phase
        .intervals
        .iter()
        .map(|interval| json_moved(interval.took, interval.up, interval.down))
        .map(|moved| format!("{{{moved}}}"))
        .collect();
    format!(
        "{{\"name\":\"{}\",{},\"requests\":{{\"count\":{},\"min_ms\":{:.3},\"median_ms\":{:.3},\"p99_ms\":{:.3},\"max_ms\":{:.3}}},\
         \"intervals\":[{}]}}",
        phase.name,
        json_moved(phase.took, phase.up, phase.down),
        phase.requests.len(),
        of(0.0),
        of(0.5),
        of(0.99),
        of(1.0),
        intervals.join(",")
    )
}

fn json_moved(took: Duration, up: u64, down: u64) -> String {
    format!(
        "\"seconds\":{:.3},\"up_bytes\":{up},\"down_bytes\":{down},\"up_mbit_s\":{:.1},\"down_mbit_s\":{:.1}",
        took.as_secs_f64(),
        megabits(up, took),
        megabits(down, took)
    )
}

fn megabits(bytes: u64, took: Duration) -> f64 {
    if took.is_zero() { 0.0 } else { bytes as f64 * 8e-6 / took.as_secs_f64() }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The least value that `share` of all are at most; zero of none.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        let of = |share| quantile(&times, share).as_millis();
        assert_eq!([of(0.0), of(0.5), of(0.99), of(1.0)], [1, 100, 198, 200]);
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
