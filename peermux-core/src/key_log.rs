//! Secrets for those who look into captures: off unless the application turns it on.

use core::fmt;

use crate::crypto::Suite;

/// Takes the secrets of connections, so that captures of them can be read. Whoever has them reads and forges everything: for debugging only.
pub trait KeyLog: Send + Sync {
    /// A connection has derived its traffic secrets.
    fn log(&self, secrets: &TrafficSecrets<'_>);
}

/// The secrets of one connection. [`fmt::Display`] gives the two lines of a key log file.
pub struct TrafficSecrets<'a> {
    /// The initiator's ephemeral key: the first 32 bytes that the connection has on the wire.
    pub ephemeral: &'a [u8; 32],
    /// The cipher suite of the records.
    pub suite: Suite,
    /// The key of i2r record 0.
    pub i2r: &'a [u8; 32],
    /// The key of r2i record 0.
    pub r2i: &'a [u8; 32],
}

struct Hex<'a>(&'a [u8; 32]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// `PEERMUX_I2R ephemeral suite key`, a line feed, and the same for `PEERMUX_R2I`: keys in hexadecimal, the suite as its number.
impl fmt::Display for TrafficSecrets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ephemeral, suite) = (Hex(self.ephemeral), self.suite.as_byte());
        writeln!(f, "PEERMUX_I2R {ephemeral} {suite} {}", Hex(self.i2r))?;
        write!(f, "PEERMUX_R2I {ephemeral} {suite} {}", Hex(self.r2i))
    }
}

impl fmt::Debug for TrafficSecrets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrafficSecrets").field("suite", &self.suite).finish_non_exhaustive()
    }
}
