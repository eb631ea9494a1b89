//! How a connection behaves: limits, windows, timers. Every number has a default that suits a renter or a host.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::ops::RangeInclusive;
use core::time::Duration;

use crate::crypto::{Provider, PublicKey, StaticSecret, Suite, default_provider};
use crate::key_log::KeyLog;
use crate::mux::{Division, LEAST_WINDOW};
use crate::wire::{MAX_FRAME_ATTESTATION, MAX_RECORD, Settings, Shaping};

/// The largest window.
const MAX_WINDOW: u64 = 1 << 30;

/// The least idle timeout ([spec](crate::spec) section 4.4): a shorter one ends connections that a busy network delays.
pub(crate) const LEAST_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

const LEAST_KEEPALIVE: Duration = Duration::from_millis(10);

/// How a connection behaves. Built by changing fields of the default; checked when a connection is made.
#[derive(Clone)]
pub struct Config {
    /// The largest record that this side takes and sends, in quanta of 1408 bytes: 1 to 16; 16 by default. A small device that
    /// takes 2 needs a receive buffer of 2816 bytes.
    pub max_record: u8,
    /// What may be received that the application has not read, over all streams, in bytes: at least 4096 for each of `max_streams`, at most 1 GiB; 22 MiB by
    /// default. The windows of all streams together are never more than this, so streams that are left unread delay no other stream, however many they are
    /// ([spec](crate::spec) section 11.1).
    ///
    /// What is received and unread holds at most twice this much memory.
    pub receive_window: u64,
    /// The window that a stream begins with at most, in bytes: from 2048 to 1 GiB; 64 KiB by default. A stream begins with less if `receive_window` has no room for that: 16 streams at
    /// least begin with the same window, and with many open ones a new stream begins with 2048 bytes at least. A window grows when the application reads: to 1 MiB at
    /// once, and then as fast as the application reads, as far as three quarters of what `receive_window` has beyond the least windows go for all streams.
    pub stream_receive_window: u64,
    /// Streams that each side may have open at once: 16 to 262,144; 1024 by default. This side opens no more than that either, whatever the peer allows: more wait until
    /// others are over.
    pub max_streams: u64,
    /// Bytes that all streams queue for sending; 4 MiB by default. Beyond it each stream may still queue 2 KiB, so that bulk data
    /// does not keep an urgent stream from being written to.
    pub send_buffer: usize,
    /// Bytes that one stream queues for sending; from 2048, less than 2 GiB; 256 KiB by default.
    pub stream_send_buffer: usize,
    /// How long an attempt of an adapter to open the transport may take, for each address. `None` leaves it to the system, which may take minutes. 15 s by default.
    pub connect_timeout: Option<Duration>,
    /// Silence after which the connection closes; at least 1 s; `None` is never. The lesser of both sides' holds. 60 s by default.
    pub idle_timeout: Option<Duration>,
    /// The longest time that this side is silent: a PING leaves after a random time between half of this and all of it. From 10 ms to half of
    /// `idle_timeout`. If the peer's idle timeout is shorter, half of that one holds instead. `None` sends none. 20 s by default.
    pub keepalive: Option<Duration>,
    /// Whether the application is asked about each peer ([`Event::PeerProved`](crate::Event::PeerProved)), or every one is accepted whose key is as
    /// expected. A responder that is asked tells the initiator, which is established only when the answer was yes. `false` by default.
    pub ask: bool,
    /// Responder: whether a dialer that does not know this side's key is answered at all. `true` by default; without it, this side's identity
    /// is never shown to a prober.
    pub fallback: bool,
    /// The shaping that this side proposes ([spec](crate::spec) section 19). Of two proposals the stronger holds. [`Shaping::Quantised`] by default.
    pub shaping: Shaping,
    /// The strongest shaping that this side accepts; a peer that wants more is closed with SHAPING_REFUSED. [`Shaping::Bucketed`] by default, which costs at
    /// most 12 % more bytes. At least `shaping`.
    pub shaping_limit: Shaping,
    /// An attestation of this side's static key ([`attestation`](crate::attestation)): 1 to 1024 bytes. One of more than 112 travels in a frame after the handshake, so a
    /// dialer cannot make its expectation depend on it.
    pub attestation: Option<Arc<[u8]>>,
    /// Whether this side takes part in early data ([spec](crate::spec) section 6): as an initiator it sends streams of
    /// [`Connection::open_early`](crate::Connection::open_early) with the first flight; as a responder it may accept them
    /// ([`Event::EarlyData`](crate::Event::EarlyData)). Early data has no forward secrecy against theft of the responder's key, is
    /// not protected by ML-KEM, and may be delivered more than once
    /// ([`RecvStream::is_early`](crate::RecvStream::is_early)). `false` by default.
    pub early_data: bool,
    /// Takes the secrets of connections, for debugging. `None` by default.
    pub key_log: Option<Arc<dyn KeyLog>>,
    /// Whether to send values that nobody knows, so that peers do not forget to ignore them ([spec](crate::spec) section 17). `true` by default.
    pub grease: bool,
    /// The implementation of the cryptography.
    pub provider: &'static dyn Provider,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_record: MAX_RECORD,
            receive_window: 22 << 20,
            stream_receive_window: 64 << 10,
            max_streams: 1024,
            send_buffer: 4 << 20,
            stream_send_buffer: 256 << 10,
            connect_timeout: Some(Duration::from_secs(15)),
            idle_timeout: Some(Duration::from_secs(60)),
            keepalive: Some(Duration::from_secs(20)),
            ask: false,
            fallback: true,
            shaping: Shaping::Quantised,
            shaping_limit: Shaping::Bucketed,
            attestation: None,
            early_data: false,
            key_log: None,
            grease: true,
            provider: default_provider(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("max_record", &self.max_record)
            .field("receive_window", &self.receive_window)
            .field("stream_receive_window", &self.stream_receive_window)
            .field("max_streams", &self.max_streams)
            .field("send_buffer", &self.send_buffer)
            .field("stream_send_buffer", &self.stream_send_buffer)
            .field("connect_timeout", &self.connect_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("keepalive", &self.keepalive)
            .field("ask", &self.ask)
            .field("fallback", &self.fallback)
            .field("early_data", &self.early_data)
            .field("shaping", &self.shaping)
            .field("shaping_limit", &self.shaping_limit)
            .field("grease", &self.grease)
            .field("provider", &self.provider)
            .finish_non_exhaustive()
    }
}

/// A field of [`Config`] that is out of range, or randomness that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A field has a value that it must not have.
    OutOfRange {
        /// The name of the field.
        field: &'static str,
        /// Its value.
        value: String,
        /// The values that it may have, and why.
        allowed: String,
        /// What mends it.
        hint: String,
    },
    /// The generator of random numbers failed.
    Randomness,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { field, value, allowed, hint } => {
                write!(f, "invalid configuration: `{field}` is {value}, must be {allowed}; {hint}")
            }
            Self::Randomness => f.write_str("the generator of random numbers failed"),
        }
    }
}

