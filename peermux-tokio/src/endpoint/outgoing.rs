//! Dialling for all who want the same peer.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use peermux_core::driver::Driver;
use peermux_core::endpoint::Dialing;
use tokio::net::TcpStream;

use super::{Shared, serve};
use crate::connection::establish;
use crate::pump::{self, Clock};
use crate::{Connection, Identity, Remote};

/// Dials, until nobody waits for it any more, and then serves the connection.
pub(super) async fn dial(dialing: Dialing<Connection>, shared: Arc<Shared>) {
    let connecting = async {
        let socket = TcpStream::connect(dialing.addresses()).await?;
        let (clock, config) = (Clock::start(), shared.config.clone());
        let (identity, remote) = (Identity::Known(shared.key.clone()), Remote::Key(dialing.peer()));
        let connection =
            peermux_core::Connection::initiator(config, identity, remote, clock.now(), &mut getrandom::SysRng)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let driver = Driver::new(connection);
        dialing.begin(&driver);
        pump::start(socket, &driver, clock)?;
        Ok(driver)
    };
    let driver = tokio::select! {
        driver = connecting => driver,
        () = poll_fn(|cx| dialing.poll_unwanted(cx.waker())) => return,
    };
    let result = match driver {
        Ok(driver) => match establish(&driver, &shared.decide, false).await {
            Ok(peer) => Ok(Connection::new(driver, peer)),
            Err(error) => Err(error.into()),
        },
        Err(error) => Err(error),
    };
    if let Some(serving) = dialing.finish(shared.clock.now(), result) {
        serve(serving, shared.clock).await;
    }
}
