//! A long path on one machine: a TCP relay with a round trip and a rate.
//!
//! All connections through it share one link per direction, as they would share a home's line. Each
//! chunk waits its turn in the link's queue, takes `length / rate` to leave it, and arrives half a
//! round trip later. The queue holds a bounded time's worth of data, and whoever wants to put in more
//! waits; senders take turns at its entrance, which is how congestion control shares a real link out.
//! Of TCP's own costs on such a path it adds those that a local connection does not show: the round
//! trip of the connection's set-up, and slow start (ten segments, doubled every round trip).
//! It loses nothing and reorders nothing.
//!
//! It runs on a thread of its own, so that hashing elsewhere does not make its timing late.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::error::{Context, Error, Result};
use crate::window::{Room, Window, lock};

/// As much as enters the link at once: 0.7 ms at 200 Mbit/s.
const CHUNK: usize = 16 * 1024;
/// What the kernel may hold on each side of the relay, so that the relay is the queue and not the kernel.
const SOCKET_BUFFER: usize = 24 * 1024;
/// Tokio's timers count in milliseconds and round up: this much on average.
const TIMER_LATE: Duration = Duration::from_millis(1);

/// What the path is like.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub round_trip: Duration,
    /// Bytes per second, each way.
    pub rate: f64,
}

/// A running relay. Dropping it ends it and every connection through it.
pub struct Relay {
    addr: SocketAddr,
    up: Arc<Direction>,
    down: Arc<Direction>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Relay {
    /// Accepts on a loopback port of its own and carries everything to `target`.
    pub fn start(target: SocketAddr, path: Path) -> Result<Self> {
        let up = Arc::new(Direction::new(path));
        let down = Arc::new(Direction::new(path));
        let (stop, stopped) = oneshot::channel();
        let (started, start) = std::sync::mpsc::channel();
        let directions = (up.clone(), down.clone());
        let thread = std::thread::Builder::new()
            .name("relay".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(e) => return drop(started.send(Err(e))),
                };
                runtime.block_on(async {
                    let listener = match listen() {
                        Ok(listener) => listener,
                        Err(e) => return drop(started.send(Err(e))),
                    };
                    let _ = started.send(listener.local_addr());
                    tokio::select! {
                        () = accept(listener, target, path, directions) => {}
                        _ = stopped => {}
                    }
                });
            })
            .context(|| "starting the relay's thread".into())?;
        let addr = start
            .recv()
            .map_err(|_| Error::new("the relay's thread ended before it listened"))?
            .context(|| "the relay cannot listen on 127.0.0.1".into())?;
        Ok(Self { addr, up, down, stop: Some(stop), thread: Some(thread) })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The bytes carried so far: to the host, and from it. TCP/IP headers are not counted.
    pub fn carried(&self) -> (u64, u64) {
        (self.up.carried.load(Ordering::Relaxed), self.down.carried.load(Ordering::Relaxed))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One direction of the link, shared by all connections.
struct Direction {
    rate: f64,
    one_way: Duration,
    /// How long a full queue takes to drain: one round trip's worth, as routers are sized, within reason.
    queue: Duration,
    /// The most that one connection may have on its way: what its window grows to.
    largest_window: usize,
    /// When the last byte now in the queue will have left it.
    free_at: Mutex<Instant>,
    /// The queue's entrance. Tokio's mutex is fair: senders take turns.
    entrance: tokio::sync::Mutex<()>,
    carried: AtomicU64,
}

impl Direction {
    fn new(path: Path) -> Self {
        let queue = path.round_trip.clamp(Duration::from_millis(5), Duration::from_millis(50));
        let on_its_way = path.rate * (path.round_trip + queue).as_secs_f64();
        Self {
            rate: path.rate,
            one_way: path.round_trip / 2,
            queue,
            largest_window: (2.0 * on_its_way) as usize + 4 * CHUNK,
            free_at: Mutex::new(Instant::now()),
            entrance: tokio::sync::Mutex::new(()),
            carried: AtomicU64::new(0),
        }
    }

    /// Until the queue has room. Only senders with much on its way already wait here: TCP's
    /// congestion control would hold those back, while a small message just joins the queue.
    async fn wait_for_room(&self) {
        let not_before = lock(&self.free_at).checked_sub(self.queue);
        if let Some(not_before) = not_before {
            sleep_until(not_before).await;
        }
    }

    /// Puts `n` bytes into the queue, and says when they arrive at the other end.
    fn enter(&self, n: usize) -> Instant {
        self.carried.fetch_add(n as u64, Ordering::Relaxed);
        let mut free_at = lock(&self.free_at);
        let leaves = (*free_at).max(Instant::now()) + Duration::from_secs_f64(n as f64 / self.rate);
        *free_at = leaves;
        leaves + self.one_way
    }
}

fn listen() -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    prepare(&socket)?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    socket.listen(1024)
}

fn prepare(socket: &TcpSocket) -> std::io::Result<()> {
    // Both before listening and connecting, since the window's scale is settled in the first segment.
    socket.set_recv_buffer_size(SOCKET_BUFFER as u32)?;
    socket.set_send_buffer_size(SOCKET_BUFFER as u32)?;
    // Loopback's segments of 64 KiB do not fit such buffers well. A refusal only costs accuracy.
    #[cfg(unix)]
    let _ = socket2::SockRef::from(socket).set_tcp_mss(1448);
    Ok(())
}

async fn accept(listener: TcpListener, target: SocketAddr, path: Path, (up, down): (Arc<Direction>, Arc<Direction>)) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: connections that end will free some.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // A dialer may send once its SYN has been answered.
        let open_at = Instant::now() + path.round_trip;
        let (up, down) = (up.clone(), down.clone());
        tokio::spawn(async move {
            // Closing the client's side is all that can be said about a host that is not there.
            if let Ok(host) = dial(target).await {
                carry(client, host, open_at, up, down).await;
            }
        });
    }
}

