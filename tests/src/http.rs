//! HTTP requests to the guest, by a client that knows nothing of it. Where the guest is reached is
//! `machine`'s.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use ureq::{Agent, Body};

use crate::LIMIT;

/// What a download was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// Bytes in the body.
    pub length: u64,
    /// SHA-256 of the body.
    pub sha256: [u8; 32],
}

/// A client with connections of its own, which it keeps for the next request.
pub fn client() -> Agent {
    client_within(2 * LIMIT)
}

/// The same, for requests that may be given up after so long: where the server behind a connection
/// is killed, nobody tells the client.
pub fn client_within(limit: Duration) -> Agent {
    Agent::config_builder()
        .timeout_global(Some(limit))
        .build()
        .into()
}

/// Fetches a short text.
pub fn get(agent: &Agent, url: &str) -> Result<String> {
    let mut answer = agent
        .get(url)
        .call()
        .with_context(|| format!("GET {url}"))?;
    answer
        .body_mut()
        .read_to_string()
        .with_context(|| format!("the body of {url}"))
}

/// Fetches a body of any length and hands it to `watch` piece by piece as the total so far.
pub fn download(
    agent: &Agent,
    url: &str,
    mut watch: impl FnMut(u64) -> Result<()>,
) -> Result<Download> {
    let answer = agent
        .get(url)
        .call()
        .with_context(|| format!("GET {url}"))?;
    let mut body: Body = answer.into_body();
    let mut reader = body.as_reader();
    let (mut digest, mut length) = (Sha256::new(), 0);
    let mut piece = vec![0; 64 * 1024];
    loop {
        let count = reader
            .read(&mut piece)
            .with_context(|| format!("{url} after {length} bytes"))?;
        if count == 0 {
            return Ok(Download {
                length,
                sha256: digest.finalize().into(),
            });
        }
        digest.update(&piece[..count]);
        length += count as u64;
        watch(length)?;
    }
}

/// A body that was taken otherwise.
pub fn of(body: &[u8]) -> Download {
    Download {
        length: body.len() as u64,
        sha256: Sha256::digest(body).into(),
    }
}

/// What `/bytes/N` has to be: the sequence is described in the web server's source, and made here once
/// more so that the two check each other.
pub fn expected(length: u64) -> Download {
    let mut digest = Sha256::new();
    for index in 0..length.div_ceil(8) {
        let product = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let word = (product ^ product >> 32).to_le_bytes();
        let used = usize::try_from((length - index * 8).min(8)).unwrap_or(8);
        digest.update(&word[..used]);
    }
    Download {
        length,
        sha256: digest.finalize().into(),
    }
}

/// The server's answer to an upload of this body.
pub fn receipt(body: &[u8]) -> String {
    let sum: String = Sha256::digest(body)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("length {}\nsha256 {sum}\n", body.len())
}

/// Sends a body whose length is told beforehand and returns the answer's text.
pub fn upload(agent: &Agent, url: &str, body: &[u8]) -> Result<String> {
    let mut answer = agent
        .put(url)
        .send(body)
        .with_context(|| format!("PUT {url}"))?;
    let text = answer.body_mut().read_to_string();
    text.with_context(|| format!("the answer of {url}"))
}

/// Fetches a page, again as long as the connection breaks: the server behind it is starting.
pub fn get_again(url: &str) -> Result<String> {
    let begin = std::time::Instant::now();
    loop {
        match get(&client(), url) {
            Err(error) if begin.elapsed() >= crate::LIMIT => return Err(error),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(100)),
            page => return page,
        }
    }
}
