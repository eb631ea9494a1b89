//! Which connection with a peer is used, where there is more than one: [spec](crate::spec) section 16.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use crate::code::{Code, ProtocolCode};
use crate::connection::PeerInfo;
use crate::crypto::PublicKey;
use crate::error::{ConnectionError, Side};
use crate::id::Role;
use crate::time::Instant;

/// Dials in opposite directions that are confirmed no further apart than this have crossed.
const CROSSING: Duration = Duration::from_secs(15);

/// How long a side that was drained off waits before it dials again; and the longest that this grows to.
const FIRST_WAIT: Duration = Duration::from_secs(15);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// A side that was not drained off for so long after it could dial again begins with the first wait. It is longer than [`LONGEST_WAIT`]: two machines that
/// share a key, by mistake, push each other out once in that time.
const SETTLED: Duration = Duration::from_secs(1200);

/// Connections with one peer that a side holds. Only one is ever needed; the rest drain, or wait for the peer's decision.
const MOST: usize = 8;

/// The peers of an endpoint, and which connection with each of them is used.
///
/// There is one table for each static key of the endpoint, with every connection whose peer is confirmed ([`Event::Established`](crate::Event::Established)), never before: a first flight that is
/// replayed gets no further than a claim. `H` is what the caller knows a connection by.
///
/// Like a connection, a table has no clock and does nothing by itself: it says what is to be done.
pub struct PeerTable<H> {
    own: PublicKey,
    /// The latest moment that was ever given.
    now: Instant,
    peers: BTreeMap<PublicKey, Peer<H>>,
    /// Whom each connection is with; `None` is somebody anonymous.
    handles: BTreeMap<H, Option<PublicKey>>,
}

struct Peer<H> {
    /// In the order in which they were confirmed.
    connections: Vec<Entry<H>>,
    back_off: Option<BackOff>,
}

struct Entry<H> {
    handle: H,
    confirmed: Instant,
    /// This side dialled it.
    dialled: bool,
    drained_by_us: bool,
    drained_by_peer: bool,
}

impl<H> Entry<H> {
    const fn drains(&self) -> bool {
        self.drained_by_us || self.drained_by_peer
    }
}

/// This side was drained off a connection that it had dialled, and had no other.
struct BackOff {
    wait: Duration,
    until: Instant,
}

/// What is to be done about a connection that was confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<H> {
    /// It is the one to use, and nothing is to be done.
    Keep,
    /// It is the one to use. All others drain, and there are too many of them.
    Crowded {
        /// The oldest one that drains, to be closed with DUPLICATE.
        close: H,
    },
    /// There are others, and the peer decides. This one is used until the peer drains it.
    UntilTold {
        /// One that is to be closed with DUPLICATE, since the peer does not decide and there are too many.
        close: Option<H>,
    },
    /// This side decides: there is one too many.
    Drain {
        /// The one that is not kept, to be drained with DUPLICATE. It may be the one that was just confirmed.
        drain: H,
        /// The oldest one that drains, to be closed with DUPLICATE, if there are too many.
        close: Option<H>,
    },
}

impl<H: Copy + Ord> PeerTable<H> {
    /// A table without peers, of the endpoint that holds the secret of `own`.
    pub const fn new(own: PublicKey) -> Self {
        Self { own, now: Instant::ZERO, peers: BTreeMap::new(), handles: BTreeMap::new() }
    }

    /// The connection `handle` was confirmed and accepted at `now`, with `peer`; `role` is this side's. A handle that the table holds already changes nothing.
    pub fn confirmed(&mut self, now: Instant, handle: H, peer: &PeerInfo, role: Role) -> Verdict<H> {
        self.now = self.now.max(now);
        if self.handles.contains_key(&handle) {
            return Verdict::Keep;
        }
        if peer.anonymous {
            self.handles.insert(handle, None);
            return Verdict::Keep;
        }
        self.handles.insert(handle, Some(peer.key));
        let decides = self.own < peer.key;
        let known = self.peers.entry(peer.key).or_insert_with(Peer::new);
        let dialled = role == Role::Initiator;
        if !dialled {
            // The peer wants this side after all.
            known.back_off = None;
        }
        let entry = Entry { handle, confirmed: self.now, dialled, drained_by_us: false, drained_by_peer: false };
        known.connections.push(entry);
        let verdict = if decides { known.decide() } else { known.follow() };
        let closed = match verdict {
            Verdict::Keep => None,
            Verdict::Crowded { close } => Some(close),
            Verdict::UntilTold { close } | Verdict::Drain { close, .. } => close,
        };
        if let Some(closed) = closed {
            self.handles.remove(&closed);
        }
        verdict
    }

