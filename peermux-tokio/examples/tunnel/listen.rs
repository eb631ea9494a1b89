//! The far side: connects to targets for those who dial.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use peermux_tokio::{Config, Connection, ErrorCode, KeyLog, Listener, PublicKey, ResponderKeys, StaticSecret, Stream};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::target::Target;
use crate::{Failure, cli, codes, keys, pipe};

/// What streams of this protocol name.
pub const PROTOCOL: &str = "peermux-example/tunnel/1";

/// Peers at once, and TCP connections at once for each.
const PEERS: usize = 64;
pub const STREAMS: u64 = if cfg!(test) { 64 } else { 1024 };

/// How long the target's name, and the target, may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub async fn run(args: cli::Listen, key_log: Option<Arc<dyn KeyLog>>) -> Result<(), Failure> {
    let key = keys::load_or_create(&args.key)?;
    let public = key.public_key();
    let socket =
        TcpListener::bind(args.listen).await.map_err(|error| format!("listening on {}: {error}", args.listen))?;
    let listener =
        start(socket, key, args.peer, key_log).map_err(|error| format!("listening on {}: {error}", args.listen))?;
    say!("listening as {public}@{}", listener.local_addr());
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.send_replace(true);
    });
    serve(listener, args.allow, stopped).await;
    Ok(())
}

/// Lets in who knows the key and is among `peers`, if there are any.
pub fn start(
    socket: TcpListener,
    key: StaticSecret,
    peers: Vec<PublicKey>,
    key_log: Option<Arc<dyn KeyLog>>,
) -> io::Result<Listener> {
    // A prober that does not know the key gets no answer.
    let config = Config {
        allow_fallback: false,
        approve_peers: !peers.is_empty(),
        max_streams: STREAMS,
        key_log,
        ..Config::default()
    };
    Listener::from_listener(
        socket,
        move || ResponderKeys::from(key.clone()),
        config,
        move |peer| peers.contains(&peer.key),
    )
}

/// Serves all who dial until `stop` changes, and then closes their connections. `allow` is what they may reach; everything if it is empty.
pub async fn serve(listener: Listener, allow: Vec<Target>, mut stop: watch::Receiver<bool>) {
    let allow = Arc::new(allow);
    let mut peers = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.next_outcome() => accepted,
            _ = stop.changed() => None,
        };
        let Some(accepted) = accepted else { break };
        while peers.try_join_next().is_some() {}
        match accepted {
            Ok(connection) if peers.len() >= PEERS => {
                connection.close(codes::BUSY.number(), "too many peers");
            }
            Ok(connection) => {
                peers.spawn(serve_peer(connection, allow.clone(), stop.clone()));
            }
            Err(error) => warn!("a caller was not let in: {error}"),
        }
    }
    while peers.join_next().await.is_some() {}
}

async fn serve_peer(connection: Connection, allow: Arc<Vec<Target>>, mut stop: watch::Receiver<bool>) {
    let peer = connection.peer_key();
    warn!("{peer} has come");
    let mut streams = JoinSet::new();
    let end = loop {
        while streams.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = connection.accept_stream() => accepted,
            _ = stop.changed() => {
                connection.close(0, "the far side stops");
                connection.transport_closed().await;
                continue;
            }
        };
        match accepted {
            Ok(stream) => streams.spawn(serve_stream(stream, allow.clone(), peer)),
            Err(end) => break end,
        };
    };
    warn!("{peer} has gone: {end}");
}

async fn serve_stream(mut stream: Stream, allow: Arc<Vec<Target>>, peer: PublicKey) {
    if stream.protocol().as_deref() != Some(PROTOCOL) {
        return stream.refuse(ErrorCode::UNKNOWN_PROTOCOL);
    }
    let target = match timeout(PATIENCE, Target::read(&mut stream)).await {
        Ok(Ok(target)) => target,
        Ok(Err(error)) => {
            warn!("{peer} names no target: {error}");
            return stream.refuse(codes::BAD_TARGET);
        }
        Err(_) => return stream.refuse(codes::TIMED_OUT),
    };
    if !allow.is_empty() && !allow.contains(&target) {
        warn!("{peer} may not reach {target}");
        return stream.refuse(codes::NOT_ALLOWED);
    }
    let tcp = match timeout(PATIENCE, connect(&target)).await.unwrap_or(Err((codes::TIMED_OUT, None))) {
        Ok(tcp) => tcp,
        Err((code, error)) => {
            let why = error.map_or_else(|| codes::explain(code), |error| error.to_string());
            warn!("{target}: {why}");
            return stream.refuse(code);
        }
    };
    if let Err(broken) = pipe::join(tcp, stream).await {
        warn!("{target}: {broken}");
    }
}

async fn connect(target: &Target) -> Result<TcpStream, (ErrorCode, Option<io::Error>)> {
    let found = lookup_host((target.host.as_str(), target.port)).await;
    let mut failure = (codes::NO_ADDRESS, None);
    match found {
        Ok(addresses) => {
            for address in addresses {
                match TcpStream::connect(address).await {
                    Ok(tcp) => return Ok(tcp),
                    Err(error) => failure = (codes::UNREACHABLE, Some(error)),
                }
            }
        }
        Err(error) => failure.1 = Some(error),
    }
    Err(failure)
}