async fn dial(target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    prepare(&socket)?;
    socket.connect(target).await
}

async fn carry(client: TcpStream, host: TcpStream, open_at: Instant, up: Arc<Direction>, down: Arc<Direction>) {
    let _ = client.set_nodelay(true);
    let _ = host.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let (from_host, to_host) = host.into_split();
    tokio::join!(one_way(from_client, to_host, up, open_at), one_way(from_host, to_client, down, open_at),);
}

/// What is on its way, and when it arrives. Empty for the end of the stream.
struct Packet {
    arrives: Instant,
    data: Vec<u8>,
}

async fn one_way(from: OwnedReadHalf, to: OwnedWriteHalf, link: Arc<Direction>, open_at: Instant) {
    let window = Window::new(link.largest_window);
    // Bounded by the window, in bytes.
    let (enter, leave) = mpsc::unbounded_channel();
    tokio::select! {
        // Reading can end well before what was read has arrived, so only its errors end the other.
        () = async {
            if send(&from, &link, &window, enter, open_at).await.is_err() {
                // The sender is gone without an end. What it sent before still arrives.
            }
            std::future::pending().await
        } => {}
        () = deliver(to, leave, &window, link.one_way) => {}
    }
}

async fn send(
    from: &OwnedReadHalf,
    link: &Direction,
    window: &Window,
    enter: mpsc::UnboundedSender<Packet>,
    open_at: Instant,
) -> std::io::Result<()> {
    sleep_until(open_at).await;
    let mut buffer = vec![0; CHUNK];
    loop {
        from.readable().await?;
        let room = window.room().await;
        let turn = match room {
            Room::Few(_) => None,
            Room::Many(_) => Some(link.entrance.lock().await),
        };
        if turn.is_some() {
            link.wait_for_room().await;
        }
        let (Room::Few(room) | Room::Many(room)) = room;
        let n = match from.try_read(&mut buffer[..room.min(CHUNK)]) {
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(e),
        };
        let arrives = link.enter(n);
        drop(turn);
        window.sent(n);
        let packet = Packet { arrives, data: buffer[..n].to_vec() };
        if n == 0 {
            let _ = enter.send(packet);
            return Ok(());
        }
        if enter.send(packet).is_err() {
            return Ok(());
        }
    }
}

async fn deliver(
    mut to: OwnedWriteHalf,
    mut leave: mpsc::UnboundedReceiver<Packet>,
    window: &Window,
    one_way: Duration,
) {
    while let Some(packet) = leave.recv().await {
        if let Some(wake_at) = packet.arrives.checked_sub(TIMER_LATE) {
            sleep_until(wake_at).await;
        }
        if packet.data.is_empty() {
            let _ = to.shutdown().await;
            return;
        }
        if to.write_all(&packet.data).await.is_err() {
            return;
        }
        // A receiver that does not read is not acknowledged for, so its window stays shut.
        window.delivered(packet.data.len(), Instant::now() + one_way);
    }
}