    /// A side drains the connection: this one, for another reason than a [`Verdict`], or the peer, which said `code`
    /// ([`Event::Draining`](crate::Event::Draining)). It closes no other connection: what is open on one that drains already may finish.
    pub fn draining(&mut self, now: Instant, handle: H, by: Side, code: ProtocolCode) {
        self.now = self.now.max(now);
        let Some(Some(key)) = self.handles.get(&handle).copied() else { return };
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(entry) = peer.connections.iter_mut().find(|entry| entry.handle == handle) else { return };
        match by {
            Side::Local => entry.drained_by_us = true,
            Side::Peer => {
                let told = core::mem::replace(&mut entry.drained_by_peer, true);
                if !told && entry.dialled && code == ProtocolCode::DUPLICATE {
                    self.drained_off(key);
                }
            }
        }
    }

    /// The connection has ended, for the reason that `error` gives. One that the table does not hold changes nothing.
    pub fn closed(&mut self, now: Instant, handle: H, error: &ConnectionError) {
        self.now = self.now.max(now);
        let Some(Some(key)) = self.handles.remove(&handle) else { return };
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(entry) = peer.remove(handle) else { return };
        let duplicate =
            error.code() == Some(Code::Protocol(ProtocolCode::DUPLICATE)) && error.side() == Some(Side::Peer);
        if duplicate && entry.dialled && !entry.drained_by_peer {
            // It need not be told twice.
            self.drained_off(key);
        } else if peer.connections.is_empty() && peer.back_off.is_none() {
            self.peers.remove(&key);
        }
    }

    /// The peer has closed a connection that this side dialled in good order, before it was confirmed here: this side was drained off it, as where the peer's
    /// DRAIN is told of by [`PeerTable::draining`].
    pub fn dial_drained_off(&mut self, now: Instant, peer: PublicKey) {
        self.now = self.now.max(now);
        self.peers.entry(peer).or_insert_with(Peer::new);
        self.drained_off(peer);
    }

    /// This side is not wanted on the connection that it dialled: if it has no other, it takes its time to dial again.
    fn drained_off(&mut self, key: PublicKey) {
        let now = self.now;
        if let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.current().is_none()) {
            let wait = match &peer.back_off {
                Some(last) if now < last.until + SETTLED => (last.wait * 2).min(LONGEST_WAIT),
                _ => FIRST_WAIT,
            };
            peer.back_off = Some(BackOff { wait, until: now + wait });
        }
        // What is remembered is bounded by those who drained this side off a short while ago.
        self.peers.retain(|_, peer| {
            peer.back_off.take_if(|last| now >= last.until + SETTLED);
            !peer.connections.is_empty() || peer.back_off.is_some()
        });
    }

    /// The connection to use for streams to the holder of `peer`; `None` if there is none that takes new ones.
    pub fn current(&self, peer: &PublicKey) -> Option<H> {
        self.peers.get(peer)?.current()
    }

    /// Before this moment the holder of `peer` must not be dialled; it may lie in the past. `None` if it never drained this side off, or has a connection with it.
    pub fn not_before(&self, peer: &PublicKey) -> Option<Instant> {
        let peer = self.peers.get(peer)?;
        peer.back_off.as_ref().filter(|_| peer.current().is_none()).map(|last| last.until)
    }

    /// Whom the connection is with; `None` for somebody anonymous, and for a handle that the table does not hold.
    pub fn peer(&self, handle: H) -> Option<PublicKey> {
        self.handles.get(&handle).copied().flatten()
    }

    /// All peers that are not anonymous and have a connection that takes new streams, in the order of their keys, with that connection.
    pub fn peers(&self) -> impl Iterator<Item = (PublicKey, H)> {
        self.peers.iter().filter_map(|(key, peer)| Some((*key, peer.current()?)))
    }

    /// The connections with anonymous peers.
    pub fn anonymous(&self) -> impl Iterator<Item = H> {
        self.handles.iter().filter(|(_, peer)| peer.is_none()).map(|(handle, _)| *handle)
    }

    /// Connections that the table holds, those that drain included.
    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.handles.is_empty()
    }
}

