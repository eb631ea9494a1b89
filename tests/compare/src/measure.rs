//! The client's part of each metric.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::app::{self, CHUNK, Command, Lengths, REQUEST};
use crate::contestant::{Boxed, Client, Connection, Stream, Use};
use crate::metric::{Load, Metric};
use crate::process::{Control, Usage};

/// Longer than anything that works takes.
const STALLED: Duration = Duration::from_secs(5);

/// What the unread stream may be given in all, in bytes.
const OFFERED: u64 = 256 << 20;

/// How long bulk data runs before requests are measured beside it.
const RAMP: Duration = Duration::from_millis(700);

/// The pause between two requests beside bulk data.
const PAUSE: Duration = Duration::from_millis(10);

/// Requests of each kind that come first: the congestion window is large enough after them.
const WARM_UP: usize = 5;

/// How long a stream on a long fat link may take to become fast.
const SPED_UP: Duration = Duration::from_secs(3);

/// What a client was told to do, and with what.
pub(crate) struct Task {
    pub(crate) client: Box<dyn Client>,
    pub(crate) half_close: bool,
    pub(crate) control: Control,
    /// How long a metric that goes by time takes.
    pub(crate) time: Duration,
}

/// Named figures.
pub(crate) type Values = Map<String, Value>;

fn values<const N: usize>(pairs: [(&str, f64); N]) -> Values {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

/// The `q`-th part of `samples`, which are sorted here.
fn quantile(samples: &mut [Duration], q: f64) -> Duration {
    samples.sort_unstable();
    // An index, so truncation is meant.
    let index = (samples.len().saturating_sub(1) as f64 * q) as usize;
    samples.get(index).copied().unwrap_or_default()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

impl Task {
    /// Measures.
    pub(crate) async fn run(&mut self, metric: Metric) -> io::Result<Values> {
        match metric {
            Metric::Bulk(streams) => self.bulk(streams).await,
            Metric::Both | Metric::LinkBoth(_) => self.both().await,
            Metric::Latency | Metric::OneCpu => self.latency().await,
            Metric::Churn => self.churn().await,
            Metric::Unread => self.unread().await,
            Metric::Setup => self.setup().await,
            Metric::RoundTrips => self.round_trips().await,
            Metric::StreamMemory => self.stream_memory().await,
            Metric::ConnectionMemory => self.connection_memory().await,
            Metric::Request(_) => self.request().await,
            Metric::LongFat => self.long_fat().await,
            Metric::LinkBulk(_) => self.bulk(1).await,
            Metric::LinkLoad(_, load) => self.load(load).await,
        }
    }

    /// Uploads on `streams` streams at once, until the server has all.
    async fn bulk(&mut self, streams: usize) -> io::Result<Values> {
        let connection = self.client.connect().await?;
        let mut opened = Vec::with_capacity(streams);
        for _ in 0..streams {
            opened.push(connection.open(Use::Bulk).await?);
        }
        let before = self.control.both().await?;
        let begin = Instant::now();
        let deadline = begin + self.time;
        let mut tasks = JoinSet::new();
        for stream in opened {
            tasks.spawn(upload(stream, deadline));
        }
        let bytes = sum(&mut tasks).await?;
        let elapsed = begin.elapsed();
        let cpu = self.control.both().await?.cpu - before.cpu;
        connection.close().await?;
        let bytes = bytes as f64;
        Ok(values([
            ("gb_per_s", bytes / 1e9 / elapsed.as_secs_f64()),
            ("cpu_s_per_gb", cpu.as_secs_f64() / (bytes / 1e9)),
            ("bytes", bytes),
        ]))
    }

    /// Uploads on one stream and downloads on another.
    async fn both(&mut self) -> io::Result<Values> {
        let connection = self.client.connect().await?;
        let (up, down) = (connection.open(Use::Bulk).await?, connection.open(Use::Bulk).await?);
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        tasks.spawn(upload(up, begin + self.time));
        tasks.spawn(download(down, self.time));
        let bytes = sum(&mut tasks).await?;
        let elapsed = begin.elapsed();
        connection.close().await?;
        Ok(values([("gb_per_s", bytes as f64 / 1e9 / elapsed.as_secs_f64())]))
    }

    /// Requests one after the other: on one stream, and each on a stream of its own.
    async fn latency(&mut self) -> io::Result<Values> {
        let connection = self.client.connect().await?;
        let mut stream = connection.open(Use::Urgent).await?;
        let begin = Instant::now();
        let mut reused = Vec::new();
        // The first fifth warms up.
        while begin.elapsed() < self.time / 2 {
            let asked = Instant::now();
            app::ask(&mut stream, Command::Echo).await?;
            if begin.elapsed() > self.time / 10 {
                reused.push(asked.elapsed());
            }
        }
        stream.shutdown().await?;
        drop(stream);
        let begin = Instant::now();
        let mut fresh = Vec::new();
        while begin.elapsed() < self.time / 2 {
            let asked = Instant::now();
            once(&*connection, self.half_close).await?;
            if begin.elapsed() > self.time / 10 {
                fresh.push(asked.elapsed());
            }
        }
        connection.close().await?;
        Ok(values([
            ("reused_p50_us", micros(quantile(&mut reused, 0.5))),
            ("reused_p99_us", micros(quantile(&mut reused, 0.99))),
            ("fresh_p50_us", micros(quantile(&mut fresh, 0.5))),
            ("fresh_p99_us", micros(quantile(&mut fresh, 0.99))),
        ]))
    }

    /// As many requests as possible, each on a stream of its own, by 100 tasks at once.
    async fn churn(&mut self) -> io::Result<Values> {
        let connection: Arc<dyn Connection> = self.client.connect().await?.into();
        let half_close = self.half_close;
        let begin = Instant::now();
        let deadline = begin + self.time;
        let mut tasks = JoinSet::new();
        for _ in 0..100 {
            let connection = connection.clone();
            tasks.spawn(async move {
                let mut streams = 0;
                while Instant::now() < deadline {
                    once(&*connection, half_close).await?;
                    streams += 1;
                }
                Ok(streams)
            });
        }
        let streams = sum(&mut tasks).await?;
        Ok(values([("streams_per_s", streams as f64 / begin.elapsed().as_secs_f64())]))
    }

    /// A stream that nobody reads is filled; then others are used.
    async fn unread(&mut self) -> io::Result<Values> {
        let connection = self.client.connect().await?;
        let mut unread = connection.open(Use::Bulk).await?;
        let before = self.control.both().await?;
        let filling = tokio::spawn(async move {
            let chunk = vec![0; CHUNK];
            let mut offered = 0;
            if unread.write_all(&Command::Ignore.request(0)).await.is_err() {
                return (offered, unread);
            }
            while offered < OFFERED {
                match timeout(Duration::from_millis(500), unread.write_all(&chunk)).await {
                    Ok(Ok(())) => offered += CHUNK as u64,
                    // Full, as it should be.
                    _ => break,
                }
            }
            // The stream stays open meanwhile.
            (offered, unread)
        });
        let (taken, unread) = timeout(STALLED, filling).await.map_err(io::Error::from)?.map_err(io::Error::other)?;
        let others = async {
            let up = connection.open(Use::Bulk).await?;
            let mut small = connection.open(Use::Urgent).await?;
            let begin = Instant::now();
            let uploading = tokio::spawn(upload(up, begin + self.time));
            app::ask(&mut small, Command::Echo).await?;
            let bytes = uploading.await.map_err(io::Error::other)??;
            Ok::<_, io::Error>(bytes as f64 / 1e9 / begin.elapsed().as_secs_f64())
        };
        let others = match timeout(self.time + STALLED, others).await {
            Ok(others) => others.unwrap_or(0.0),
            Err(_) => 0.0,
        };
        let after = self.control.both().await?;
        drop(unread);
        let grown = |before: usize, after: usize| after.saturating_sub(before) as f64 / 1e6;
        Ok(values([
            ("others_gb_per_s", others),
            ("unread_mb", taken as f64 / 1e6),
            ("client_mb", grown(before.client_memory, after.client_memory)),
            ("server_mb", grown(before.server_memory, after.server_memory)),
        ]))
    }

    /// Connections, each with one request, one after the other.
    async fn setup(&mut self) -> io::Result<Values> {
        // The first ones pay for what is set up once.
        for _ in 0..5 {
            self.visit().await?;
        }
        let before = self.control.both().await?;
        let mut times = Vec::new();
        let begin = Instant::now();
        while begin.elapsed() < self.time {
            times.push(self.visit().await?);
        }
        // What ends connections goes on for a moment.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let cpu = self.control.both().await?.cpu - before.cpu;
        Ok(values([("cpu_us", micros(cpu) / times.len() as f64), ("p50_us", micros(quantile(&mut times, 0.5)))]))
    }

    /// Connects, asks once, and ends the connection; gives the time until the answer.
    async fn visit(&self) -> io::Result<Duration> {
        let begin = Instant::now();
        let connection = self.client.connect().await?;
        let mut stream = connection.open(Use::Urgent).await?;
        app::ask(&mut stream, Command::Once).await?;
        let elapsed = begin.elapsed();
        stream.shutdown().await?;
        drop(stream);
        connection.close().await?;
        Ok(elapsed)
    }

    /// The time from connecting to the first answer, on a link with a delay.
    async fn round_trips(&mut self) -> io::Result<Values> {
        let mut known = Vec::new();
        let mut early = Vec::new();
        for _ in 0..5 {
            known.push(self.visit().await?);
            let request = Command::Once.request(0);
            if let Some(answered) = self.client.early(&request) {
                early.push(answered.await?);
            }
        }
        let mut values = values([("first_answer_ms", micros(quantile(&mut known, 0.5)) / 1e3)]);
        if !early.is_empty() {
            values.insert("early_answer_ms".to_owned(), (micros(quantile(&mut early, 0.5)) / 1e3).into());
        }
        Ok(values)
    }

    /// Requests one after the other, on one stream, short and long.
    async fn request(&mut self) -> io::Result<Values> {
        let connection = self.client.connect().await?;
        let mut stream = connection.open(Use::Urgent).await?;
        let mut bytes = Box::new([0; CHUNK]);
        let mut values = Values::new();
        for (name, request, answer) in
            [("small_p50_ms", REQUEST, REQUEST), ("up_p50_ms", CHUNK, REQUEST), ("down_p50_ms", REQUEST, CHUNK)]
        {
            let lengths = Lengths { request, answer };
            for _ in 0..WARM_UP {
                app::exchange(&mut stream, lengths, &mut bytes).await?;
            }
            let begin = Instant::now();
            let mut times = Vec::new();
            while begin.elapsed() < self.time / 3 {
                let asked = Instant::now();
                app::exchange(&mut stream, lengths, &mut bytes).await?;
                times.push(asked.elapsed());
            }
            values.insert(name.to_owned(), (micros(quantile(&mut times, 0.5)) / 1e3).into());
        }
        stream.shutdown().await?;
        connection.close().await?;
        Ok(values)
    }

    /// Downloads on one stream; what comes after [`SPED_UP`] counts, and what came before is a figure of its own.
    async fn long_fat(&mut self) -> io::Result<Values> {
        let begin = Instant::now();
        let connection = self.client.connect().await?;
        let mut stream = connection.open(Use::Bulk).await?;
        let millis = u64::try_from((SPED_UP + self.time).as_millis()).unwrap_or(u64::MAX);
        stream.write_all(&Command::Source.request(millis)).await?;
        let (mut before, mut counted) = (0, 0);
        app::receive(&mut stream, |len| {
            let elapsed = begin.elapsed();
            if elapsed < SPED_UP {
                before += len;
            } else if elapsed < SPED_UP + self.time {
                counted += len;
            }
        })
        .await?;
        stream.shutdown().await?;
        connection.close().await?;
        let rate = |bytes: usize, time: Duration| bytes as f64 / 1e9 / time.as_secs_f64();
        Ok(values([("gb_per_s", rate(counted, self.time)), ("begin_gb_per_s", rate(before, SPED_UP))]))
    }

    /// The memory of idle streams, just after tables have grown, at its worst.
    async fn stream_memory(&mut self) -> io::Result<Values> {
        let connection = self.client.connect().await?;
        let mut held = Vec::with_capacity(1 << 13);
        hold(&*connection, &mut held, 16).await?;
        let before = self.settled().await?;
        let base = held.len();
        let (mut client, mut server) = (0.0_f64, 0.0_f64);
        for total in [1025, 2049, 4097] {
            hold(&*connection, &mut held, total).await?;
            let after = self.settled().await?;
            let each = |grown: usize| grown as f64 / (total - base) as f64;
            client = client.max(each(after.client_memory.saturating_sub(before.client_memory)));
            server = server.max(each(after.server_memory.saturating_sub(before.server_memory)));
        }
        drop(held);
        connection.close().await?;
        Ok(values([("client", client), ("server", server)]))
    }

    /// The memory of idle connections. Each has one idle stream, since for some a stream is the connection.
    async fn connection_memory(&mut self) -> io::Result<Values> {
        self.visit().await?;
        let mut connections: Vec<(Box<dyn Connection>, Stream)> = Vec::with_capacity(512);
        let before = self.settled().await?;
        for _ in 0..257 {
            let connection = self.client.connect().await?;
            let mut stream = connection.open(Use::Urgent).await?;
            app::ask(&mut stream, Command::Hold).await?;
            connections.push((connection, stream));
        }
        let after = self.settled().await?;
        let each = |grown: usize| grown as f64 / connections.len() as f64;
        let client = each(after.client_memory.saturating_sub(before.client_memory));
        let server = each(after.server_memory.saturating_sub(before.server_memory));
        Ok(values([("client", client), ("server", server)]))
    }

    /// Requests on a stream while bulk data saturates the link.
    async fn load(&mut self, load: Load) -> io::Result<Values> {
        let connection = self.client.connect().await?;
        let mut small = connection.open(Use::Urgent).await?;
        app::ask(&mut small, Command::Echo).await?;
        let bulk = connection.open(Use::Bulk).await?;
        let time = RAMP + self.time;
        let begin = Instant::now();
        let moving: Boxed<'static, u64> = match load {
            Load::Up => Box::pin(upload(bulk, begin + time)),
            Load::Down => Box::pin(download(bulk, time)),
        };
        let moving = tokio::spawn(async move {
            let bytes = moving.await?;
            Ok::<_, io::Error>(bytes as f64 / begin.elapsed().as_secs_f64())
        });
        tokio::time::sleep(RAMP).await;
        let mut times = Vec::new();
        while begin.elapsed() < time {
            let asked = Instant::now();
            timeout(STALLED, app::ask(&mut small, Command::Echo)).await.map_err(io::Error::from)??;
            times.push(asked.elapsed());
            tokio::time::sleep(PAUSE).await;
        }
        let rate = moving.await.map_err(io::Error::other)??;
        connection.close().await?;
        Ok(values([
            ("p50_ms", micros(quantile(&mut times, 0.5)) / 1e3),
            ("p99_ms", micros(quantile(&mut times, 0.99)) / 1e3),
            ("bulk_gb_per_s", rate / 1e9),
            ("requests", times.len() as f64),
        ]))
    }

    /// What both sides use once what was under way is done.
    async fn settled(&mut self) -> io::Result<Usage> {
        tokio::time::sleep(Duration::from_millis(150)).await;
        self.control.both().await
    }
}

async fn sum(tasks: &mut JoinSet<io::Result<u64>>) -> io::Result<u64> {
    let mut sum = 0;
    while let Some(done) = tasks.join_next().await {
        sum += done.map_err(io::Error::other)??;
    }
    Ok(sum)
}

async fn upload(mut stream: Stream, deadline: Instant) -> io::Result<u64> {
    stream.write_all(&Command::Sink.request(0)).await?;
    let sent = app::send(&mut stream, deadline).await?;
    let mut answer = [0; REQUEST];
    stream.read_exact(&mut answer).await?;
    if answer != Command::Sink.request(sent) {
        return Err(io::Error::other("bytes were lost"));
    }
    stream.shutdown().await?;
    Ok(sent)
}

async fn download(mut stream: Stream, time: Duration) -> io::Result<u64> {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    stream.write_all(&Command::Source.request(millis)).await?;
    let received = app::receive(&mut stream, |_| {}).await?;
    stream.shutdown().await?;
    Ok(received)
}

/// One request on a stream of its own.
async fn once(connection: &dyn Connection, half_close: bool) -> io::Result<()> {
    let mut stream = connection.open(Use::Urgent).await?;
    stream.write_all(&Command::Once.request(0)).await?;
    if half_close {
        stream.shutdown().await?;
    }
    let mut answer = [0; REQUEST];
    stream.read_exact(&mut answer).await?;
    if half_close {
        if stream.read(&mut [0]).await? != 0 {
            return Err(io::Error::other("more than an answer"));
        }
    } else {
        stream.shutdown().await?;
    }
    Ok(())
}

/// Opens streams until there are `total`, each used once.
async fn hold(connection: &dyn Connection, held: &mut Vec<Stream>, total: usize) -> io::Result<()> {
    while held.len() < total {
        let mut stream = connection.open(Use::Urgent).await?;
        app::ask(&mut stream, Command::Hold).await?;
        held.push(stream);
    }
    Ok(())
}
