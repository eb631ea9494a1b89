//! How a connection ends: `docs/spec.md` section 13.

use alloc::sync::Arc;
use core::time::Duration;

use super::{Connection, Event, Phase};
use crate::code::{ErrorCode, ProtocolErrorCode};
use crate::error::{CloseInfo, ConnectionError, HandshakeError, Side, TransportError, Violation};
use crate::time::Instant;
use crate::wire::{Close, MAX_REASON};

/// How long a side reads on after its last record; and how long that record may wait for a transport that takes nothing.
const LINGER: Duration = Duration::from_secs(3);

/// Where the end stands.
#[derive(Default)]
pub(super) struct Closing {
    /// Why the connection is over for the application.
    pub(super) error: Option<ConnectionError>,
    /// What this side said, or is about to say; and what the peer said.
    pub(super) said: Option<CloseInfo>,
    pub(super) heard: Option<CloseInfo>,
    /// CLOSE that is to be sent.
    pub(super) to_send: Option<CloseInfo>,
    /// This side's last record was written.
    pub(super) sent: bool,
    /// The peer's last record was read.
    pub(super) received: bool,
    pub(super) linger_until: Option<Instant>,
    /// A record did not authenticate.
    pub(super) tampered: bool,
    /// The writer was told that nothing will follow.
    pub(super) finish_told: bool,
}

/// As much of `reason` as CLOSE holds.
fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

impl Closing {
    /// CLOSE is to be sent, and no timer ends that.
    pub(super) const fn waits_without_limit(&self) -> bool {
        self.to_send.is_some() && self.linger_until.is_none()
    }
}

impl Connection {
    /// A peer that takes nothing more does not keep the connection from ending.
    pub(super) fn limit_close(&mut self) {
        if self.closing.waits_without_limit() {
            self.closing.linger_until = Some(self.linger());
        }
    }

    /// Under constant shaping CLOSE, and its answer, wait for a slot.
    fn linger(&self) -> Instant {
        self.now + LINGER + self.shaper.interval()
    }

    /// The time for the last record is over: for this side's to leave, or else for the peer's to arrive.
    pub(super) fn linger_is_over(&mut self) {
        if self.closing.to_send.take().is_some() && !self.closing.received {
            // What the peer still says is read, as if this side had spoken.
            self.closing.said = None;
            self.close_was_sent();
        } else {
            self.phase = Phase::Over;
        }
    }

    /// Ends the connection with `code` and `reason`, of which at most 256 bytes are sent. What is queued is dropped: see [`Connection::drain`] for letting it finish.
    /// Does nothing if the connection has ended.
    pub fn close(&mut self, code: ErrorCode, reason: &str) {
        if self.closing.error.is_some() {
            return;
        }
        self.close_by(Side::Local, CloseInfo { code, reason: Arc::from(cut(reason)) });
    }

    /// Ends a connection that has drained: it was ended by who drained it.
    pub(super) fn close_drained(&mut self) {
        self.close_by(self.who_drained(), CloseInfo { code: ErrorCode::NO_ERROR, reason: Arc::from("") });
    }

    /// Who ends the connection if it ends orderly: the side that wanted to end it, though the other one says CLOSE first.
    const fn who_drained(&self) -> Side {
        if self.mux.drains_here() { Side::Local } else { Side::Peer }
    }

    fn close_by(&mut self, by: Side, closed: CloseInfo) {
        self.end_with(ConnectionError::Closed { by, closed: closed.clone(), answer: None });
        self.send_close(closed);
    }

    /// Opens no more streams, asks the peer to open none, and closes with NO_ERROR once all are done. `code` tells the peer why:
    /// GOING_AWAY, as a rule. Streams that were opened before go on, and are opened even if they still wait for the peer to allow them.
    /// Streams that the peer opens later are refused.
    ///
    /// If the application holds no stream, the connection also ends after 60 s without progress, and after 15 min at the latest, whatever the peer does.
    pub fn drain(&mut self, code: ProtocolErrorCode) {
        self.mux.drain(code);
    }

    /// The connection is over for the application.
    pub(super) fn end_with(&mut self, error: ConnectionError) {
        if self.closing.error.is_some() {
            return;
        }
        self.closing.error = Some(error.clone());
        self.must_send = false;
        self.mux.end(error.clone());
        self.notices.push(Event::Closed(error));
    }

    /// CLOSE goes with the next record; before there are keys nothing is said.
    fn send_close(&mut self, closed: CloseInfo) {
        let unconfirmed = self.is_unconfirmed();
        if self.sealer.is_some() && !unconfirmed {
            self.closing.said = Some(closed.clone());
            self.closing.to_send = Some(closed);
        } else {
            self.flight.clear();
            self.phase = Phase::Over;
        }
    }

