//! Measures peermux beside plain TCP, TLS, and other multiplexers, each in processes of its own, in turns: see `docs/performance.md`.

mod app;
mod carry;
mod cli;
mod contestant;
mod link;
mod machine;
mod measure;
mod metric;
mod process;
mod report;
mod run;
mod socket;
mod targets;

pub use cli::main;
