//! The jobs between a renter and its host, as messages on any byte stream.
//!
//! A message is its length (4 bytes, big-endian), then that many bytes. A request starts with its kind;
//! a put's sector follows it. An answer starts with 0 for "done" or 1 for "refused, and why"; a
//! get's bytes follow it. Every length is checked before anything is allocated for it.

use std::time::Duration;

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::error::{Context, Error, Result};
pub use crate::fields::{Fields, Hash, unhex};

/// What a host stores in one piece.
pub const SECTOR: usize = 4 << 20;
/// 256 GiB.
pub const MOST_SECTORS: usize = 1 << 16;
/// As many sectors as one question may ask about.
pub const MOST_ASKED: usize = 1024;
/// The longest message: a file of the most sectors.
pub const LONGEST_MESSAGE: usize = 32 * MOST_SECTORS + 1024;
/// The longest file name, in bytes.
pub const LONGEST_NAME: usize = 255;
/// A job that moves nothing for so long has failed.
const STANDSTILL: Duration = Duration::from_secs(30);
/// As much as one write or read moves.
const PIECE: usize = 64 * 1024;

/// A file as its host knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    pub name: String,
    pub length: u64,
    /// The hashes of its sectors. All but the last are full.
    pub roots: Vec<Hash>,
}

impl FileEntry {
    pub fn checked(name: String, length: u64, roots: Vec<Hash>) -> Result<Self> {
        check_name(&name)?;
        if roots.len() > MOST_SECTORS || length.div_ceil(SECTOR as u64) != roots.len() as u64 {
            return Err(Error::new(format!(
                "{name:?}: {} sectors do not make {length} bytes (at most {MOST_SECTORS} of {SECTOR} bytes each)",
                roots.len()
            )));
        }
        Ok(Self { name, length, roots })
    }

    /// Names the whole content: through the sectors' hashes, every byte of it.
    pub fn id(&self) -> Hash {
        let mut hasher = Blake2b::<U32>::new();
        hasher.update(b"renter_host file\0");
        hasher.update(self.length.to_be_bytes());
        for root in &self.roots {
            hasher.update(root.0);
        }
        Hash(hasher.finalize().into())
    }

    /// Where in the file its sectors are, and how long they are.
    pub fn sectors(&self) -> impl Iterator<Item = (Hash, u64, usize)> + '_ {
        self.roots.iter().enumerate().map(|(i, &root)| {
            let offset = (i * SECTOR) as u64;
            (root, offset, (self.length - offset).min(SECTOR as u64) as usize)
        })
    }
}

/// A name that is safe as a file's name on any system, whoever sent it.
pub fn check_name(name: &str) -> Result<()> {
    let bad = |c: char| c.is_control() || matches!(c, '/' | '\\' | ':');
    if name.is_empty() || name.len() > LONGEST_NAME || name.contains(bad) || name.starts_with('.') {
        return Err(Error::new(format!(
            "{name:?} is no name for a file: 1 to {LONGEST_NAME} bytes, no leading dot, no slash, \
             backslash, colon or control character"
        )));
    }
    Ok(())
}

/// What a renter asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Store the `length` bytes that follow, if their hash is `root`.
    Put { root: Hash, length: u32 },
    /// Send that part of that sector.
    Get { root: Hash, offset: u32, length: u32 },
    /// Say which of these sectors are stored: a byte for each, 1 or 0.
    Have(Vec<Hash>),
    /// Name a file whose sectors are all stored.
    Commit(FileEntry),
    /// Describe the file of that name.
    Stat(String),
    /// Describe all files, without their sectors.
    List,
}

