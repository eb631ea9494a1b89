//! TLS 1.3 by rustls: alone, where a stream is a connection, and as what other contestants run over.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{Boxed, Client, Connection, Contestant, Duplex, Handler, Setting, Stream, Use};
use crate::socket;

/// TLS 1.3 over TCP.
pub(super) struct Tls {
    describe: &'static str,
    provider: fn() -> CryptoProvider,
}

impl Duplex for TlsStream<TcpStream> {}

fn with_suite(mut provider: CryptoProvider, suite: CipherSuite) -> CryptoProvider {
    provider.cipher_suites.retain(|supported| supported.suite() == suite);
    provider
}

/// ring's AES-256-GCM.
pub(super) fn ring_aes() -> CryptoProvider {
    with_suite(ring::default_provider(), CipherSuite::TLS13_AES_256_GCM_SHA384)
}

fn ring_chacha() -> CryptoProvider {
    with_suite(ring::default_provider(), CipherSuite::TLS13_CHACHA20_POLY1305_SHA256)
}

/// AES-256-GCM and X25519MLKEM768 of aws-lc-rs.
fn aws_hybrid() -> CryptoProvider {
    let mut provider = with_suite(aws_lc_rs::default_provider(), CipherSuite::TLS13_AES_256_GCM_SHA384);
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768];
    provider
}

impl Tls {
    pub(super) fn ring_aes() -> Self {
        let describe = "rustls alone, TLS 1.3, AES-256-GCM (ring), X25519, a connection for each stream";
        Self { describe, provider: ring_aes }
    }

    pub(super) fn ring_chacha() -> Self {
        let describe = "rustls alone, TLS 1.3, ChaCha20-Poly1305 (ring), X25519, a connection for each stream";
        Self { describe, provider: ring_chacha }
    }

    pub(super) fn aws_hybrid() -> Self {
        let describe = "rustls alone, TLS 1.3, AES-256-GCM (aws-lc-rs), X25519MLKEM768, a connection for each stream";
        Self { describe, provider: aws_hybrid }
    }
}

/// A certificate for a server at `addr`, and what serves with it. Sessions are not resumed, so no tickets are sent.
pub(super) fn server_config(provider: CryptoProvider, addr: SocketAddr) -> io::Result<(ServerConfig, Vec<u8>)> {
    let made = rcgen::generate_simple_self_signed(vec![addr.ip().to_string()]).map_err(io::Error::other)?;
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate.clone()], key))
        .map_err(io::Error::other)?;
    config.send_tls13_tickets = 0;
    Ok((config, certificate.to_vec()))
}

/// What connects to a server that has this certificate.
pub(super) fn client_config(provider: CryptoProvider, certificate: &[u8]) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(certificate.to_vec())).map_err(io::Error::other)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// The name of a server.
pub(super) fn server_name(addr: SocketAddr) -> ServerName<'static> {
    let ip = match addr {
        SocketAddr::V4(addr) => *addr.ip(),
        SocketAddr::V6(_) => Ipv4Addr::LOCALHOST,
    };
    ServerName::IpAddress(std::net::IpAddr::V4(ip).into())
}

/// Serves TLS on `addr`: `connection` gets every one whose handshake is done.
pub(super) fn serve<F, R>(
    provider: CryptoProvider,
    addr: SocketAddr,
    alpn: Option<&[u8]>,
    connection: F,
) -> io::Result<(SocketAddr, Vec<u8>)>
where
    F: Fn(TlsStream<TcpStream>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let (mut config, certificate) = server_config(provider, addr)?;
    config.alpn_protocols = alpn.iter().map(|alpn| alpn.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = socket::listen(addr)?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok(socket) = socket::accept(&listener).await {
            let (acceptor, connection) = (acceptor.clone(), connection.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(socket).await {
                    // Not the handshake's task: its memory would stay for as long as the connection.
                    tokio::spawn(connection(stream.into()));
                }
            });
        }
    });
    Ok((addr, certificate))
}

/// What dials TLS.
#[derive(Clone)]
pub(super) struct Dialer {
    addr: SocketAddr,
    connector: TlsConnector,
}

impl Dialer {
    pub(super) fn new(
        provider: CryptoProvider,
        addr: SocketAddr,
        alpn: Option<&[u8]>,
        setting: &Setting,
    ) -> io::Result<Self> {
        let mut config = client_config(provider, &setting.identity)?;
        config.alpn_protocols = alpn.iter().map(|alpn| alpn.to_vec()).collect();
        Ok(Self { addr, connector: TlsConnector::from(Arc::new(config)) })
    }

    pub(super) async fn dial(&self) -> io::Result<TlsStream<TcpStream>> {
        let socket = socket::dial(self.addr).await?;
        Ok(self.connector.connect(server_name(self.addr), socket).await?.into())
    }
}

impl Contestant for Tls {
    fn describe(&self) -> &'static str {
        self.describe
    }

    fn serve(&self, addr: SocketAddr, _: Setting, handler: Handler) -> Boxed<'_, (SocketAddr, Vec<u8>)> {
        let provider = (self.provider)();
        let connection = move |stream| {
            handler(Box::new(stream));
            std::future::ready(())
        };
        Box::pin(async move { serve(provider, addr, None, connection) })
    }

    fn client(&self, addr: SocketAddr, setting: &Setting) -> io::Result<Box<dyn Client>> {
        Ok(Box::new(Dialer::new((self.provider)(), addr, None, setting)?))
    }
}

impl Client for Dialer {
    fn connect(&self) -> Boxed<'_, Box<dyn Connection>> {
        Box::pin(async move {
            let first = Mutex::new(Some(self.dial().await?));
            Ok(Box::new(Dialed { dialer: self.clone(), first }) as Box<dyn Connection>)
        })
    }
}

struct Dialed {
    dialer: Dialer,
    first: Mutex<Option<TlsStream<TcpStream>>>,
}

impl Connection for Dialed {
    fn open(&self, _: Use) -> Boxed<'_, Stream> {
        let first = self.first.lock().ok().and_then(|mut first| first.take());
        Box::pin(async move {
            let stream = match first {
                Some(stream) => stream,
                None => self.dialer.dial().await?,
            };
            Ok::<Stream, io::Error>(Box::new(stream))
        })
    }
}
