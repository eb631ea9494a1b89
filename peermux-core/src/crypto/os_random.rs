//! Randomness of the operating system, for keys only. Connections are given theirs.

use core::fmt;

/// The error of an operating system that provides no randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomnessError(getrandom::Error);

impl fmt::Display for RandomnessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operating system provides no randomness: {}", self.0)
    }
}

impl core::error::Error for RandomnessError {}

#[cfg(feature = "std")]
impl From<RandomnessError> for std::io::Error {
    fn from(error: RandomnessError) -> Self {
        Self::other(error)
    }
}

#[expect(clippy::disallowed_methods, reason = "a key is made before any connection")]
pub(super) fn fill(bytes: &mut [u8]) -> Result<(), RandomnessError> {
    getrandom::fill(bytes).map_err(RandomnessError)
}
