//! Connecting to the first of several addresses that answers (RFC 8305).

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use peermux_core::dialing::{ConnectError, STAGGER, order};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// An attempt that is under way.
struct Attempt {
    address: SocketAddr,
    socket: Socket,
    /// When its time is over.
    until: Option<Instant>,
}

/// Connects to `addresses`: to one more every 250 ms, or as soon as an attempt has failed, in the order of RFC 8305. Each attempt ends after `limit`. Returns the first socket that is connected; the others are
/// closed. Returns `None` as soon as `stop` has ended.
///
/// The sockets do not block, so all of this is one wait of the calling thread, and nothing is left behind.
pub(crate) fn reach(
    addresses: &[SocketAddr],
    limit: Option<Duration>,
    stop: Option<&io::PipeReader>,
) -> io::Result<Option<TcpStream>> {
    let mut waiting = order(addresses).into_iter();
    let mut attempts = Vec::<Attempt>::new();
    let mut failed = ConnectError::default();
    let mut next = None::<Instant>;
    loop {
        let now = Instant::now();
        // One is begun at once when another one has failed.
        if next.is_none_or(|next| now >= next) || attempts.is_empty() {
            match waiting.next() {
                Some(address) => {
                    match begin(address) {
                        Ok(socket) => {
                            let until = limit.and_then(|limit| now.checked_add(limit));
                            attempts.push(Attempt { address, socket, until });
                            next = Some(now + STAGGER);
                        }
                        Err(error) => failed.push(address, error),
                    }
                    continue;
                }
                None if attempts.is_empty() => return Err(failed.into()),
                None => {}
            }
        }
        let stagger = next.filter(|_| waiting.len() > 0);
        let timer = attempts.iter().filter_map(|attempt| attempt.until).chain(stagger).min();
        let ready = wait(&attempts, stop, timer.map(|timer| timer.saturating_duration_since(now)))?;
        let Some(ready) = ready else { return Ok(None) };
        let now = Instant::now();
        for (attempt, ready) in std::mem::take(&mut attempts).into_iter().zip(ready) {
            let error = match attempt.socket.take_error() {
                Ok(None) if ready => return Ok(Some(attempt.socket.into())),
                Ok(None) if attempt.until.is_none_or(|until| now < until) => {
                    attempts.push(attempt);
                    continue;
                }
                Ok(None) => io::ErrorKind::TimedOut.into(),
                Ok(Some(error)) | Err(error) => error,
            };
            failed.push(attempt.address, error);
            next = None;
        }
    }
}

/// Begins to connect.
fn begin(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if !is_under_way(&error) => Err(error),
        _ => Ok(socket),
    }
}

fn is_under_way(error: &io::Error) -> bool {
    [Errno::INPROGRESS, Errno::INTR, Errno::WOULDBLOCK]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Waits for an attempt to come to its end, for `time` at most. Says which have; `None` if `stop` has ended.
fn wait(attempts: &[Attempt], stop: Option<&io::PipeReader>, time: Option<Duration>) -> io::Result<Option<Vec<bool>>> {
    let time = time.map(|time| Timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    let mut all: Vec<_> = attempts.iter().map(|attempt| PollFd::new(&attempt.socket, PollFlags::OUT)).collect();
    all.extend(stop.map(|stop| PollFd::new(stop, PollFlags::IN)));
    match poll(&mut all, time.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(Some(vec![false; attempts.len()])),
        Err(error) => return Err(error.into()),
    }
    let mut ready: Vec<_> = all.iter().map(|fd| !fd.revents().is_empty()).collect();
    let stopped = stop.is_some() && ready.pop() == Some(true);
    Ok((!stopped).then_some(ready))
}
