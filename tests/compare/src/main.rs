//! Measures peermux beside others: see `docs/performance.md`.

fn main() -> std::process::ExitCode {
    // Allocations are not counted here.
    compare::main(|| 0)
}
