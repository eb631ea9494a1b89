//! Where it was measured, and with what.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::socket;

/// The versions of everything that is compiled in.
const LOCK: &str = include_str!("../Cargo.lock");

/// Crates that decide what is measured.
const CRATES: [&str; 12] = [
    "tokio",
    "rustls",
    "tokio-rustls",
    "ring",
    "aws-lc-rs",
    "yamux",
    "h2",
    "sia_mux",
    "quinn",
    "quinn-proto",
    "peermux-core",
    "chacha20poly1305",
];

/// What there is to say of this machine and this run.
pub(crate) fn describe() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo");
    let model = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    json!({
        "date": date(),
        "processor": model.trim_start_matches([' ', '\t', ':']),
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_before": read("/proc/loadavg").split(' ').next().unwrap_or_default(),
        "congestion_control": socket::congestion_control().unwrap_or_default(),
        "versions": versions(),
    })
}

/// Today in UTC.
fn date() -> String {
    let said = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output();
    said.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned()).unwrap_or_default()
}

fn versions() -> Value {
    let mut versions = serde_json::Map::new();
    let mut lines = LOCK.lines();
    while let Some(line) = lines.next() {
        let Some(name) = quoted(line, "name = ").filter(|name| CRATES.contains(name)) else { continue };
        if let Some(version) = lines.next().and_then(|line| quoted(line, "version = ")) {
            versions.insert(name.to_owned(), version.into());
        }
    }
    versions.into()
}

fn quoted<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.strip_prefix(key).map(|value| value.trim_matches('"'))
}
