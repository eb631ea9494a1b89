//! The server: takes what comes, sends what is asked for, answers requests.

use std::io;

use bytes::Bytes;
use peermux_tokio::{Connection, ErrorCode, Listener, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Streams whose data is counted; the answer, once they have ended, is the count as 8 bytes, big-endian.
pub const SINK: &str = "peermux-example/perf/sink/1";
/// Streams on which data is wanted until they are stopped.
pub const SOURCE: &str = "peermux-example/perf/source/1";
/// Streams that are answered, once they have ended, by what came.
pub const ECHO: &str = "peermux-example/perf/echo/1";

/// The longest request.
pub const MAX_REQUEST: u32 = 64 * 1024;

/// What bulk is made of: as much as a stream writes and reads at once.
pub const CHUNK: usize = 64 * 1024;
static ZEROS: [u8; CHUNK] = [0; CHUNK];

/// A chunk of bulk.
pub fn chunk() -> Bytes {
    Bytes::from_static(&ZEROS)
}

/// Serves all who dial.
pub async fn run(listener: Listener) -> io::Result<()> {
    loop {
        tokio::spawn(serve(listener.accept().await?));
    }
}

async fn serve(connection: Connection) {
    while let Ok(stream) = connection.accept_stream().await {
        // What a client gives up is no failure here.
        tokio::spawn(async move {
            match stream.protocol().as_deref() {
                Some(SINK) => sink(stream).await,
                Some(SOURCE) => source(stream).await,
                Some(ECHO) => echo(stream).await,
                _ => {
                    stream.refuse(ErrorCode::UNKNOWN_PROTOCOL);
                    Ok(())
                }
            }
        });
    }
}

async fn sink(mut stream: Stream) -> io::Result<()> {
    let mut count = 0_u64;
    while let Some(chunk) = stream.read_half().read_chunk(CHUNK).await? {
        count += chunk.len() as u64;
    }
    stream.write_u64(count).await?;
    stream.shutdown().await
}

async fn source(mut stream: Stream) -> io::Result<()> {
    loop {
        stream.write_half().write_chunk(&mut chunk()).await?;
    }
}

async fn echo(mut stream: Stream) -> io::Result<()> {
    let mut request = Vec::new();
    (&mut stream).take(u64::from(MAX_REQUEST)).read_to_end(&mut request).await?;
    stream.write_all(&request).await?;
    stream.shutdown().await
}
