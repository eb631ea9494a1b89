//! TLS over TCP: a session and its socket, as one source of events.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::DerefMut;
use std::sync::{Arc, LazyLock};

use mio::event::Source;
use mio::{Interest, Registry, Token};
use peermux_std::Transport;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig, ServerConnection, SideData, Stream,
};

use super::Medium;

pub struct Tls;

/// Both sides' configurations, for a certificate of their own.
static TLS: LazyLock<(Arc<ClientConfig>, Arc<ServerConfig>)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["host.test".into()]).expect("a certificate");
    let certificate = CertificateDer::from(made.cert);
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("it is a certificate");
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key.into());
    (Arc::new(client), Arc::new(server.expect("the key fits")))
});

impl Medium for Tls {
    fn dial(socket: TcpStream) -> Transport {
        let name = ServerName::try_from("host.test").expect("a name");
        Session::over(socket, ClientConnection::new(TLS.0.clone(), name).expect("a configuration"))
    }

    fn accept(socket: TcpStream) -> Transport {
        Session::over(socket, ServerConnection::new(TLS.1.clone()).expect("a configuration"))
    }
}

struct Session<C> {
    session: C,
    socket: mio::net::TcpStream,
}

impl<C, D> Session<C>
where
    C: DerefMut<Target = ConnectionCommon<D>> + Send + 'static,
    D: SideData + 'static,
{
    fn over(socket: TcpStream, session: C) -> Transport {
        socket.set_nonblocking(true).expect("a socket");
        socket.set_nodelay(true).expect("a socket");
        Transport::from_source(Self { session, socket: mio::net::TcpStream::from_std(socket) })
    }

    fn stream(&mut self) -> Stream<'_, C, mio::net::TcpStream> {
        Stream::new(&mut self.session, &mut self.socket)
    }
}

impl<C, D> Read for Session<C>
where
    C: DerefMut<Target = ConnectionCommon<D>> + Send + 'static,
    D: SideData + 'static,
{
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.stream().read(out)
    }
}

impl<C, D> Write for Session<C>
where
    C: DerefMut<Target = ConnectionCommon<D>> + Send + 'static,
    D: SideData + 'static,
{
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream().flush()
    }
}

impl<C> Source for Session<C> {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.socket.register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.socket.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket.deregister(registry)
    }
}
