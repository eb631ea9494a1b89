//! The renter's side of each job.

use std::collections::VecDeque;

use crate::error::{Context, Error, Result};
use crate::link::{JobStream, Link, Protocol, Urgency};
use crate::rpc::{self, Fields, FileEntry, Hash, LONGEST_MESSAGE, MOST_ASKED, Request};

/// Stores one sector.
pub async fn put(link: &Link, root: Hash, data: &[u8], on_bytes: impl FnMut(usize)) -> Result<()> {
    let request = Request::Put { root, length: data.len() as u32 };
    let doing = || format!("storing sector {root}");
    let answer = once(link, Urgency::Upload, &request, data, on_bytes).await.context(doing)?;
    Fields(&answer).end().context(doing)
}

/// Says which of the sectors are stored already.
pub async fn have(link: &Link, roots: &[Hash]) -> Result<Vec<bool>> {
    let mut stored = Vec::with_capacity(roots.len());
    for asked in roots.chunks(MOST_ASKED) {
        let doing = || "asking which sectors are stored".into();
        let request = Request::Have(asked.to_vec());
        let answer = once(link, Urgency::Control, &request, &[], |_| {}).await.context(doing)?;
        if answer.len() != asked.len() {
            return Err(Error::new(format!("the host answered for {} of {} sectors", answer.len(), asked.len())));
        }
        stored.extend(answer.iter().map(|&byte| byte == 1));
    }
    Ok(stored)
}

/// Asks nothing, to see whether the host answers.
pub async fn hello(link: &Link) -> Result<()> {
    let answer = once(link, Urgency::Control, &Request::Have(Vec::new()), &[], |_| {}).await?;
    Fields(&answer).end()
}

/// Names a file whose sectors are stored.
pub async fn commit(link: &Link, entry: &FileEntry) -> Result<()> {
    let doing = || format!("committing {:?}", entry.name);
    let request = Request::Commit(entry.clone());
    let answer = once(link, Urgency::Control, &request, &[], |_| {}).await.context(doing)?;
    Fields(&answer).end().context(doing)
}

/// Looks a file up.
pub async fn stat(link: &Link, name: &str) -> Result<FileEntry> {
    let doing = || format!("looking up {name:?}");
    let request = Request::Stat(name.into());
    let answer = once(link, Urgency::Control, &request, &[], |_| {}).await.context(doing)?;
    let entry = rpc::decode_entry(&mut Fields(&answer)).context(doing)?;
    if entry.name != name {
        return Err(Error::new(format!("looking up {name:?}: the host answered for {:?}", entry.name)));
    }
    Ok(entry)
}

/// The names and lengths of all files.
pub async fn list(link: &Link) -> Result<Vec<(String, u64)>> {
    let doing = || "listing the files".into();
    let answer = once(link, Urgency::Control, &Request::List, &[], |_| {}).await.context(doing)?;
    let mut fields = Fields(&answer);
    let mut files = Vec::new();
    while !fields.is_empty() {
        files.push(rpc::decode_listed(&mut fields).context(doing)?);
    }
    Ok(files)
}

/// Fetches a whole sector and checks it.
pub async fn get(link: &Link, root: Hash, length: usize, on_bytes: impl FnMut(usize)) -> Result<Vec<u8>> {
    let doing = || format!("fetching sector {root}");
    let request = Request::Get { root, offset: 0, length: length as u32 };
    let mut stream = link.open(Protocol::Rhp, Urgency::Control, Urgency::Download).await.context(doing)?;
    rpc::send(&mut stream, &request.encode(), &[], |_| {}).await.context(doing)?;
    stream.end_requests().await.context(doing)?;
    let data = get_answer(&mut stream, length, on_bytes).await.context(doing)?;
    stream.done().await.context(doing)?;
    if Hash::of(&data) != root {
        return Err(Error::new(format!("fetching sector {root}: what came has another hash")));
    }
    Ok(data)
}

