//! The web server on the host: conversations byte by byte, and the server between fake rings.

mod conversation;
mod server;
