//! The near side: listens on local ports, and keeps a connection to the far side.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use peermux_tokio::{
    Config, Connection, ConnectionError, ErrorCode, ExpectedPeer, Identity, KeyLog, Priority, StaticSecret, Stream,
    connect,
};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::listen::{PROTOCOL, STREAMS};
use crate::target::Forward;
use crate::{Failure, cli, keys, pipe};

/// How long to wait for a connection to the far side: for TCP and the handshake, and as somebody who has connected to a local port.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long one may wait for a place among the streams that the far side takes.
const PATIENCE_FOR_A_PLACE: Duration = Duration::from_secs(2);

/// The waits between attempts, from the first to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// A connection that lasted this long was a good one: the waits begin again.
const STEADY: Duration = Duration::from_secs(10);

/// The connection to the far side, while there is one.
type Link = watch::Receiver<Option<Connection>>;

pub async fn run(args: cli::Dial, key_log: Option<Arc<dyn KeyLog>>) -> Result<(), Failure> {
    let key = args.key.as_deref().map(keys::load_or_create).transpose()?;
    if let Some(key) = &key {
        warn!("dialling as {}", key.public_key());
    }
    let mut ports = Vec::new();
    for forward in args.forwards {
        ports.push((bind(&forward).await?, forward));
    }
    let dialer = Dialer { peer: args.remote, key, retries: args.retries, key_log };
    let (sender, link) = watch::channel(None);
    let done = tokio::select! {
        done = dialer.run(ports, &sender) => done,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    let connection = link.borrow().clone();
    if let Some(connection) = connection {
        connection.close(0, "interrupted");
        connection.transport_closed().await;
    }
    done
}

/// Local ports are for this machine only.
pub async fn bind(forward: &Forward) -> Result<TcpListener, Failure> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, forward.local)).await;
    socket.map_err(|error| format!("listening on local port {}: {error}", forward.local))
}

/// Keeps a connection to the far side.
pub struct Dialer {
    pub peer: cli::Peer,
    pub key: Option<StaticSecret>,
    pub retries: u32,
    pub key_log: Option<Arc<dyn KeyLog>>,
}

impl Dialer {
    /// Forwards `ports` until the far side cannot be reached any more, and tells `sender` of the connection. If the far side cannot be reached to
    /// begin with, that is said at once.
    pub async fn run(
        &self,
        ports: Vec<(TcpListener, Forward)>,
        sender: &watch::Sender<Option<Connection>>,
    ) -> Result<(), Failure> {
        let mut connection = self.connect().await?;
        let mut tasks = tokio::task::JoinSet::new();
        for (listener, forward) in ports {
            let port = listener.local_addr().map_or(forward.local, |address| address.port());
            say!("localhost:{port} leads to {}, with urgency {}", forward.target, forward.urgency);
            tasks.spawn(serve(listener, forward, sender.subscribe()));
        }
        let mut attempts = 0;
        loop {
            warn!("connected to {}", self.peer.addr);
            sender.send_replace(Some(connection.clone()));
            let since = Instant::now();
            let end = connection.closed().await;
            sender.send_replace(None);
            warn!("the connection to {} was lost: {end}", self.peer.addr);
            if since.elapsed() > STEADY {
                attempts = 0;
            }
            connection = self.reconnect(&mut attempts).await?;
        }
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let identity = self.key.clone().map_or(Identity::Anonymous, Identity::Static);
        let config = Config { max_streams: STREAMS, key_log: self.key_log.clone(), ..Config::default() };
        let connecting = connect(self.peer.addr.as_str(), identity, ExpectedPeer::Key(self.peer.key), config);
        match timeout(PATIENCE, connecting).await {
            Ok(connected) => connected.map_err(|error| match refusal(&error) {
                Some(ErrorCode::REFUSED) => format!("{} does not let this key in", self.peer.addr),
                _ => format!("connecting to {}: {error}", self.peer.addr),
            }),
            Err(_) => Err(format!("connecting to {}: no answer within {PATIENCE:?}", self.peer.addr)),
        }
    }

    /// Dials until there is a connection, or `attempts` are as many as may be.
    async fn reconnect(&self, attempts: &mut u32) -> Result<Connection, Failure> {
        let (first, longest) = BACK_OFF;
        loop {
            if *attempts >= self.retries {
                return Err(format!("{} cannot be reached; given up after {attempts} attempts", self.peer.addr));
            }
            sleep(first.saturating_mul(1 << (*attempts).min(16)).min(longest)).await;
            *attempts += 1;
            match self.connect().await {
                Ok(connection) => return Ok(connection),
                Err(failure) => warn!("{failure}"),
            }
        }
    }
}

/// The code that the far side closed with before it let this side in.
fn refusal(error: &std::io::Error) -> Option<ErrorCode> {
    error.get_ref()?.downcast_ref::<ConnectionError>()?.code()
}

/// Forwards all that connects to a local port.
async fn serve(listener: TcpListener, forward: Forward, link: Link) {
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                let (forward, link) = (forward.clone(), link.clone());
                tokio::spawn(async move {
                    if let Err(failure) = serve_one(tcp, &forward, link).await {
                        warn!("{}: {failure}", forward.target);
                    }
                });
            }
            // As when all file descriptors are in use.
            Err(error) => {
                warn!("accepting a connection for {}: {error}", forward.target);
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_one(tcp: TcpStream, forward: &Forward, link: Link) -> Result<(), Failure> {
    let mut stream = match timeout(PATIENCE, open(link, forward.urgency)).await {
        Ok(stream) => stream,
        Err(_) => {
            pipe::abort(tcp);
            return Err("there is no connection to the far side".into());
        }
    };
    // The target fits into what a stream queues; if the connection is lost, the pipe notices.
    let _ = stream.write_all(&forward.target.encode()).await;
    // It has left once the far side has a place for it.
    if timeout(PATIENCE_FOR_A_PLACE, stream.flush()).await.is_err() {
        pipe::abort(tcp);
        return Err(format!(
            "the far side has not taken the connection within {PATIENCE_FOR_A_PLACE:?}: {STREAMS} may be open at once, and the link may be held up"
        ));
    }
    pipe::join(tcp, stream).await.map_err(|broken| broken.to_string())
}

/// A stream to the far side, as soon as there is one to be had.
async fn open(mut link: Link, urgency: u8) -> Stream {
    loop {
        let connection = link.wait_for(Option::is_some).await.ok().and_then(|connection| connection.clone());
        let opened = connection.map(|connection| {
            connection.open_stream(Some(PROTOCOL), Priority::from_urgency(urgency).with_incremental(true))
        });
        match opened {
            Some(Ok(stream)) => return stream,
            // It has just ended, or is about to: there will be another.
            Some(Err(_)) => drop(link.changed().await),
            None => std::future::pending().await,
        }
    }
}
