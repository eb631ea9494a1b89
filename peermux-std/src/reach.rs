//! Connecting to the first of several addresses that answers (RFC 8305).

use std::future::poll_fn;
use std::io;
use std::mem::take;
use std::net::SocketAddr;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use peermux_core::dialing::{ConnectError, STAGGER, order};

use crate::worker::{Direction, Watched, Worker, wake_at};

/// An attempt that is under way.
struct Attempt {
    address: SocketAddr,
    socket: Watched<TcpStream>,
    /// When the attempt ends.
    deadline: Option<Instant>,
}

impl Attempt {
    fn begin(worker: &Worker, address: SocketAddr, limit: Option<Duration>) -> io::Result<Self> {
        let socket = Watched::socket(worker, TcpStream::connect(address)?)?;
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        Ok(Self { address, socket, deadline })
    }

    /// Ready once the socket is connected, or has failed.
    fn poll(&self, waker: &Waker, now: Instant) -> Poll<io::Result<()>> {
        while self.socket.readiness().poll(waker, false, true).write {
            let connected = || match (self.socket.take_error()?, self.socket.peer_addr()) {
                (Some(error), _) => Err(error),
                (None, Ok(_)) => Ok(((), true)),
                // The event was not about this.
                (None, Err(_)) => Err(io::ErrorKind::WouldBlock.into()),
            };
            match self.socket.readiness().try_io(Direction::Write, connected) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.deadline.into_iter().for_each(wake_at);
        Poll::Pending
    }
}

/// Connects to `addresses`: to one more every 250 ms, or as soon as an attempt has failed, in the
/// order of RFC 8305. Each attempt ends after `limit`. Returns the first socket that is connected,
/// and closes the others.
pub(crate) async fn reach(addresses: &[SocketAddr], limit: Option<Duration>) -> io::Result<Watched<TcpStream>> {
    let worker = Worker::of_transports()?;
    let mut waiting = order(addresses).into_iter();
    let (mut attempts, mut failed, mut next) = (Vec::<Attempt>::new(), ConnectError::default(), None::<Instant>);
    poll_fn(|cx| {
        let now = Instant::now();
        for attempt in take(&mut attempts) {
            match attempt.poll(cx.waker(), now) {
                Poll::Pending => attempts.push(attempt),
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(attempt.socket)),
                Poll::Ready(Err(error)) => {
                    failed.push(attempt.address, error);
                    // Another one begins at once.
                    next = None;
                }
            }
        }
        while attempts.is_empty() || next.is_none_or(|next| next <= now) {
            let Some(address) = waiting.next() else { break };
            let begun = Attempt::begin(&worker, address, limit).and_then(|attempt| {
                // Whether it fails at once, or is connected at once, the next poll says.
                match attempt.poll(cx.waker(), now) {
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Ready(Ok(())) => cx.waker().wake_by_ref(),
                    Poll::Pending => {}
                }
                Ok(attempt)
            });
            match begun {
                Ok(attempt) => {
                    attempts.push(attempt);
                    next = Some(now + STAGGER);
                }
                Err(error) => failed.push(address, error),
            }
        }
        if attempts.is_empty() {
            return Poll::Ready(Err(take(&mut failed).into()));
        }
        if waiting.len() > 0 {
            next.into_iter().for_each(wake_at);
        }
        Poll::Pending
    })
    .await
}
