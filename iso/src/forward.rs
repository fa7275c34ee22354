//! Ports of the host that lead to ports of the guest, and what is done about a port that somebody
//! else has. How QEMU is told is `qemu`'s.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::str::FromStr;

use anyhow::{Context, Result};

use crate::say;

/// One forwarded TCP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Where the host listens.
    pub host: SocketAddr,
    /// The guest's port.
    pub guest: u16,
}

impl Forward {
    /// A port of the loopback address; port 0 is replaced by a free one.
    pub fn local(host: u16, guest: u16) -> Self {
        Self {
            host: SocketAddr::from((Ipv4Addr::LOCALHOST, host)),
            guest,
        }
    }

    /// This forward on a port that is free now: its own, or another one, which is said.
    pub fn free(self) -> Result<Self> {
        if self.host.port() != 0 && TcpListener::bind(self.host).is_ok() {
            return Ok(self);
        }
        let any = SocketAddr::new(self.host.ip(), 0);
        let listener = TcpListener::bind(any).with_context(|| {
            format!(
                "cannot listen on {}; name an address of this machine",
                any.ip()
            )
        })?;
        let host = listener.local_addr()?;
        if self.host.port() != 0 {
            say::progress(&format!(
                "{} is taken; forwarding {host} instead",
                self.host
            ));
        }
        Ok(Self { host, ..self })
    }
}

/// What `run` forwards when nothing else is said: the web page and a remote shell.
pub fn defaults() -> Vec<Forward> {
    vec![Forward::local(8080, 80), Forward::local(2222, 22)]
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage =
            || format!("`{text}` is not [ADDR:]HOSTPORT:GUESTPORT, as in 127.0.0.1:8080:80");
        let (rest, guest) = text.rsplit_once(':').ok_or_else(usage)?;
        let (address, port) = match rest.rsplit_once(':') {
            Some((address, port)) => (address.parse::<IpAddr>().map_err(|_| usage())?, port),
            None => (IpAddr::V4(Ipv4Addr::LOCALHOST), rest),
        };
        let number = |text: &str| text.parse::<u16>().map_err(|_| usage());
        Ok(Self {
            host: SocketAddr::new(address, number(port)?),
            guest: number(guest)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_may_be_left_out() {
        assert_eq!("8080:80".parse(), Ok(Forward::local(8080, 80)));
        assert_eq!("127.0.0.1:8080:80".parse(), Ok(Forward::local(8080, 80)));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "80", "a:b", "1:2:3:4", "70000:80", "host:8080:80"] {
            assert!(text.parse::<Forward>().is_err(), "{text}");
        }
    }

    #[test]
    fn taken_port_is_replaced() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = Forward {
            host: taken.local_addr().unwrap(),
            guest: 80,
        };
        let got = wanted.free().unwrap();
        assert_ne!(got.host.port(), wanted.host.port());
        assert_eq!(got.guest, 80);
    }
}
