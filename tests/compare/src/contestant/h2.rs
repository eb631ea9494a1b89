//! HTTP/2 by h2 over TLS: a stream is a request with a body and an answer with a body.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::{Boxed, Client, Connection, Contestant, Duplex, Handler, Setting, Stream, Use, tls};

/// Streams that may be open, as for the other contestants.
const MAX_STREAMS: u32 = 100_000;

/// What a peer may send on one stream before it is read. HTTP/2's default of 64 KiB would be the limit of every measurement.
const STREAM_WINDOW: u32 = 2 << 20;

/// What a peer may send on all streams before it is read.
const CONNECTION_WINDOW: u32 = 32 << 20;

/// The protocol of the handshake.
const ALPN: &[u8] = b"h2";

pub(super) struct H2;

struct Body {
    send: SendStream<Bytes>,
    recv: Incoming,
    /// What was received and not read.
    rest: Bytes,
}

enum Incoming {
    Awaited(ResponseFuture),
    Here(RecvStream),
}

fn other(error: h2::Error) -> io::Error {
    if error.is_io() { error.into_io().unwrap_or_else(|| io::ErrorKind::Other.into()) } else { io::Error::other(error) }
}

impl Duplex for Body {}

impl AsyncRead for Body {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Incoming::Awaited(response) = &mut this.recv {
            let response = ready!(Pin::new(response).poll(cx)).map_err(other)?;
            this.recv = Incoming::Here(response.into_body());
        }
        let Incoming::Here(recv) = &mut this.recv else { return Poll::Pending };
        while this.rest.is_empty() {
            match ready!(recv.poll_data(cx)) {
                Some(data) => this.rest = data.map_err(other)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = this.rest.len().min(out.remaining());
        out.put_slice(&this.rest.split_to(len));
        // What was read may be sent again.
        let released = recv.flow_control().release_capacity(len).map_err(other);
        Poll::Ready(released)
    }
}

impl AsyncWrite for Body {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(bytes.len());
        loop {
            let capacity = self.send.capacity();
            if capacity > 0 {
                let len = capacity.min(bytes.len());
                self.send.send_data(Bytes::copy_from_slice(&bytes[..len]), false).map_err(other)?;
                return Poll::Ready(Ok(len));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(capacity) => capacity.map_err(other)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(other))
    }
}

async fn accept(stream: TlsStream<TcpStream>, handler: Handler) {
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .handshake(stream);
    let Ok(mut connection) = handshake.await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        if let Ok(send) = respond.send_response(Response::new(()), false) {
            handler(Box::new(Body { send, recv: Incoming::Here(request.into_body()), rest: Bytes::new() }));
        }
    }
}

impl Contestant for H2 {
    fn describe(&self) -> &'static str {
        "HTTP/2 by h2 over rustls, TLS 1.3, AES-256-GCM (ring), X25519, windows of 2 and 32 MiB"
    }

    fn serve(&self, addr: SocketAddr, _: Setting, handler: Handler) -> Boxed<'_, (SocketAddr, Vec<u8>)> {
        let connection = move |stream| accept(stream, handler.clone());
        Box::pin(async move { tls::serve(tls::ring_aes(), addr, Some(ALPN), connection) })
    }

    fn client(&self, addr: SocketAddr, setting: &Setting) -> io::Result<Box<dyn Client>> {
        Ok(Box::new(Dialer(tls::Dialer::new(tls::ring_aes(), addr, Some(ALPN), setting)?)))
    }
}

struct Dialer(tls::Dialer);

impl Client for Dialer {
    fn connect(&self) -> Boxed<'_, Box<dyn Connection>> {
        Box::pin(async move {
            let stream = self.0.dial().await?;
            let (requests, connection) = h2::client::Builder::new()
                .initial_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .initial_max_send_streams(MAX_STREAMS as usize)
                .handshake(stream)
                .await
                .map_err(other)?;
            tokio::spawn(connection);
            Ok(Box::new(Dialed(requests)) as Box<dyn Connection>)
        })
    }
}

struct Dialed(SendRequest<Bytes>);

impl Connection for Dialed {
    fn open(&self, _: Use) -> Boxed<'_, Stream> {
        let requests = self.0.clone();
        Box::pin(async move {
            let request = Request::post("https://server/").body(()).map_err(io::Error::other)?;
            let mut requests = requests.ready().await.map_err(other)?;
            let (response, send) = requests.send_request(request, false).map_err(other)?;
            Ok(Box::new(Body { send, recv: Incoming::Awaited(response), rest: Bytes::new() }) as Stream)
        })
    }
}