impl<H: Copy + Ord> Peer<H> {
    const fn new() -> Self {
        Self { connections: Vec::new(), back_off: None }
    }

    /// The one that was confirmed last, of those that take streams.
    fn current(&self) -> Option<H> {
        self.connections.iter().rfind(|entry| !entry.drains()).map(|entry| entry.handle)
    }

    fn remove(&mut self, handle: H) -> Option<Entry<H>> {
        let index = self.connections.iter().position(|entry| entry.handle == handle)?;
        Some(self.connections.remove(index))
    }

    /// If there are too many connections, takes out the oldest one that drains, other than `handle`.
    fn close_drained(&mut self, handle: Option<H>) -> Option<H> {
        if self.connections.len() <= MOST {
            return None;
        }
        let index = self.connections.iter().position(|entry| entry.drains() && Some(entry.handle) != handle)?;
        Some(self.connections.remove(index).handle)
    }

    /// This side decides; the last of the connections is new. Before, there was at most one that this side did not drain.
    fn decide(&mut self) -> Verdict<H> {
        let Some((new, rest)) = self.connections.split_last_mut() else { return Verdict::Keep };
        let Some(old) = rest.iter_mut().find(|entry| !entry.drained_by_us) else {
            return self.close_drained(None).map_or(Verdict::Keep, |close| Verdict::Crowded { close });
        };
        let crossed = old.dialled != new.dialled && new.confirmed.saturating_since(old.confirmed) <= CROSSING;
        // One that the peer drains already is of no use to keep.
        let keeps_old = crossed && old.dialled && !old.drained_by_peer;
        let loser = if keeps_old { new } else { old };
        loser.drained_by_us = true;
        let drain = loser.handle;
        Verdict::Drain { drain, close: self.close_drained(Some(drain)) }
    }

