//! The host's side: serves a store to whoever comes.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::error::{Context, Error, Result};
use crate::gossip::Gossip;
use crate::link::{self, Protocol};
use crate::rpc::{self, LONGEST_MESSAGE, Request, SECTOR};
use crate::store::Store;

/// Sectors on their way in at once, over all renters: 256 MiB of memory.
const PUTS_AT_ONCE: usize = 64;

/// How jobs come on plain TCP connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    /// One after the other, each with its protocol's name, on a connection that lasts.
    Single,
    /// One connection each.
    PerJob,
}

#[derive(Clone)]
pub struct Host {
    store: Store,
    gossip: Option<Arc<Gossip>>,
    puts: Arc<Semaphore>,
}

impl Host {
    pub fn new(store: Store, gossip: Option<Arc<Gossip>>) -> Self {
        Self { store, gossip, puts: Arc::new(Semaphore::new(PUTS_AT_ONCE)) }
    }

    /// Serves plain TCP connections until it is dropped.
    pub async fn serve_plain(self, listener: TcpListener, how: Plain) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else {
                        // Out of file descriptors, most likely: connections that end will free some.
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    };
                    let host = self.clone();
                    // A connection that breaks concerns its renter, who sees it too.
                    connections.spawn(async move { host.plain(stream, how).await });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn plain(&self, mut stream: TcpStream, how: Plain) -> Result<()> {
        stream.set_nodelay(true).on_link(|| "serving a connection".into())?;
        while let Some(protocol) = link::receive_name(&mut stream).await? {
            match (how, protocol) {
                (Plain::Single, Protocol::Rhp) => {
                    self.serve_one(&mut stream).await?;
                }
                (Plain::Single, Protocol::Gateway) => match &self.gossip {
                    Some(gossip) => gossip.answer(&mut stream).await?,
                    None => return Ok(()),
                },
                (Plain::PerJob, _) => return self.serve(protocol, stream).await,
            }
        }
        Ok(())
    }

    /// Serves one stream that speaks `protocol` until its end.
    pub async fn serve(&self, protocol: Protocol, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
        match protocol {
            Protocol::Rhp => while self.serve_one(&mut stream).await? {},
            Protocol::Gateway => match &self.gossip {
                Some(gossip) => gossip.host_talks(&mut stream).await?,
                None => return Err(Error::new("this host does not gossip")),
            },
        }
        stream.shutdown().await.on_link(|| "ending a stream".into())
    }

    /// Serves one job; `false` is the end of the stream.
    async fn serve_one(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<bool> {
        let Some(message) = rpc::receive(stream, LONGEST_MESSAGE).await? else {
            return Ok(false);
        };
        let done = match Request::decode(&message) {
            Ok(Request::Put { root, length }) => {
                if length as usize > SECTOR {
                    // What follows cannot be read, nor skipped: the stream ends here.
                    let why = Error::new(format!("a sector of {length} bytes, {SECTOR} are allowed"));
                    refuse(stream, &why).await?;
                    return Err(why);
                }
                let Ok(_permit) = self.puts.acquire().await else {
                    return Ok(false);
                };
                let data = rpc::receive_body(stream, length as usize, |_| {}).await?;
                self.store.put(root, data).await.map(|()| (Vec::new(), Default::default()))
            }
            Ok(Request::Get { root, offset, length }) => self.store.get(root).await.and_then(|sector| {
                let end = offset as usize + length as usize;
                if end > sector.len() {
                    return Err(Error::new(format!("sector {root} has {} bytes, not {end}", sector.len())));
                }
                Ok((u64::from(length).to_be_bytes().to_vec(), sector.slice(offset as usize..end)))
            }),
            Ok(Request::Have(roots)) => {
                let stored = roots.iter().map(|&root| u8::from(self.store.has(root))).collect();
                Ok((stored, Default::default()))
            }
            Ok(Request::Commit(entry)) => self.store.commit(entry).await.map(|()| (Vec::new(), Default::default())),
            Ok(Request::Stat(name)) => self.store.stat(name).await.map(|entry| {
                let mut out = Vec::new();
                rpc::encode_entry(&entry, &mut out);
                (out, Default::default())
            }),
            Ok(Request::List) => self.store.list().await.map(|files| {
                let mut out = Vec::new();
                for (name, length) in files {
                    // A listing that is too long for a message ends early.
                    if out.len() + name.len() + 10 < LONGEST_MESSAGE {
                        rpc::encode_listed(&name, length, &mut out);
                    }
                }
                (out, Default::default())
            }),
            Err(why) => Err(why),
        };
        match done {
            Ok((mut fields, body)) => {
                fields.insert(0, 0);
                rpc::send(stream, &fields, &body, |_| {}).await?;
            }
            Err(why) => refuse(stream, &why).await?,
        }
        Ok(true)
    }
}

async fn refuse(stream: &mut (impl AsyncWrite + Unpin), why: &Error) -> Result<()> {
    let mut message = vec![1];
    message.extend(why.to_string().bytes().take(1000));
    rpc::send(stream, &message, &[], |_| {}).await
}
