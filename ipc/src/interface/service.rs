//! The one operation of every service's public endpoint: making a session.

use super::{interface, service_errors};
use crate::Rights;

interface! {
    /// What every service speaks on its public endpoint. The public endpoint outlives the server;
    /// a session does not: after a restart calls on it end as `Closed`, and the client connects
    /// again.
    Service = 1, client ServiceClient, server ServiceServer, error ConnectError;

    /// Makes a session with this instance of the server.
    ///
    /// Arguments: `interface` the number of the interface that the client will speak
    /// (`console::NUMBER` and so on). Result: `session` the send right of the session; calls on it
    /// are the interface's operations. It ends when its last handle is closed, or with the server.
    /// Errors: WrongInterface, NotPermitted, Exhausted. While no instance runs the call waits for
    /// the next, up to its deadline. Cost: two calls in the server and one badge.
    ///
    /// Example: `let ((), session) = ServiceClient::new(transport, public).connect(deadline,
    /// console::NUMBER)?;`
    1 fn connect(interface: u16) -> () [session: moved(
        Rights::SEND | Rights::DUPLICATE | Rights::TRANSFER
    )];
}

service_errors! {
    /// Why a session was not made.
    ConnectError {
        /// The service speaks another interface.
        WrongInterface = "the service speaks another interface",
        /// The system manifest does not let this task connect.
        NotPermitted = "the system manifest does not permit this",
        /// The server has as many sessions as it can keep.
        Exhausted = "the service has no room for another session",
    }
}
