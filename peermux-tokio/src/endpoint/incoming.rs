//! Who dials an endpoint, until the handshake is done.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peermux_core::Role;
use peermux_core::driver::Driver;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Shared;
use crate::Connection;
use crate::connection::establish;
use crate::pump::{self, Clock};

/// How long to wait when the system has no socket to give, as when all file descriptors are in use.
const PAUSE: Duration = Duration::from_millis(100);

/// Sockets without a peer, by where they come from.
#[derive(Default)]
pub(super) struct Places {
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// One of them, until this is dropped.
struct Place {
    shared: Arc<Shared>,
    address: IpAddr,
}

/// What one dialer is likely to have only one of.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn take(shared: &Arc<Shared>, address: IpAddr) -> Option<Self> {
        let address = network(address);
        let mut taken = shared.places.lock();
        let count = taken.get(&address).copied().unwrap_or(0);
        if count >= shared.limits.unconfirmed_per_address {
            return None;
        }
        taken.insert(address, count + 1);
        drop(taken);
        Some(Self { shared: shared.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.shared.places.lock();
        match taken.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.address)),
        }
    }
}

/// Accepts all who dial. When this is dropped, so are the handshakes that are under way.
pub(super) async fn accept_all(socket: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(shared.limits.unconfirmed));
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.try_join_next().is_some() {}
        let Ok(one_of_all) = places.clone().acquire_owned().await else { return };
        let Ok((socket, peer)) = socket.accept().await else {
            // What is wrong with one dialer's socket, or with the system, may be better for the next.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if let Some(place) = Place::take(&shared, peer.ip()) {
            let shared = shared.clone();
            handshakes.spawn(async move {
                // An error is between that dialer and its socket.
                let _ = handshake(socket, &shared).await;
                drop((place, one_of_all));
            });
        }
    }
}

/// Runs a handshake, and is over when its peer is confirmed, or when the socket is closed, which takes a while (`docs/spec.md` section 13.1).
async fn handshake(socket: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    let clock = Clock::start();
    let (config, keys) = (Arc::new(shared.config.clone()), shared.key.clone().into());
    let connection = peermux_core::Connection::responder(config, keys, clock.now(), &mut getrandom::SysRng)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let driver = Driver::new(connection);
    pump::start(socket, &driver, clock)?;
    match establish(&driver, &shared.decide, false).await {
        Ok(peer) => shared.adopt(Connection::new(driver, peer), Role::Responder),
        Err(_) => {
            let mut waiter = driver.waiter();
            poll_fn(|cx| waiter.poll_closed(cx.waker())).await;
        }
    }
    Ok(())
}
