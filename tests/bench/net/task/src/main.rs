//! The server that `cargo run -- bench net` measures: an application of the network stack like any other, on
//! the runtime library's sockets. `tests/linux-peer` serves the same on Linux; the clients are the host's.
//!
//! | port | what it does |
//! |---|---|
//! | 5001, TCP | counts what it receives; at the end it answers with the number of bytes, a little-endian u64 |
//! | 5002, TCP | sends for ever |
//! | 5003, TCP | sends back what it receives |
//! | 5004, UDP | sends back each datagram |
//! | 5005, TCP | sends one byte and closes |
//! | 80, TCP | answers each HTTP request with 1,024 bytes and keeps the connection |
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(
    not(target_os = "none"),
    allow(dead_code, unused, reason = "on the host there is nothing to serve")
)]

extern crate alloc;

mod connection;
mod server;

use core::time::Duration;

use ipc::startup::Startup;
use server::Server;

runtime::task_main!(run);

/// Pause after a failed attempt.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves for ever: when the network stack is lost, its next one.
fn run(_startup: &'static Startup<'static>) {
    loop {
        let served = Server::open().and_then(|mut server| {
            runtime::log!("serving");
            server.serve()
        });
        match served {
            Ok(()) => runtime::log!("the network stack is gone"),
            Err(error) => runtime::log!("FAIL {error}"),
        }
        runtime::clock::sleep(PAUSE);
    }
}
