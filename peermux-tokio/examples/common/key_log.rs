//! A key log file on request, for `tools/peermux.lua`. Whoever has it reads and forges all that the connections carry: for debugging only.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use peermux_tokio::{KeyLog, TrafficSecrets};

struct KeyLogFile(Mutex<File>);

impl KeyLog for KeyLogFile {
    fn log(&self, secrets: &TrafficSecrets<'_>) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // In one piece, so that two processes may write into one file. A disk that is full breaks no connection.
        let _ = file.write_all(format!("{secrets}\n").as_bytes());
    }
}

/// What a configuration takes: secrets are added to the file in `path`, which is made for its owner's eyes if it is not there.
pub fn open(path: Option<&Path>) -> io::Result<Option<Arc<dyn KeyLog>>> {
    let Some(path) = path else { return Ok(None) };
    let mut options = File::options();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let named = |error: io::Error| io::Error::new(error.kind(), format!("the key log {}: {error}", path.display()));
    Ok(Some(Arc::new(KeyLogFile(Mutex::new(options.open(path).map_err(named)?)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_sides_log_the_same_two_lines() {
        use peermux_tokio::{Config, ExpectedPeer, Listener, StaticSecret, connect};

        let dir = tempfile::tempdir().unwrap();
        let paths = ["one", "other"].map(|name| dir.path().join(name));
        let [one, other] =
            paths.each_ref().map(|path| Config { key_log: open(Some(path)).unwrap(), ..Config::default() });
        let secret = StaticSecret::from_bytes(&[1; 32]);
        let expected = ExpectedPeer::Key(secret.public_key());
        let listener = Listener::bind("127.0.0.1:0", secret, one).await.unwrap();
        let dial = connect(listener.local_addr(), StaticSecret::from_bytes(&[2; 32]), expected, other);
        tokio::try_join!(dial, listener.accept()).unwrap();
        let [one, other] = paths.map(|path| std::fs::read_to_string(path).unwrap());
        assert_eq!(one, other);
        let starts: Vec<_> = one.lines().map(|line| line.split(' ').next()).collect();
        assert_eq!(starts, [Some("PEERMUX_I2R"), Some("PEERMUX_R2I")]);
        assert!(open(None).unwrap().is_none());
        assert!(open(Some(dir.path())).err().unwrap().to_string().contains("key log"));
    }
}
