//! Dialling for all who want the same peer.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use peermux_core::driver::Driver;
use peermux_core::endpoint::Dialing;
use peermux_core::trace::Trace;

use super::{Shared, serve};
use crate::connection::establish;
use crate::pump;
use crate::reach::reach;
use crate::transport::{Clock, Transport};
use crate::{Connection, Identity, Remote};

/// Dials, until nobody waits for it any more, and then serves the connection.
pub(super) async fn dial(dialing: Dialing<Connection>, shared: Arc<Shared>) {
    let connecting = async {
        let socket = reach(dialing.addresses(), shared.config.connect_timeout).await?;
        let (clock, trace, config) = (Clock::start(), Trace::dialing(socket.peer_addr().ok()), shared.config.clone());
        let (identity, remote) = (Identity::Known((shared.keys)().current), Remote::Key(dialing.peer()));
        let connection =
            peermux_core::Connection::initiator(config, identity, remote, clock.now(), &mut getrandom::SysRng)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let transport = Transport::new(Driver::new(connection), clock);
        dialing.begin(transport.driver());
        trace.start(transport.driver(), || pump::start(socket, &transport))?;
        Ok((transport, trace))
    };
    let started = tokio::select! {
        started = connecting => started,
        () = poll_fn(|cx| dialing.poll_unwanted(cx.waker())) => return,
    };
    let result = match started {
        Ok((transport, trace)) => match establish(transport.driver(), &shared.decide, false, &trace).await {
            Ok(peer) => Ok(Connection::new(transport, peer, trace)),
            Err(error) => Err(error.into_dial_error()),
        },
        Err(error) => Err(error),
    };
    if let Some(serving) = dialing.finish(shared.clock.now(), result) {
        serve(serving, shared.clock).await;
    }
}
