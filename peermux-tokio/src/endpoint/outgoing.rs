//! Dialling for all who want the same peer.

use std::future::poll_fn;
use std::sync::Arc;

use peermux_core::endpoint::Dialing;

use super::{Shared, serve};
use crate::reach::reach;
use crate::{Connecting, Connection, Identity, Remote};

/// Dials, until nobody waits for it any more, and then serves the connection.
pub(super) async fn dial(dialing: Dialing<Connection>, shared: Arc<Shared>) {
    let connecting = async {
        let socket = reach(dialing.addresses(), shared.config.connect_timeout).await?;
        let (identity, remote) = (Identity::Known((shared.keys)().current), Remote::Key(dialing.peer()));
        let connecting = Connecting::dialed(socket, identity, remote, shared.config.clone())?;
        dialing.begin(connecting.driver());
        Ok(connecting)
    };
    let connecting = tokio::select! {
        connecting = connecting => connecting,
        () = poll_fn(|cx| dialing.poll_unwanted(cx.waker())) => return,
    };
    let result = match connecting {
        Ok(connecting) => connecting.handshake(&shared.decide).await,
        Err(error) => Err(error),
    };
    if let Some(serving) = dialing.finish(shared.clock.now(), result) {
        serve(serving, shared.clock).await;
    }
}
