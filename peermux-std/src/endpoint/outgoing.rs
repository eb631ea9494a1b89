//! Dialling for all who want the same peer.

use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

use peermux_core::endpoint::DialTask;

use super::{Shared, serve};
use crate::connection::{begin, establish};
use crate::{Connection, ConnectionError, ExpectedPeer, Identity};

impl Shared {
    /// Dials, until nobody waits for it any more, and then serves the connection.
    pub(super) fn dial(&self, dialing: DialTask<Connection>) {
        let result = match reach(&dialing, self.config.connect_timeout) {
            Ok(None) => return,
            Ok(Some(socket)) => self.greet(socket, &dialing),
            Err(error) => Err(error),
        };
        let serving = dialing.finish(self.clock.now(), result);
        serving.into_iter().for_each(|serving| serve(serving, self.clock));
    }

    fn greet(&self, socket: TcpStream, dialing: &DialTask<Connection>) -> io::Result<Connection> {
        let (identity, expected) = (Identity::Static((self.keys)().current), ExpectedPeer::Key(dialing.peer()));
        let started = begin(socket, identity, expected, self.config.clone())?;
        dialing.begin(&started.driver);
        establish(started, &self.decide).map_err(ConnectionError::into_dial_error)
    }
}

/// Ends a wait for a socket, by dropping the writer of a pipe.
struct Stopper(Mutex<Option<io::PipeWriter>>);

impl Wake for Stopper {
    fn wake(self: Arc<Self>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// A socket that is connected to the first of the addresses that answers; `None` if nobody waits for it any more.
fn reach(dialing: &DialTask<Connection>, limit: Option<Duration>) -> io::Result<Option<TcpStream>> {
    let (stop, stopper) = io::pipe()?;
    if dialing.poll_unwanted(&Waker::from(Arc::new(Stopper(Mutex::new(Some(stopper)))))).is_ready() {
        return Ok(None);
    }
    crate::reach::reach(dialing.addresses(), limit, Some(&stop))
}
