//! Whole files: up to the host and back, several sectors at once, continued where they were interrupted.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::error::{Context, Error, Result};
use crate::job;
use crate::link::Link;
use crate::rpc::{self, FileEntry, Hash, MOST_SECTORS, SECTOR};
use crate::store::blocking;

/// Told of every piece that moves, in bytes.
pub type OnBytes = Arc<dyn Fn(u64) + Send + Sync>;

/// A file here, and what it is called there.
#[derive(Clone, Debug)]
pub struct Local {
    pub path: PathBuf,
    pub entry: FileEntry,
}

impl Local {
    /// Reads the file through once, for the hashes of its sectors.
    pub async fn scan(path: &Path, on_bytes: OnBytes) -> Result<Self> {
        let path = path.to_path_buf();
        blocking(move || {
            let doing = || format!("reading {}", path.display());
            let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
                Error::new(format!("{} has no name that can be sent (it must be UTF-8)", path.display()))
            })?;
            rpc::check_name(name)?;
            if !std::fs::metadata(&path).context(doing)?.is_file() {
                return Err(Error::new(format!("{} is not a regular file", path.display())));
            }
            let mut file = File::open(&path).context(doing)?;
            let (mut roots, mut length) = (Vec::new(), 0);
            loop {
                let mut sector = Vec::new();
                (&mut file).take(SECTOR as u64).read_to_end(&mut sector).context(doing)?;
                if sector.is_empty() {
                    break;
                }
                roots.push(Hash::of(&sector));
                length += sector.len() as u64;
                on_bytes(sector.len() as u64);
                if sector.len() < SECTOR || roots.len() > MOST_SECTORS {
                    break;
                }
            }
            let entry = FileEntry::checked(name.into(), length, roots)?;
            Ok(Self { path, entry })
        })
        .await
    }
}

/// A file on its way up. All its jobs have begun or wait for their turn on the link.
pub struct Upload {
    entry: FileEntry,
    jobs: JoinSet<Result<()>>,
    /// How much of it the host had already.
    pub skipped: u64,
}

impl Upload {
    /// Hands out the jobs of a file, in order, as `slots` become free.
    pub async fn start(link: &Arc<Link>, local: &Local, slots: &Arc<Semaphore>, on_bytes: OnBytes) -> Result<Self> {
        let stored = job::have(link, &local.entry.roots).await?;
        let mut upload = Self { entry: local.entry.clone(), jobs: JoinSet::new(), skipped: 0 };
        for ((root, offset, length), stored) in local.entry.sectors().zip(stored) {
            if stored {
                upload.skipped += length as u64;
                on_bytes(length as u64);
                continue;
            }
            let slot = slots.clone().acquire_owned().await.map_err(|_| Error::new("the upload was ended"))?;
            let path = local.path.clone();
            let sector = blocking(move || read_at(&path, offset, length)).await?;
            let (link, on_bytes) = (link.clone(), on_bytes.clone());
            upload.jobs.spawn(async move {
                job::put(&link, root, &sector, |n| on_bytes(n as u64)).await?;
                drop(slot);
                Ok(())
            });
            // A job that failed already makes the others pointless.
            while let Some(done) = upload.jobs.try_join_next() {
                joined(done)?;
            }
        }
        Ok(upload)
    }

    /// Waits for all jobs, then names the file.
    pub async fn finish(mut self, link: &Link) -> Result<()> {
        all(&mut self.jobs).await?;
        job::commit(link, &self.entry).await
    }
}

/// Fetches a file to `path`, by way of `path.part`, whose good sectors are not fetched again.
/// Returns how many bytes were there already.
pub async fn download(
    link: &Arc<Link>,
    entry: &FileEntry,
    path: &Path,
    slots: &Arc<Semaphore>,
    on_bytes: OnBytes,
) -> Result<u64> {
    let mut part_name = path.as_os_str().to_owned();
    part_name.push(".part");
    let part = PathBuf::from(part_name);
    let (file, good) = {
        let (part, entry) = (part.clone(), entry.clone());
        blocking(move || open_part(&part, &entry)).await?
    };
    let file = Arc::new(Mutex::new(file));
    let (mut jobs, mut skipped) = (JoinSet::new(), 0);
    for ((root, offset, length), good) in entry.sectors().zip(good) {
        if good {
            skipped += length as u64;
            on_bytes(length as u64);
            continue;
        }
        let slot = slots.clone().acquire_owned().await.map_err(|_| Error::new("the download was ended"))?;
        let (link, on_bytes, file, part) = (link.clone(), on_bytes.clone(), file.clone(), part.clone());
        jobs.spawn(async move {
            let sector = job::get(&link, root, length, |n| on_bytes(n as u64)).await?;
            drop(slot);
            blocking(move || {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(offset))
                    .and_then(|_| file.write_all(&sector))
                    .context(|| format!("writing {}", part.display()))
            })
            .await
        });
        while let Some(done) = jobs.try_join_next() {
            joined(done)?;
        }
    }
    all(&mut jobs).await?;
    let path = path.to_path_buf();
    blocking(move || {
        std::fs::rename(&part, &path).context(|| format!("renaming {} to {}", part.display(), path.display()))
    })
    .await?;
    Ok(skipped)
}

/// A part of a file.
pub fn read_at(path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
    let doing = || format!("reading {}", path.display());
    let mut file = File::open(path).context(doing)?;
    let mut data = vec![0; length];
    file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut data)).context(doing)?;
    Ok(data)
}

/// Opens a file that may have been begun earlier, and says which of its sectors are good.
fn open_part(part: &Path, entry: &FileEntry) -> Result<(File, Vec<bool>)> {
    let doing = || format!("opening {}", part.display());
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(part).context(doing)?;
    let there = file.metadata().context(doing)?.len();
    let mut good = Vec::with_capacity(entry.roots.len());
    for (root, offset, length) in entry.sectors() {
        let mut sector = Vec::new();
        if offset < there {
            (&mut file).take(length as u64).read_to_end(&mut sector).context(doing)?;
        }
        good.push(sector.len() == length && Hash::of(&sector) == root);
    }
    file.set_len(entry.length).context(doing)?;
    Ok((file, good))
}

async fn all(jobs: &mut JoinSet<Result<()>>) -> Result<()> {
    while let Some(done) = jobs.join_next().await {
        joined(done)?;
    }
    Ok(())
}

fn joined(done: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    done.map_err(|_| Error::new("a job was broken off"))?
}
