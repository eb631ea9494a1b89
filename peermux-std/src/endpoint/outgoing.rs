//! Dialling for all who want the same peer.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use peermux_core::endpoint::Dialing;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Shared, serve};
use crate::connection::{begin, establish};
use crate::{Connection, Identity, Remote};

impl Shared {
    /// Dials, until nobody waits for it any more, and then serves the connection.
    pub(super) fn dial(&self, dialing: Dialing<Connection>) {
        let result = match reach(&dialing) {
            Ok(None) => return,
            Ok(Some(socket)) => self.greet(socket, &dialing),
            Err(error) => Err(error),
        };
        let serving = dialing.finish(self.clock.now(), result);
        serving.into_iter().for_each(|serving| serve(serving, self.clock));
    }

    fn greet(&self, socket: TcpStream, dialing: &Dialing<Connection>) -> io::Result<Connection> {
        let (identity, remote) = (Identity::Known((self.keys)().current), Remote::Key(dialing.peer()));
        let (driver, trace) = begin(socket, identity, remote, self.config.clone())?;
        dialing.begin(&driver);
        Ok(establish((driver, trace), &self.decide)?)
    }
}

/// Ends a wait for a socket, by dropping the writer of a pipe.
struct Stopper(Mutex<Option<io::PipeWriter>>);

impl Wake for Stopper {
    fn wake(self: Arc<Self>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// A socket that is connected to the first of the addresses that can be reached; `None` if nobody waits for it any more.
fn reach(dialing: &Dialing<Connection>) -> io::Result<Option<TcpStream>> {
    let (stop, stopper) = io::pipe()?;
    if dialing.poll_unwanted(&Waker::from(Arc::new(Stopper(Mutex::new(Some(stopper)))))).is_ready() {
        return Ok(None);
    }
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
    for address in dialing.addresses() {
        match reach_one(*address, &stop) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// As [`TcpStream::connect`], unless `stop` ends before.
fn reach_one(address: SocketAddr, stop: &io::PipeReader) -> io::Result<Option<TcpStream>> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if !under_way(&error) => return Err(error),
        _ => {}
    }
    loop {
        let mut both = [PollFd::new(stop, PollFlags::IN), PollFd::new(&socket, PollFlags::OUT)];
        match poll(&mut both, None) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        let [stops, ready] = both.map(|fd| !fd.revents().is_empty());
        if stops {
            return Ok(None);
        }
        if ready {
            return socket.take_error()?.map_or(Ok(Some(socket.into())), Err);
        }
    }
}

fn under_way(error: &io::Error) -> bool {
    [Errno::INPROGRESS, Errno::INTR, Errno::WOULDBLOCK]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
