//! The host's directory: sectors by their hash, and a table of files.
//!
//! `sectors/ab/cd…` holds the sector whose hash is `abcd…`; `files/HASH-OF-NAME` holds one file's entry.
//! Both are written under a temporary name and renamed when they are complete, so that what has its
//! name is whole. A sector is checked against its hash whenever it is read from the disk.

use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::error::{Context, Error, Result};
use crate::rpc::{self, Fields, FileEntry, Hash, SECTOR};

/// Sectors kept in memory after a read: a player's reads are many small ones of the same sector.
const CACHED: usize = 8;

#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    /// Whether what is stored must survive a power failure before it is acknowledged.
    durable: bool,
    cache: Mutex<VecDeque<(Hash, Bytes)>>,
}

impl Store {
    /// Opens the store in `dir`, which is created if it is not there.
    pub fn open(dir: &Path, durable: bool) -> Result<Self> {
        for dir in [dir.join("sectors"), dir.join("files")] {
            std::fs::create_dir_all(&dir).context(|| format!("creating {}", dir.display()))?;
        }
        let cache = Mutex::new(VecDeque::new());
        Ok(Self(Arc::new(Inner { dir: dir.into(), durable, cache })))
    }

    pub fn has(&self, root: Hash) -> bool {
        self.0.sector_path(root).is_file()
    }

    /// Stores a sector if `root` is its hash. One that is there already is not written again.
    pub async fn put(&self, root: Hash, data: Vec<u8>) -> Result<()> {
        let inner = self.0.clone();
        blocking(move || {
            if data.len() > SECTOR || data.is_empty() {
                return Err(Error::new(format!("a sector of {} bytes, 1 to {SECTOR} are allowed", data.len())));
            }
            if Hash::of(&data) != root {
                return Err(Error::new(format!("the data sent for sector {root} has another hash")));
            }
            let path = inner.sector_path(root);
            if path.is_file() {
                return Ok(());
            }
            inner.write(&path, &data)
        })
        .await
    }

    /// A whole sector, checked.
    pub async fn get(&self, root: Hash) -> Result<Bytes> {
        if let Some((_, data)) = self.0.cache().iter().find(|(cached, _)| *cached == root) {
            return Ok(data.clone());
        }
        let inner = self.0.clone();
        blocking(move || {
            let path = inner.sector_path(root);
            let data = match std::fs::read(&path) {
                Ok(data) => Bytes::from(data),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    return Err(Error::new(format!("no sector {root} is stored here")));
                }
                Err(e) => return Err(e).context(|| format!("reading sector {root}")),
            };
            if Hash::of(&data) != root {
                // Out of the way, so that a renter that still has it can store it again.
                let _ = std::fs::rename(&path, path.with_extension("damaged"));
                return Err(Error::new(format!("sector {root} is damaged on the host's disk")));
            }
            let mut cache = inner.cache();
            cache.truncate(CACHED - 1);
            cache.push_front((root, data.clone()));
            Ok(data)
        })
        .await
    }

    /// Names a file. A file of that name is replaced.
    pub async fn commit(&self, entry: FileEntry) -> Result<()> {
        let inner = self.0.clone();
        blocking(move || {
            for (root, _, length) in entry.sectors() {
                match std::fs::metadata(inner.sector_path(root)) {
                    Ok(meta) if meta.len() == length as u64 => {}
                    Ok(meta) => {
                        return Err(Error::new(format!(
                            "{:?}: sector {root} has {} bytes, not {length}",
                            entry.name,
                            meta.len()
                        )));
                    }
                    Err(_) => {
                        return Err(Error::new(format!("{:?}: sector {root} is not stored here", entry.name)));
                    }
                }
            }
            let mut bytes = Vec::new();
            rpc::encode_entry(&entry, &mut bytes);
            inner.write(&inner.entry_path(&entry.name), &bytes)
        })
        .await
    }

    pub async fn stat(&self, name: String) -> Result<FileEntry> {
        let inner = self.0.clone();
        blocking(move || match std::fs::read(inner.entry_path(&name)) {
            Ok(bytes) => rpc::decode_entry(&mut Fields(&bytes)).context(|| format!("the entry of {name:?}")),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::new(format!("no file {name:?} is stored here")))
            }
            Err(e) => Err(e).context(|| format!("reading the entry of {name:?}")),
        })
        .await
    }

    /// The names and lengths of all files, sorted by name. Entries that cannot be read are left out.
    pub async fn list(&self) -> Result<Vec<(String, u64)>> {
        let inner = self.0.clone();
        blocking(move || {
            let dir = inner.dir.join("files");
            let mut files = Vec::new();
            for item in std::fs::read_dir(&dir).context(|| format!("reading {}", dir.display()))? {
                let Ok(bytes) = item.and_then(|item| std::fs::read(item.path())) else {
                    continue;
                };
                files.extend(rpc::decode_listed(&mut Fields(&bytes)));
            }
            files.sort();
            Ok(files)
        })
        .await
    }
}

impl Inner {
    fn cache(&self) -> MutexGuard<'_, VecDeque<(Hash, Bytes)>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sector_path(&self, root: Hash) -> PathBuf {
        let hex = root.to_string();
        let (fan, rest) = hex.split_at(2);
        self.dir.join("sectors").join(fan).join(rest)
    }

    fn entry_path(&self, name: &str) -> PathBuf {
        // By its hash, so that no name from a peer ever becomes a path here.
        self.dir.join("files").join(Hash::of(name.as_bytes()).to_string())
    }

    fn write(&self, path: &Path, data: &[u8]) -> Result<()> {
        let doing = || format!("writing {}", path.display());
        let dir = path.parent().unwrap_or(&self.dir);
        std::fs::create_dir_all(dir).context(doing)?;
        let mut file = tempfile::NamedTempFile::new_in(dir).context(doing)?;
        file.write_all(data).context(doing)?;
        if self.durable {
            file.as_file().sync_all().context(doing)?;
        }
        file.persist(path).map_err(|e| e.error).context(doing)?;
        if self.durable && cfg!(unix) {
            // The new name is in the directory, which has to reach the disk too.
            std::fs::File::open(dir).and_then(|dir| dir.sync_all()).context(doing)?;
        }
        Ok(())
    }
}

/// Files and hashes take milliseconds, for which no other stream should wait.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(Error::new("a file operation was broken off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_damaged_sector_is_never_served() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), false).unwrap();
        let root = Hash::of(b"hello");
        assert!(store.put(root, b"hullo".to_vec()).await.is_err());
        store.put(root, b"hello".to_vec()).await.unwrap();
        std::fs::write(store.0.sector_path(root), b"hellO").unwrap();
        assert!(store.get(root).await.unwrap_err().to_string().contains("damaged"));
    }

    #[tokio::test]
    async fn a_file_needs_all_its_sectors() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), false).unwrap();
        let root = Hash::of(b"hello");
        let entry = FileEntry::checked("a".into(), 5, vec![root]).unwrap();
        assert!(store.commit(entry.clone()).await.is_err());
        store.put(root, b"hello".to_vec()).await.unwrap();
        store.commit(entry.clone()).await.unwrap();
        assert_eq!(store.stat("a".into()).await.unwrap(), entry);
        assert_eq!(store.list().await.unwrap(), [("a".to_string(), 5)]);
    }
}