/// Parts of sectors, one after the other: on one stream, with several requests under way, unless
/// others need the stream in between.
pub struct Reader<'a> {
    link: &'a Link,
    urgency: Urgency,
    stream: Option<JobStream>,
    /// The parts that were asked for, and their lengths.
    asked: VecDeque<(Hash, usize)>,
}

impl<'a> Reader<'a> {
    pub fn new(link: &'a Link, urgency: Urgency) -> Self {
        Self { link, urgency, stream: None, asked: VecDeque::new() }
    }

    /// How many parts may be asked for before the first of them is received.
    pub fn most(&self) -> usize {
        match &self.stream {
            Some(stream) if !stream.is_shared() => 4,
            _ => 1,
        }
    }

    /// How many bytes were asked for and not yet received.
    pub fn asked(&self) -> (usize, usize) {
        (self.asked.len(), self.asked.iter().map(|(_, length)| length).sum())
    }

    pub async fn ask(&mut self, root: Hash, offset: usize, length: usize) -> Result<()> {
        let doing = || format!("reading sector {root}");
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.link.open(Protocol::Rhp, self.urgency, self.urgency).await.context(doing)?,
        };
        let request = Request::Get { root, offset: offset as u32, length: length as u32 };
        rpc::send(&mut stream, &request.encode(), &[], |_| {}).await.context(doing)?;
        self.stream = Some(stream);
        self.asked.push_back((root, length));
        Ok(())
    }

    /// The first of the parts that were asked for. It cannot be checked: a hash is of a whole sector.
    pub async fn receive(&mut self, on_bytes: impl FnMut(usize)) -> Result<Vec<u8>> {
        let (Some(stream), Some((root, length))) = (&mut self.stream, self.asked.pop_front()) else {
            return Err(Error::new("reading: nothing was asked for"));
        };
        let doing = || format!("reading sector {root}");
        let data = get_answer(stream, length, on_bytes).await.context(doing)?;
        if let Some(stream) = self.stream.take_if(|stream| stream.is_shared()) {
            stream.done().await.context(doing)?;
        }
        Ok(data)
    }

    pub async fn done(mut self) -> Result<()> {
        match self.stream.take() {
            Some(mut stream) => {
                stream.end_requests().await?;
                stream.done().await
            }
            None => Ok(()),
        }
    }
}

async fn get_answer(stream: &mut JobStream, length: usize, on_bytes: impl FnMut(usize)) -> Result<Vec<u8>> {
    let mut fields = answer(stream).await?;
    let announced = Fields(&fields).u64("length")?;
    fields.drain(..8);
    Fields(&fields).end()?;
    if announced != length as u64 {
        return Err(Error::new(format!("the host announced {announced} of {length} bytes")));
    }
    rpc::receive_body(stream, length, on_bytes).await
}

/// A job of one request and one answer, on a stream of its own.
async fn once(
    link: &Link,
    urgency: Urgency,
    request: &Request,
    body: &[u8],
    on_bytes: impl FnMut(usize),
) -> Result<Vec<u8>> {
    let mut stream = link.open(Protocol::Rhp, urgency, Urgency::Control).await?;
    rpc::send(&mut stream, &request.encode(), body, on_bytes).await?;
    stream.end_requests().await?;
    let answer = answer(&mut stream).await?;
    stream.done().await?;
    Ok(answer)
}

/// The fields of an answer, or the host's refusal as an error.
async fn answer(stream: &mut JobStream) -> Result<Vec<u8>> {
    let mut message = rpc::receive(stream, LONGEST_MESSAGE)
        .await?
        .ok_or_else(|| Error::lost("the host ended the stream without an answer"))?;
    let mut fields = Fields(&message);
    match fields.u8("outcome")? {
        0 => {
            message.remove(0);
            Ok(message)
        }
        1 => {
            let why: String = fields.text(1024)?.chars().filter(|c| !c.is_control()).collect();
            Err(Error::new(format!("the host refuses: {why}")))
        }
        outcome => Err(Error::new(format!("an answer of the unknown outcome {outcome}"))),
    }
}
