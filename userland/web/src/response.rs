//! Statuses, and the heads of responses.

use alloc::string::String;
use core::fmt::Write;

/// The status of a response (RFC 9110, section 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 200.
    Ok,
    /// 400.
    BadRequest,
    /// 404.
    NotFound,
    /// 405; the methods that are allowed.
    MethodNotAllowed(&'static str),
    /// 408.
    RequestTimeout,
    /// 411.
    LengthRequired,
    /// 413.
    ContentTooLarge,
    /// 414.
    UriTooLong,
    /// 417.
    ExpectationFailed,
    /// 431 (RFC 6585).
    HeaderFieldsTooLarge,
    /// 505.
    VersionNotSupported,
}

impl Status {
    /// Number and reason, as in the first line.
    pub const fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed(_) => "405 Method Not Allowed",
            Status::RequestTimeout => "408 Request Timeout",
            Status::LengthRequired => "411 Length Required",
            Status::ContentTooLarge => "413 Content Too Large",
            Status::UriTooLong => "414 URI Too Long",
            Status::ExpectationFailed => "417 Expectation Failed",
            Status::HeaderFieldsTooLarge => "431 Request Header Fields Too Large",
            Status::VersionNotSupported => "505 HTTP Version Not Supported",
        }
    }
}

/// Leave to send a body (RFC 9110, section 15.2.1).
pub const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

/// Writes the head of a response. `close` says that the connection ends after it (RFC 9112, section
/// 9.6).
pub fn head(status: Status, content_type: &str, length: u64, close: bool) -> String {
    let mut text = String::with_capacity(192);
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "HTTP/1.1 {}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n",
        status.line()
    );
    if let Status::MethodNotAllowed(methods) = status {
        let _ = write!(text, "Allow: {methods}\r\n");
    }
    let connection = if close { "close" } else { "keep-alive" };
    let _ = write!(text, "Connection: {connection}\r\nServer: uzura\r\n\r\n");
    text
}
