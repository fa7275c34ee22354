//! HTTP requests to the guest, by a client that knows nothing of it. Where the guest is reached is
//! `machine`'s.

use std::io::Read;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use ureq::{Agent, Body, SendBody};

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
    Agent::config_builder()
        .timeout_global(Some(2 * LIMIT))
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

/// Sends a body of any length and returns the answer's text.
pub fn upload(agent: &Agent, url: &str, body: &mut (impl Read + 'static)) -> Result<String> {
    let request = agent.put(url).send(SendBody::from_reader(body));
    let mut answer = request.with_context(|| format!("PUT {url}"))?;
    answer
        .body_mut()
        .read_to_string()
        .with_context(|| format!("the answer of {url}"))
}
