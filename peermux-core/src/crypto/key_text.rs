//! Keys as text: 64 hexadecimal digits. Digits are converted in constant time, because some of them are secret.

use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use zeroize::Zeroizing;

use super::{PublicKey, StaticSecret};

/// The number of hexadecimal digits in a key.
const DIGITS: usize = 64;

/// The reason why a text is not a [`PublicKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseKeyError {
    /// The text has this many characters instead of 64.
    Length(usize),
    /// The text contains a character that is not a hexadecimal digit.
    Digit {
        /// The number of characters before it.
        position: usize,
        /// The character.
        found: char,
    },
}

impl fmt::Display for ParseKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(found) => write!(f, "invalid key: expected {DIGITS} hexadecimal digits, got {found}"),
            Self::Digit { position, found } => {
                write!(f, "invalid key: {found:?} at position {position} is not a hexadecimal digit")
            }
        }
    }
}

impl core::error::Error for ParseKeyError {}

/// The reason why a text is not a [`StaticSecret`]. It contains nothing of the text, which may be most of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseSecretError {
    /// The text has this many characters instead of 64.
    Length(usize),
    /// The text contains a character that is not a hexadecimal digit.
    Digit {
        /// The number of characters before it.
        position: usize,
    },
}

impl fmt::Display for ParseSecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(found) => write!(f, "invalid secret: expected {DIGITS} hexadecimal digits, got {found}"),
            Self::Digit { position } => {
                write!(f, "invalid secret: the character at position {position} is not a hexadecimal digit")
            }
        }
    }
}

impl core::error::Error for ParseSecretError {}

/// Converts 64 digits of either case.
fn decode(text: &str, bytes: &mut [u8; 32]) -> Result<(), ParseKeyError> {
    if text.len() == DIGITS && base16ct::mixed::decode(text, bytes).is_ok() {
        return Ok(());
    }
    // An invalid text is no secret, so looking for what is wrong with it may take any time.
    let wrong = text.chars().enumerate().find(|(_, found)| !found.is_ascii_hexdigit());
    Err(match wrong {
        Some((position, found)) => ParseKeyError::Digit { position, found },
        None => ParseKeyError::Length(text.len()),
    })
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    /// Reads 64 hexadecimal digits of either case.
    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let mut key = [0; 32];
        decode(text, &mut key)?;
        Ok(Self::from_bytes(key))
    }
}

impl fmt::Display for PublicKey {
    /// Writes 64 lowercase hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; DIGITS];
        f.pad(base16ct::lower::encode_str(self.as_bytes(), &mut digits).map_err(|_| fmt::Error)?)
    }
}

impl StaticSecret {
    /// Reads a secret from 64 hexadecimal digits of either case, such as [`StaticSecret::expose_hex`] returns.
    /// Surrounding white space is an error: trim what a file contains.
    ///
    /// # Errors
    /// Returns [`ParseSecretError`] if `text` is not 64 hexadecimal digits. The error contains nothing of `text`.
    pub fn from_hex(text: &str) -> Result<Self, ParseSecretError> {
        let mut bytes = Zeroizing::new([0; 32]);
        decode(text, &mut bytes).map_err(|error| match error {
            ParseKeyError::Length(found) => ParseSecretError::Length(found),
            ParseKeyError::Digit { position, .. } => ParseSecretError::Digit { position },
        })?;
        Ok(Self::from_bytes(&bytes))
    }

    /// Returns the secret as 64 lowercase hexadecimal digits, to be stored in a safe place. The text is erased when it
    /// is dropped.
    pub fn expose_hex(&self) -> Zeroizing<String> {
        let mut digits = Zeroizing::new([0; DIGITS]);
        let text = base16ct::lower::encode_str(&self.to_bytes()[..], &mut digits[..]);
        Zeroizing::new(text.expect("64 digits fit").into())
    }
}
