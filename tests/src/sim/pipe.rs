//! One direction of the transport, with whoever tampers on the way.

use std::collections::VecDeque;
use std::time::Duration;

use peermux_core::time::Instant;
use peermux_core::wire::QUANTUM;

use super::op::Tamper;

/// Bytes on their way from one side to the other. Nothing is lost unless the relay does it.
#[derive(Debug)]
pub struct Pipe {
    latency: Duration,
    capacity: usize,
    units: VecDeque<(Instant, Vec<u8>)>,
    held: usize,
    /// All that was written.
    truth: Vec<u8>,
    /// What arrived.
    arrived: Vec<u8>,
    /// The relay was at work.
    touched: bool,
    /// The writer has half-closed, or the relay cut it off.
    pub ended: bool,
    pub cut: bool,
    pub eof_told: bool,
}

impl Pipe {
    pub fn new(latency: Duration, capacity: usize) -> Self {
        Self {
            latency,
            capacity,
            units: VecDeque::new(),
            held: 0,
            truth: Vec::new(),
            arrived: Vec::new(),
            touched: false,
            ended: false,
            cut: false,
            eof_told: false,
        }
    }

    pub fn has_room(&self) -> bool {
        self.held < self.capacity
    }

    pub fn written(&self) -> &[u8] {
        &self.truth
    }

    pub fn write(&mut self, now: Instant, bytes: &[u8]) {
        self.truth.extend_from_slice(bytes);
        if !self.cut {
            self.held += bytes.len();
            self.units.push_back((now + self.latency, bytes.to_vec()));
        }
    }

    pub fn next_arrival(&self) -> Option<Instant> {
        self.units.front().map(|(arrival, _)| *arrival)
    }

    /// Whether something is to be told at `now`: bytes, or the end.
    pub fn is_due(&self, now: Instant) -> bool {
        self.next_arrival().is_some_and(|arrival| arrival <= now) || self.at_end() && !self.eof_told
    }

    pub fn at_end(&self) -> bool {
        (self.ended || self.cut) && self.units.is_empty()
    }

    /// Bytes that have arrived by `now`.
    pub fn available(&self, now: Instant) -> usize {
        self.units.iter().take_while(|(arrival, _)| *arrival <= now).map(|(_, bytes)| bytes.len()).sum()
    }

    /// Takes up to `most` bytes that have arrived by `now`.
    pub fn take(&mut self, now: Instant, most: usize) -> Vec<u8> {
        let mut taken = Vec::new();
        while let Some((arrival, unit)) = self.units.front_mut() {
            if *arrival > now || taken.len() == most {
                break;
            }
            let n = unit.len().min(most - taken.len());
            taken.extend(unit.drain(..n));
            if unit.is_empty() {
                self.units.pop_front();
            }
        }
        self.held -= taken.len();
        self.arrived.extend_from_slice(&taken);
        taken
    }

    /// Does `what`; `other` is what the other direction's writer wrote. Nothing is done where nothing is on its way.
    pub fn tamper(&mut self, what: Tamper, at: u16, now: Instant, other: &[u8]) {
        if self.units.is_empty() {
            return;
        }
        self.touched = true;
        let len = self.units.len();
        let (place, offset) = (usize::from(at) % len, usize::from(at) / len);
        let quantum_of = |bytes: &[u8]| {
            let quanta = bytes.len() / QUANTUM;
            (quanta > 0).then(|| bytes[offset % quanta * QUANTUM..][..QUANTUM].to_vec())
        };
        let arrival = self.units[place].0;
        match what {
            Tamper::Flip => {
                let unit = &mut self.units[place].1;
                let bit = offset % (unit.len() * 8);
                unit[bit / 8] ^= 1 << (bit % 8);
            }
            Tamper::Drop => drop(self.units.remove(place)),
            Tamper::Duplicate => self.units.insert(place, self.units[place].clone()),
            Tamper::Swap => {
                let other = offset % len;
                let (first, second) = (self.units[place].1.clone(), self.units[other].1.clone());
                self.units[place].1 = second;
                self.units[other].1 = first;
            }
            Tamper::Replay => self.units.extend(quantum_of(&self.arrived).map(|bytes| (now, bytes))),
            Tamper::Reflect => self.units.extend(quantum_of(other).map(|bytes| (now, bytes))),
            Tamper::Inject => self.units.insert(place, (arrival, vec![at as u8; offset % 3000 + 1])),
            Tamper::Truncate => {
                self.units[place].1.truncate(offset % 1408);
                self.units.truncate(place + 1);
                if self.units[place].1.is_empty() {
                    self.units.pop_back();
                }
                self.cut = true;
            }
        }
        self.held = self.units.iter().map(|(_, bytes)| bytes.len()).sum();
    }

    /// Whether something else arrived in place of what was written, and not only after it.
    pub fn is_forged(&self) -> bool {
        let len = self.arrived.len().min(self.truth.len());
        self.arrived[..len] != self.truth[..len]
    }

    /// Whether the reader may get something other than what was written.
    pub fn is_tampered(&self) -> bool {
        self.touched || self.cut
    }
}
