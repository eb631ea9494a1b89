//! A secret key in a file: 64 hexadecimal digits, for its owner's eyes only.

use std::io::Write as _;
use std::path::Path;

use peermux_tokio::{StaticSecret, Zeroizing};

use crate::Failure;

/// Reads the key in `path`, or makes a new one there.
pub fn load_or_create(path: &Path) -> Result<StaticSecret, Failure> {
    let shown = path.display();
    match std::fs::read_to_string(path) {
        Ok(text) => {
            warn_of_readers(path);
            let text = Zeroizing::new(text);
            StaticSecret::from_hex(text.trim()).map_err(|error| format!("key file {shown}: {error}"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            create(path).map_err(|error| format!("creating the key file {shown}: {error}"))
        }
        Err(error) => Err(format!("reading the key file {shown}: {error}")),
    }
}

fn create(path: &Path) -> std::io::Result<StaticSecret> {
    let secret = StaticSecret::generate()?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A temporary file is for its owner only from the start; it gets its name when it is complete, and only if nobody has made one meanwhile.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(secret.expose_hex().as_bytes())?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    Ok(secret)
}

/// A key that others can read is no secret, but refusing it would help nobody now.
#[cfg(unix)]
fn warn_of_readers(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0) {
        let path = path.display();
        warn!("warning: others can read or write the key file {path}; `chmod 600 {path}`, or delete it for a new one");
    }
}

#[cfg(not(unix))]
fn warn_of_readers(_: &Path) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        let made = load_or_create(&path).unwrap();
        assert_eq!(load_or_create(&path).unwrap(), made);
        std::fs::write(&path, "0123456789abcdefg").unwrap();
        let error = load_or_create(&path).unwrap_err();
        assert!(error.contains("a.key") && !error.contains("0123"), "{error}");
    }
}
