//! peermux/1 as a pure state machine.
#![no_std]
extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

