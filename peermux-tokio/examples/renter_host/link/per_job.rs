//! A plain TCP connection for every job.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::TcpStream;

use super::{JobStream, Protocol, send_name};
use crate::error::{Context, Result};

pub struct PerJob {
    host: SocketAddr,
    opened: AtomicU64,
}

impl PerJob {
    pub fn new(host: SocketAddr) -> Self {
        Self { host, opened: AtomicU64::new(0) }
    }

    /// How many connections there have been.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    pub async fn open(&self, protocol: Protocol) -> Result<JobStream> {
        let mut stream = connect(self.host).await?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        send_name(&mut stream, protocol).await.on_link(|| format!("sending to {}", self.host))?;
        Ok(JobStream::own(stream))
    }
}

pub async fn connect(host: SocketAddr) -> Result<TcpStream> {
    let doing = || format!("connecting to {host}");
    let stream = TcpStream::connect(host).await.on_link(doing)?;
    stream.set_nodelay(true).on_link(doing)?;
    Ok(stream)
}
