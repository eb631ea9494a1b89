//! The traits of the crate `futures-io`, for code that is not written for Tokio. They say what Tokio's say; the runtime is still Tokio's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use crate::{ReadHalf, Stream, WriteHalf};

macro_rules! read {
    ($($stream:ty),*) => {$(
        impl futures_io::AsyncRead for $stream {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
                let mut out = ReadBuf::new(out);
                tokio::io::AsyncRead::poll_read(self, cx, &mut out).map_ok(|()| out.filled().len())
            }
        }
    )*};
}

macro_rules! write {
    ($($stream:ty),*) => {$(
        impl futures_io::AsyncWrite for $stream {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
                tokio::io::AsyncWrite::poll_write(self, cx, bytes)
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                tokio::io::AsyncWrite::poll_flush(self, cx)
            }

            fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                tokio::io::AsyncWrite::poll_shutdown(self, cx)
            }
        }
    )*};
}

read!(Stream, ReadHalf);
write!(Stream, WriteHalf);
