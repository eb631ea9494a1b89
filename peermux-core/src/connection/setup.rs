//! The handshake, and the decision about the peer: `docs/spec.md` sections 3 to 7.

use alloc::vec::Vec;
use core::time::Duration;

use arrayvec::ArrayVec;
use bytes::{Bytes, BytesMut};
use rand_core::Rng as _;

use super::{Connection, Decision, EarlyOffer, Event, PeerInfo, Phase};
use crate::code::{Code, ProtocolCode};
use crate::codec::{DecodeError, Fault, Writer};
use crate::config::{ConfigError, Identity, Remote, ResponderKeys};
use crate::crypto::{PublicKey, Rng, StaticSecret, Suite};
use crate::error::{ConnectionError, HandshakeError};
use crate::handshake::{Established, FLIGHT_LEN, M1_LEN, initiator, responder};
use crate::id::{Mode, Role};
use crate::key_log::TrafficSecrets;
use crate::mux::Source;
use crate::record::{Header, Opener, Sealer};
use crate::shape::Shaper;
use crate::wire::{Flags, HANDSHAKE_FRAMES, Hello, Suites, VERSION};

/// What an initiator needs to begin.
pub(super) struct Dial {
    secret: StaticSecret,
    anonymous: bool,
    remote: Remote,
}

/// What a responder needs to answer M1.
pub(super) struct Answer {
    trial: responder::Trial,
    early: EarlyState,
}

/// The early data in M1.
enum EarlyState {
    None,
    /// P1 had some, which is refused unless it is offered and accepted.
    Refused,
    /// The application is asked about these frames.
    Offered(Vec<u8>),
    Accepted,
}

/// How long an initiator waits for the decision of a responder that asks, from flight 3 on. The responder's own deadline, which began before, has passed by then.
const DECISION_DEADLINE: Duration = Duration::from_secs(18);

/// Bytes of frames in P2 of IK.
const P2_FRAMES: usize = 48;

/// A TLV of a type that will never be assigned (`docs/spec.md` section 17).
fn grease(rng: &mut Rng) -> (u8, ArrayVec<u8, 8>) {
    let kind = rng.uniform(0xe0, 0xf0) as u8;
    let len = rng.uniform(0, 9) as usize;
    (kind, rng.next_u64().to_be_bytes().into_iter().take(len).collect())
}

/// What a payload attests.
fn attestation(hello: &Hello) -> Option<Bytes> {
    hello.attestation.as_deref().map(Bytes::copy_from_slice)
}

/// Chooses from an offer: the first of this side's preferences that was offered.
fn choose(suites: &Suites, offer: &Hello) -> Result<(u8, Suite), HandshakeError> {
    if !offer.versions.contains(&VERSION) {
        return Err(HandshakeError::Version);
    }
    let suite = suites.iter().copied().find(|suite| offer.suites.contains(suite)).and_then(Suite::from_byte);
    Ok((VERSION, suite.ok_or(HandshakeError::Suite)?))
}

impl Connection {
    pub(super) fn start_initiator(&mut self, identity: Identity, remote: Remote) -> Result<(), ConfigError> {
        let (secret, anonymous) = match identity {
            Identity::Known(secret) => (secret, false),
            Identity::Anonymous => {
                (StaticSecret::generate_from(&mut self.rng).map_err(|_| ConfigError::Randomness)?, true)
            }
        };
        self.own_keys.push(secret.public_key());
        if anonymous {
            self.attest = None;
        }
        self.phase = Phase::Dial(Dial { secret, anonymous, remote });
        Ok(())
    }

