//! The story, told once for each way of connecting.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use peermux_tokio::{Config, Listener, StaticSecret};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::error::{Context, Error, Result};
use crate::gossip::{self, Gossip};
use crate::host::{Host, Plain};
use crate::link::{Link, Peermux, PerJob, Single};
use crate::plan::{CLICK_AFTER, Plan, introduce, prepare, silent};
use crate::player::{self, Played};
use crate::relay::Relay;
use crate::report::{self, Outcome, seconds};
use crate::rpc::FileEntry;
use crate::store::{Store, blocking};
use crate::transfer::{self, Local, Upload};
use crate::{cli, keys, serve};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Single,
    PerJob,
    Peermux,
}

impl Way {
    const ALL: [Self; 3] = [Self::Single, Self::PerJob, Self::Peermux];

    pub fn short(self) -> &'static str {
        match self {
            Self::Single => "one TCP",
            Self::PerJob => "TCP per job",
            Self::Peermux => "peermux",
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Single => "one plain TCP connection, job by job",
            Self::PerJob => "a plain TCP connection for every job",
            Self::Peermux => "one peermux connection, a stream for every job",
        }
    }
}

pub async fn run(demo: cli::Demo) -> Result<()> {
    let dir = temp_dir()?;
    let plan = Arc::new(prepare(demo, dir.path()).await?);
    introduce(&plan);
    let mut outcomes = Vec::new();
    for (number, way) in Way::ALL.into_iter().enumerate() {
        say!("\n{} of {}: {}", number + 1, Way::ALL.len(), way.describe());
        let outcome = tell(way, &plan).await.context(|| format!("on {}", way.describe()))?;
        outcomes.push(outcome);
    }
    report::print(&outcomes);
    blocking(move || dir.close().context(|| "removing the temporary files".into())).await
}

fn temp_dir() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("renter_host-")
        .tempdir()
        .context(|| format!("creating a temporary directory in {}", std::env::temp_dir().display()))
}

/// Runs the story one way.
async fn tell(way: Way, plan: &Arc<Plan>) -> Result<Outcome> {
    let dir = temp_dir()?;
    let store = Store::open(&dir.path().join("host"), false)?;
    for local in [&plan.archive, &plan.video] {
        keep(&store, local).await?;
    }
    let gossip = Gossip::new();
    let host = Host::new(store, Some(gossip.clone()));
    let secrets = Secrets::new()?;
    let (_serving, host_addr) = serve(way, host, &secrets).await?;
    let relay = plan.path.map(|path| Relay::start(host_addr, path)).transpose()?;
    let addr = relay.as_ref().map_or(host_addr, Relay::addr);

    let start = Instant::now();
    let link = Arc::new(match way {
        Way::Single => Link::Single(Single::new(addr)),
        Way::PerJob => Link::PerJob(PerJob::new(addr)),
        Way::Peermux => {
            let host_key = secrets.host.public_key();
            Link::Peermux(Peermux::connect(addr, secrets.renter.clone(), host_key, Config::default()).await?)
        }
    });
    let _gossiping = {
        let (gossip, link) = (gossip.clone(), link.clone());
        Running(tokio::spawn(async move { gossip.renter(&link).await }))
    };
    let mut playing = {
        let (link, plan) = (link.clone(), plan.clone());
        Running(tokio::spawn(async move { watch(&link, &plan, start).await }))
    };
    move_all(&link, plan, dir.path(), start).await?;
    let total = start.elapsed();
    say!("  {}  all transfers done", seconds(total));
    let (to_host, from_host) = gossip.heard();
    let played = (&mut playing.0).await.map_err(|_| Error::new("the player was broken off"))??;
    say!("  {}  the video is over: {}", seconds(start.elapsed()), report::stalls(&played));

    let moved: u64 = plan.uploads.iter().map(|local| 2 * local.entry.length).sum();
    let (to_host_all, from_host_all) = gossip.heard();
    let gossiped = (to_host_all.len() + from_host_all.len()) * gossip::LENGTH;
    let outcome = Outcome {
        way,
        total,
        played,
        to_host,
        from_host,
        connections: match &*link {
            Link::Single(_) | Link::Peermux(_) => 1,
            Link::PerJob(per_job) => per_job.opened(),
        },
        carried: relay.as_ref().map(|relay| {
            let (up, down) = relay.carried();
            up + down
        }),
        data: moved + plan.archive.entry.length + plan.video.entry.length + gossiped as u64,
    };
    drop(relay);
    Ok(outcome)
}

