//! What the tests of peermux share.
