//! A service that answers what it is asked: for benchmarks and for tests of the way between.

use super::{interface, service_errors};

interface! {
    /// Answers.
    Echo = 7, client EchoClient, server EchoServer, error EchoError;

    /// Sends a number back.
    ///
    /// Arguments: `sequence`. Result: the same. Errors: none of its own. Cost: one call.
    ///
    /// Example: `assert_eq!(echo.echo(deadline, 7)?, 7);`
    1 fn echo(sequence: u64) -> u64;
}

service_errors! {
    /// The service's own errors.
    EchoError {
        /// The service has no time.
        Unwilling = "the service does not answer",
    }
}
