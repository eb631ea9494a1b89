//! peermux over Tokio.
