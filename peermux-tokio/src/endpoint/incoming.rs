//! Who dials an endpoint, until the handshake is done.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use peermux_core::endpoint::Place;
use tokio::net::{TcpListener, TcpStream};

use super::{Shared, serve};
use crate::Connection;
use crate::connection::establish;
use crate::listener::{PAUSE, start};

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

/// Runs a handshake, and gives its place back when the peer is confirmed, or when the socket is closed, which takes a while ([spec](peermux_core::spec) section 13.1).
async fn handshake(socket: TcpStream, place: Place<Connection>, shared: Arc<Shared>) -> io::Result<()> {
    let (transport, trace) = start(socket, (shared.keys)(), shared.config.clone(), None)?;
    let driver = transport.driver();
    place.begin(driver);
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
