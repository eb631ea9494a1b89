//! sia_mux, the multiplexer of Sia's SDK in Rust.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use ed25519_dalek::{SigningKey, VerifyingKey};
use sia_mux::Mux;

use super::{Boxed, Client, Connection, Contestant, Duplex, Handler, Setting, Stream, Use};
use crate::socket;

/// The key of every server.
const SERVER: [u8; 32] = [1; 32];

pub(super) struct Sia;

impl Duplex for sia_mux::Stream {}

impl Contestant for Sia {
    fn describe(&self) -> &'static str {
        "sia_mux, ChaCha20-Poly1305 (ring), packets of 4320 bytes (its default)"
    }

    fn serve(&self, addr: SocketAddr, _: Setting, handler: Handler) -> Boxed<'_, (SocketAddr, Vec<u8>)> {
        Box::pin(async move {
            let listener = socket::listen(addr)?;
            let addr = listener.local_addr()?;
            let key = Arc::new(SigningKey::from_bytes(&SERVER));
            tokio::spawn(async move {
                while let Ok(socket) = socket::accept(&listener).await {
                    tokio::spawn(accept(socket, key.clone(), handler.clone()));
                }
            });
            Ok((addr, Vec::new()))
        })
    }

    fn client(&self, addr: SocketAddr, _: &Setting) -> io::Result<Box<dyn Client>> {
        Ok(Box::new(Dialer { addr, server: SigningKey::from_bytes(&SERVER).verifying_key() }))
    }

    /// Closing a stream ends both of its directions.
    fn half_close(&self) -> bool {
        false
    }
}

async fn accept(socket: tokio::net::TcpStream, key: Arc<SigningKey>, handler: Handler) {
    let Ok(mux) = sia_mux::accept(socket, &key).await else { return };
    // Not the handshake's task: its memory would stay for as long as the connection.
    tokio::spawn(async move {
        while let Ok(stream) = mux.accept_stream().await {
            handler(Box::new(stream));
        }
    });
}

struct Dialer {
    addr: SocketAddr,
    server: VerifyingKey,
}

impl Client for Dialer {
    fn connect(&self) -> Boxed<'_, Box<dyn Connection>> {
        Box::pin(async move {
            let socket = socket::dial(self.addr).await?;
            let mux = sia_mux::dial(socket, &self.server).await.map_err(io::Error::other)?;
            Ok(Box::new(mux) as Box<dyn Connection>)
        })
    }
}

impl Connection for Mux {
    fn open(&self, _: Use) -> Boxed<'_, Stream> {
        let stream = self.dial_stream();
        Box::pin(async move { Ok(Box::new(stream.map_err(io::Error::other)?) as Stream) })
    }

    /// Dropping it would leave the connection open.
    fn close(self: Box<Self>) -> Boxed<'static, ()> {
        Box::pin(async move { (*self).close().await.map_err(io::Error::other) })
    }
}
