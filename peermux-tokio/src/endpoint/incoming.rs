//! Who dials an endpoint, until the handshake is done.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use peermux_core::endpoint::Place;
use tokio::net::{TcpListener, TcpStream};

use super::{Shared, serve};
use crate::Connection;
use crate::connection::establish;
use crate::listener::{PAUSE, begin};

/// Accepts all who dial.
pub(super) async fn accept_all(socket: TcpListener, shared: Arc<Shared>) {
    while poll_fn(|cx| shared.links.poll_room(cx.waker())).await {
        let Ok((socket, peer)) = socket.accept().await else {
            // What is wrong with one dialer's socket, or with the system, may be better for the next.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if let Some(place) = shared.links.place(peer.ip()) {
            tokio::spawn(handshake(socket, peer, place, shared.clone()));
        }
    }
}

/// Runs a handshake, and gives its place back when the peer is confirmed, or when the socket is closed, which takes a while (`docs/spec.md` section 13.1).
async fn handshake(
    socket: TcpStream,
    remote: SocketAddr,
    place: Place<Connection>,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let (setup, io) = begin(socket, Some(remote), (shared.keys)(), shared.config.clone(), None)?;
    place.begin(setup.driver());
    // An error is between that dialer and its socket.
    let Ok(connection) = establish(&setup, &io, &shared.decide).await else {
        place.failed();
        let mut waiter = setup.driver().waiter();
        poll_fn(|cx| waiter.poll_closed(cx.waker())).await;
        return Ok(());
    };
    let serving = shared.links.adopt(shared.clock.now(), &connection, Some(place));
    drop(connection);
    serve(serving, shared.clock).await;
    Ok(())
}