    /// The peer decides; the last of the connections is new.
    fn follow(&mut self) -> Verdict<H> {
        let others = self.connections.len().saturating_sub(1);
        let rest = &self.connections[..others];
        if others < MOST && rest.iter().all(Entry::drains) {
            return Verdict::Keep;
        }
        let first = rest.iter().position(Entry::drains).unwrap_or(0);
        let close = (others >= MOST).then(|| self.connections.remove(first).handle);
        Verdict::UntilTold { close }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::crypto::Suite;
    use crate::error::Closed;
    use crate::id::Mode;

    const US: u8 = 5;
    /// This side decides about connections with the one, and not with the other.
    const GREATER: u8 = 9;
    const SMALLER: u8 = 1;

    fn key(number: u8) -> PublicKey {
        PublicKey::from_bytes([number; 32])
    }

    fn info(number: u8, anonymous: bool) -> PeerInfo {
        let suite = Suite::ChaCha20Poly1305;
        PeerInfo { key: key(number), anonymous, mode: Mode::Ik, suite, version: 1, attestation: None }
    }

    fn table() -> PeerTable<u64> {
        PeerTable::new(key(US))
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    const WE: Role = Role::Initiator;
    const THEY: Role = Role::Responder;

    /// What `table` says, with the numbers 1, 2, and so on, to connections with `peer` that are confirmed one after the other.
    fn verdicts(table: &mut PeerTable<u64>, peer: u8, dials: &[(u64, Role)]) -> Vec<Verdict<u64>> {
        let peer = info(peer, false);
        (1..).zip(dials).map(|(handle, &(second, role))| table.confirmed(at(second), handle, &peer, role)).collect()
    }

    fn drain(drain: u64) -> Verdict<u64> {
        Verdict::Drain { drain, close: None }
    }

    fn until_told() -> Verdict<u64> {
        Verdict::UntilTold { close: None }
    }

    #[test]
    fn the_side_with_the_smaller_key_keeps_the_later_one() {
        for roles in [[WE, WE], [THEY, THEY], [WE, THEY], [THEY, WE]] {
            let mut table = table();
            let dials = [(0, roles[0]), (16, roles[1])];
            assert_eq!(verdicts(&mut table, GREATER, &dials), [Verdict::Keep, drain(1)], "{roles:?}");
            assert_eq!(table.current(&key(GREATER)), Some(2));
        }
    }

    #[test]
    fn of_crossing_dials_it_keeps_its_own() {
        for (dials, loser, kept) in [([(0, WE), (15, THEY)], 2, 1), ([(0, THEY), (15, WE)], 1, 2)] {
            let mut table = table();
            assert_eq!(verdicts(&mut table, GREATER, &dials), [Verdict::Keep, drain(loser)]);
            assert_eq!(table.current(&key(GREATER)), Some(kept));
        }
        // Dials in the same direction never cross.
        for role in [WE, THEY] {
            let mut table = table();
            assert_eq!(verdicts(&mut table, GREATER, &[(0, role), (0, role)]), [Verdict::Keep, drain(1)]);
        }
    }

    #[test]
    fn the_other_side_uses_the_later_one_until_it_is_told() {
        let mut table = table();
        assert_eq!(verdicts(&mut table, SMALLER, &[(0, WE), (1, THEY)]), [Verdict::Keep, until_told()]);
        assert_eq!(table.current(&key(SMALLER)), Some(2));
        table.draining(at(2), 2, Side::Peer, ProtocolCode::DUPLICATE);
        assert_eq!(table.current(&key(SMALLER)), Some(1));
        // There is another one, so nothing is to be dialled.
        assert_eq!(table.not_before(&key(SMALLER)), None);
    }

    #[test]
    fn the_order_of_keys_is_that_of_their_bytes() {
        let mut ours = [7; 32];
        ours[31] = 0x7f;
        let mut table = PeerTable::new(PublicKey::from_bytes(ours));
        let mut peer = info(7, false);
        ours[31] = 0x80;
        peer.key = PublicKey::from_bytes(ours);
        table.confirmed(at(0), 1_u64, &peer, THEY);
        assert_eq!(table.confirmed(at(1), 2, &peer, THEY), drain(1));
    }

    #[test]
    fn what_drains_is_closed_only_if_there_are_too_many() {
        let mut table = table();
        let dials = [(0, THEY); MOST];
        let verdicts = verdicts(&mut table, GREATER, &dials);
        assert_eq!(verdicts[0], Verdict::Keep);
        assert!((1..).zip(&verdicts[1..]).all(|(handle, verdict)| *verdict == drain(handle)));
        let peer = info(GREATER, false);
        let one_more = Verdict::Drain { drain: MOST as u64, close: Some(1) };
        assert_eq!(table.confirmed(at(1), 100, &peer, THEY), one_more);
        assert_eq!((table.len(), table.current(&key(GREATER))), (MOST, Some(100)));
        // What was to be closed is forgotten already.
        table.closed(at(2), 1, &ConnectionError::Truncated);
        // The application drains the one that is left: the others may finish all the same.
        table.draining(at(3), 100, Side::Local, ProtocolCode::GOING_AWAY);
        assert_eq!((table.len(), table.current(&key(GREATER))), (MOST, None));
        assert_eq!(table.confirmed(at(4), 101, &peer, THEY), Verdict::Crowded { close: 2 });
        assert_eq!((table.len(), table.current(&key(GREATER))), (MOST, Some(101)));
    }

    #[test]
    fn one_that_drains_already_is_not_told_again_and_never_kept() {
        let peer = info(GREATER, false);
        let mut table = table();
        table.confirmed(at(0), 1, &peer, WE);
        table.draining(at(1), 1, Side::Local, ProtocolCode::GOING_AWAY);
        assert_eq!(table.confirmed(at(2), 2, &peer, THEY), Verdict::Keep);
        // The peer drains it, this side does not yet: it is told, and though the dials cross its own is not kept.
        let mut table = self::table();
        table.confirmed(at(0), 1, &peer, WE);
        table.draining(at(1), 1, Side::Peer, ProtocolCode::GOING_AWAY);
        assert_eq!(table.confirmed(at(2), 2, &peer, THEY), drain(1));
        assert_eq!(table.current(&key(GREATER)), Some(2));
    }

    #[test]
    fn what_has_ended_is_no_duplicate() {
        for peer in [GREATER, SMALLER] {
            let mut table = table();
            table.confirmed(at(0), 1, &info(peer, false), WE);
            table.closed(at(1), 1, &ConnectionError::Truncated);
            assert!(table.is_empty() && table.peers.is_empty());
            assert_eq!(table.confirmed(at(1), 2, &info(peer, false), THEY), Verdict::Keep);
        }
    }

    #[test]
    fn the_anonymous_are_never_merged() {
        let mut table = table();
        for handle in 1..=3 {
            assert_eq!(table.confirmed(at(0), handle, &info(GREATER, true), THEY), Verdict::Keep);
        }
        // Not even with somebody who is known by the same key.
        assert_eq!(table.confirmed(at(0), 4, &info(GREATER, false), THEY), Verdict::Keep);
        assert_eq!(table.anonymous().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(table.peers().collect::<Vec<_>>(), [(key(GREATER), 4)]);
        table.draining(at(0), 1, Side::Peer, ProtocolCode::DUPLICATE);
        table.closed(at(0), 1, &ConnectionError::IdleTimeout);
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn keys_that_were_rotated_live_side_by_side() {
        let mut table = table();
        assert_eq!(table.confirmed(at(0), 1, &info(GREATER, false), WE), Verdict::Keep);
        assert_eq!(table.confirmed(at(0), 2, &info(GREATER + 1, false), WE), Verdict::Keep);
        assert_eq!(table.peers().count(), 2);
    }

    /// Dials `peer` at `second` and is drained off one second later; when it may dial again, in seconds from then.
    fn flap(table: &mut PeerTable<u64>, handle: u64, second: u64) -> Option<u64> {
        table.confirmed(at(second), handle, &info(SMALLER, false), WE);
        table.draining(at(second + 1), handle, Side::Peer, ProtocolCode::DUPLICATE);
        let closed = Closed { code: Code::NO_ERROR, reason: "".into() };
        table.closed(at(second + 1), handle, &ConnectionError::Closed { by: Side::Peer, closed, answer: None });
        table.not_before(&key(SMALLER)).map(|until| until.saturating_since(at(second + 1)).as_secs())
    }

    #[test]
    fn a_side_that_is_drained_off_waits_longer_each_time() {
        let mut table = table();
        let (mut second, mut waits) = (0, vec![]);
        for handle in 0..9 {
            let wait = flap(&mut table, handle, second).expect("it has no other");
            waits.push(wait);
            second += 1 + wait;
        }
        assert_eq!(waits, [15, 30, 60, 120, 240, 480, 600, 600, 600]);
        // After a long time without it begins anew.
        assert_eq!(flap(&mut table, 10, second + 1199), Some(15));
    }

    #[test]
    fn only_a_dialer_without_another_connection_waits() {
        let peer = info(SMALLER, false);
        let mut table = table();
        // It did not dial.
        table.confirmed(at(0), 1, &peer, THEY);
        table.draining(at(1), 1, Side::Peer, ProtocolCode::DUPLICATE);
        assert_eq!(table.not_before(&key(SMALLER)), None);
        // It was not a duplicate.
        table.confirmed(at(2), 2, &peer, WE);
        table.draining(at(3), 2, Side::Peer, ProtocolCode::GOING_AWAY);
        assert_eq!(table.not_before(&key(SMALLER)), None);
        // DRAIN came before the other connection was confirmed, as when dials cross: then it waits no more.
        table.confirmed(at(4), 3, &peer, WE);
        table.draining(at(5), 3, Side::Peer, ProtocolCode::DUPLICATE);
        assert_eq!(table.not_before(&key(SMALLER)), Some(at(20)));
        table.confirmed(at(6), 4, &peer, THEY);
        assert_eq!(table.not_before(&key(SMALLER)), None);
        table.closed(at(7), 4, &ConnectionError::Truncated);
        assert_eq!(table.not_before(&key(SMALLER)), None);
    }

    #[test]
    fn a_close_with_duplicate_counts_as_a_drain_and_not_twice() {
        let peer = info(SMALLER, false);
        let closed = Closed { code: Code::Protocol(ProtocolCode::DUPLICATE), reason: "".into() };
        let by = |by| ConnectionError::Closed { by, closed: closed.clone(), answer: None };
        let mut table = table();
        table.confirmed(at(0), 1, &peer, WE);
        table.closed(at(1), 1, &by(Side::Local));
        assert_eq!(table.not_before(&key(SMALLER)), None);
        table.confirmed(at(2), 2, &peer, WE);
        table.closed(at(3), 2, &by(Side::Peer));
        assert_eq!(table.not_before(&key(SMALLER)), Some(at(18)));
        table.confirmed(at(18), 3, &peer, WE);
        table.draining(at(20), 3, Side::Peer, ProtocolCode::DUPLICATE);
        table.draining(at(21), 3, Side::Peer, ProtocolCode::DUPLICATE);
        table.closed(at(22), 3, &by(Side::Peer));
        assert_eq!(table.not_before(&key(SMALLER)), Some(at(50)));
    }

    #[test]
    fn a_peer_that_never_decides_does_not_fill_the_table() {
        let peer = info(SMALLER, false);
        let mut table = table();
        let mut closed = vec![];
        for handle in 0..100 {
            if let Verdict::UntilTold { close } = table.confirmed(at(handle), handle, &peer, THEY) {
                closed.extend(close);
            }
            assert_eq!(table.current(&key(SMALLER)), Some(handle));
        }
        assert_eq!((table.len(), closed), (MOST, (0..100 - MOST as u64).collect()));
        // Those that it drains and never closes go first.
        table.draining(at(100), 99, Side::Peer, ProtocolCode::DUPLICATE);
        assert_eq!(table.confirmed(at(100), 100, &peer, THEY), Verdict::UntilTold { close: Some(99) });
    }

    #[test]
    fn what_is_remembered_of_peers_without_a_connection_ends() {
        let mut table = table();
        for peer in 0..US {
            table.confirmed(at(0), u64::from(peer), &info(peer, false), WE);
            table.draining(at(0), u64::from(peer), Side::Peer, ProtocolCode::DUPLICATE);
            table.closed(at(0), u64::from(peer), &ConnectionError::Truncated);
        }
        assert_eq!(table.peers.len(), usize::from(US));
        table.confirmed(at(2000), 100, &info(SMALLER, false), WE);
        table.draining(at(2000), 100, Side::Peer, ProtocolCode::DUPLICATE);
        assert_eq!(table.peers.len(), 1);
        assert_eq!(table.not_before(&key(SMALLER)), Some(at(2015)));
    }

    #[test]
    fn unknown_and_repeated_handles_and_a_clock_that_jumps_back_do_no_harm() {
        let mut table = table();
        table.draining(at(0), 1, Side::Peer, ProtocolCode::DUPLICATE);
        table.closed(at(0), 1, &ConnectionError::Truncated);
        let dials = [(100, WE), (0, THEY)];
        assert_eq!(verdicts(&mut table, GREATER, &dials), [Verdict::Keep, drain(2)]);
        assert_eq!(verdicts(&mut table, GREATER, &dials), [Verdict::Keep, Verdict::Keep]);
        assert_eq!((table.len(), table.current(&key(GREATER))), (2, Some(1)));
        assert_eq!((table.peer(1), table.peer(3)), (Some(key(GREATER)), None));
    }
}