    /// Makes the flight that is due, if one is: M1 or M2.
    pub(super) fn make_flight(&mut self) {
        let result = match core::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Dial(dial) => self.make_m1(dial),
            Phase::Answer(answer) => self.make_m2(answer),
            other => {
                self.phase = other;
                Ok(())
            }
        };
        if let Err(error) = result {
            self.fail_handshake(error);
        }
    }

    fn make_m1(&mut self, Dial { secret, anonymous, remote }: Dial) -> Result<(), HandshakeError> {
        let mut frames = [0; HANDSHAKE_FRAMES];
        let timestamp = self.unix_millis().filter(|_| self.config.early_data && remote.key().is_some());
        if timestamp.is_some() {
            let mut writer = Writer::new(&mut frames);
            self.mux.fill_early(&mut writer);
            let len = writer.len();
            writer.pad();
            self.early.sent.extend_from_slice(&frames[..len]);
        }
        let mut hello = self.hello(Flags { anonymous, early: !self.early.sent.is_empty(), decides: false });
        hello.timestamp = timestamp;
        let provider = self.config.provider;
        let await_m2 = initiator::start(provider, &mut self.rng, &secret, remote.key(), &hello, &frames)?;
        self.ephemeral.copy_from_slice(&await_m2.m1()[..32]);
        self.flight.extend_from_slice(await_m2.m1());
        self.phase = Phase::AwaitM2(await_m2, remote);
        Ok(())
    }

    pub(super) fn start_responder(&mut self, keys: ResponderKeys) {
        self.own_keys.push(keys.current.public_key());
        self.own_keys.extend(keys.previous.as_ref().map(StaticSecret::public_key));
        self.phase = Phase::AwaitM1(responder::Start::new(self.config.provider, keys, self.config.fallback));
    }

    /// What this side says of itself. Suites stand in the order of preference: the first one that both have in hardware.
    fn hello(&mut self, flags: Flags) -> Hello {
        let mut hello = Hello { flags, settings: self.config.settings(), ..Hello::default() };
        hello.versions.push(VERSION);
        hello.suites.extend(self.suites());
        // Whoever is anonymous attests nothing.
        let attestation = self.config.attestation.as_ref().filter(|_| !flags.anonymous);
        hello.attestation = attestation.and_then(|bytes| (&**bytes).try_into().ok());
        if self.config.grease {
            hello.grease = Some(grease(&mut self.rng));
            hello.grease_setting = Some(31 * self.rng.uniform(1, 500) + 27);
            // Never in the first place.
            hello.versions.push(self.rng.uniform(0xe0, 0xf0) as u8);
            hello.suites.push(self.rng.uniform(0xe0, 0xf0) as u8);
        }
        hello
    }

    fn suites(&self) -> impl Iterator<Item = u8> + use<> {
        let aes = self.config.provider.prefers_aes().then_some(Suite::Aes256Gcm as u8);
        aes.into_iter().chain([Suite::ChaCha20Poly1305 as u8])
    }

    fn choice(&mut self, flags: Flags, version: u8, suite: Suite) -> Hello {
        let mut hello = self.hello(flags);
        hello.versions = core::iter::once(version).collect();
        hello.suites = core::iter::once(suite as u8).collect();
        hello
    }

    /// Checks the other side's choice.
    fn chosen(&self, choice: &Hello) -> Result<(u8, Suite), HandshakeError> {
        let version = match choice.versions[..] {
            [VERSION] => VERSION,
            _ => return Err(HandshakeError::Version),
        };
        let suite = match choice.suites[..] {
            [suite] if self.suites().any(|offered| offered == suite) => Suite::from_byte(suite),
            _ => None,
        };
        Ok((version, suite.ok_or(HandshakeError::Suite)?))
    }

    /// A flight of the handshake arrived, whole.
    pub(super) fn on_flight(&mut self, flight: &mut [u8]) {
        let result = match core::mem::replace(&mut self.phase, Phase::Over) {
            Phase::AwaitM1(start) => self.on_m1(start, flight),
            Phase::AwaitM2(await_m2, remote) => self.on_m2(await_m2, remote, flight),
            Phase::AwaitFlight3(await_flight3) => self.on_flight3(await_flight3, flight),
            // Before flight 3 a responder sends at most one record, which answers early data.
            Phase::AwaitAnswer(proved) if self.early.stash.is_none() && !self.early.sent.is_empty() => {
                self.early.stash = Some(BytesMut::from(&*flight));
                self.phase = Phase::AwaitAnswer(proved);
                Ok(())
            }
            // An initiator says nothing between M1 and M2.
            Phase::Answer(_) => Err(HandshakeError::ThirdFlight),
            _ => Err(HandshakeError::Answer),
        };
        if let Err(error) = result {
            self.fail_handshake(error);
        }
    }

    fn on_m1(&mut self, start: responder::Start, flight: &mut [u8]) -> Result<(), HandshakeError> {
        let m1: &mut [u8; M1_LEN] = flight.try_into().map_err(|_| HandshakeError::Provider)?;
        self.ephemeral.copy_from_slice(&m1[..32]);
        let suites: Suites = self.suites().collect();
        let trial = start.read(&mut self.rng, m1, |offer| choose(&suites, offer).is_ok())?;
        if trial.is_by_previous() {
            self.own_keys.reverse();
        }
        let mut early = EarlyState::None;
        if let Some(claimed) = trial.claimed() {
            let (version, suite) = choose(&suites, claimed.hello)?;
            self.peer_settings = claimed.hello.settings;
            self.peer = Some(PeerInfo {
                key: claimed.key,
                anonymous: claimed.hello.flags.anonymous,
                mode: Mode::Ik,
                suite,
                version,
                attestation: attestation(claimed.hello),
            });
            if claimed.hello.flags.early {
                early = EarlyState::Refused;
            }
            if let Some(offer) = self.early_offer(&claimed) {
                // Whoever keeps a register learns of each first flight with early data, of those that are refused as well.
                if claimed.hello.versions.first() == Some(&version) && offer.is_in_time() {
                    early = EarlyState::Offered(claimed.frames.to_vec());
                }
                self.notices.push(Event::EarlyData(offer));
            }
        }
        self.phase = Phase::Answer(Answer { trial, early });
        Ok(())
    }

    /// The early data in M1, if this side takes part in it.
    fn early_offer(&self, claimed: &responder::Claimed<'_>) -> Option<EarlyOffer> {
        let hello = claimed.hello;
        if !self.config.early_data || !hello.flags.early {
            return None;
        }
        Some(EarlyOffer {
            claimed: claimed.key,
            anonymous: hello.flags.anonymous,
            ephemeral: claimed.ephemeral,
            timestamp: hello.timestamp?,
            now: self.unix_millis()?,
        })
    }

    /// Accepts the early data that [`Event::EarlyData`] offered: its streams can be accepted and answered at once. Whoever calls this has made sure
    /// that the same first flight is not accepted twice: [`StrikeRegister`](crate::StrikeRegister) does. Returns false, and does nothing, if
    /// none is offered, or none any more, or if it must be refused: its timestamp differs from this side's clock by more than 60 s, or the initiator prefers another version.
    ///
    /// Early data may be delivered more than once even so: see [`RecvStream::is_early`](super::RecvStream::is_early).
    pub fn accept_early(&mut self) -> bool {
        let Phase::Answer(answer) = &mut self.phase else { return false };
        let EarlyState::Offered(frames) = &mut answer.early else { return false };
        let frames = core::mem::take(frames);
        answer.early = EarlyState::Accepted;
        self.early.accepted = true;
        let peer_settings = self.peer_settings;
        self.mux.set_peer(&peer_settings);
        self.early.violation = self.read_early_frames(&frames).err();
        true
    }

    fn make_m2(&mut self, Answer { trial, early }: Answer) -> Result<(), HandshakeError> {
        let mut frames = [0; P2_FRAMES];
        // What was refused comes again at the front of flight 3.
        self.early.comes_again = matches!(early, EarlyState::Refused | EarlyState::Offered(_));
        let early = matches!(early, EarlyState::Accepted);
        let decides = self.config.ask;
        let hello = match (&self.peer, trial.claimed()) {
            (Some(peer), Some(_)) => {
                let (version, suite) = (peer.version, peer.suite);
                if early {
                    self.mux.fill(&mut Writer::new(&mut frames));
                }
                self.choice(Flags { anonymous: false, early, decides }, version, suite)
            }
            _ => self.hello(Flags { decides, ..Flags::default() }),
        };
        let (m2, answered) = trial.answer(&hello, &frames)?;
        self.flight.extend_from_slice(&m2[..]);
        match answered {
            responder::Answered::Ik(established) => self.keys_are_there(established, Mode::Ik, 1, 1),
            responder::Answered::Fallback(await_flight3) => {
                self.phase = Phase::AwaitFlight3(await_flight3);
                Ok(())
            }
        }
    }

    fn on_m2(&mut self, await_m2: initiator::AwaitM2, remote: Remote, flight: &mut [u8]) -> Result<(), HandshakeError> {
        let m2: &mut [u8; FLIGHT_LEN] = flight.try_into().map_err(|_| HandshakeError::Provider)?;
        let proved = await_m2.read(m2)?;
        self.liveness.flight_received(self.now);
        let (version, suite) = match proved.mode() {
            Mode::Ik => self.chosen(proved.hello())?,
            Mode::Fallback => choose(&self.suites().collect(), proved.hello())?,
        };
        let key = proved.responder();
        if self.own_keys.contains(&key) {
            return Err(HandshakeError::OwnKey);
        }
        self.peer_settings = proved.hello().settings;
        self.peer = Some(PeerInfo {
            key,
            anonymous: false,
            mode: proved.mode(),
            suite,
            version,
            attestation: attestation(proved.hello()),
        });
        let ask = match remote {
            Remote::Key(expected) if expected != key => {
                return Err(HandshakeError::UnexpectedKey { expected, proved: key });
            }
            Remote::Key(_) | Remote::Anyone => self.config.ask,
            Remote::KeyOrAsk(expected) => self.config.ask || expected != key,
            Remote::Ask => true,
        };
        if ask {
            self.phase = Phase::AwaitAnswer(proved);
            self.ask();
            Ok(())
        } else {
            self.send_flight3(proved)
        }
    }

    /// Initiator: the responder is accepted. Says so, and who this side is.
    fn send_flight3(&mut self, mut proved: initiator::Proved) -> Result<(), HandshakeError> {
        let peer = self.peer.as_ref().ok_or(HandshakeError::Provider)?;
        let (version, suite, mode) = (peer.version, peer.suite, peer.mode);
        let peer_settings = self.peer_settings;
        self.mux.set_peer(&peer_settings);
        self.mux.accept_peer();
        self.decision = Decision::Accepted;
        let early_accepted = mode == Mode::Ik && proved.hello().flags.early && !self.early.sent.is_empty();
        let early_frames = core::mem::take(&mut self.early.sent);
        if !early_accepted {
            self.early.again = early_frames;
        }
        let answers = proved.take_frames();
        self.awaits_decision = proved.hello().flags.decides.then(|| self.now + DECISION_DEADLINE);
        let shaped = self.start_shaping();
        match mode {
            Mode::Ik => {
                let established = proved.finish_ik(suite)?;
                self.must_send = true;
                self.first_is_short = true;
                self.keys_are_there(established, mode, 1, 1)?;
            }
            Mode::Fallback => {
                let anonymous = proved.is_anonymous();
                let hello = self.choice(
                    Flags { anonymous, early: !self.early.again.is_empty(), decides: false },
                    version,
                    suite,
                );
                let mut frames = [0; HANDSHAKE_FRAMES];
                let mut writer = Writer::new(&mut frames);
                writer.bytes(&core::mem::take(&mut self.early.again));
                self.mux.fill(&mut writer);
                self.traffic.frames_sent.add_types(writer.frames());
                writer.pad();
                let next = self.next_size(0);
                let header = Header { next, key_update: false, end: false }.byte();
                let (flight3, established) = proved.finish_fallback(suite, header, &hello, &frames)?;
                self.flight.extend_from_slice(&flight3[..]);
                self.keys_are_there(established, mode, next, 1)?;
            }
        }
        self.accepted();
        if !shaped {
            self.refuse_shaping();
        }
        if early_accepted {
            self.on_answers(&answers);
        }
        if let Some(mut record) = self.early.stash.take() {
            self.on_record(&mut record);
        }
        Ok(())
    }

    fn on_flight3(&mut self, await_flight3: responder::AwaitFlight3, flight: &mut [u8]) -> Result<(), HandshakeError> {
        let flight3: &mut [u8; FLIGHT_LEN] = flight.try_into().map_err(|_| HandshakeError::Provider)?;
        let read = await_flight3.read(flight3)?;
        let (version, suite) = self.chosen(&read.hello)?;
        let header = Header::from_byte(read.header)
            .filter(|header| !header.key_update && header.next <= self.config.max_record)
            .ok_or(HandshakeError::Payload(DecodeError { field: "header of P3", fault: Fault::OutOfRange }))?;
        self.peer_settings = read.hello.settings;
        self.peer = Some(PeerInfo {
            key: read.initiator,
            anonymous: read.hello.flags.anonymous,
            mode: Mode::Fallback,
            suite,
            version,
            attestation: attestation(&read.hello),
        });
        self.early.comes_again = read.hello.flags.early;
        self.keys_are_there(read.established, Mode::Fallback, 1, header.next)?;
        self.confirmed();
        if !matches!(self.phase, Phase::Records) {
            return Ok(());
        }
        self.on_frames(header, &read.frames, Source::Borrowed);
        Ok(())
    }

    /// The traffic keys are known. `sends` and `receives` are the sizes of the first records.
    pub(super) fn keys_are_there(
        &mut self,
        established: Established,
        mode: Mode,
        sends: u8,
        receives: u8,
    ) -> Result<(), HandshakeError> {
        let secrets = established.secrets;
        let (ours, theirs) = match self.role {
            Role::Initiator => (secrets.i2r(), secrets.r2i()),
            Role::Responder => (secrets.r2i(), secrets.i2r()),
        };
        let (provider, suite) = (self.config.provider, established.suite);
        let sealer = Sealer::new(provider, suite, ours, sends, 0, self.now);
        let opener = Opener::new(provider, suite, theirs, receives, self.config.max_record, 0);
        self.sealer = Some(sealer.ok_or(HandshakeError::Provider)?);
        self.opener = Some(opener.ok_or(HandshakeError::Provider)?);
        if let Some(key_log) = &self.config.key_log {
            let (i2r, r2i) = (secrets.i2r(), secrets.r2i());
            key_log.log(&TrafficSecrets { ephemeral: &self.ephemeral, suite, i2r: &i2r, r2i: &r2i });
        }
        self.exporter = Some(secrets.into_exporter());
        self.phase = Phase::Records;
        if self.role == Role::Responder {
            self.first_is_short = mode == Mode::Ik;
            let peer_settings = self.peer_settings;
            self.mux.set_peer(&peer_settings);
        }
        Ok(())
    }

    /// Responder: flight 3 authenticated. The initiator's identity is confirmed.
    pub(super) fn confirmed(&mut self) {
        self.liveness.flight_received(self.now);
        if self.peer.as_ref().is_some_and(|peer| self.own_keys.contains(&peer.key)) {
            return self.fail_handshake(HandshakeError::OwnKey);
        }
        if let Some(violation) = self.early.violation.take() {
            self.decision = Decision::Asked;
            return self.violated(violation);
        }
        if !self.start_shaping() {
            self.decision = Decision::Asked;
            return self.refuse_shaping();
        }
        if self.config.ask {
            self.ask();
        } else {
            self.accepted();
        }
    }

    /// Both sides' settings are known: shaping begins. False if this side does not accept what holds.
    fn start_shaping(&mut self) -> bool {
        let largest = self.peer_settings.max_record.min(self.config.max_record);
        let agreed = crate::shape::agree(self.config.shaping, self.peer_settings.shaping, largest);
        let accepted = crate::shape::accepts(self.config.shaping_limit, agreed);
        if accepted {
            self.shaper = Shaper::new(agreed, self.now);
        }
        accepted
    }

    fn refuse_shaping(&mut self) {
        self.close(Code::Protocol(ProtocolCode::SHAPING_REFUSED), "");
    }

    pub(super) const fn is_unconfirmed(&self) -> bool {
        matches!(self.decision, Decision::Unconfirmed)
    }

    fn ask(&mut self) {
        self.decision = Decision::Asked;
        if let Some(peer) = self.peer.clone() {
            self.notices.push(Event::PeerProved(peer));
        }
    }

    fn accepted(&mut self) {
        self.decision = Decision::Accepted;
        self.mux.accept_peer();
        let round_trip = self.liveness.round_trip();
        self.mux.set_round_trip(round_trip);
        self.liveness.start(self.now, &self.config, &self.peer_settings, &mut self.rng);
        if self.role == Role::Responder {
            self.says_decision = self.config.ask;
        }
        if self.awaits_decision.is_none() {
            self.tell_established();
        }
        if self.mux.has_incoming() {
            self.notices.push(Event::StreamOpened);
        }
    }

    fn tell_established(&mut self) {
        if let Some(peer) = self.peer.clone() {
            self.notices.push(Event::Established(peer));
        }
    }

    /// Initiator: the responder said what it says once it has accepted this side.
    pub(super) fn decided(&mut self) {
        if self.awaits_decision.take().is_some() {
            self.undecided_records = self.record_counts().1.saturating_sub(1);
            self.tell_established();
        }
    }

    /// The handshake failed: nothing is said, and the deadline is the same as for one that never finishes.
    pub(super) fn fail_handshake(&mut self, error: HandshakeError) {
        self.flight.clear();
        self.sealer = None;
        self.opener = None;
        self.end_with(ConnectionError::Handshake(error));
        self.phase = Phase::Silent(self.handshake_deadline);
    }

    pub(super) fn decision_is_late(&mut self) {
        self.fail_with_close(ConnectionError::DecisionTimeout, ProtocolCode::DECISION_TIMEOUT, "");
    }

    /// Accepts the peer that [`Event::PeerProved`] told of. Does nothing if none waits.
    pub fn accept_peer(&mut self) {
        if self.decision != Decision::Asked || self.closing.error.is_some() {
            return;
        }
        match core::mem::replace(&mut self.phase, Phase::Records) {
            Phase::AwaitAnswer(proved) => {
                if let Err(error) = self.send_flight3(proved) {
                    self.fail_handshake(error);
                }
            }
            other => {
                self.phase = other;
                self.accepted();
            }
        }
    }

    /// Refuses the peer that [`Event::PeerProved`] told of. A responder says so by CLOSE with `code` and `reason`; an initiator has not yet
    /// shown who it is, and falls silent ([spec](crate::spec) section 7). Does nothing if no peer waits.
    pub fn refuse_peer(&mut self, code: Code, reason: &str) {
        if self.decision != Decision::Asked || self.closing.error.is_some() {
            return;
        }
        if matches!(self.phase, Phase::AwaitAnswer(_)) {
            self.fail_handshake(HandshakeError::Refused);
        } else {
            self.close(code, reason);
        }
    }

    /// The peer's static key, once it is confirmed.
    pub fn peer_key(&self) -> Option<PublicKey> {
        self.peer.as_ref().filter(|_| self.decision != Decision::Unconfirmed).map(|peer| peer.key)
    }
}
