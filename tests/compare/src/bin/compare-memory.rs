//! The same as `compare`, with an allocator that counts.

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

fn main() -> std::process::ExitCode {
    compare::main(|| ALLOCATOR.current_usage())
}
