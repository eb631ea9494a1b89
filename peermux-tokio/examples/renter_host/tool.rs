//! The commands: a host on this machine, and a renter of one on another.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use peermux_tokio::{Config, KeyLog, Listener, PeerInfo, PublicKey, ResponderKeys, StaticSecret};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::cli::{Peer, Renter};
use crate::error::{Context, Error, Result};
use crate::host::Host;
use crate::link::{Link, Peermux};
use crate::rpc::Hash;
use crate::store::Store;
use crate::transfer::{self, Local, OnBytes, Upload};
use crate::{job, key_log, keys, report, serve};

/// Serves the files in `dir` until Ctrl-C.
pub async fn host(
    listen: SocketAddr,
    dir: &Path,
    key: Option<PathBuf>,
    allow: Vec<[u8; 32]>,
    key_log: Option<PathBuf>,
) -> Result<()> {
    let store = Store::open(dir, true)?;
    let secret = secret(&key.unwrap_or_else(|| dir.join("host.key")))?;
    let key = secret.public_key();
    let doing = || format!("listening on {listen}");
    let socket = TcpListener::bind(listen).await.context(doing)?;
    let allow: Vec<_> = allow.into_iter().map(PublicKey::from_bytes).collect();
    let config =
        Config { approve_peers: !allow.is_empty(), key_log: open_key_log(key_log.as_deref())?, ..Config::default() };
    let allowed = move |peer: &PeerInfo| allow.contains(&peer.key);
    let keys = move || ResponderKeys::from(secret.clone());
    let listener = Listener::from_listener(socket, keys, config, allowed).context(doing)?;
    let addr = listener.local_addr();
    say!("serving {} at {key}@{addr}", dir.display());
    if addr.ip().is_unspecified() {
        say!("(renters put an address of this machine in the place of {})", addr.ip());
    }
    let (stop, stopped) = watch::channel(false);
    let log = |line: &str| say!("{line}");
    let serving = tokio::spawn(serve::peermux(Host::new(store, None), listener, stopped, log));
    tokio::signal::ctrl_c().await.context(|| "waiting for Ctrl-C".into())?;
    say!("stopping");
    let _ = stop.send(true);
    let _ = serving.await;
    Ok(())
}

pub async fn put(peer: Peer, files: Vec<PathBuf>, renter: Renter) -> Result<()> {
    let bars = MultiProgress::new();
    let mut locals: Vec<Local> = Vec::new();
    for path in &files {
        let length = std::fs::metadata(path).map_or(0, |meta| meta.len());
        let bar = bar(&bars, length, &path.display().to_string(), "hashing");
        let local = Local::scan(path, feed(&bar)).await?;
        bar.finish_and_clear();
        let name = &local.entry.name;
        if locals.iter().any(|other| other.entry.name == *name) {
            return Err(Error::new(format!("two of the files are called {name:?}")));
        }
        locals.push(local);
    }
    persist(&peer, &renter, async |link| {
        let slots = Arc::new(Semaphore::new(renter.jobs.into()));
        let mut finishing = JoinSet::new();
        for local in &locals {
            let bar = bar(&bars, local.entry.length, &local.entry.name, "up");
            let upload = Upload::start(&link, local, &slots, feed(&bar)).await?;
            let (link, bars, entry) = (link.clone(), bars.clone(), local.entry.clone());
            finishing.spawn(async move {
                let skipped = upload.skipped;
                upload.finish(&link).await?;
                bar.finish_and_clear();
                say(&bars, &format!("{} is stored{}; its id is {}", entry.name, was_there(skipped), entry.id()));
                Ok::<_, Error>(())
            });
        }
        while let Some(done) = finishing.join_next().await {
            done.map_err(|_| Error::new("an upload was broken off"))??;
        }
        Ok(())
    })
    .await
}