    pub(super) fn fail_with_close(&mut self, error: ConnectionError, code: ProtocolErrorCode, reason: &str) {
        if matches!(self.phase, Phase::AwaitAnswer(_)) || self.is_unconfirmed() {
            self.fail_handshake(HandshakeError::Timeout);
            self.phase = Phase::Over;
            return;
        }
        self.end_with(error);
        self.send_close(CloseInfo { code: ErrorCode::Protocol(code), reason: Arc::from(reason) });
        self.limit_close();
    }

    /// The peer broke the rules: it is told at once, and nothing more of what it sends is looked at.
    pub(super) fn violated(&mut self, violation: Violation) {
        if self.is_unconfirmed() {
            // Flight 3 of IK authenticates before its frames are read, so this does not happen; and if it did, nothing could be said.
            self.fail_handshake(HandshakeError::Flight3);
        } else if self.closing.error.is_none() {
            self.fail_with_close(ConnectionError::Protocol(violation), violation.code, violation.what);
        }
    }

    /// A record does not authenticate: the keys are gone, and nothing more is said or delivered.
    pub(super) fn tampered(&mut self) {
        if self.is_unconfirmed() {
            return self.fail_handshake(HandshakeError::Flight3);
        }
        // The sending key lives on only where slots must go on, which is until the last record.
        if !self.shaper.is_constant() || self.closing.sent {
            self.sealer = None;
        }
        self.closing.tampered = true;
        self.opener = None;
        self.closing.to_send = None;
        self.end_with(ConnectionError::DecryptError);
        let micros = self.rng.uniform(2_000_000, 10_000_000);
        self.phase = Phase::Silent(self.now + Duration::from_micros(micros));
    }

    pub(super) fn on_close(&mut self, frame: Close<'_>) {
        let closed = CloseInfo { code: frame.code, reason: Arc::from(frame.reason) };
        self.closing.received = true;
        self.closing.heard = Some(closed.clone());
        match &mut self.closing.error {
            Some(ConnectionError::Closed { by, closed: said, answer }) => {
                // The peer drained, and what this side has said since is the answer, whichever came first.
                *answer = Some(if *by == Side::Peer { core::mem::replace(said, closed) } else { closed });
                if let Some(error) = self.closing.error.clone() {
                    self.mux.update_end(error);
                }
            }
            Some(_) => {}
            None => {
                let answer = CloseInfo { code: ErrorCode::NO_ERROR, reason: Arc::from("") };
                let by = if closed.code == ErrorCode::NO_ERROR { self.who_drained() } else { Side::Peer };
                self.end_with(ConnectionError::Closed { by, closed, answer: Some(answer.clone()) });
                self.send_close(answer);
                self.limit_close();
            }
        }
        self.over_if_both();
    }

    pub(super) fn close_was_sent(&mut self) {
        self.closing.sent = true;
        self.closing.linger_until = Some(self.linger());
        self.over_if_both();
    }

    fn over_if_both(&mut self) {
        if self.closing.sent && self.closing.received {
            self.phase = Phase::Over;
        }
    }

    /// The transport says that the peer sends nothing more. Tells truncation from an orderly end.
    pub fn handle_eof(&mut self, now: Instant) {
        self.advance(now);
        match self.phase {
            Phase::Over => {}
            // After a record that did not authenticate the time does not depend on what arrives, and the end of TCP is no exception.
            Phase::Silent(_) if self.closing.tampered => {}
            Phase::Silent(_) => self.phase = Phase::Over,
            Phase::Records if !self.is_unconfirmed() => {
                if self.closing.received {
                    return;
                }
                if self.closing.error.is_none() {
                    self.end_with(ConnectionError::Truncated);
                    self.phase = Phase::Over;
                } else if self.closing.sent {
                    self.phase = Phase::Over;
                } else {
                    // CLOSE is still to be sent, and may still arrive.
                    let until = self.linger();
                    self.closing.linger_until.get_or_insert(until);
                }
            }
            _ => {
                self.fail_handshake(HandshakeError::Truncated);
                self.phase = Phase::Over;
            }
        }
    }

    /// The transport failed: nothing can be sent or received any more. `error` is a text, or an error of the operating system (`&std::io::Error`).
    pub fn handle_transport_error(&mut self, now: Instant, error: impl Into<TransportError>) {
        self.advance(now);
        self.flight.clear();
        self.closing.to_send = None;
        self.end_with(ConnectionError::Transport(error.into()));
        self.phase = Phase::Over;
    }
}
