//! What a connection tells its application.

use bytes::Bytes;

use crate::code::ProtocolErrorCode;
use crate::crypto::{PublicKey, Suite};
use crate::early::WINDOW_MS;
use crate::error::ConnectionError;
use crate::id::{HandshakeMode, StreamId};

/// What the handshake proved of the peer. Its key is confirmed: the peer holds it, and no replay can say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// The peer's static key.
    pub key: PublicKey,
    /// The key was made for this connection and identifies nobody.
    pub anonymous: bool,
    /// The mode of the handshake.
    pub mode: HandshakeMode,
    /// The cipher suite of the records.
    pub suite: Suite,
    /// The version of the protocol.
    pub version: u8,
    /// The attestation that the peer sent, which binds another identity to its key. Nobody has verified it. One of more than 112 bytes comes in a frame, in one of the
    /// peer's first 16 records: [`Connection::attestation`](super::Connection::attestation) tells whether it has arrived.
    pub attestation: Option<Bytes>,
}

/// Early data, and who claims to have sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlyDataOffer {
    /// The static key that the peer claims. It is not confirmed: a first flight can be replayed.
    pub claimed: PublicKey,
    /// The key was made for this connection and identifies nobody.
    pub anonymous: bool,
    /// The initiator's ephemeral key, which is never used for two connections.
    pub ephemeral: PublicKey,
    /// When the initiator sent it, by its clock, in milliseconds since 1970. It is refused if that differs from `now` by more than 60 s.
    pub timestamp: u64,
    /// The time of this side, likewise.
    pub now: u64,
}

impl EarlyDataOffer {
    /// Whether both clocks agree well enough.
    pub(super) const fn is_in_time(&self) -> bool {
        self.timestamp.abs_diff(self.now) <= WINDOW_MS
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer has proved its key, and waits for [`accept_peer`](super::Connection::accept_peer) or
    /// [`refuse_peer`](super::Connection::refuse_peer), until the handshake deadline. Only where the application is to be asked.
    ApprovePeer(PeerInfo),
    /// Responder: the first flight holds early data. A [`StrikeRegister`](crate::StrikeRegister) is to be asked about each such offer, whatever else speaks for or against it. The early data may be accepted, by [`accept_early`](super::Connection::accept_early), until the next call of
    /// [`poll_transmit`](super::Connection::poll_transmit); otherwise it is refused, and comes again by itself.
    EarlyData(EarlyDataOffer),
    /// Both sides are confirmed and accepted as far as this side knows: streams flow. If the responder's application is asked about the initiator, an initiator is told this
    /// once the responder has accepted; until then it can open streams and send, but a refusal would be [`Event::Closed`] instead of this.
    Established(PeerInfo),
    /// The peer opened a stream, or the connection ended: see [`accept_stream`](super::Connection::accept_stream).
    StreamOpened,
    /// A stream that had nothing to read may have something now, or an end, or an error.
    Readable(StreamId),
    /// A stream that had no room may have some now, or an error; or it is flushed.
    Writable(StreamId),
    /// The sending half of a stream, which [`stopped`](super::SendStream::stopped) was called on, has ended.
    Stopped(StreamId),
    /// The peer attests another identity in a frame, since it was too long for the handshake. Nobody has verified it.
    Attestation(Bytes),
    /// The peer wants no more streams; what is open may finish.
    Draining(ProtocolErrorCode),
    /// The connection is over for the application. What was received before can still be read.
    Closed(ConnectionError),
}
