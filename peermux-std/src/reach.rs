//! Connects to the first of several addresses that answers (RFC 8305).

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use peermux_core::dialing::{ConnectError, STAGGER, order};

use crate::worker::Context;

/// Attempts to connect. A task polls it.
pub(crate) struct Reach {
    waiting: std::vec::IntoIter<SocketAddr>,
    attempts: Vec<Attempt>,
    failed: ConnectError,
    /// When the next attempt begins; `None` if at once.
    next: Option<Instant>,
    limit: Option<Duration>,
}

struct Attempt {
    address: SocketAddr,
    socket: TcpStream,
    until: Option<Instant>,
}

/// How far the attempts are.
pub(crate) enum Reached {
    Connected(TcpStream),
    Failed(io::Error),
    /// The task waits for their sockets, until this time at the latest.
    Wait(Option<Instant>),
}

impl Attempt {
    /// Returns whether the socket is connected.
    fn is_connected(&self, now: Instant) -> io::Result<bool> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        match self.socket.peer_addr() {
            Ok(_) => Ok(true),
            // As long as it connects. Whether that has failed, the call above says.
            Err(_) if self.until.is_none_or(|until| now < until) => Ok(false),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Reach {
    /// Tries `addresses`, each for `limit` at most.
    pub(crate) fn new(addresses: &[SocketAddr], limit: Option<Duration>) -> Self {
        let (attempts, failed) = (Vec::new(), ConnectError::default());
        Self { waiting: order(addresses).into_iter(), attempts, failed, next: None, limit }
    }

    /// Goes on, for the task whose `context` this is.
    pub(crate) fn poll(&mut self, context: &Context<'_>) -> Reached {
        let now = Instant::now();
        for mut attempt in std::mem::take(&mut self.attempts) {
            match attempt.is_connected(now) {
                Ok(false) => self.attempts.push(attempt),
                Ok(true) => match context.deregister(&mut attempt.socket) {
                    Ok(()) => return Reached::Connected(attempt.socket),
                    Err(error) => self.failed.push(attempt.address, error),
                },
                Err(error) => {
                    self.failed.push(attempt.address, error);
                    // The next one begins at once.
                    self.next = None;
                }
            }
        }
        while self.attempts.is_empty() || self.next.is_none_or(|next| now >= next) {
            let Some(address) = self.waiting.next() else { break };
            let begun =
                TcpStream::connect(address).and_then(|mut socket| context.register(&mut socket).map(|()| socket));
            match begun {
                Ok(socket) => {
                    let until = self.limit.and_then(|limit| now.checked_add(limit));
                    self.attempts.push(Attempt { address, socket, until });
                    self.next = Some(now + STAGGER);
                }
                Err(error) => self.failed.push(address, error),
            }
        }
        if self.attempts.is_empty() {
            return Reached::Failed(std::mem::take(&mut self.failed).into());
        }
        let stagger = self.next.filter(|_| self.waiting.len() > 0);
        Reached::Wait(self.attempts.iter().filter_map(|attempt| attempt.until).chain(stagger).min())
    }
}
