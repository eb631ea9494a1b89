//! Dialling for all who want the same peer.

use std::future::poll_fn;
use std::sync::Arc;

use peermux_core::endpoint::DialTask;

use super::{Shared, serve};
use crate::connection::{establish, prepare};
use crate::pump;
use crate::reach::reach;
use crate::{Connection, ExpectedPeer, Identity};

/// Dials, until nobody waits for it any more, and then serves the connection.
pub(super) async fn dial(dialing: DialTask<Connection>, shared: Arc<Shared>) {
    let connecting = async {
        let socket = reach(dialing.addresses(), shared.config.connect_timeout).await?;
        let (identity, expected) = (Identity::Static((shared.keys)().current), ExpectedPeer::Key(dialing.peer()));
        let (transport, trace) = prepare(&socket, identity, expected, shared.config.clone())?;
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
