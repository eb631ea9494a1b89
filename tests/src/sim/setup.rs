//! What a seed decides before the first step: the configurations, the pipes, and what is switched off.

use std::time::Duration;

use peermux_core::Config;

use super::op::{CLOSE, DRAIN, KINDS, RawOp, TAMPER};
use super::spy::SPY;

/// Steele and others' SplitMix64: a few lines that give the same numbers for ever, so that a seed in the regression file keeps its meaning.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator for `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub const fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// How the connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is a mode of the handshake")]
pub enum Opening {
    Ik,
    IkAnonymous,
    Fallback,
    FallbackAnonymous,
    /// The initiator knows a key that the responder holds no more.
    Stale,
}

/// All that a run depends on besides its operations.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The seed.
    pub seed: u64,
    /// The mode of the handshake.
    pub opening: Opening,
    /// By side.
    pub configs: [Config; 2],
    /// Bytes that each pipe holds at most, by sending side.
    pub capacity: [usize; 2],
    /// How long bytes travel, by sending side.
    pub latency: [Duration; 2],
    /// Whether a side hands over slices instead of shared buffers.
    pub slices: [bool; 2],
    /// Whether a side's application registers wakers instead of polling events.
    pub wakers: [bool; 2],
    /// Whether the clock may jump by hours.
    pub asleep: bool,
    /// Whether a relay may tamper.
    pub tamper: bool,
    /// Whether there is early data, and whether the responder accepts it.
    pub early: Option<bool>,
    /// Streams that are left unread while all others must finish, by reading side.
    pub unread: [usize; 2],
    weights: [u32; KINDS.len()],
    steps: u64,
}

fn config(random: &mut Random) -> Config {
    let max_streams = random.pick(&[16, 16, 17, 40, 4096]);
    // From the least that goes with so many streams.
    let receive_window = 4096 * max_streams + random.pick(&[0, 0, 5000, 64 << 10, 256 << 10, 1 << 20, 32 << 20]);
    let stream_receive_window = random.pick(&[2048, 2048, 4096, 16 << 10, 64 << 10, 1 << 20]);
    let idle_timeout = random.pick(&[None, None, Some(Duration::from_secs(3)), Some(Duration::from_secs(60))]);
    // At most half of the idle timeout.
    let keepalive = random.pick(&[None, Some(Duration::from_millis(400)), Some(Duration::from_secs(20))]);
    let keepalive = keepalive.map(|every| idle_timeout.map_or(every, |timeout| every.min(timeout / 2)));
    Config {
        max_record_quanta: random.pick(&[1, 2, 3, 8, 16, 16]),
        receive_window,
        stream_receive_window,
        max_streams,
        send_buffer: random.pick(&[0, 1000, 8 << 10, 64 << 10, 4 << 20]),
        stream_send_buffer: random.pick(&[2048, 5000, 32 << 10, 256 << 10]),
        max_idle_timeout: idle_timeout,
        keep_alive_interval: keepalive,
        approve_peers: random.one_in(4),
        grease: random.one_in(2),
        provider: &SPY,
        ..Config::default()
    }
}

impl Setup {
    /// What `seed` decides.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let random = &mut random;
        let configs = [config(random), config(random)];
        let mut weights = KINDS.map(|(weight, can_be_off)| if can_be_off && random.one_in(3) { 0 } else { weight });
        let tamper = random.one_in(5);
        // A run that ends early checks little: most go on until they are healed.
        if !tamper {
            weights[TAMPER] = 0;
        }
        if !random.one_in(6) {
            weights[CLOSE] = 0;
        }
        if !random.one_in(6) {
            weights[DRAIN] = 0;
        }
        let mut configs = configs;
        let latencies =
            [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(40), Duration::from_millis(300)];
        let setup = Self {
            seed,
            opening: random.pick(&[
                Opening::Ik,
                Opening::Ik,
                Opening::IkAnonymous,
                Opening::Fallback,
                Opening::FallbackAnonymous,
                Opening::Stale,
            ]),
            capacity: [(); 2].map(|()| random.pick(&[1, 1409, 10_000, 100_000, usize::MAX])),
            latency: [(); 2].map(|()| random.pick(&latencies)),
            slices: [(); 2].map(|()| random.one_in(3)),
            wakers: [(); 2].map(|()| random.one_in(2)),
            asleep: random.one_in(8),
            tamper,
            unread: [(); 2].map(|()| random.below(16) as usize),
            steps: 20 + random.below(380),
            weights,
            early: None,
            configs: configs.clone(),
        };
        // What was added later is decided last, so that old seeds keep their meaning.
        let early = random.pick(&[None, None, Some(true), Some(false)]);
        configs.iter_mut().for_each(|config| config.early_data = early.is_some());
        Self { early, configs, ..setup }
    }

    /// The operations that the seed stands for.
    pub fn ops(&self) -> Vec<RawOp> {
        let mut random = Random::new(self.seed ^ 0x5eed);
        let sum = self.weights.iter().sum::<u32>();
        (0..self.steps)
            .map(|_| {
                let mut at = random.below(u64::from(sum)) as u32;
                let kind = self.weights.iter().position(|weight| match at.checked_sub(*weight) {
                    Some(rest) => {
                        at = rest;
                        false
                    }
                    None => true,
                });
                let [_, who, low, high, ..] = random.next().to_le_bytes();
                [kind.unwrap_or(0) as u8, who, low, high]
            })
            .collect()
    }
}
