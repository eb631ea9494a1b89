//! Signs of life and round trips: `docs/spec.md` sections 9.2 and 15.

use core::time::Duration;

use crate::codec::Writer;
use crate::config::{Config, LEAST_IDLE_TIMEOUT};
use crate::crypto::Rng;
use crate::time::Instant;
use crate::wire::{Ping, Pong, Settings};

/// How often a round trip is measured while records leave anyway.
const MEASURE_EVERY: Duration = Duration::from_millis(500);

pub(super) struct Liveness {
    last_received: Instant,
    idle_timeout: Option<Duration>,
    /// The longest time that this side is silent: half of the idle timeout at most.
    keepalive: Option<Duration>,
    ping_at: Option<Instant>,
    ping_is_due: bool,
    /// The number of the last PING, and when it left if no PONG has come.
    pings: u64,
    waiting: Option<Instant>,
    measured_at: Instant,
    /// The last PING of the peer that waits for its PONG.
    to_answer: Option<Ping>,
    round_trip: Duration,
    flight_sent: Option<Instant>,
}

impl Liveness {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            last_received: now,
            idle_timeout: None,
            keepalive: None,
            ping_at: None,
            ping_is_due: false,
            pings: 0,
            waiting: None,
            measured_at: now,
            to_answer: None,
            round_trip: Duration::ZERO,
            flight_sent: None,
        }
    }

    /// Records flow: the timers start.
    pub(super) fn start(&mut self, now: Instant, config: &Config, peer: &Settings, rng: &mut Rng) {
        let theirs = Duration::from_millis(peer.idle_timeout);
        let theirs = (!theirs.is_zero()).then(|| theirs.max(LEAST_IDLE_TIMEOUT));
        self.idle_timeout = match (config.max_idle_timeout, theirs) {
            (Some(ours), Some(theirs)) => Some(ours.min(theirs)),
            (ours, theirs) => ours.or(theirs),
        };
        self.keepalive =
            config.keep_alive_interval.map(|every| self.idle_timeout.map_or(every, |idle| every.min(idle / 2)));
        self.last_received = now;
        self.record_sent(now, rng);
    }

    pub(super) fn idle_at(&self) -> Option<Instant> {
        Some(self.last_received + self.idle_timeout?)
    }

    pub(super) const fn ping_at(&self) -> Option<Instant> {
        // A PING that waits to be sent needs no timer.
        if self.ping_is_due { None } else { self.ping_at }
    }

    pub(super) const fn round_trip(&self) -> Duration {
        self.round_trip
    }

    pub(super) fn record_received(&mut self, now: Instant) {
        self.last_received = now;
    }

    /// Silence begins anew: the next PING is due after a random part of the longest.
    pub(super) fn record_sent(&mut self, now: Instant, rng: &mut Rng) {
        self.ping_at = self.keepalive.map(|longest| {
            let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX / 2);
            now + Duration::from_micros(rng.uniform(micros / 2, micros + 1))
        });
    }

    pub(super) fn on_time(&mut self, now: Instant, rng: &mut Rng) {
        if self.ping_at.is_some_and(|at| now >= at) {
            self.ping_is_due = true;
            self.record_sent(now, rng);
        }
    }

    pub(super) const fn flight_sent(&mut self, now: Instant) {
        self.flight_sent = Some(now);
    }

    /// A flight of the handshake answers the one that was sent.
    pub(super) fn flight_received(&mut self, now: Instant) {
        if let Some(sent) = self.flight_sent.take() {
            self.measured(now, sent);
        }
    }

    fn measured(&mut self, now: Instant, sent: Instant) {
        let sample = now.saturating_since(sent);
        self.round_trip = if self.round_trip.is_zero() { sample } else { (self.round_trip * 7 + sample) / 8 };
        self.measured_at = now;
    }

    pub(super) const fn ping_received(&mut self, ping: Ping) {
        self.to_answer = Some(ping);
    }

    /// The round trip that windows should be large enough for, if `pong` answers the last PING: the longer of the last and the smoothed one, since a line that has just filled
    /// has a longer round trip than its average says.
    pub(super) fn pong_received(&mut self, now: Instant, pong: Pong) -> Option<Duration> {
        if pong.0 != self.pings.to_be_bytes() {
            return None;
        }
        let sent = self.waiting.take()?;
        self.measured(now, sent);
        Some(self.round_trip.max(now.saturating_since(sent)))
    }

    pub(super) const fn wants_record(&self) -> bool {
        self.ping_is_due || self.to_answer.is_some()
    }

    /// What must be said, and what rides along.
    pub(super) fn write(&mut self, now: Instant, out: &mut Writer<'_>) {
        if out.room() >= Pong::MAX_LEN
            && let Some(Ping(data)) = self.to_answer.take()
        {
            Pong(data).encode(out);
        }
        // The round trip is measured by records that leave anyway, full ones as well: under load it is not what it was at rest, and windows depend on it.
        let measure = self.waiting.is_none() && now.saturating_since(self.measured_at) >= MEASURE_EVERY;
        if (self.ping_is_due || measure) && out.room() >= Ping::MAX_LEN {
            self.ping_is_due = false;
            self.write_ping(now, out);
        }
    }

    fn write_ping(&mut self, now: Instant, out: &mut Writer<'_>) {
        self.pings += 1;
        self.waiting = Some(now);
        Ping(self.pings.to_be_bytes()).encode(out);
    }
}
