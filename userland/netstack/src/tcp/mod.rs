//! TCP above smoltcp: a table of connections that finds the one a segment belongs to, listeners with
//! a backlog, timers, and TIME-WAIT without sockets. The protocol itself is smoltcp's.

mod application;
mod connection;
mod flows;
mod listener;
mod opening;
mod parts;
mod reply;
mod segments;
mod table;
mod time_wait;
mod timers;

use slotmap::new_key_type;

pub use connection::{Choice, End, Phase};
pub use opening::{ConnectError, ListenError};
pub use table::Table;
pub use time_wait::{TIME_WAIT, TIME_WAIT_RECORDS};

new_key_type! {
    /// Names a connection; never names another one later.
    pub struct ConnectionId;
    /// Names a listener; never names another one later.
    pub struct ListenerId;
}
