//! peermux-tokio over transports other than TCP: a duplex in memory, Unix sockets, TLS, and a stream of another connection. All of them behave as TCP does.

#[macro_use]
mod adapter;

use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::net::TcpListener;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use adapter::Face;
use adapter::tokio_face::{Tokio, wait};
use futures::stream::unfold;
use peermux_core::{Config, Remote};
use peermux_tests::{initiator_key, responder_key};
use peermux_tokio::{Connection, Listener, Priority, accept_socket, connect_socket};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional, duplex};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// A transport that is carried over TCP, so that the scenarios can treat it as they treat TCP.
trait Carrier: Send + Sync + 'static {
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    fn carry(socket: TcpStream, dials: bool) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// Passes on what goes through `far` over the socket.
fn pump(mut socket: TcpStream, mut far: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
    tokio::spawn(async move { copy_bidirectional(&mut socket, &mut far).await });
}

struct Memory;

impl Carrier for Memory {
    type Io = tokio::io::DuplexStream;

    async fn carry(socket: TcpStream, _: bool) -> io::Result<Self::Io> {
        // Less than a record, so that each of them is written and read in pieces.
        let (near, far) = duplex(5000);
        pump(socket, far);
        Ok(near)
    }
}

#[cfg(unix)]
struct Unix;

#[cfg(unix)]
impl Carrier for Unix {
    type Io = tokio::net::UnixStream;

    async fn carry(socket: TcpStream, _: bool) -> io::Result<Self::Io> {
        let (near, far) = tokio::net::UnixStream::pair()?;
        pump(socket, far);
        Ok(near)
    }
}

struct Tls;

/// Both sides' configurations, for a certificate of their own.
static TLS: LazyLock<(TlsConnector, TlsAcceptor)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["host.test".into()]).expect("a certificate");
    let certificate = CertificateDer::from(made.cert);
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("it is a certificate");
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key.into());
    (Arc::new(client).into(), Arc::new(server.expect("the key fits")).into())
});

impl Carrier for Tls {
    type Io = TlsStream<TcpStream>;

    async fn carry(socket: TcpStream, dials: bool) -> io::Result<Self::Io> {
        if dials {
            let name = ServerName::try_from("host.test").expect("a name");
            return Ok(TLS.0.connect(name, socket).await?.into());
        }
        Ok(TLS.1.accept(socket).await?.into())
    }
}

struct Over<C>(PhantomData<C>);

impl<C: Carrier> Face for Over<C> {
    type Listener = Arc<Listener>;
    type Connection = Connection;

    fn listen(socket: TcpListener, config: Config) -> Arc<Listener> {
        socket.set_nonblocking(true).expect("a socket");
        wait(async {
            let socket = tokio::net::TcpListener::from_std(socket).expect("a socket that does not block");
            let incoming = unfold(socket, |socket| async move {
                let carried = async {
                    let dialer = socket.accept().await?.0;
                    dialer.set_nodelay(true)?;
                    C::carry(dialer, false).await
                };
                Some((carried.await, socket))
            });
            let listener = Listener::from_incoming(incoming, || responder_key().into(), config, None, |_| true);
            Arc::new(listener.expect("the configuration is valid"))
        })
    }

    fn dial(socket: std::net::TcpStream, remote: Remote, config: Config) -> io::Result<Connection> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        wait(async {
            let carried = C::carry(TcpStream::from_std(socket)?, true).await?;
            connect_socket(carried, initiator_key(), remote, config, |_| false).await
        })
    }
}

macro_rules! transports {
    ($($module:ident: $carrier:ty;)*) => {$(
        mod $module {
            use super::*;

            scenarios! { Over<$carrier>, Over<$carrier>:
                echo() within 60;
                bulk_both_ways(4_000_000, 4) within 120;
                half_close_then_a_long_reply() within 60;
                a_thousand_streams_at_once() within 120;
                a_dropped_handle_leaves_its_streams_to_finish() within 60;
                exchanges_of_honest_programs_never_fail(500) within 60;
                close_tells_code_and_reason_and_every_call_after_it_says_so() within 60;
                drain_lets_all_finish() within 60;
            }

            #[test]
            fn what_a_script_sees_is_what_it_sees_over_tcp() {
                adapter::within(60, || {
                    let over = adapter::script::run::<Over<$carrier>, Over<$carrier>>();
                    assert_eq!(over, adapter::script::run::<Tokio, Tokio>());
                });
            }
        }
    )*};
}

