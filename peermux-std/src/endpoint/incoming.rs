//! Who dials an endpoint, until the handshake is done.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use peermux_core::endpoint::Place;

use super::{Shared, serve, spawn};
use crate::Connection;
use crate::connection::establish;
use crate::listener::{Door, PAUSE, begin};
use crate::signal::Signal;

impl Shared {
    /// Accepts all who dial.
    pub(super) fn accept_all(self: Arc<Self>, door: &Door) {
        let signal = Arc::<Signal>::default();
        while signal.block_on_forever(|waker| self.links.poll_room(waker)) {
            let Some(dialer) = door.next() else { return };
            let started = dialer.and_then(|(socket, peer)| {
                // The socket of one who gets no place is closed here.
                let Some(place) = self.links.place(peer.ip()) else { return Ok(()) };
                let shared = self.clone();
                // An error is between that dialer and its socket.
                spawn(move || drop(shared.handshake(socket, place)))
            });
            // What is wrong with one dialer's socket, or with the system, may be better for the next.
            if started.is_err() && door.stops(Some(&PAUSE)) {
                return;
            }
        }
    }

    /// Runs a handshake, and gives its place back when the peer is confirmed, or when the socket is closed, which takes a while ([spec](peermux_core::spec) section 13.1). Then serves the connection.
    fn handshake(&self, socket: TcpStream, place: Place<Connection>) -> io::Result<()> {
        let started = begin(socket, (self.keys)(), self.config.clone())?;
        let driver = started.driver.clone();
        place.begin(&driver);
        let Ok(connection) = establish(started, &self.decide) else {
            place.failed();
            let mut waiter = driver.waiter();
            Arc::<Signal>::default().block_on_forever(|waker| waiter.poll_closed(waker));
            return Ok(());
        };
        let serving = self.links.adopt(self.clock.now(), &connection, Some(place));
        drop(connection);
        serve(serving, self.clock);
        Ok(())
    }
}