pub async fn get(
    peer: Peer,
    name: String,
    output: Option<PathBuf>,
    force: bool,
    id: Option<Hash>,
    renter: Renter,
) -> Result<()> {
    crate::rpc::check_name(&name)?;
    let output = output.unwrap_or_else(|| name.clone().into());
    if output.is_dir() {
        return Err(Error::new(format!("{} is a directory; --output takes a file's name", output.display())));
    }
    if output.exists() && !force {
        return Err(Error::new(format!("{} is there already (--force replaces it)", output.display())));
    }
    let bars = MultiProgress::new();
    persist(&peer, &renter, async |link| {
        let entry = job::stat(&link, &name).await?;
        if let Some(id) = id
            && id != entry.id()
        {
            return Err(Error::new(format!("{name:?} at the host has the id {}, not {id}", entry.id())));
        }
        let slots = Arc::new(Semaphore::new(renter.jobs.into()));
        let bar = bar(&bars, entry.length, &name, "down");
        let skipped = transfer::download(&link, &entry, &output, &slots, feed(&bar)).await?;
        bar.finish_and_clear();
        let (path, there, id) = (output.display(), was_there(skipped), entry.id());
        say(&bars, &format!("{path} is here and verified{there}; its id is {id}"));
        Ok(())
    })
    .await
}

pub async fn list(peer: Peer, renter: Renter) -> Result<()> {
    persist(&peer, &renter, async |link| {
        for (name, length) in job::list(&link).await? {
            say!("{length:>15}  {name}");
        }
        Ok(())
    })
    .await
}

/// Does the work on a connection to the host, and on another if that one breaks.
async fn persist(peer: &Peer, renter: &Renter, work: impl AsyncFn(Arc<Link>) -> Result<()>) -> Result<()> {
    let secret = secret(&renter.key)?;
    let config = Config { key_log: open_key_log(renter.key_log.as_deref())?, ..Config::default() };
    let mut again = 0;
    let attempt = async || {
        let link = connect(peer, secret.clone(), &config).await?;
        // A host that refuses us says so here. What fails later may be worth another try.
        job::hello(&link)
            .await
            .map_err(|e| Error::new(format!("{} does not do a first job for us: {e}", peer.addr)))?;
        let done = work(link.clone()).await;
        link.close().await;
        Ok::<_, Error>(done)
    };
    let mut done = attempt().await?;
    loop {
        let error = match done {
            Err(e) if e.may_retry() && again < renter.retries => e,
            done => return done.context(|| peer.addr.clone()),
        };
        again += 1;
        let pause = Duration::from_secs(1 << again.min(6) >> 1);
        let of = renter.retries;
        warn!("{}: {error}; connecting again in {} s ({again} of {of})", peer.addr, pause.as_secs());
        tokio::time::sleep(pause).await;
        done = match attempt().await {
            Ok(done) => done,
            Err(e) => Err(Error::lost(e.to_string())),
        };
    }
}

async fn connect(peer: &Peer, secret: StaticSecret, config: &Config) -> Result<Arc<Link>> {
    let addrs: Vec<_> =
        tokio::net::lookup_host(&peer.addr).await.on_link(|| format!("looking up {}", peer.addr))?.collect();
    let mut error = Error::lost(format!("looking up {}: it has no address", peer.addr));
    for addr in addrs {
        match Peermux::connect(addr, secret.clone(), PublicKey::from_bytes(peer.key), config.clone()).await {
            Ok(peermux) => return Ok(Arc::new(Link::Peermux(peermux))),
            Err(e) => error = e,
        }
    }
    Err(error)
}

fn open_key_log(path: Option<&Path>) -> Result<Option<Arc<dyn KeyLog>>> {
    key_log::open(path).map_err(|error| Error::new(error.to_string()))
}

fn secret(path: &Path) -> Result<StaticSecret> {
    let (secret, new) = keys::load_or_create(path)?;
    let secret = StaticSecret::from_bytes(&secret);
    if new {
        warn!("made the key {} and keep it in {}", secret.public_key(), path.display());
    }
    Ok(secret)
}

fn was_there(skipped: u64) -> String {
    match skipped {
        0 => String::new(),
        skipped => format!(" ({} were there already)", report::megabytes(skipped)),
    }
}

fn bar(bars: &MultiProgress, length: u64, name: &str, doing: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{prefix:>7} {msg} [{bar:20}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
    );
    let bar = bars.add(ProgressBar::new(length));
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar.set_prefix(doing.to_string());
    bar.set_message(name.to_string());
    bar
}

fn feed(bar: &ProgressBar) -> OnBytes {
    let bar = bar.clone();
    Arc::new(move |n| bar.inc(n))
}

/// A line that stays, above the bars.
fn say(bars: &MultiProgress, line: &str) {
    bars.suspend(|| say!("{line}"));
}
