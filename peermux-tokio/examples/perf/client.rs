//! The client: the bulk, the requests, and a look at both each second.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use peermux_tokio::{Connection, ErrorCode, Priority};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::server::{CHUNK, ECHO, SINK, SOURCE, chunk};
use crate::{Plan, report};

/// From the beginning of one request to that of the next, unless that takes longer.
const REQUEST_EVERY: Duration = Duration::from_millis(10);

/// What was measured in one part of the whole.
#[derive(Debug)]
pub struct Phase {
    pub name: &'static str,
    /// From the first byte to the last one that arrived.
    pub took: Duration,
    /// Bytes that arrived at the server, and here.
    pub up: u64,
    pub down: u64,
    pub intervals: Vec<Interval>,
    /// How long each request took, from the least to the most.
    pub requests: Vec<Duration>,
}

/// What happened since the one before.
#[derive(Debug)]
pub struct Interval {
    pub took: Duration,
    pub up: u64,
    pub down: u64,
}

/// Bytes that the bulk has moved: up, those that were queued; down, those that arrived.
#[derive(Default)]
struct Moved {
    up: AtomicU64,
    down: AtomicU64,
}

/// Measures all that is planned, one part after the other.
pub async fn run(connection: &Connection, plan: &Plan) -> io::Result<Vec<Phase>> {
    let all = !(plan.up || plan.down || plan.both);
    let parts = [
        ("idle", true, false, false),
        ("up", plan.up || all, true, false),
        ("down", plan.down || all, false, true),
        ("both", plan.both || all, true, true),
    ];
    let mut phases = Vec::new();
    for (name, _, up, down) in parts.into_iter().filter(|part| part.1) {
        phases.push(phase(connection, plan, name, (up, down)).await?);
    }
    Ok(phases)
}

async fn phase(
    connection: &Connection,
    plan: &Plan,
    name: &'static str,
    (up, down): (bool, bool),
) -> io::Result<Phase> {
    let moved = Arc::new(Moved::default());
    let begin = Instant::now();
    // Without bulk there is less to learn.
    let end = begin + if up || down { plan.time } else { plan.time.min(Duration::from_secs(2)) };
    let mut uploads = JoinSet::new();
    let mut downloads = JoinSet::new();
    for _ in 0..plan.streams {
        let priority = Priority::from_urgency(plan.urgency).with_incremental(true);
        if up {
            uploads.spawn(upload(connection.clone(), priority, moved.clone(), end));
        }
        if down {
            downloads.spawn(download(connection.clone(), priority, moved.clone(), end));
        }
    }
    let bulk = async {
        let (mut arrived, mut last) = (0, Duration::ZERO);
        while let Some(done) = uploads.join_next().await {
            arrived += done.map_err(io::Error::other)??;
            last = begin.elapsed();
        }
        while let Some(done) = downloads.join_next().await {
            done.map_err(io::Error::other)??;
        }
        Ok::<_, io::Error>((arrived, last))
    };
    let (bulk, requests, intervals) =
        tokio::try_join!(bulk, requests(connection, plan, end), watch(plan, name, &moved, begin, end))?;
    let (arrived, last) = bulk;
    Ok(Phase { name, took: last.max(end - begin), up: arrived, down: moved.down.load(Relaxed), intervals, requests })
}

/// Sends until `end`, and gives what has arrived.
async fn upload(connection: Connection, priority: Priority, moved: Arc<Moved>, end: Instant) -> io::Result<u64> {
    let mut stream = connection.open_stream(Some(SINK), priority)?;
    while Instant::now() < end {
        stream.write_half().write_chunk(&mut chunk()).await?;
        moved.up.fetch_add(CHUNK as u64, Relaxed);
    }
    stream.shutdown().await?;
    stream.read_u64().await
}

/// Receives until `end`.
async fn download(connection: Connection, priority: Priority, moved: Arc<Moved>, end: Instant) -> io::Result<()> {
    let mut stream = connection.open_stream(Some(SOURCE), priority)?;
    stream.shutdown().await?;
    let reader = stream.read_half();
    let receive = async {
        while let Some(chunk) = reader.read_chunk(CHUNK).await? {
            moved.down.fetch_add(chunk.len() as u64, Relaxed);
        }
        Err(io::Error::other("the server has ended a stream that it was to go on with"))
    };
    tokio::select! {
        // The time is looked at first, however much there is to receive.
        biased;
        () = sleep_until(end) => {}
        failed = receive => return failed,
    }
    reader.stop(ErrorCode::NO_ERROR);
    Ok(())
}

/// Asks one request after the other until `end`.
async fn requests(connection: &Connection, plan: &Plan, end: Instant) -> io::Result<Vec<Duration>> {
    let request = vec![1; plan.request_bytes as usize];
    let mut taken = Vec::new();
    let mut every = interval(REQUEST_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < end {
        every.tick().await;
        let begin = Instant::now();
        let mut stream = connection.open_stream(Some(ECHO), Priority::from_urgency(plan.request_urgency))?;
        stream.write_all(&request).await?;
        // Shutting down waits until all is with the transport; the answer can be waited for at once.
        let (mut reader, mut writer) = stream.into_split();
        let mut answer = Vec::with_capacity(request.len());
        tokio::try_join!(writer.shutdown(), reader.read_to_end(&mut answer))?;
        taken.push(begin.elapsed());
        if answer.len() != request.len() {
            return Err(io::Error::other("the answer to a request is not as long as the request"));
        }
    }
    taken.sort_unstable();
    Ok(taken)
}

/// Looks at what was moved each second, and says so.
async fn watch(plan: &Plan, name: &str, moved: &Moved, begin: Instant, end: Instant) -> io::Result<Vec<Interval>> {
    let (mut intervals, mut last) = (Vec::new(), begin);
    let (mut up, mut down) = (0, 0);
    while last < end {
        sleep_until(end.min(last + Duration::from_secs(1))).await;
        let now = Instant::now();
        let (up_now, down_now) = (moved.up.load(Relaxed), moved.down.load(Relaxed));
        let interval = Interval { took: now - last, up: up_now - up, down: down_now - down };
        let line = report::interval(name, now - begin, &interval);
        if plan.json {
            warn!("{line}");
        } else {
            say!("{line}");
        }
        intervals.push(interval);
        (last, up, down) = (now, up_now, down_now);
    }
    Ok(intervals)
}