/// Checks that the number `value` of a field is one of `range`.
fn check_number(field: &'static str, value: u64, range: RangeInclusive<u64>, why: &str) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    let hint = if value < *range.start() { "raise it" } else { "lower it" };
    let allowed = format!("{} to {}{why}", range.start(), range.end());
    Err(out_of_range(field, format!("{value}"), allowed, hint))
}

fn out_of_range(field: &'static str, value: String, allowed: String, hint: &str) -> ConfigError {
    ConfigError::OutOfRange { field, value, allowed, hint: hint.into() }
}

impl core::error::Error for ConfigError {}

impl Config {
    /// The most memory, in bytes, that a connection holds for payload and buffers with `streams` open, of which there are never more than twice `max_streams`: twice the receive
    /// window, twice the send buffer with each stream's reserve (a buffer that grows may be half empty), one record each way, and a constant; besides 1 KiB for each stream.
    /// With default settings that is less than 64 MiB at the worst.
    pub const fn memory_bound(&self, streams: u64) -> u64 {
        2 * self.receive_window
            + 2 * self.send_buffer as u64
            + streams * (2 * crate::mux::SEND_RESERVE as u64 + 1024)
            + 2 * crate::MAX_INPUT_BUFFER as u64
            + 64 * 1024
    }

    /// The window of the first streams.
    fn first_window(&self) -> u64 {
        let births = Division::new(self.receive_window, self.max_streams).births_left();
        self.stream_receive_window.min(LEAST_WINDOW + births / 64)
    }

