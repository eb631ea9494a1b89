//! The simulator: two connections, two pipes, applications and a relay, in virtual time, beside a reference model.
//!
//! A [`Scenario`] is a setup and a list of operations. A seed makes one, a fuzzer's bytes make one, and so does proptest. It runs in two phases:
//! first whatever the operations say, then everything is healed and must drain. After every step the invariants are checked that can be
//! seen from outside, and by a provider of cryptography that remembers what was sealed, those of the wire.

#![expect(missing_docs, reason = "fields and methods are named after what they are; the types say what they are for")]

mod end;
mod heal;
mod model;
mod op;
mod pipe;
mod setup;
mod spy;
mod streams;
mod world;

use std::hash::{DefaultHasher, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

pub use end::{Count, End, Handle, Waiter};
pub use heal::Plan;
pub use model::{Check, Direction, Half, Held, Model, Stream, byte};
pub use op::{Clock, Cut, Op, RawOp, Side, Tamper};
pub use pipe::Pipe;
pub use setup::{Opening, Random, Setup};
pub use spy::{SPY, Sealed, Spy, take as take_sealed};
pub use world::World;

/// A run that can be repeated.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub setup: Setup,
    pub ops: Vec<RawOp>,
    /// Overrides the pieces in which input is handed over.
    pub pieces: Option<Cut>,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// All bytes that both sides wrote.
    pub wire: u64,
    /// What the applications read, by stream and side.
    pub read: Vec<[u64; 2]>,
    pub records: usize,
    /// Whether it ended before it was healed.
    pub ended_early: bool,
}

impl Scenario {
    /// The run that `seed` stands for.
    pub fn from_seed(seed: u64) -> Self {
        let setup = Setup::new(seed);
        Self { ops: setup.ops(), setup, pieces: None }
    }

    /// The run that a fuzzer's bytes stand for: eight for the setup, then operations.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (seed, ops) = bytes.split_first_chunk()?;
        // Half of the numbers are enough for setups, and leave room for arithmetic.
        let setup = Setup::new(u64::from_le_bytes(*seed) >> 2);
        Some(Self { setup, ops: ops.as_chunks().0.to_vec(), pieces: None })
    }

    /// The same operations in another order or number.
    pub fn with_ops(&self, ops: Vec<RawOp>) -> Self {
        Self { ops, ..self.clone() }
    }

    /// Runs it.
    ///
    /// # Errors
    /// The first invariant that does not hold, and after which operation.
    pub fn run(&self) -> Result<Report, String> {
        let mut world = World::new(self.setup.clone());
        world.pieces = self.pieces;
        for (at, raw) in self.ops.iter().enumerate() {
            let op = Op::decode(*raw);
            world
                .apply(op)
                .and_then(|()| world.check())
                .map_err(|error| format!("after operation {at}, {op:?}: {error}"))?;
        }
        let ended_early = world.ended(0).is_some() || world.ended(1).is_some();
        world.heal().map_err(|error| format!("healing at {:?}: {error}", world.now))?;
        let mut hasher = DefaultHasher::new();
        world.pipes.iter().for_each(|pipe| hasher.write(pipe.written()));
        Ok(Report {
            wire: hasher.finish(),
            read: world.model.streams.iter().map(|stream| stream.halves.each_ref().map(|half| half.read)).collect(),
            records: world.ends.iter().map(|end| end.records).sum(),
            ended_early,
        })
    }

    /// Runs it, and takes a panic for a failure.
    ///
    /// # Errors
    /// As [`Scenario::run`].
    pub fn try_run(&self) -> Result<Report, String> {
        catch_unwind(AssertUnwindSafe(|| self.run())).unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("panic: {}", text.unwrap_or_default()))
        })
    }

    /// A shorter list of operations that fails as well, and how it fails; as short as can be found in `time`.
    pub fn shrink(&self, time: Duration) -> (Self, String) {
        let mut best = self.clone();
        let Err(mut error) = best.try_run() else { return (best, "it does not fail".into()) };
        let start = Instant::now();
        let mut size = best.ops.len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            let mut removed = false;
            while at < best.ops.len() && start.elapsed() < time {
                let mut ops = best.ops.clone();
                ops.drain(at..(at + size).min(ops.len()));
                let candidate = best.with_ops(ops);
                match candidate.try_run() {
                    Err(failure) if kind(&failure) == kind(&error) => {
                        (best, error, removed) = (candidate, failure, true);
                    }
                    _ => at += size,
                }
            }
            if !removed || start.elapsed() >= time {
                size = if size == 1 { 0 } else { size / 2 };
            }
        }
        (best, error)
    }

    /// Everything that is needed to repeat it.
    pub fn describe(&self) -> String {
        let ops: String = self.ops.iter().map(|raw| format!("\n    {:?}", Op::decode(*raw))).collect();
        format!("{:?}\n  operations:{ops}\n  line for regressions/seeds.txt: {}", self.setup, self.line())
    }

    /// A line of the regression file: the seed, and the operations if they are not the seed's own.
    pub fn line(&self) -> String {
        let ops: String = self.ops.iter().flatten().map(|byte| format!("{byte:02x}")).collect();
        format!("{} {ops}", self.setup.seed)
    }

    /// What a line of the regression file stands for; `None` for a comment.
    pub fn from_line(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let scenario = Self::from_seed(words.next()?.parse().ok()?);
        let Some(hex) = words.next().filter(|word| !word.starts_with('#')) else { return Some(scenario) };
        let bytes: Vec<u8> =
            (0..hex.len() / 2).filter_map(|at| u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()).collect();
        Some(scenario.with_ops(bytes.as_chunks().0.to_vec()))
    }
}

/// What a failure says without its numbers, so that shrinking does not wander off to another one.
fn kind(error: &str) -> String {
    let text = error.rsplit_once("}: ").map_or(error, |(_, text)| text);
    text.chars().filter(|letter| !letter.is_ascii_digit()).take(60).collect()
}

/// Runs `seed` and explains a failure at length.
///
/// # Errors
/// How it fails, its shortest operations, and how to keep it.
pub fn check_seed(seed: u64) -> Result<Report, String> {
    let scenario = Scenario::from_seed(seed);
    scenario.try_run().map_err(|error| {
        let (shortest, shortest_error) = scenario.shrink(Duration::from_secs(30));
        format!("seed {seed}: {error}\n\nminimised: {shortest_error}\n{}", shortest.describe())
    })
}