/// Both sides' keys, made for the occasion.
struct Secrets {
    host: StaticSecret,
    renter: StaticSecret,
}

impl Secrets {
    fn new() -> Result<Self> {
        Ok(Self {
            host: StaticSecret::from_bytes(&keys::random()?),
            renter: StaticSecret::from_bytes(&keys::random()?),
        })
    }
}

/// Serves the host's side of a way, and says where.
async fn serve(way: Way, host: Host, secrets: &Secrets) -> Result<(Running<()>, SocketAddr)> {
    const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let doing = || "listening on 127.0.0.1".into();
    if way == Way::Peermux {
        let listener = Listener::bind(ANY, secrets.host.clone(), Config::default())
            .await
            .map_err(|e| Error::new(format!("listening on 127.0.0.1: {e}")))?;
        let addr = listener.local_addr().context(doing)?;
        let (stop, stopped) = watch::channel(false);
        let serving = async move {
            serve::peermux(host, listener, stopped, |_| {}).await;
            drop(stop);
        };
        return Ok((Running(tokio::spawn(serving)), addr));
    }
    let listener = TcpListener::bind(ANY).await.context(doing)?;
    let addr = listener.local_addr().context(doing)?;
    let how = if way == Way::Single { Plain::Single } else { Plain::PerJob };
    Ok((Running(tokio::spawn(host.serve_plain(listener, how))), addr))
}

/// Up with the files, back with each that is up, and down with the archive.
async fn move_all(link: &Arc<Link>, plan: &Plan, dir: &Path, start: Instant) -> Result<()> {
    let downloads = Arc::new(Semaphore::new(plan.jobs));
    let uploads = Arc::new(Semaphore::new(plan.jobs));
    let mut files = JoinSet::new();
    {
        let (link, entry, downloads) = (link.clone(), plan.archive.entry.clone(), downloads.clone());
        let to = dir.join(&entry.name);
        files.spawn(async move {
            fetch(&link, &entry, to, &downloads).await?;
            say!("  {}  {} is here", seconds(start.elapsed()), entry.name);
            Ok(())
        });
    }
    for local in &plan.uploads {
        let upload = Upload::start(link, local, &uploads, silent()).await?;
        let (link, entry, downloads) = (link.clone(), local.entry.clone(), downloads.clone());
        let to = dir.join(&entry.name);
        files.spawn(async move {
            upload.finish(&link).await?;
            let stored = seconds(start.elapsed());
            fetch(&link, &entry, to, &downloads).await?;
            say!("  {}  {} is back (it was stored at {})", seconds(start.elapsed()), entry.name, stored.trim());
            Ok::<_, Error>(())
        });
    }
    while let Some(done) = files.join_next().await {
        done.map_err(|_| Error::new("a transfer was broken off"))??;
    }
    Ok(())
}

/// Downloads a file; every sector is checked against the hash that the renter knows it by.
async fn fetch(link: &Arc<Link>, entry: &FileEntry, to: PathBuf, slots: &Arc<Semaphore>) -> Result<()> {
    transfer::download(link, entry, &to, slots, silent()).await.map(drop)
}

async fn watch(link: &Link, plan: &Plan, start: Instant) -> Result<Played> {
    tokio::time::sleep(CLICK_AFTER).await;
    player::play(link, &plan.video.entry, plan.video_rate, || {
        say!("  {}  the video's first byte is here", seconds(start.elapsed()));
    })
    .await
    .context(|| "playing the video".into())
}

/// Stores a file without any connection, as if it had been put there long ago.
async fn keep(store: &Store, local: &Local) -> Result<()> {
    for (root, offset, length) in local.entry.sectors() {
        let path = local.path.clone();
        let data = blocking(move || transfer::read_at(&path, offset, length)).await?;
        store.put(root, data).await?;
    }
    store.commit(local.entry.clone()).await
}

/// A task that ends with its handle.
struct Running<T>(JoinHandle<T>);

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
