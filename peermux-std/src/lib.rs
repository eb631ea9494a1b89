//! peermux over blocking std threads.
