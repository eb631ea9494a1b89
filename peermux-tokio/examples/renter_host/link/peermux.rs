//! One peermux connection: a stream for every job, the urgent ones first, either protocol by its name.

use std::net::SocketAddr;

use peermux_tokio::{Config, Connection, ExpectedPeer, Priority, PublicKey, StaticSecret};

use super::{JobStream, Protocol, Urgency};
use crate::error::{Error, Result};

pub struct Peermux {
    connection: Connection,
    host: SocketAddr,
}

impl Peermux {
    /// Connects to the host that holds `key`, and to nobody else.
    pub async fn connect(host: SocketAddr, secret: StaticSecret, key: PublicKey, config: Config) -> Result<Self> {
        let connection = peermux_tokio::connect(host, secret, ExpectedPeer::Key(key), config)
            .await
            .map_err(|e| Error::lost(format!("connecting to {key}@{host}: {e}")))?;
        Ok(Self { connection, host })
    }

    pub fn open(&self, protocol: Protocol, request: Urgency, answer: Urgency) -> Result<JobStream> {
        let mut stream = self
            .connection
            .open_stream(Some(protocol.name()), priority(request))
            .map_err(|e| Error::lost(format!("opening a stream to {}: {e}", self.host)))?;
        // Otherwise the two bytes that say "stored" would wait like a download, or the request for a
        // download like an upload. Asked for this early, it costs nothing: the stream opens with it.
        stream.read_half().request_priority(priority(answer));
        Ok(JobStream::own(stream))
    }

    pub async fn close(&self) {
        self.connection.close(0, "done");
        self.connection.transport_closed().await;
    }
}

/// None is incremental: of several sectors the first is wanted whole before the second begins, since
/// a file is of use when all of it is there. RFC 9218's urgencies go before that.
fn priority(urgency: Urgency) -> Priority {
    Priority::from_urgency(urgency as u8)
}
