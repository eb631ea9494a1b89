//! What server and client say to each other on a stream, whoever carries it.
//!
//! A stream begins with a request of 100 bytes, whose first byte says what follows. Bulk data goes in chunks of 64 KiB, whose first byte says
//! whether it is the last one, so that nothing depends on streams that end in one direction.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::contestant::{Handler, Stream};

/// Bytes of a request, and of an answer.
pub(crate) const REQUEST: usize = 100;

/// Bytes that applications write and read at once.
pub(crate) const CHUNK: usize = 64 << 10;

/// Streams that a server holds without growing its list.
const HELD: usize = 1 << 14;

/// What the client wants of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Command {
    /// One request, one answer.
    Once = 1,
    /// Requests, each answered, until the stream ends.
    Echo,
    /// The client sends chunks; the answer is how many bytes came.
    Sink,
    /// The server sends chunks for a time, in milliseconds.
    Source,
    /// One answer, and the stream stays open.
    Hold,
    /// No answer: the stream is never read.
    Ignore,
    /// Requests and answers of other lengths, until the stream ends: see [`exchange`].
    Exchange,
}

impl Command {
    /// The request that begins a stream.
    pub(crate) fn request(self, argument: u64) -> [u8; REQUEST] {
        let mut request = [0; REQUEST];
        request[0] = self as u8;
        request[1..9].copy_from_slice(&argument.to_be_bytes());
        request
    }

    fn parse(request: &[u8; REQUEST]) -> io::Result<(Self, u64)> {
        let all = [Self::Once, Self::Echo, Self::Sink, Self::Source, Self::Hold, Self::Ignore, Self::Exchange];
        let command = all.into_iter().find(|command| *command as u8 == request[0]);
        let argument = request[1..9].iter().fold(0, |argument, byte| argument << 8 | u64::from(*byte));
        command.map(|command| (command, argument)).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// What a server keeps.
pub(crate) struct Server {
    held: Mutex<Vec<Stream>>,
    half_close: bool,
}

impl Server {
    pub(crate) fn new(half_close: bool) -> Arc<Self> {
        Arc::new(Self { held: Mutex::new(Vec::with_capacity(HELD)), half_close })
    }

    /// Serves streams, each in a task of its own.
    pub(crate) fn handler(self: &Arc<Self>) -> Handler {
        let server = self.clone();
        Arc::new(move |stream| {
            // A stream that fails is the client's to notice.
            tokio::spawn(serve(stream, server.clone()));
        })
    }

    fn held(&self) -> MutexGuard<'_, Vec<Stream>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(mut stream: Stream, server: Arc<Server>) -> io::Result<()> {
    let mut request = [0; REQUEST];
    stream.read_exact(&mut request).await?;
    let (command, argument) = Command::parse(&request)?;
    match command {
        Command::Once => {
            stream.set_urgent();
            stream.write_all(&request).await?;
            if server.half_close {
                stream.shutdown().await?;
            }
            end(&mut stream).await
        }
        Command::Echo => {
            stream.set_urgent();
            loop {
                stream.write_all(&request).await?;
                if stream.read_exact(&mut request).await.is_err() {
                    return stream.shutdown().await;
                }
            }
        }
        Command::Exchange => {
            stream.set_urgent();
            Box::pin(answer(&mut stream, argument)).await
        }
        Command::Sink => {
            let received = Box::pin(receive(&mut stream, |_| {})).await?;
            stream.write_all(&Command::Sink.request(received)).await?;
            stream.flush().await?;
            end(&mut stream).await
        }
        Command::Source => {
            Box::pin(send(&mut stream, Instant::now() + Duration::from_millis(argument))).await?;
            end(&mut stream).await
        }
        Command::Hold => {
            stream.write_all(&request).await?;
            server.held().push(stream);
            Ok(())
        }
        Command::Ignore => {
            server.held().push(stream);
            Ok(())
        }
    }
}

/// Reads to the end, which the other side says.
async fn end(stream: &mut Stream) -> io::Result<()> {
    let mut rest = [0; REQUEST];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Sends chunks until `deadline`, and one more that says so. Gives the number of bytes.
pub(crate) async fn send(stream: &mut Stream, deadline: Instant) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut sent = 0;
    loop {
        let last = Instant::now() >= deadline;
        chunk[0] = u8::from(last);
        stream.write_all(&chunk).await?;
        sent += CHUNK as u64;
        if last {
            stream.flush().await?;
            return Ok(sent);
        }
    }
}

/// Receives chunks to the last one; `arrived` is told of bytes as they come. Gives the number of bytes.
pub(crate) async fn receive(stream: &mut Stream, mut arrived: impl FnMut(usize)) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut received = 0_usize;
    let mut last = false;
    loop {
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // At most one chunk begins in a buffer of the size of a chunk.
        let begin = received.next_multiple_of(CHUNK) - received;
        if begin < len {
            last = buffer[begin] == 1;
        }
        received += len;
        arrived(len);
        if last && received.is_multiple_of(CHUNK) {
            return Ok(received as u64);
        }
    }
}

/// The lengths of a request and its answer, in bytes; each from [`REQUEST`] to [`CHUNK`].
#[derive(Clone, Copy)]
pub(crate) struct Lengths {
    pub(crate) request: usize,
    pub(crate) answer: usize,
}

impl Lengths {
    const fn argument(self) -> u64 {
        (self.request as u64) << 32 | self.answer as u64
    }

    fn parse(argument: u64) -> io::Result<Self> {
        let valid = |len: u64| usize::try_from(len).ok().filter(|len| (REQUEST..=CHUNK).contains(len));
        let lengths = valid(argument >> 32).zip(valid(argument & u64::from(u32::MAX)));
        lengths.map(|(request, answer)| Self { request, answer }).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Answers requests of [`exchange`], of which the beginning of the first one has been read.
async fn answer(stream: &mut Stream, argument: u64) -> io::Result<()> {
    let mut lengths = Lengths::parse(argument)?;
    let mut bytes = vec![0; CHUNK];
    loop {
        stream.read_exact(&mut bytes[REQUEST..lengths.request]).await?;
        stream.write_all(&bytes[..lengths.answer]).await?;
        stream.flush().await?;
        let mut request = [0; REQUEST];
        if stream.read_exact(&mut request).await.is_err() {
            return stream.shutdown().await;
        }
        lengths = Lengths::parse(Command::parse(&request)?.1)?;
    }
}

/// One request and its answer, of these lengths. `bytes` has room for either.
pub(crate) async fn exchange(stream: &mut Stream, lengths: Lengths, bytes: &mut [u8; CHUNK]) -> io::Result<()> {
    bytes[..REQUEST].copy_from_slice(&Command::Exchange.request(lengths.argument()));
    stream.write_all(&bytes[..lengths.request]).await?;
    stream.flush().await?;
    stream.read_exact(&mut bytes[..lengths.answer]).await?;
    Ok(())
}

/// One request on a stream that is there.
pub(crate) async fn ask(stream: &mut Stream, command: Command) -> io::Result<[u8; REQUEST]> {
    stream.write_all(&command.request(0)).await?;
    let mut answer = [0; REQUEST];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
