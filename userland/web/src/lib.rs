//! The web server: HTTP/1.1 over the network stack's stream rings. A page about the running system,
//! generated data to download, and a sink that hashes what is uploaded.
//!
//! One thread, woken by events, serves all connections. What a connection says and does is a state
//! machine that knows no sockets ([`connection`]) and is tested on the host; [`server`] moves its bytes;
//! [`task`] is the way to the network stack and to the supervisor. The parser is the crate `httparse`.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod connection;
pub mod page;
pub mod pattern;
pub mod request;
pub mod response;
pub mod server;
pub mod task;
