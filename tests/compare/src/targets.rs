//! What peermux is to reach, in proportion to others in the same round.

use std::fmt::Write as _;

use crate::report::{Sample, Spread, figures};

/// A figure of a contestant: its name, a metric, and a value of that.
type Figure = (&'static str, &'static str, &'static str);

/// Whether more is better.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

struct Target {
    what: String,
    figure: Figure,
    /// What it is divided by: the one of these that is best; by 1 if there are none.
    beside: Vec<Figure>,
    bound: Bound,
}

/// Multiplexers with encryption.
const MULTIPLEXERS: [&str; 4] = ["yamux", "h2", "sia_mux", "quinn"];

/// Those of them that survive a stream that nobody reads.
const SURVIVORS: [&str; 3] = ["yamux", "h2", "quinn"];

/// The two that targets are for, by what they are called, with their TLS.
const SUITES: [(&str, &str); 2] = [("peermux-aes", "tls-aes"), ("peermux-chacha", "tls-chacha")];

fn target(what: String, figure: Figure, beside: Vec<Figure>, bound: Bound) -> Target {
    Target { what, figure, beside, bound }
}

/// The targets.
fn all() -> Vec<Target> {
    use Bound::{AtLeast, AtMost};
    let mut all = Vec::new();
    for (metric, streams) in [("bulk-1", "1 stream"), ("bulk-10", "10 streams"), ("bulk-100", "100 streams")] {
        let rate = "gb_per_s";
        for ((name, tls), least) in SUITES.into_iter().zip([0.9, 1.0]) {
            let what = format!("{name}: bulk, {streams}, of {tls} on one connection");
            all.push(target(what, (name, metric, rate), vec![(tls, "bulk-1", rate)], AtLeast(least)));
        }
        let aes = ("peermux-aes", metric, rate);
        let what = format!("peermux-aws: bulk, {streams}, of tls-aws on one connection");
        all.push(target(what, ("peermux-aws", metric, rate), vec![("tls-aws", "bulk-1", rate)], AtLeast(0.9)));
        let what = format!("peermux-aes: bulk, {streams}, of the best encrypted multiplexer");
        all.push(target(what, aes, MULTIPLEXERS.map(|name| (name, metric, rate)).to_vec(), AtLeast(1.6)));
        let what = format!("peermux-aes: bulk, {streams}, of the best one that survives an unread stream");
        all.push(target(what, aes, SURVIVORS.map(|name| (name, metric, rate)).to_vec(), AtLeast(2.0)));
    }
    for (metric, streams, least) in [("bulk-1", "1 stream", 1.3), ("bulk-100", "100 streams", 1.7)] {
        let (chacha, sia) = (("peermux-chacha", metric, "gb_per_s"), ("sia_mux", metric, "gb_per_s"));
        all.push(target(format!("peermux-chacha: bulk, {streams}, of sia_mux"), chacha, vec![sia], AtLeast(least)));
    }
    for (name, tls) in SUITES {
        let cost = |name| (name, "bulk-1", "cpu_s_per_gb");
        let what = format!("{name}: CPU per GB, 1 stream, of {tls}");
        all.push(target(what, cost(name), vec![cost(tls)], AtMost(1.1)));
    }
    for ((name, _), most) in SUITES.into_iter().zip([1.2, 1.35]) {
        for (value, stream) in [("reused_p50_us", "reused stream"), ("fresh_p50_us", "fresh stream")] {
            let what = format!("{name}: request on one CPU, {stream}, of plain TCP on a reused connection");
            let tcp = vec![("tcp", "one-cpu", "reused_p50_us")];
            all.push(target(what, (name, "one-cpu", value), tcp, AtMost(most)));
        }
    }
    for (name, _) in SUITES {
        let what = format!("{name}: streams per s");
        all.push(target(what, (name, "churn", "streams_per_s"), Vec::new(), AtLeast(300_000.0)));
    }
    let setup = |name| (name, "setup", "cpu_us");
    for (name, _) in SUITES.into_iter().chain([("peermux-aws", "tls-aws")]) {
        let what = format!("{name}: CPU of connection set-up, of tls-aws (with X25519MLKEM768)");
        all.push(target(what, setup(name), vec![setup("tls-aws")], AtMost(1.2)));
    }
    let name = "peermux-aes";
    for (metric, value, what, most) in [
        ("stream-memory", "client", "bytes per idle stream, opener", 400.0),
        ("stream-memory", "server", "bytes per idle stream, acceptor", 400.0),
        ("connection-memory", "client", "bytes per idle connection, dialer", 16_384.0),
        ("connection-memory", "server", "bytes per idle connection, listener", 16_384.0),
    ] {
        all.push(target(format!("{name}: {what}"), (name, metric, value), Vec::new(), AtMost(most)));
    }
    // Half a round trip more would be one too many.
    for (value, what, most) in [("early_answer_ms", "with early data", 50.0), ("first_answer_ms", "without", 70.0)] {
        let what = format!("{name}: ms from connect to first answer at 20 ms, {what}");
        all.push(target(what, (name, "round-trips", value), Vec::new(), AtMost(most)));
    }
    all.extend(SUITES.into_iter().flat_map(|(name, _)| on_links(name)));
    all
}

/// The targets on limited links, all beside plain TCP.
fn on_links(name: &'static str) -> Vec<Target> {
    use Bound::{AtLeast, AtMost};
    let mut all = Vec::new();
    let mut beside_tcp = |what: &str, metric, value, bound| {
        let what = format!("{name}: {what}, of plain TCP");
        all.push(target(what, (name, metric, value), vec![("tcp", metric, value)], bound));
    };
    for (metric, rate, most) in [("request-20ms-1g", "1 Gbit/s", 1.01), ("request-20ms-100m", "100 Mbit/s", 1.015)] {
        for (value, sizes) in [
            ("small_p50_ms", "100 B request, 100 B answer"),
            ("up_p50_ms", "64 KiB request, 100 B answer"),
            ("down_p50_ms", "100 B request, 64 KiB answer"),
        ] {
            beside_tcp(&format!("{sizes}, 20 ms and {rate}"), metric, value, AtMost(most));
        }
    }
    beside_tcp("goodput at 100 ms and 1 Gbit/s", "long-fat", "gb_per_s", AtLeast(0.95));
    for (metric, rate, wire) in [("link-1g", "1 Gbit/s", 1.002), ("link-100m", "100 Mbit/s", 1.005)] {
        beside_tcp(&format!("goodput at {rate}"), metric, "gb_per_s", AtLeast(0.998));
        beside_tcp(&format!("bytes on the wire at {rate}"), metric, "wire_per_byte", AtMost(wire));
    }
    beside_tcp("both directions at 1 Gbit/s", "link-both-1g", "gb_per_s", AtLeast(0.99));
    for (metric, load, most) in [
        ("load-up-1g", "bulk to the server, 1 Gbit/s", 1.15),
        ("load-down-1g", "bulk from the server, 1 Gbit/s", 1.15),
        ("load-up-100m", "bulk to the server, 100 Mbit/s", 1.25),
        ("load-down-100m", "bulk from the server, 100 Mbit/s", 1.25),
    ] {
        beside_tcp(&format!("request beside {load}"), metric, "p50_ms", AtMost(most));
        beside_tcp(&format!("{load} beside requests"), metric, "bulk_gb_per_s", AtLeast(0.99));
    }
    all
}

/// The figure by round, divided by the best of the others in the same round.
fn measured(target: &Target, samples: &[Sample]) -> Vec<f64> {
    let of = |(name, metric, value): Figure| figures(samples, name, metric, value);
    let others: Vec<_> = target.beside.iter().map(|figure| of(*figure)).collect();
    let in_round = |round, figure| {
        let mut there = others.iter().flatten().filter(|(at, _)| *at == round).map(|(_, value)| *value);
        let first = if others.is_empty() { 1.0 } else { there.next()? };
        let best = match target.bound {
            Bound::AtLeast(_) => there.fold(first, f64::max),
            Bound::AtMost(_) => there.fold(first, f64::min),
        };
        Some(figure / best)
    };
    of(target.figure).into_iter().filter_map(|(round, figure)| in_round(round, figure)).collect()
}

/// The table of targets.
pub(crate) fn markdown(samples: &[Sample]) -> String {
    let mut text = String::new();
    for target in all() {
        let Some(spread) = Spread::of(measured(&target, samples)) else { continue };
        let (sign, bound, met) = match target.bound {
            Bound::AtLeast(bound) => ("≥", bound, spread.median >= bound),
            Bound::AtMost(bound) => ("≤", bound, spread.median <= bound),
        };
        let decimals = match bound {
            20.0.. => 0,
            0.98..1.02 => 4,
            _ => 2,
        };
        let met = if met { "yes" } else { "no" };
        // Writing to a string does not fail.
        let _ = writeln!(text, "| {} | {sign} {bound} | {} | {met} |", target.what, spread.show(decimals));
    }
    if text.is_empty() {
        text
    } else {
        format!("\n| target | bound | measured | met |\n| --- | --- | --- | --- |\n{text}")
    }
}
