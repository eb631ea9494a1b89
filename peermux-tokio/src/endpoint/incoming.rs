//! Who dials an endpoint, until the handshake is done.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use peermux_core::driver::Driver;
use peermux_core::endpoint::Place;
use peermux_core::trace::Trace;
use tokio::net::{TcpListener, TcpStream};

use super::{Shared, serve};
use crate::Connection;
use crate::connection::establish;
use crate::pump;
use crate::transport::{Clock, Transport};

/// How long to wait when the system has no socket to give, as when all file descriptors are in use.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts all who dial.
pub(super) async fn accept_all(socket: TcpListener, shared: Arc<Shared>) {
    while poll_fn(|cx| shared.links.poll_room(cx.waker())).await {
        let Ok((socket, peer)) = socket.accept().await else {
            // What is wrong with one dialer's socket, or with the system, may be better for the next.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if let Some(place) = shared.links.place(peer.ip()) {
            tokio::spawn(handshake(socket, place, shared.clone()));
        }
    }
}

/// Runs a handshake, and gives its place back when the peer is confirmed, or when the socket is closed, which takes a while (`docs/spec.md` section 13.1).
async fn handshake(socket: TcpStream, place: Place<Connection>, shared: Arc<Shared>) -> io::Result<()> {
    let (clock, trace) = (Clock::start(), Trace::accepted(socket.peer_addr().ok()));
    let (config, keys) = (shared.config.clone(), (shared.keys)());
    let connection = peermux_core::Connection::responder(config, keys, clock.now(), &mut getrandom::SysRng)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let transport = Transport::new(Driver::new(connection), clock);
    let driver = transport.driver();
    place.begin(driver);
    trace.start(driver, || pump::start(socket, &transport))?;
    // An error is between that dialer and its socket.
    let Ok(peer) = establish(driver, &shared.decide, false, &trace).await else {
        place.failed();
        let mut waiter = driver.waiter();
        poll_fn(|cx| waiter.poll_closed(cx.waker())).await;
        return Ok(());
    };
    let serving = shared.links.adopt(shared.clock.now(), &Connection::new(transport, peer, trace), Some(place));
    serve(serving, shared.clock).await;
    Ok(())
}
