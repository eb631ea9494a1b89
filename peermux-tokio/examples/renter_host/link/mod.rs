//! Three ways to carry the same jobs from a renter to its host.

mod peermux;
mod per_job;
mod single;

use std::pin::Pin;
use std::task::{self, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

pub use peermux::Peermux;
pub use per_job::PerJob;
pub use single::Single;

use crate::error::{Context, Error, Result};

/// What a job's stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Jobs between a renter and a host.
    Rhp,
    /// Gossip between the same two peers.
    Gateway,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Rhp => "sia/rhp",
            Self::Gateway => "sia/gateway",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        [Self::Rhp, Self::Gateway].into_iter().find(|protocol| protocol.name() == name)
    }
}

/// Which goes first when not all can: the numbers are RFC 9218's urgencies, 0 before 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    Video = 1,
    Gossip = 2,
    Control = 3,
    Download = 4,
    Upload = 5,
}

pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Where a renter's jobs go.
pub enum Link {
    /// One plain TCP connection, job by job. This is what the SIP wants to replace.
    Single(Single),
    /// A plain TCP connection for every job.
    PerJob(PerJob),
    /// One peermux connection, a stream for every job.
    Peermux(Peermux),
}

impl Link {
    /// A stream for one job, once it is that job's turn. What goes to the host on it is as urgent as
    /// `request`, and what comes back as `answer`.
    pub async fn open(&self, protocol: Protocol, request: Urgency, answer: Urgency) -> Result<JobStream> {
        match self {
            // The connection is taken for both ways, so the job waits as long as its bulk would.
            Self::Single(single) => single.open(protocol, request.max(answer)).await,
            Self::PerJob(per_job) => per_job.open(protocol).await,
            Self::Peermux(peermux) => peermux.open(protocol, request, answer),
        }
    }

    /// Ends the connection in good order, if there is one to end.
    pub async fn close(&self) {
        if let Self::Peermux(peermux) = self {
            peermux.close().await;
        }
    }
}

/// A stream that carries one job, or several one after the other if [`JobStream::keeps`] says so.
pub struct JobStream {
    io: Box<dyn Duplex>,
    /// Where the stream has to go back to when the job is done.
    lease: Option<single::Lease>,
}

impl JobStream {
    fn own(io: impl Duplex + 'static) -> Self {
        Self { io: Box::new(io), lease: None }
    }

    /// Whether others wait for this stream, so that it must be given back after one exchange.
    pub fn is_shared(&self) -> bool {
        self.lease.is_some()
    }

    /// Says that no further request follows.
    pub async fn end_requests(&mut self) -> Result<()> {
        if self.lease.is_some() {
            return Ok(());
        }
        self.io.shutdown().await.on_link(|| "ending a job's stream".into())
    }

    /// Ends the job in good order: its answers have all been read. A stream that is dropped
    /// without this is broken off.
    pub async fn done(mut self) -> Result<()> {
        if let Some(lease) = self.lease.take() {
            lease.give_back(self.io);
            return Ok(());
        }
        let extra = self.io.read(&mut [0]).await.on_link(|| "ending a job's stream".into())?;
        match extra {
            0 => Ok(()),
            _ => Err(Error::new("the host sent more than the job's answer")),
        }
    }
}

impl AsyncRead for JobStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for JobStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }
}

/// On plain TCP a protocol's name goes in front: its length (1 byte), then the name.
async fn send_name(to: &mut (impl AsyncWrite + Unpin), protocol: Protocol) -> std::io::Result<()> {
    let name = protocol.name().as_bytes();
    let mut preface = vec![name.len() as u8];
    preface.extend(name);
    to.write_all(&preface).await
}

/// The name in front of a plain TCP job, or `None` at the end of the connection.
pub async fn receive_name(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Protocol>> {
    let doing = || "receiving a protocol's name".into();
    let mut name = [0; u8::MAX as usize];
    if from.read(&mut name[..1]).await.on_link(doing)? == 0 {
        return Ok(None);
    }
    let length = usize::from(name[0]);
    from.read_exact(&mut name[..length]).await.on_link(doing)?;
    let name = String::from_utf8_lossy(&name[..length]);
    match Protocol::named(&name) {
        Some(protocol) => Ok(Some(protocol)),
        None => Err(Error::new(format!("a renter asked for the unknown protocol {name:?}"))),
    }
}
