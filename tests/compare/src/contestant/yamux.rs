//! yamux over TLS.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsStream;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _, TokioAsyncReadCompatExt as _};
use yamux::Mode;

use super::{Boxed, Client, Connection, Contestant, Duplex, Handler, Setting, Stream, Use, tls};

/// Streams that may be open; yamux wants a receive window of 256 KiB for each.
const MAX_STREAMS: usize = 100_000;

/// Calls of `open` that wait for the task of the connection.
const OPENING: usize = 256;

pub(super) struct Yamux;

impl Duplex for Compat<yamux::Stream> {}

type Opened = oneshot::Sender<io::Result<yamux::Stream>>;

fn config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_connection_receive_window(None);
    config.set_max_num_streams(MAX_STREAMS);
    config
}

/// Drives a connection, which yamux leaves to its user: opens streams for whoever asks, and hands out those that the peer opens.
async fn drive(
    transport: TlsStream<TcpStream>,
    mode: Mode,
    mut asked: Option<mpsc::Receiver<Opened>>,
    handler: Option<Handler>,
) {
    let mut connection = yamux::Connection::new(transport.compat(), config(), mode);
    let mut waiting = VecDeque::new();
    poll_fn(|cx| {
        if let Some(asking) = &mut asked {
            loop {
                match asking.poll_recv(cx) {
                    Poll::Ready(Some(opened)) => waiting.push_back(opened),
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
        }
        while !waiting.is_empty() {
            let Poll::Ready(stream) = connection.poll_new_outbound(cx) else { break };
            if let Some(opened) = waiting.pop_front() {
                // Whoever asked may not want it any more.
                let _ = Opened::send(opened, stream.map_err(io::Error::other));
            }
        }
        loop {
            match connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => {
                    if let Some(handler) = &handler {
                        handler(Box::new(stream.compat()));
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    // Asked to end, or ended already.
    let _ = poll_fn(|cx| connection.poll_close(cx)).await;
}

impl Contestant for Yamux {
    fn describe(&self) -> &'static str {
        "yamux over rustls, TLS 1.3, AES-256-GCM (ring), X25519"
    }

    fn serve(&self, addr: SocketAddr, _: Setting, handler: Handler) -> Boxed<'_, (SocketAddr, Vec<u8>)> {
        let connection = move |stream| drive(stream, Mode::Server, None, Some(handler.clone()));
        Box::pin(async move { tls::serve(tls::ring_aes(), addr, None, connection) })
    }

    fn client(&self, addr: SocketAddr, setting: &Setting) -> io::Result<Box<dyn Client>> {
        Ok(Box::new(Dialer(tls::Dialer::new(tls::ring_aes(), addr, None, setting)?)))
    }
}

struct Dialer(tls::Dialer);

impl Client for Dialer {
    fn connect(&self) -> Boxed<'_, Box<dyn Connection>> {
        Box::pin(async move {
            let stream = self.0.dial().await?;
            let (ask, asked) = mpsc::channel(OPENING);
            tokio::spawn(drive(stream, Mode::Client, Some(asked), None));
            Ok(Box::new(Dialed { ask }) as Box<dyn Connection>)
        })
    }
}

struct Dialed {
    ask: mpsc::Sender<Opened>,
}

impl Connection for Dialed {
    fn open(&self, _: Use) -> Boxed<'_, Stream> {
        Box::pin(async move {
            let (opened, stream) = oneshot::channel();
            self.ask.send(opened).await.map_err(io::Error::other)?;
            Ok(Box::new(stream.await.map_err(io::Error::other)??.compat()) as Stream)
        })
    }
}
