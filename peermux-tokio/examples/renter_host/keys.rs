//! A peer's secret key, in a file: 64 hexadecimal digits, for its owner's eyes only.

use std::io::Write;
use std::path::Path;

use crate::error::{Context, Error, Result};
use crate::rpc::{Hash, unhex};

/// Reads the key in `path`, or makes a new one there. Says whether it is new.
pub fn load_or_create(path: &Path) -> Result<([u8; 32], bool)> {
    match std::fs::read(path) {
        Ok(text) => {
            warn_of_readers(path);
            parse(&text)
                .map(|secret| (secret, false))
                .map_err(|why| Error::new(format!("the key file {}: {why}", path.display())))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok((create(path)?, true)),
        Err(e) => Err(e).context(|| format!("reading the key file {}", path.display())),
    }
}

/// A new key.
pub fn random() -> Result<[u8; 32]> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|e| Error::new(format!("the system gave no random bytes: {e}")))?;
    Ok(secret)
}

/// Errors never quote the text: it may be most of a key.
fn parse(text: &[u8]) -> Result<[u8; 32], String> {
    let text = text.trim_ascii();
    if text.len() != 64 {
        return Err(format!("a key is 64 hexadecimal digits, here are {} characters", text.len()));
    }
    let secret = std::str::from_utf8(text)
        .ok()
        .and_then(unhex)
        .ok_or("a key is 64 hexadecimal digits, here are other characters")?;
    if secret == [0; 32] {
        return Err("the key is all zeros".into());
    }
    Ok(secret)
}

fn create(path: &Path) -> Result<[u8; 32]> {
    let secret = random()?;
    let doing = || format!("creating the key file {}", path.display());
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    // A temporary file is for its owner only from the start; it gets its name when it is complete,
    // and only if nobody has made one in the meantime.
    let mut file = tempfile::NamedTempFile::new_in(dir).context(doing)?;
    writeln!(file, "{}", Hash(secret)).context(doing)?;
    file.as_file().sync_all().context(doing)?;
    file.persist_noclobber(path).map_err(|e| e.error).context(doing)?;
    Ok(secret)
}

/// A key that others can read is no secret, but refusing it would help nobody now.
fn warn_of_readers(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if let Ok(meta) = std::fs::metadata(path)
            && meta.permissions().mode() & 0o077 != 0
        {
            warn!(
                "warning: others can read or write the key file {path} (mode {mode:o}); `chmod 600 {path}`, \
                 or delete it for a new one if it may have been read",
                path = path.display(),
                mode = meta.permissions().mode() & 0o777,
            );
        }
    }
    #[cfg(not(unix))]
    let _ = path;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        let (made, new) = load_or_create(&path).unwrap();
        assert!(new);
        assert_eq!(load_or_create(&path).unwrap(), (made, false));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_damaged_key_is_told_apart_without_being_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        for text in ["", "abc", &"g".repeat(64), &"0".repeat(64), &"a".repeat(65)] {
            std::fs::write(&path, text).unwrap();
            let error = load_or_create(&path).unwrap_err().to_string();
            assert!(error.contains("a.key") && (text.len() < 3 || !error.contains(text)), "{error}");
        }
    }
}
