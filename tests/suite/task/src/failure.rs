//! Why a test failed, and the checks that make it fail.

use alloc::string::String;
use core::panic::Location;

use ipc::Error;

/// Why a test failed: where, and what was found.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

/// What a test, or a part of one, gives.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure at the caller's line.
    #[track_caller]
    pub(crate) fn new(text: &str) -> Failure {
        let place = Location::caller();
        Failure(alloc::format!("{text} ({}:{})", place.file(), place.line()))
    }
}

impl From<Error> for Failure {
    #[track_caller]
    fn from(error: Error) -> Failure {
        Failure::new(&alloc::format!("unexpected {error:?}"))
    }
}

/// Fails the test unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::failure::Failure::new(&alloc::format!($($text)+)));
        }
    };
}

/// Fails the test unless the two are equal.
macro_rules! ensure_equal {
    ($found:expr, $expected:expr, $($text:tt)+) => {
        match ($found, $expected) {
            (found, expected) => {
                if found != expected {
                    return Err($crate::failure::Failure::new(&alloc::format!(
                        "{}: found {:?}, expected {:?}",
                        format_args!($($text)+), found, expected
                    )));
                }
            }
        }
    };
}

/// Fails the test unless the result is this error.
macro_rules! ensure_error {
    ($result:expr, $error:ident, $($text:tt)+) => {
        match $result {
            Err(ipc::Error::$error) => {}
            found => {
                return Err($crate::failure::Failure::new(&alloc::format!(
                    "{}: found {:?}, expected {}",
                    format_args!($($text)+), found.map(|_| "success"), stringify!($error)
                )));
            }
        }
    };
}

pub(crate) use {ensure, ensure_equal, ensure_error};