impl Request {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Put { root, length } => {
                out.push(1);
                out.extend(root.0);
                out.extend(length.to_be_bytes());
            }
            Self::Get { root, offset, length } => {
                out.push(2);
                out.extend(root.0);
                out.extend(offset.to_be_bytes());
                out.extend(length.to_be_bytes());
            }
            Self::Have(roots) => {
                out.push(3);
                roots.iter().for_each(|root| out.extend(root.0));
            }
            Self::Commit(entry) => {
                out.push(4);
                encode_entry(entry, &mut out);
            }
            Self::Stat(name) => {
                out.push(5);
                out.extend(name.as_bytes());
            }
            Self::List => out.push(6),
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields(bytes);
        let request = match fields.u8("kind")? {
            1 => Self::Put { root: fields.hash("root")?, length: fields.u32("length")? },
            2 => Self::Get { root: fields.hash("root")?, offset: fields.u32("offset")?, length: fields.u32("length")? },
            3 => Self::Have(fields.hashes(MOST_ASKED)?),
            4 => Self::Commit(decode_entry(&mut fields)?),
            5 => Self::Stat(fields.text(LONGEST_NAME)?),
            6 => Self::List,
            kind => return Err(Error::new(format!("a request of unknown kind {kind}"))),
        };
        fields.end()?;
        Ok(request)
    }
}

/// name length (2) ‖ name ‖ file length (8) ‖ roots
pub fn encode_entry(entry: &FileEntry, out: &mut Vec<u8>) {
    encode_listed(&entry.name, entry.length, out);
    entry.roots.iter().for_each(|root| out.extend(root.0));
}

/// The start of an entry, which is all that a listing says of a file.
pub fn encode_listed(name: &str, length: u64, out: &mut Vec<u8>) {
    out.extend((name.len() as u16).to_be_bytes());
    out.extend(name.as_bytes());
    out.extend(length.to_be_bytes());
}

pub fn decode_entry(fields: &mut Fields<'_>) -> Result<FileEntry> {
    let (name, length) = decode_listed(fields)?;
    FileEntry::checked(name, length, fields.hashes(MOST_SECTORS)?)
}

pub fn decode_listed(fields: &mut Fields<'_>) -> Result<(String, u64)> {
    let name_len = usize::from(fields.u16("name length")?);
    let name = Fields(fields.bytes("name", name_len)?).text(LONGEST_NAME)?;
    check_name(&name)?;
    Ok((name, fields.u64("file length")?))
}

/// Fails `io` once it has moved nothing for [`STANDSTILL`].
async fn moving<T>(io: impl Future<Output = std::io::Result<T>>, doing: &str) -> Result<T> {
    match tokio::time::timeout(STANDSTILL, io).await {
        Ok(done) => done.on_link(|| doing.into()),
        Err(_) => Err(Error::lost(format!("{doing}: nothing moved for {} s", STANDSTILL.as_secs()))),
    }
}

/// Sends one message, and `body` after it.
pub async fn send<W: AsyncWrite + Unpin>(
    to: &mut W,
    message: &[u8],
    body: &[u8],
    mut on_bytes: impl FnMut(usize),
) -> Result<()> {
    // In one write with the length, since a small write of its own may become a packet of its own.
    let mut head = Vec::with_capacity(4 + message.len());
    head.extend((message.len() as u32).to_be_bytes());
    head.extend(message);
    for piece in head.chunks(PIECE) {
        moving(to.write_all(piece), "sending").await?;
    }
    for piece in body.chunks(PIECE) {
        moving(to.write_all(piece), "sending").await?;
        on_bytes(piece.len());
    }
    moving(to.flush(), "sending").await
}

/// Receives one message; `None` is the end of the stream between two messages.
pub async fn receive<R: AsyncRead + Unpin>(from: &mut R, most: usize) -> Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    let first = moving(from.read(&mut length), "receiving").await?;
    if first == 0 {
        return Ok(None);
    }
    moving(from.read_exact(&mut length[first..]), "receiving").await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > most {
        return Err(Error::new(format!("a message of {length} bytes, {most} are allowed here")));
    }
    receive_body(from, length, |_| {}).await.map(Some)
}

/// Receives `length` bytes. Memory grows as they come, not as they are announced.
pub async fn receive_body<R: AsyncRead + Unpin>(
    from: &mut R,
    length: usize,
    mut on_bytes: impl FnMut(usize),
) -> Result<Vec<u8>> {
    let mut body = Vec::with_capacity(length.min(PIECE));
    while body.len() < length {
        let left = (length - body.len()).min(PIECE) as u64;
        let n = moving((&mut *from).take(left).read_buf(&mut body), "receiving").await?;
        if n == 0 {
            return Err(Error::lost(format!("receiving: it ended after {} of {length} bytes", body.len())));
        }
        on_bytes(n);
    }
    Ok(body)
}
