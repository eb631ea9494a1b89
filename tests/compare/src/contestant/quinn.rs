//! QUIC by quinn, over UDP.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connecting, Endpoint, EndpointConfig, Incoming, RecvStream, SendStream, TokioRuntime, TransportConfig};
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Boxed, Client, Connection, Contestant, Duplex, Handler, Setting, Stream, Use, tls};
use crate::socket;

/// Streams that a peer may have open. quinn allocates for every one of them when a connection begins, so there are not more than needed.
const STREAMS: u32 = 256;

/// The same where thousands are open.
const MANY_STREAMS: u32 = 8192;

/// The protocol of the handshake.
const ALPN: &[u8] = b"compare";

pub(super) struct Quinn;

struct Pair(SendStream, RecvStream);

impl Duplex for Pair {
    fn set_urgent(&mut self) {
        // Fails only if the stream is finished.
        let _ = self.0.set_priority(1);
    }
}

impl AsyncRead for Pair {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.1), cx, out)
    }
}

impl AsyncWrite for Pair {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.0), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.0), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.0), cx)
    }
}

/// What QUIC's first packets are protected with.
fn initial() -> io::Result<rustls::quic::Suite> {
    TLS13_AES_128_GCM_SHA256.tls13().and_then(|suite| suite.quic_suite()).ok_or_else(|| io::Error::other("no suite"))
}

fn transport(setting: &Setting) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    let streams = if setting.many_streams { MANY_STREAMS } else { STREAMS };
    transport.max_concurrent_bidi_streams(streams.into());
    Arc::new(transport)
}

fn endpoint(addr: SocketAddr, server: Option<quinn::ServerConfig>) -> io::Result<Endpoint> {
    Endpoint::new(EndpointConfig::default(), server, socket::datagrams(addr)?, Arc::new(TokioRuntime))
}

impl Contestant for Quinn {
    fn describe(&self) -> &'static str {
        "quinn, QUIC over UDP, AES-256-GCM (ring), X25519"
    }

    fn serve(&self, addr: SocketAddr, setting: Setting, handler: Handler) -> Boxed<'_, (SocketAddr, Vec<u8>)> {
        Box::pin(async move {
            let (mut config, certificate) = tls::server_config(tls::ring_aes(), addr)?;
            config.alpn_protocols = vec![ALPN.to_vec()];
            if setting.early {
                config.send_tls13_tickets = 1;
                // The one value that QUIC knows besides 0.
                config.max_early_data_size = u32::MAX;
            }
            let crypto = QuicServerConfig::with_initial(Arc::new(config), initial()?).map_err(io::Error::other)?;
            let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
            server.transport_config(transport(&setting));
            let endpoint = endpoint(addr, Some(server))?;
            let addr = endpoint.local_addr()?;
            tokio::spawn(async move {
                while let Some(incoming) = endpoint.accept().await {
                    let handler = handler.clone();
                    tokio::spawn(async move {
                        let Ok(connection) = accept(incoming, setting.early).await else { return };
                        while let Ok((send, recv)) = connection.accept_bi().await {
                            handler(Box::new(Pair(send, recv)));
                        }
                    });
                }
            });
            Ok((addr, certificate))
        })
    }

    fn client(&self, addr: SocketAddr, setting: &Setting) -> io::Result<Box<dyn Client>> {
        let mut config = tls::client_config(tls::ring_aes(), &setting.identity)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        if setting.early {
            config.resumption = rustls::client::Resumption::default();
            config.enable_early_data = true;
        }
        let crypto = QuicClientConfig::with_initial(Arc::new(config), initial()?).map_err(io::Error::other)?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport(setting));
        let endpoint = endpoint((Ipv4Addr::UNSPECIFIED, 0).into(), None)?;
        Ok(Box::new(Dialer { addr, endpoint, config, early: setting.early }))
    }
}

/// Waits for the handshake, or, if `early`, only for what is needed to answer early data.
async fn accept(incoming: Incoming, early: bool) -> Result<quinn::Connection, quinn::ConnectionError> {
    let connecting = incoming.accept()?;
    if !early {
        return connecting.await;
    }
    match connecting.into_0rtt() {
        Ok((connection, _)) => Ok(connection),
        Err(connecting) => connecting.await,
    }
}

struct Dialer {
    addr: SocketAddr,
    endpoint: Endpoint,
    config: quinn::ClientConfig,
    early: bool,
}

impl Dialer {
    fn dial(&self) -> io::Result<Connecting> {
        let name = self.addr.ip().to_string();
        self.endpoint.connect_with(self.config.clone(), self.addr, &name).map_err(io::Error::other)
    }
}

impl Client for Dialer {
    fn connect(&self) -> Boxed<'_, Box<dyn Connection>> {
        Box::pin(async move { Ok(Box::new(self.dial()?.await?) as Box<dyn Connection>) })
    }

    /// Resumes a connection that was there before, without which QUIC has no early data.
    fn early<'a>(&'a self, request: &'a [u8]) -> Option<Boxed<'a, Duration>> {
        self.early.then(|| -> Boxed<'a, Duration> {
            Box::pin(async move {
                let begin = Instant::now();
                let early = self.dial()?.into_0rtt();
                let (connection, accepted) = early.map_err(|_| io::Error::other("there is nothing to resume"))?;
                let (mut send, mut recv) = connection.open_bi().await?;
                send.write_all(request).await?;
                let mut answer = vec![0; request.len()];
                recv.read_exact(&mut answer).await.map_err(io::Error::other)?;
                let elapsed = begin.elapsed();
                if accepted.await { Ok(elapsed) } else { Err(io::Error::other("early data was refused")) }
            })
        })
    }
}

impl Connection for quinn::Connection {
    fn open(&self, purpose: Use) -> Boxed<'_, Stream> {
        Box::pin(async move {
            let (send, recv) = self.open_bi().await?;
            let mut pair = Pair(send, recv);
            if purpose == Use::Urgent {
                pair.set_urgent();
            }
            Ok(Box::new(pair) as Stream)
        })
    }
}
