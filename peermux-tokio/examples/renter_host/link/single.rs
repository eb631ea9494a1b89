//! One plain TCP connection, which does one job after the other.
//!
//! Whoever comes while a job runs waits; the most urgent of those that wait goes next, the first of
//! them if several are. That is the best that can be done without interrupting a job.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::{Duplex, JobStream, Protocol, Urgency, per_job, send_name};
use crate::error::{Context, Error, Result};

/// The connection, unless a job has broken it.
type Connection = Option<Box<dyn Duplex>>;

#[derive(Clone)]
pub struct Single {
    host: SocketAddr,
    queue: Arc<Mutex<Queue>>,
}

struct Queue {
    /// Here while no job runs.
    idle: Option<Connection>,
    /// By urgency, then by arrival.
    waiting: BTreeMap<(Urgency, u64), oneshot::Sender<Lease>>,
    arrivals: u64,
}

/// The right to use the connection, which passes to the next job when this one is over.
pub struct Lease {
    connection: Connection,
    queue: Arc<Mutex<Queue>>,
}

impl Single {
    /// The connection is made by the first job.
    pub fn new(host: SocketAddr) -> Self {
        let queue = Queue { idle: Some(None), waiting: BTreeMap::new(), arrivals: 0 };
        Self { host, queue: Arc::new(Mutex::new(queue)) }
    }

    pub async fn open(&self, protocol: Protocol, urgency: Urgency) -> Result<JobStream> {
        let mut lease = self.turn(urgency).await?;
        let mut io = match lease.connection.take() {
            Some(connection) => connection,
            None => Box::new(per_job::connect(self.host).await?),
        };
        send_name(&mut io, protocol).await.on_link(|| format!("sending to {}", self.host))?;
        Ok(JobStream { io, lease: Some(lease) })
    }

    async fn turn(&self, urgency: Urgency) -> Result<Lease> {
        let my_turn = {
            let mut queue = lock(&self.queue);
            if let Some(connection) = queue.idle.take() {
                return Ok(Lease { connection, queue: self.queue.clone() });
            }
            let (call, my_turn) = oneshot::channel();
            queue.arrivals += 1;
            let place = (urgency, queue.arrivals);
            queue.waiting.insert(place, call);
            my_turn
        };
        my_turn.await.map_err(|_| Error::lost("the connection was closed before the job's turn"))
    }
}

impl Lease {
    /// Passes the connection on, ready for the next job.
    pub fn give_back(mut self, connection: Box<dyn Duplex>) {
        self.connection = Some(connection);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // None if the job broke off within: the next one makes a new connection.
        let connection = self.connection.take();
        let mut queue = lock(&self.queue);
        let Some((_, call)) = queue.waiting.pop_first() else {
            queue.idle = Some(connection);
            return;
        };
        drop(queue);
        // If that job does not wait any more, its lease comes back, is dropped, and passes on from there.
        let _ = call.send(Lease { connection, queue: self.queue.clone() });
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}