    /// Streams that the peer may open before it hears of more. Their windows are a quarter of what new streams may have.
    fn first_streams(&self) -> u64 {
        let births = Division::new(self.receive_window, self.max_streams).births_left();
        let extra = self.first_window().saturating_sub(LEAST_WINDOW);
        (births / 4).checked_div(extra).map_or(self.max_streams, |streams| streams.max(16).min(self.max_streams))
    }

    /// The settings that the peer is told ([spec](crate::spec) section 4.4). Meaningful if [`Config::check`] succeeds.
    pub fn settings(&self) -> Settings {
        Settings {
            max_record: self.max_record,
            // The windows of streams are what holds the peer back. This limit is never reached, also while an update is on its way.
            initial_max_data: self.receive_window.saturating_mul(2),
            initial_max_stream_data: self.first_window(),
            initial_max_streams: self.first_streams(),
            idle_timeout: self
                .idle_timeout
                .map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).min(crate::varint::MAX)),
            shaping: self.shaping,
        }
    }

    /// Checks every field; connections do it by themselves.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] for the first field with a value that it must not have.
    pub fn check(&self) -> Result<(), ConfigError> {
        check_number("max_record", self.max_record.into(), 1..=MAX_RECORD.into(), " quanta")?;
        check_number("max_streams", self.max_streams, 16..=MAX_WINDOW / (2 * LEAST_WINDOW), "")?;
        self.check_receive_window()?;
        check_number("stream_receive_window", self.stream_receive_window, LEAST_WINDOW..=MAX_WINDOW, " bytes")?;
        let stream_send_buffer = u64::try_from(self.stream_send_buffer).unwrap_or(u64::MAX);
        check_number("stream_send_buffer", stream_send_buffer, 2048..=(1 << 31) - 1, " bytes")?;
        self.check_timers()?;
        if let Some(bytes) = &self.attestation {
            let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            check_number("attestation.len()", len, 1..=MAX_FRAME_ATTESTATION as u64, " bytes")?;
        }
        if Shaping::from_value(self.shaping.value()) != Some(self.shaping) {
            let allowed = "one that section 19.1 of the specification knows, with its size and interval in range";
            return Err(out_of_range("shaping", format!("{:?}", self.shaping), allowed.into(), "change it"));
        }
        if !crate::shape::accepts(self.shaping_limit, self.shaping) {
            let allowed = format!("at least as strong as `shaping` ({:?})", self.shaping);
            let hint = "strengthen it, or weaken `shaping`";
            return Err(out_of_range("shaping_limit", format!("{:?}", self.shaping_limit), allowed, hint));
        }
        if !self.provider.supports(Suite::ChaCha20Poly1305) {
            let allowed = "one that supports ChaCha20-Poly1305, which every peer speaks";
            return Err(out_of_range("provider", format!("{:?}", self.provider), allowed.into(), "use another one"));
        }
        Ok(())
    }

    fn check_receive_window(&self) -> Result<(), ConfigError> {
        let each = 2 * LEAST_WINDOW;
        let least = self.max_streams * each;
        let why = format!(" bytes: {each} for each of `max_streams` ({})", self.max_streams);
        check_number("receive_window", self.receive_window, least..=MAX_WINDOW, &why).map_err(|mut error| {
            let streams = self.receive_window / each;
            if let ConfigError::OutOfRange { hint, .. } = &mut error
                && (16..self.max_streams).contains(&streams)
            {
                *hint = format!("raise it, or set `max_streams` to at most {streams}");
            }
            error
        })
    }

    fn check_timers(&self) -> Result<(), ConfigError> {
        if self.connect_timeout == Some(Duration::ZERO) {
            let hint = "raise it, or use `None` to leave it to the system";
            return Err(out_of_range("connect_timeout", "0ns".into(), "more than zero".into(), hint));
        }
        if let Some(timeout) = self.idle_timeout
            && timeout < LEAST_IDLE_TIMEOUT
        {
            let allowed = format!("at least {LEAST_IDLE_TIMEOUT:?}");
            let hint = "raise it, or use `None` for no timeout";
            return Err(out_of_range("idle_timeout", format!("{timeout:?}"), allowed, hint));
        }
        let Some(keepalive) = self.keepalive else { return Ok(()) };
        let refused = |allowed, hint| Err(out_of_range("keepalive", format!("{keepalive:?}"), allowed, hint));
        if keepalive < LEAST_KEEPALIVE {
            return refused(format!("at least {LEAST_KEEPALIVE:?}"), "raise it, or use `None` for no PINGs");
        }
        match self.idle_timeout {
            Some(timeout) if keepalive > timeout / 2 => refused(
                format!("at most {:?}: half of `idle_timeout` ({timeout:?})", timeout / 2),
                "lower it, raise `idle_timeout`, or use `None` for no PINGs",
            ),
            _ => Ok(()),
        }
    }
}

