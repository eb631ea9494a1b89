//! Targets: what the first bytes of a stream say, and what the command line says.
//!
//! On the wire a target is one byte, the length of what follows, and HOST:PORT in ASCII; an IPv6 address is in brackets.

use std::fmt;
use std::io;
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Where a TCP connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A name or an address, in lower case and without brackets.
    pub host: String,
    pub port: u16,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > 255 {
            return Err("a target has at most 255 characters".into());
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("{text:?} is not HOST:PORT"))?;
        let port = match port.parse() {
            Ok(port) if port != 0 => port,
            _ => return Err(format!("{port:?} is not a port from 1 to 65535")),
        };
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => address,
            None if !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) =>
            {
                host
            }
            _ => return Err(format!("{host:?} is no host: a name, an IPv4 address, or an IPv6 address in brackets")),
        };
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Target {
    /// As it stands at the beginning of a stream.
    pub fn encode(&self) -> Vec<u8> {
        let text = self.to_string();
        // Parsing has bounded it.
        let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
        [&[length], text.as_bytes()].concat()
    }

    /// Reads what [`Target::encode`] wrote, and not a byte more. An error of the kind `InvalidData` is the peer's fault.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut text = vec![0; usize::from(stream.read_u8().await?)];
        stream.read_exact(&mut text).await?;
        let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
        let text = str::from_utf8(&text).map_err(|error| invalid(error.to_string()))?;
        text.parse().map_err(invalid)
    }
}

/// A local port, where it leads, and how urgent that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    pub local: u16,
    pub target: Target,
    pub urgency: u8,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, urgency) = match text.rsplit_once('@') {
            Some((rest, urgency)) => match urgency.parse() {
                Ok(urgency @ 0..=7) => (rest, urgency),
                _ => return Err(format!("{urgency:?} is not an urgency from 0 to 7")),
            },
            None => (text, 3),
        };
        let (local, target) = rest.split_once(':').ok_or("a forwarding is LOCALPORT:HOST:PORT[@URGENCY]")?;
        let local = local.parse().map_err(|_| format!("{local:?} is not a local port"))?;
        Ok(Self { local, target: target.parse()?, urgency })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwardings_are_parsed() {
        let parsed = |text: &str| {
            let forward: Forward = text.parse().unwrap();
            (forward.local, forward.target.host.clone(), forward.target.port, forward.urgency)
        };
        assert_eq!(parsed("8080:Example.org:80"), (8080, "example.org".into(), 80, 3));
        assert_eq!(parsed("0:10.0.0.1:22@0"), (0, "10.0.0.1".into(), 22, 0));
        assert_eq!(parsed("1:[::1]:65535@7"), (1, "::1".into(), 65535, 7));
        for wrong in
            ["8080", "8080:80", "x:a:80", "1:a:0", "1:a:65536", "1::80", "1:::1:80", "1:[a]:80", "1:a:80@8", "1:a b:80"]
        {
            assert!(wrong.parse::<Forward>().is_err(), "{wrong}");
        }
        assert!(format!("{}:80", "a".repeat(300)).parse::<Target>().is_err());
    }

    #[tokio::test]
    async fn targets_cross_the_wire() {
        for text in ["example.org:80", "[::1]:22"] {
            let target: Target = text.parse().unwrap();
            let mut bytes = target.encode();
            bytes.extend(b"data");
            let mut rest = &bytes[..];
            assert_eq!(Target::read(&mut rest).await.unwrap(), target);
            assert_eq!(rest, b"data");
        }
        for wrong in [&b"\x00"[..], b"\x03a:b", b"\x02\xff\xff", b"\x05a:80\n", b"\x05a\0:80"] {
            assert_eq!(Target::read(&mut &wrong[..]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        assert_eq!(Target::read(&mut &b"\x09a:80"[..]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
