//! Connects to the first of several addresses that answers (RFC 8305).

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use peermux_core::dialing::{ConnectError, STAGGER, order};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// An attempt that is under way.
struct Attempt {
    address: SocketAddr,
    result: Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>,
}

/// Connects to `addresses`: to one more every 250 ms, or as soon as an attempt has failed, in the order of RFC 8305. Each attempt ends after `limit`. Returns the first socket that is connected; the
/// others are closed.
///
/// # Cancel safety
/// If the future is dropped, all sockets are closed.
pub(crate) async fn reach(addresses: &[SocketAddr], limit: Option<Duration>) -> io::Result<TcpStream> {
    let mut waiting = order(addresses).into_iter();
    let mut attempts = Vec::<Attempt>::new();
    let mut failed = ConnectError::default();
    let mut has_failed = false;
    let mut stagger = pin!(sleep(Duration::ZERO));
    poll_fn(|cx| {
        loop {
            let mut connected = None;
            attempts.retain_mut(|Attempt { address, result }| match result.as_mut().poll(cx) {
                Poll::Pending => true,
                Poll::Ready(Ok(socket)) => {
                    connected.get_or_insert(socket);
                    false
                }
                Poll::Ready(Err(error)) => {
                    failed.push(*address, error);
                    has_failed = true;
                    false
                }
            });
            if let Some(socket) = connected {
                return Poll::Ready(Ok(socket));
            }
            // The next one is begun at once when another one has failed.
            let begins = std::mem::take(&mut has_failed) || attempts.is_empty();
            if waiting.len() > 0 && (begins || stagger.as_mut().poll(cx).is_ready()) {
                let address = waiting.next();
                attempts.extend(address.map(|address| Attempt { address, result: Box::pin(attempt(address, limit)) }));
                stagger.as_mut().reset(Instant::now() + STAGGER);
                continue;
            }
            if attempts.is_empty() {
                return Poll::Ready(Err(std::mem::take(&mut failed).into()));
            }
            return Poll::Pending;
        }
    })
    .await
}

async fn attempt(address: SocketAddr, limit: Option<Duration>) -> io::Result<TcpStream> {
    match limit {
        Some(limit) => timeout(limit, TcpStream::connect(address)).await?,
        None => TcpStream::connect(address).await,
    }
}
