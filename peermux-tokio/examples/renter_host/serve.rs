//! The host's side of peermux connections.

use peermux_tokio::{Connection, ConnectionError, Listener};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::host::Host;
use crate::link::Protocol;

/// What a host says of those who come and go.
pub type Log = fn(&str);

/// Serves peermux connections until `stop` changes, then ends them in good order.
pub async fn peermux(host: Host, listener: Listener, mut stop: watch::Receiver<bool>, log: Log) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.next_outcome() => match accepted {
                Some(Ok(connection)) => {
                    log(&format!("{} has come", connection.peer_key()));
                    connections.spawn(serve(host.clone(), connection, stop.clone(), log));
                }
                // Whoever did not get through the handshake: port scanners, and renters that are not allowed.
                Some(Err(e)) => log(&format!("a caller was not let in: {e}")),
                None => break,
            },
            Some(_) = connections.join_next() => {}
            _ = stop.changed() => break,
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn serve(host: Host, connection: Connection, mut stop: watch::Receiver<bool>, log: Log) {
    let renter = connection.peer_key();
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept_stream() => match accepted {
                Ok(stream) => {
                    // A stream that names nothing that is spoken here is dropped, which tells the renter.
                    let protocol = stream.protocol();
                    let Some(protocol) = protocol.as_deref().and_then(Protocol::named) else { continue };
                    let host = host.clone();
                    streams.spawn(async move { host.serve(protocol, stream).await });
                }
                Err(ConnectionError::Closed { .. }) => return log(&format!("{renter} has gone")),
                Err(e) => return log(&format!("{renter} is lost: {e}")),
            },
            Some(done) = streams.join_next() => if let Ok(Err(e)) = done {
                log(&format!("{renter}, a stream: {e}"));
            },
            _ = stop.changed() => {
                connection.close(0, "the host stops");
                return connection.transport_closed().await;
            }
        }
    }
}
