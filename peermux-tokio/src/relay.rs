//! Joining a stream with another one.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, sink, split};

use crate::{Stream, WriteError};

/// Copies in both directions between `local` and `stream`, until both have ended, and returns the number of bytes that were sent on `stream`, and that were received from it.
///
/// Each end is passed on: `shutdown` of one side becomes `shutdown` of the other. The difference from [`tokio::io::copy_bidirectional`]: if the peer wants no more of what this side
/// sends ([`WriteError::Stopped`]), its answer is still copied to the end. A server that answers before it has read the whole request, and stops it, is an ordinary one. What `local` still sends is read and
/// discarded. `copy_bidirectional` returns the error at once, and the rest of the answer is lost.
///
/// # Errors
/// Returns the first other error of either side. Then `local` may have got a part of what the peer sent. If it is a TCP socket, close it with a reset, by
/// `SO_LINGER` of zero, and not with an orderly end: otherwise a program that reads to the end takes the part for the whole. Dropping `stream` resets it, as the peer must see.
///
/// # Cancel safety
/// This function is not cancel safe: bytes that were read from one side and not yet written to the other are lost if the future is dropped. The stream is reset then.
pub async fn relay(local: &mut (impl AsyncRead + AsyncWrite + Unpin), stream: Stream) -> io::Result<(u64, u64)> {
    let (mut local_read, mut local_write) = split(local);
    let (mut read, mut write) = stream.into_split();
    let up = async {
        let sent = async {
            copy(&mut local_read, &mut write).await?;
            write.shutdown().await
        };
        match sent.await {
            Err(error) if is_stop(&error) => drop(copy(&mut local_read, &mut sink()).await?),
            result => result?,
        }
        Ok(write.stats().map_or(0, |stats| stats.sent))
    };
    let down = async {
        let bytes = copy(&mut read, &mut local_write).await?;
        local_write.shutdown().await?;
        Ok(bytes)
    };
    tokio::try_join!(up, down)
}

fn is_stop(error: &io::Error) -> bool {
    matches!(error.get_ref().and_then(|inner| inner.downcast_ref()), Some(WriteError::Stopped(_)))
}
