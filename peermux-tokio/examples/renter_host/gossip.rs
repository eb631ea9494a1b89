//! Gossip: small messages both ways at intervals, as nodes tell each other of blocks and transactions.
//!
//! On a stream of its own each side sends whenever it has something. Where there is only one
//! connection for one job at a time, the host cannot begin: its messages wait until the renter asks.
//! Each message says when it was made, so its receiver knows how long it took. Both sides run in
//! one process here and share a clock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::{Context, Error, Result};
use crate::link::{Link, Protocol, Urgency};
use crate::rpc::{self, Fields};

pub const INTERVAL: Duration = Duration::from_millis(40);
/// A transaction's worth.
pub const LENGTH: usize = 240;
/// More than a connection that stands still for half a minute piles up.
const LONGEST_BATCH: usize = LENGTH * 1000;

/// What both sides have heard, and when the host began.
pub struct Gossip {
    epoch: Instant,
    to_host: Mutex<Vec<Duration>>,
    from_host: Mutex<Vec<Duration>>,
    /// When the next of the messages that the host makes is due.
    host_next: Mutex<Instant>,
}

/// Which way messages went.
#[derive(Clone, Copy)]
enum Way {
    ToHost,
    FromHost,
}

impl Gossip {
    pub fn new() -> Arc<Self> {
        let epoch = Instant::now();
        Arc::new(Self { epoch, to_host: Mutex::default(), from_host: Mutex::default(), host_next: Mutex::new(epoch) })
    }

    /// How long messages took: to the host, and from it. Sorted.
    pub fn heard(&self) -> (Vec<Duration>, Vec<Duration>) {
        let sorted = |way| {
            let mut times = self.log(way).lock().unwrap_or_else(PoisonError::into_inner).clone();
            times.sort();
            times
        };
        (sorted(Way::ToHost), sorted(Way::FromHost))
    }

    /// The renter's side, until it is dropped.
    pub async fn renter(&self, link: &Link) -> Result<()> {
        let mut due = Instant::now();
        let mut stream =
            link.open(Protocol::Gateway, Urgency::Gossip, Urgency::Gossip).await.context(|| "gossiping".into())?;
        if !stream.is_shared() {
            return self.talk(&mut stream, Way::FromHost).await;
        }
        // Job by job: bring what there is and fetch what there is, again and again.
        loop {
            let mine = self.overdue(&mut due);
            rpc::send(&mut stream, &mine, &[], |_| {}).await?;
            let theirs = rpc::receive(&mut stream, LONGEST_BATCH).await?;
            self.hear(&theirs.unwrap_or_default(), Way::FromHost)?;
            stream.done().await?;
            tokio::time::sleep_until(due.into()).await;
            stream =
                link.open(Protocol::Gateway, Urgency::Gossip, Urgency::Gossip).await.context(|| "gossiping".into())?;
        }
    }

    /// The host's side where either side may send at any time, until the renter ends it.
    pub async fn host_talks(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<()> {
        self.talk(stream, Way::ToHost).await
    }

    /// The host's side job by job: one exchange.
    pub async fn answer(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<()> {
        let theirs = rpc::receive(stream, LONGEST_BATCH).await?;
        self.hear(&theirs.unwrap_or_default(), Way::ToHost)?;
        let mine = self.overdue(&mut self.host_next.lock().unwrap_or_else(PoisonError::into_inner));
        rpc::send(stream, &mine, &[], |_| {}).await
    }

    async fn talk(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin), hears: Way) -> Result<()> {
        let (mut from, mut to) = tokio::io::split(stream);
        let mut due = Instant::now();
        let sending = async {
            loop {
                tokio::time::sleep_until(due.into()).await;
                rpc::send(&mut to, &self.overdue(&mut due), &[], |_| {}).await?;
            }
        };
        let hearing = async {
            while let Some(message) = rpc::receive(&mut from, LONGEST_BATCH).await? {
                self.hear(&message, hears)?;
            }
            Ok::<_, Error>(())
        };
        tokio::select! {
            sent = sending => sent,
            heard = hearing => heard,
        }
    }

    /// All messages due by now. Each says when it was due, so waiting to be sent counts too.
    fn overdue(&self, due: &mut Instant) -> Vec<u8> {
        let mut batch = Vec::new();
        while *due <= Instant::now() && batch.len() < LONGEST_BATCH {
            batch.extend(self.message(*due));
            *due += INTERVAL;
        }
        batch
    }

    fn message(&self, made: Instant) -> Vec<u8> {
        let micros = made.saturating_duration_since(self.epoch).as_micros() as u64;
        let mut message = vec![0x5a; LENGTH];
        message[..8].copy_from_slice(&micros.to_be_bytes());
        message
    }

    fn hear(&self, batch: &[u8], way: Way) -> Result<()> {
        let now = self.epoch.elapsed();
        let mut log = self.log(way).lock().unwrap_or_else(PoisonError::into_inner);
        for message in batch.chunks(LENGTH) {
            let made = Duration::from_micros(Fields(message).u64("time")?);
            log.push(now.saturating_sub(made));
        }
        Ok(())
    }

    fn log(&self, way: Way) -> &Mutex<Vec<Duration>> {
        match way {
            Way::ToHost => &self.to_host,
            Way::FromHost => &self.from_host,
        }
    }
}