transports! {
    memory: Memory;
    tls: Tls;
}

#[cfg(unix)]
transports! {
    unix: Unix;
}

/// Two connections, the second of which runs over a stream of the first.
#[tokio::test]
async fn a_stream_of_another_connection_is_a_transport() {
    let remote = Remote::Key(responder_key().public_key());
    let connect = |near, far| async move {
        tokio::try_join!(
            connect_socket(near, initiator_key(), remote, Config::default(), |_| true),
            accept_socket(far, responder_key(), Config::default(), |_| true),
        )
        .expect("both are there")
    };
    let (near, far) = duplex(64 * 1024);
    let (outer_dialer, outer_listener) = connect(near, far).await;
    let mut carrier = outer_dialer.open_stream(None, Priority::default()).expect("it is open");
    carrier.flush().await.expect("it leaves");
    let accepted = outer_listener.accept_stream().await.expect("it opens");
    let inner = tokio::try_join!(
        connect_socket(carrier, initiator_key(), remote, Config::default(), |_| true),
        accept_socket(accepted, responder_key(), Config::default(), |_| true),
    );
    let (dialer, listener) = inner.expect("both are there");

    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let mut stream = dialer.open_stream(Some("test"), Priority::default()).expect("it is open");
    let send = async {
        stream.write_all(&sent).await?;
        stream.shutdown().await
    };
    let receive = async {
        let mut all = Vec::new();
        listener.accept_stream().await?.read_to_end(&mut all).await?;
        Ok(all)
    };
    let ((), received) = tokio::try_join!(send, receive).expect("both are there");
    assert!(received == sent);
    dialer.close(7, "done");
    assert_eq!(listener.closed().await.code(), Some(peermux_core::code::Code::Application(7)));
    assert_eq!((dialer.local_addr(), dialer.remote_addr()), (None, None));
}

/// The other end of a duplex is dropped without a word.
#[tokio::test]
async fn a_transport_that_ends_without_a_close_is_told() {
    let remote = Remote::Key(responder_key().public_key());
    let ((near, mut end), (mut other, far)) = (duplex(4096), duplex(4096));
    let relay = tokio::spawn(async move { copy_bidirectional(&mut end, &mut other).await });
    let (dialer, listener) = tokio::try_join!(
        connect_socket(near, initiator_key(), remote, Config::default(), |_| true),
        accept_socket(far, responder_key(), Config::default(), |_| true),
    )
    .expect("both are there");
    relay.abort();
    for connection in [dialer, listener] {
        let end = tokio::time::timeout(Duration::from_secs(5), connection.closed()).await.expect("it is told");
        assert!(!end.is_orderly(), "{end}");
    }
}

#[tokio::test]
async fn incoming_transports_that_fail_or_end_are_told() {
    let (near, far) = duplex(64 * 1024);
    let incoming = futures::stream::iter([Err(io::ErrorKind::PermissionDenied.into()), Ok(far)]);
    let listener = Listener::from_incoming(incoming, || responder_key().into(), Config::default(), None, |_| true)
        .expect("it is valid");
    assert_eq!(listener.local_addr().expect_err("it has none").kind(), io::ErrorKind::Unsupported);
    let failed = listener.next_outcome().await.expect("it listens").expect_err("the first one fails");
    assert_eq!((failed.remote, failed.error.kind()), (None, io::ErrorKind::PermissionDenied));
    let remote = Remote::Key(responder_key().public_key());
    let dial = connect_socket(near, initiator_key(), remote, Config::default(), |_| true);
    let (dialer, accepted) = tokio::join!(dial, listener.accept());
    let (_dialer, _accepted) = (dialer.expect("it is accepted"), accepted.expect("it dials"));
    assert!(listener.next_outcome().await.is_none(), "there are no more");
}
