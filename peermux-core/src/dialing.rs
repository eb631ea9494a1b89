//! What adapters share where they connect to one of several addresses (RFC 8305): the order, the pace, and what went wrong.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;
use std::io;

/// The time from one attempt to the next, while none has failed.
pub const STAGGER: Duration = Duration::from_millis(250);

/// Returns `addresses` in the order in which to try them: families take turns, beginning with that of the first address. Repeated addresses are left out.
pub fn order(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut families = [VecDeque::new(), VecDeque::new()];
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    for address in addresses {
        let family = &mut families[usize::from(address.is_ipv6() != first_is_v6)];
        if !family.contains(address) {
            family.push_back(*address);
        }
    }
    let mut ordered = Vec::new();
    while families.iter().any(|family| !family.is_empty()) {
        ordered.extend(families.iter_mut().filter_map(VecDeque::pop_front));
    }
    ordered
}

/// The source of the [`io::Error`] of a connection attempt: which addresses were tried, and why each of them failed.
#[derive(Clone, Debug, Default)]
pub struct ConnectError {
    attempts: Vec<(SocketAddr, Arc<io::Error>)>,
}

impl ConnectError {
    /// Adds the error of an attempt.
    pub fn push(&mut self, address: SocketAddr, error: io::Error) {
        self.attempts.push((address, Arc::new(error)));
    }

    /// The attempts, in the order in which they failed.
    pub fn attempts(&self) -> impl ExactSizeIterator<Item = (SocketAddr, &io::Error)> {
        self.attempts.iter().map(|(address, error)| (*address, &**error))
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.attempts.is_empty() {
            return f.write_str("name has no address");
        }
        f.write_str("connect failed: ")?;
        for (number, (address, error)) in self.attempts.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{address}: {error}")?;
        }
        Ok(())
    }
}

/// The source is the error of the last attempt.
impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.attempts.last().map(|(_, error)| &**error as _)
    }
}

/// With the kind of the last error; [`io::ErrorKind::InvalidInput`] if there was no address.
impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        let kind = error.attempts.last().map_or(io::ErrorKind::InvalidInput, |(_, error)| error.kind());
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn families_take_turns_and_repeated_addresses_are_left_out() {
        let parse = |all: &str| -> Vec<SocketAddr> {
            all.split_whitespace().map(|address| address.parse().expect("an address")).collect()
        };
        let given = parse("[::1]:1 [::2]:1 [::1]:1 127.0.0.1:1 [::3]:1 127.0.0.2:1");
        assert_eq!(order(&given), parse("[::1]:1 127.0.0.1:1 [::2]:1 127.0.0.2:1 [::3]:1"));
        assert_eq!(order(&parse("127.0.0.1:1 127.0.0.2:1 [::1]:1")), parse("127.0.0.1:1 [::1]:1 127.0.0.2:1"));
        assert_eq!(order(&[]), []);
    }

    #[test]
    fn an_error_names_all_addresses_and_has_the_kind_of_the_last_one() {
        let mut error = ConnectError::default();
        error.push(SocketAddr::from(([127, 0, 0, 1], 1)), io::ErrorKind::TimedOut.into());
        error.push(SocketAddr::from(([127, 0, 0, 2], 1)), io::ErrorKind::ConnectionRefused.into());
        let error = io::Error::from(error);
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(error.to_string(), "connect failed: 127.0.0.1:1: timed out, 127.0.0.2:1: connection refused");
        assert_eq!(io::Error::from(ConnectError::default()).kind(), io::ErrorKind::InvalidInput);
    }
}