/// Who this side is when it dials.
pub enum Identity {
    /// The holder of a static key.
    Known(StaticSecret),
    /// Nobody: a static key is made for this connection, and the responder is told so.
    Anonymous,
}

impl From<StaticSecret> for Identity {
    fn from(secret: StaticSecret) -> Self {
        Self::Known(secret)
    }
}

/// Whom this side dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remote {
    /// The holder of this key, and nobody else.
    Key(PublicKey),
    /// The holder of this key; or, where it has another one by now, whoever the application accepts ([`Event::PeerProved`](crate::Event::PeerProved)).
    KeyOrAsk(PublicKey),
    /// Whoever is there, if the application accepts the key that it proves.
    Ask,
    /// Whoever is there.
    Anyone,
}

impl Remote {
    pub(crate) const fn key(&self) -> Option<PublicKey> {
        match self {
            Self::Key(key) | Self::KeyOrAsk(key) => Some(*key),
            Self::Ask | Self::Anyone => None,
        }
    }
}

/// The static keys of a responder.
#[derive(Clone)]
pub struct ResponderKeys {
    /// The key that it shows in fallback.
    pub current: StaticSecret,
    /// The key that it had before, which dialers may still use.
    pub previous: Option<StaticSecret>,
}

impl From<StaticSecret> for ResponderKeys {
    fn from(current: StaticSecret) -> Self {
        Self { current, previous: None }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[track_caller]
    fn refused(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        config.check().expect("the default is valid");
        change(&mut config);
        config.check().expect_err("the field is out of range").to_string()
    }

    #[test]
    fn a_refused_field_is_named_with_its_value_the_range_and_what_mends_it() {
        assert_eq!(
            refused(|config| config.receive_window = 1 << 20),
            "invalid configuration: `receive_window` is 1048576, must be 4194304 to 1073741824 bytes: \
             4096 for each of `max_streams` (1024); raise it, or set `max_streams` to at most 256"
        );
        assert_eq!(
            refused(|config| config.stream_receive_window = 2 << 30),
            "invalid configuration: `stream_receive_window` is 2147483648, must be 2048 to 1073741824 bytes; lower it"
        );
        assert_eq!(
            refused(|config| config.attestation = Some(Arc::from([]))),
            "invalid configuration: `attestation.len()` is 0, must be 1 to 1024 bytes; raise it"
        );
        let limit = refused(|config| (config.shaping, config.shaping_limit) = (Shaping::Bucketed, Shaping::Quantised));
        assert!(limit.contains("`shaping_limit` is Quantised, must be at least as strong as `shaping` (Bucketed)"));
    }

    #[test]
    fn timers_that_would_end_a_healthy_connection_are_refused() {
        let timers = |idle, keepalive: Option<u64>| {
            move |config: &mut Config| {
                config.idle_timeout = Some(Duration::from_millis(idle));
                config.keepalive = keepalive.map(Duration::from_millis);
            }
        };
        assert_eq!(
            refused(timers(999, None)),
            "invalid configuration: `idle_timeout` is 999ms, must be at least 1s; raise it, or use `None` for no timeout"
        );
        assert_eq!(
            refused(timers(1000, Some(501))),
            "invalid configuration: `keepalive` is 501ms, must be at most 500ms: half of `idle_timeout` (1s); \
             lower it, raise `idle_timeout`, or use `None` for no PINGs"
        );
        assert!(refused(timers(1000, Some(9))).contains("`keepalive` is 9ms, must be at least 10ms"));
        let mut config = Config::default();
        for valid in [timers(1000, Some(500)), timers(1000, None)] {
            valid(&mut config);
            assert_eq!(config.check(), Ok(()));
        }
        config.idle_timeout = None;
        config.keepalive = Some(Duration::from_secs(86_400));
        assert_eq!(config.check(), Ok(()));
    }
}
