//! Dialling for all who want the same peer.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use peermux_core::Role;
use peermux_core::driver::Driver;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Shared;
use crate::connection::establish;
use crate::pump::{self, Clock};
use crate::{Code, Connection, Identity, PublicKey, Remote};

/// What came of a dial.
pub(super) type Outcome = Result<Connection, Arc<io::Error>>;

/// A dial that is under way, for all who wait for it.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) addresses: Arc<[SocketAddr]>,
    pub(super) outcome: Arc<watch::Sender<Option<Outcome>>>,
}

impl Shared {
    /// Dials, until nobody waits for it any more.
    pub(super) async fn dial(self: Arc<Self>, peer: PublicKey, dial: Dial) {
        let forget = Forget { shared: &self, peer, dial: &dial };
        let result = match self.handshake(peer, &dial).await {
            Some(Ok(connection)) => {
                self.adopt(connection.clone(), Role::Initiator);
                Ok(connection)
            }
            Some(Err(error)) => Err(Arc::new(error)),
            None => return,
        };
        // Who comes from now on finds the connection, or dials anew.
        drop(forget);
        dial.outcome.send_replace(Some(result));
    }

    /// `None` if nobody waits before there is a connection.
    async fn handshake(&self, peer: PublicKey, dial: &Dial) -> Option<io::Result<Connection>> {
        let connecting = async {
            let socket = TcpStream::connect(&dial.addresses[..]).await?;
            let (clock, config) = (Clock::start(), Arc::new(self.config.clone()));
            let (identity, remote) = (Identity::Known(self.key.clone()), Remote::Key(peer));
            let connection =
                peermux_core::Connection::initiator(config, identity, remote, clock.now(), &mut getrandom::SysRng)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            let driver = Driver::new(connection);
            pump::start(socket, &driver, clock)?;
            io::Result::Ok(driver)
        };
        let driver = tokio::select! {
            driver = connecting => driver,
            () = self.unwanted(peer, dial) => return None,
        };
        let driver = match driver {
            Ok(driver) => driver,
            Err(error) => return Some(Err(error)),
        };
        let mut established = pin!(establish(&driver, &self.decide, false));
        let peer = tokio::select! {
            peer = &mut established => peer,
            () = self.unwanted(peer, dial) => {
                // From flight 3 on the peer may use it, and then it is a connection like any other one.
                driver.with(|connection| {
                    if !connection.is_established() {
                        connection.close(Code::CANCELLED, "");
                    }
                });
                established.await
            }
        };
        Some(peer.map(|peer| Connection::new(driver.clone(), peer)).map_err(Into::into))
    }

    /// Waits until nobody waits for `dial`, and forgets it then.
    async fn unwanted(&self, peer: PublicKey, dial: &Dial) {
        loop {
            dial.outcome.closed().await;
            let mut state = self.lock();
            // Somebody may have joined before the last one left; nobody does while the lock is held.
            if dial.outcome.receiver_count() == 0 {
                state.forget(peer, dial);
                return;
            }
        }
    }
}

/// Forgets a dial, also where the application's decision about the peer panics, or the runtime shuts down.
struct Forget<'a> {
    shared: &'a Shared,
    peer: PublicKey,
    dial: &'a Dial,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.lock().forget(self.peer, self.dial);
    }
}
