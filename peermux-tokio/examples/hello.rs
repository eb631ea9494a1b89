//! One peer listens, another dials it and asks a question.
//!
//! ```text
//! cargo run -p peermux-tokio --example hello
//! ```
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::io;

use peermux_tokio::{Config, Connection, Listener, Priority, Remote, StaticSecret, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Answers each stream by what was asked, in capitals.
async fn serve(connection: Connection) -> io::Result<()> {
    while let Ok(mut stream) = connection.accept().await {
        let mut question = String::new();
        stream.read_to_string(&mut question).await?;
        stream.write_all(question.to_uppercase().as_bytes()).await?;
        stream.shutdown().await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> io::Result<()> {
    // A static key is who one is. Store it: a peer is known by its public half.
    let host_key = StaticSecret::generate()?;
    let renter_key = StaticSecret::generate()?;
    let host = host_key.public_key();

    let listener = Listener::bind("127.0.0.1:0", host_key, Config::default()).await?;
    let address = listener.local_addr();
    tokio::spawn(async move { serve(listener.accept().await?).await });

    // Only the holder of that key will do.
    let connection = connect(address, renter_key, Remote::Key(host), Config::default()).await?;
    // Any number of streams. Urgency 0 goes first, 7 last; streams that are incremental take turns.
    let mut stream = connection.open("example/shout", Priority::new(2, false))?;
    stream.write_all(b"hello").await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    assert_eq!(answer, "HELLO");
    println!("{answer}, says {host:?}");

    drop(stream);
    connection.close(0, "done").await;
    Ok(())
}
