//! A run: in each round every contestant is measured, one after the other, in two new processes.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cli::Options;
use crate::contestant;
use crate::link::{self, Link};
use crate::machine;
use crate::measure::Values;
use crate::metric::{self, Metric, Place};
use crate::process::Ready;
use crate::report::{self, Sample};

/// How long a process may take until it says something: longer than a client waits.
const PATIENCE: Duration = Duration::from_secs(50);

/// Measures everything, and writes what came out.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the result, and how far it is")]
pub(crate) fn all(options: &Options) -> io::Result<()> {
    let metrics: Vec<Metric> = if options.metric.is_empty() {
        metric::ALL.iter().map(|(_, metric)| *metric).collect()
    } else {
        options.metric.clone()
    };
    let names: Vec<&str> = contestant::NAMES.into_iter().filter(|name| wanted(name, &options.only)).collect();
    let rounds = if options.quick { 1 } else { options.rounds };
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    ctrlc::set_handler(move || asked.store(true, Ordering::Relaxed)).map_err(io::Error::other)?;

    let machine = machine::describe();
    let programs = Programs::find(&metrics)?;
    link::sweep();
    let began = Instant::now();
    let mut samples = Vec::new();
    let mut notes = Vec::new();
    // Links are slow to make, so all that is measured on one is measured before the next.
    for place in places(&metrics) {
        let link = match Link::for_place(place) {
            Ok(link) => link,
            Err(error) => {
                notes.push(format!("{}: not measured. It needs root, `ip` and `tc`: {error}", listed(&metrics, place)));
                continue;
            }
        };
        for round in 0..rounds {
            for &metric in metrics.iter().filter(|metric| metric.place() == place && round < metric.most_rounds()) {
                for &name in &names {
                    if stop.load(Ordering::Relaxed) {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    eprint!("\r\x1b[K{:>4} s  round {}  {metric}  {name}", began.elapsed().as_secs(), round + 1);
                    match programs.measure(name, metric, link.as_ref(), metric.time(options.quick)) {
                        Ok(values) => samples.push(Sample { contestant: name.to_owned(), metric, round, values }),
                        Err(error) => notes.push(format!("{name}, {metric}, round {}: {error}", round + 1)),
                    }
                }
            }
        }
    }
    eprintln!("\r\x1b[K{} s in all", began.elapsed().as_secs());

    let described: serde_json::Map<_, _> = names
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), contestant::by_name(name)?.describe().into())))
        .collect();
    let written = json!({
        "machine": machine,
        "quick": options.quick,
        "rounds": rounds,
        "seconds": began.elapsed().as_secs(),
        "contestants": described,
        "samples": samples,
        "notes": notes,
    });
    let json = match &options.json {
        Some(json) => json.clone(),
        None => std::env::current_exe()?.with_file_name("compare.json"),
    };
    fs::write(json, serde_json::to_vec_pretty(&written)?)?;
    let tables = report::markdown(&written, &names, &samples, &notes, options.quick);
    print!("{tables}");
    options.into.as_deref().map_or(Ok(()), |file| replace(file, &tables))
}

/// Puts the tables where a document wants them.
fn replace(file: &Path, tables: &str) -> io::Result<()> {
    let (begin, end) = ("<!-- results -->\n", "<!-- end of results -->\n");
    let text = fs::read_to_string(file)?;
    let parts = text.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let (before, after) = parts.ok_or_else(|| io::Error::other(format!("{}: no place for results", file.display())))?;
    fs::write(file, format!("{before}{begin}\n{tables}\n{end}{after}"))
}

fn wanted(name: &str, only: &[String]) -> bool {
    only.is_empty() || only.iter().any(|wanted| wanted == name)
}

/// The metrics that are measured at one place.
fn listed(metrics: &[Metric], place: Place) -> String {
    let there = metrics.iter().filter(|metric| metric.place() == place);
    there.map(Metric::to_string).collect::<Vec<_>>().join(", ")
}

fn places(metrics: &[Metric]) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for metric in metrics {
        if !places.contains(&metric.place()) {
            places.push(metric.place());
        }
    }
    places
}

/// The program, and the one that counts allocations.
struct Programs {
    plain: PathBuf,
    counting: Option<PathBuf>,
}

impl Programs {
    /// Builds the one that counts, if it is needed: `cargo run` has built only this one.
    fn find(metrics: &[Metric]) -> io::Result<Self> {
        let plain = std::env::current_exe()?;
        if !metrics.iter().any(|metric| metric.counts_memory()) {
            return Ok(Self { plain, counting: None });
        }
        let directory = plain.parent().map(Path::to_owned).unwrap_or_default();
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--locked", "--quiet", "--bin", "compare-memory", "--manifest-path"]);
        cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        if let Some(target) = directory.parent() {
            cargo.arg("--target-dir").arg(target);
        }
        if directory.ends_with("release") {
            cargo.arg("--release");
        }
        if !cargo.status()?.success() {
            return Err(io::Error::other("compare-memory was not built"));
        }
        Ok(Self { plain, counting: Some(directory.join("compare-memory")) })
    }

    /// Measures once.
    fn measure(&self, name: &str, metric: Metric, link: Option<&Link>, time: Duration) -> io::Result<Values> {
        let program = self.counting.as_ref().filter(|_| metric.counts_memory()).unwrap_or(&self.plain);
        let command = |server| match link {
            Some(link) => link.command(server, program),
            None => Command::new(program),
        };
        let bind = link::server_address(link).to_string();
        let mut server = Process::start(command(true).args(["server", name, &metric.to_string(), &bind]))?;
        let ready: Ready = serde_json::from_str(&server.line()?)?;
        let sent_before = link.map(Link::sent);
        let mut client = command(false);
        client.args(["client", name, &metric.to_string(), &time.as_millis().to_string()]);
        client.args([ready.addr.to_string(), ready.control.to_string(), ready.identity]);
        let mut values: Values = serde_json::from_str(&Process::start(&mut client)?.line()?)?;
        if let (Metric::LinkBulk(_), Some(Ok(before)), Some(Ok(after))) = (metric, sent_before, link.map(Link::sent)) {
            let bytes = values.get("bytes").and_then(serde_json::Value::as_f64).unwrap_or(f64::NAN);
            values.insert("wire_per_byte".to_owned(), ((after - before) as f64 / bytes).into());
        }
        Ok(values)
    }
}

/// A process that says one line. It ends when it is dropped.
struct Process {
    child: Child,
    said: mpsc::Receiver<io::Result<String>>,
}

impl Process {
    fn start(command: &mut Command) -> io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (says, said) = mpsc::channel();
        if let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) {
            thread::spawn(move || {
                let mut line = String::new();
                let read = BufReader::new(stdout).read_line(&mut line);
                // Without a line it has said what went wrong.
                if line.is_empty() {
                    let mut error = String::new();
                    let _ = stderr.read_to_string(&mut error);
                    let _ = says.send(read.and(Err(io::Error::other(error.trim().to_owned()))));
                } else {
                    let _ = says.send(read.map(|_| line));
                }
            });
        }
        Ok(Self { child, said })
    }

    fn line(&mut self) -> io::Result<String> {
        self.said.recv_timeout(PATIENCE).map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
