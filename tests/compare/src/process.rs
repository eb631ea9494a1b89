//! The processes that measure: a server and a client of one contestant, and the connection on which the client asks how the server does.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

use crate::app;
use crate::contestant::{self, Contestant, Setting};
use crate::measure::{Task, Values};
use crate::metric::{Metric, Place};

/// How long a client may take in all.
const PATIENCE: Duration = Duration::from_secs(40);

/// Tells how much memory is allocated, in bytes.
pub(crate) type CountMemory = fn() -> usize;

/// What a server says when it is ready.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) addr: SocketAddr,
    pub(crate) control: SocketAddr,
    /// In hexadecimal digits.
    pub(crate) identity: String,
}

/// What a process has used.
#[derive(Serialize, Deserialize)]
struct Own {
    cpu: Duration,
    memory: usize,
}

impl Own {
    fn now(memory: CountMemory) -> Self {
        let cpu = Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default();
        Self { cpu, memory: memory() }
    }
}

/// What both processes have used.
pub(crate) struct Usage {
    /// CPU time of both.
    pub(crate) cpu: Duration,
    pub(crate) client_memory: usize,
    pub(crate) server_memory: usize,
}

/// The client's end of the connection beside the one that is measured.
pub(crate) struct Control {
    socket: BufReader<TcpStream>,
    memory: CountMemory,
}

impl Control {
    /// What both sides have used up to now.
    pub(crate) async fn both(&mut self) -> io::Result<Usage> {
        self.socket.write_all(b"?").await?;
        let mut line = String::new();
        self.socket.read_line(&mut line).await?;
        let server: Own = serde_json::from_str(&line)?;
        let own = Own::now(self.memory);
        Ok(Usage { cpu: own.cpu + server.cpu, client_memory: own.memory, server_memory: server.memory })
    }
}

async fn answer(listener: TcpListener, memory: CountMemory) -> io::Result<()> {
    loop {
        let (mut socket, _) = listener.accept().await?;
        tokio::spawn(async move {
            while let Ok(1) = socket.read(&mut [0]).await {
                let mut line = serde_json::to_string(&Own::now(memory))?;
                line.push('\n');
                socket.write_all(line.as_bytes()).await?;
            }
            Ok::<_, io::Error>(())
        });
    }
}

/// A runtime of as many threads as there are CPUs. For both ends on one CPU, one of one thread, which stays there. On links, one that leaves the first
/// CPU to the network.
fn runtime(metric: Metric) -> io::Result<Runtime> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    match (metric, metric.place()) {
        (Metric::OneCpu, _) => {
            stay_on(0..1)?;
            Builder::new_current_thread().enable_all().build()
        }
        (_, Place::Limited(_) | Place::Delayed(..)) if cpus > 1 => {
            stay_on(1..cpus)?;
            Builder::new_multi_thread().worker_threads(cpus - 1).enable_all().build()
        }
        _ => Builder::new_multi_thread().enable_all().build(),
    }
}

/// Keeps this thread, which is the network's, away from the CPUs of contestants on links.
pub(crate) fn keep_to_network() -> io::Result<()> {
    stay_on(0..1)
}

/// Keeps this thread, and those that it starts, to these CPUs.
fn stay_on(which: Range<usize>) -> io::Result<()> {
    let mut cpus = CpuSet::new();
    for cpu in which {
        cpus.set(cpu);
    }
    Ok(sched_setaffinity(None, &cpus)?)
}

fn find(name: &str) -> io::Result<Box<dyn Contestant>> {
    contestant::by_name(name).ok_or_else(|| io::Error::other(format!("nobody is called {name}")))
}

fn setting(metric: Metric, identity: Vec<u8>) -> Setting {
    Setting { early: metric == Metric::RoundTrips, many_streams: metric == Metric::StreamMemory, identity }
}

/// Serves until the standard input ends.
#[expect(clippy::print_stdout, reason = "that is how it tells where it listens")]
pub(crate) fn server(name: &str, metric: Metric, bind: IpAddr, memory: CountMemory) -> io::Result<()> {
    let contestant = find(name)?;
    runtime(metric)?.block_on(async {
        let control = TcpListener::bind((bind, 0)).await?;
        let setting = setting(metric, Vec::new());
        let handler = app::Server::new(contestant.half_close()).handler();
        let (addr, identity) = contestant.serve((bind, 0).into(), setting, handler).await?;
        let ready = Ready { addr, control: control.local_addr()?, identity: hex::encode(identity) };
        println!("{}", serde_json::to_string(&ready)?);
        tokio::select! {
            ended = answer(control, memory) => ended,
            ended = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())) => {
                ended.map_err(io::Error::other)?.map(drop)
            }
        }
    })
}

/// Measures, and writes the figures to the standard output.
#[expect(clippy::print_stdout, reason = "that is how it tells what it measured")]
pub(crate) fn client(name: &str, metric: Metric, ready: &Ready, time: Duration, memory: CountMemory) -> io::Result<()> {
    let contestant = find(name)?;
    let identity = hex::decode(&ready.identity).map_err(io::Error::other)?;
    let setting = setting(metric, identity);
    let runtime = runtime(metric)?;
    let measured: io::Result<Values> = runtime.block_on(async {
        let socket = TcpStream::connect(ready.control).await?;
        socket.set_nodelay(true)?;
        let control = Control { socket: BufReader::new(socket), memory };
        let client = contestant.client(ready.addr, &setting)?;
        let mut task = Task { client, half_close: contestant.half_close(), control, time };
        tokio::time::timeout(PATIENCE, task.run(metric)).await.map_err(io::Error::from)?
    });
    println!("{}", serde_json::to_string(&measured?)?);
    // Tasks that go on are of no interest any more.
    runtime.shutdown_background();
    Ok(())
}
