//! The errors that an operation can return. One enumeration for all operations: an operation's
//! documentation lists those it can give.

use serde::{Deserialize, Serialize};

macro_rules! errors {
    ($($(#[$doc:meta])+ $name:ident = $code:literal, $text:literal;)+) => {
        /// Why an operation was refused. The code travels in the status register; zero is success.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum Error { $($(#[$doc])+ $name = $code,)+ }

        impl Error {
            /// Every error, in the order of the codes.
            pub const ALL: &'static [Error] = &[$(Error::$name,)+];

            /// The error of a status register; `None` for success and for codes that are no error.
            pub const fn from_code(code: u64) -> Option<Error> {
                match code { $($code => Some(Error::$name),)+ _ => None }
            }

            /// The status register's value, 1 to 255.
            pub const fn code(self) -> u64 { self as u64 }

            /// A sentence for a person.
            pub const fn text(self) -> &'static str {
                match self { $(Error::$name => $text,)+ }
            }
        }
    };
}

errors! {
    /// The operation number is not one of the table's.
    InvalidOperation = 1, "no such operation";
    /// The handle was never given to this task, or was closed since.
    InvalidHandle = 2, "the handle names no object of this task";
    /// The handle names an object of a kind that the operation does not take.
    WrongKind = 3, "the handle names an object of another kind";
    /// The handle lacks a right that the operation needs.
    MissingRights = 4, "the handle lacks a right that the operation needs";
    /// An argument is out of its documented range.
    InvalidArgument = 5, "an argument is out of range";
    /// The task's quota does not cover what was asked for.
    OutOfQuota = 6, "the task's quota is used up";
    /// The machine has no frame left (or none that is contiguous, for contiguous memory).
    OutOfMemory = 7, "the machine is out of memory";
    /// The task's handle table is full.
    TableFull = 8, "the handle table is full";
    /// The receiver accepts fewer handles than the message carries, or has no room for them.
    ReceiverFull = 9, "the receiver cannot take the message's handles";
    /// A send found no receiver waiting.
    WouldBlock = 10, "no receiver is waiting";
    /// The deadline of a receive or a wait passed.
    TimedOut = 11, "the deadline passed";
    /// A call ended (deadline, death or give-up) before any server took the message.
    NotDelivered = 12, "the message was not delivered";
    /// A call was taken by a server that will not answer; what was done is unknown.
    Abandoned = 13, "the server took the message and did not answer";
    /// The endpoint's receive right is gone: no server will ever answer here.
    Closed = 14, "the endpoint is closed";
    /// A receive while the last call received is neither answered nor stashed.
    ReplyPending = 15, "the last call is not answered yet";
    /// A reply without a call to answer.
    NoReplyPending = 16, "there is no call to answer";
    /// The address range overlaps a mapping.
    Occupied = 17, "the address range is mapped already";
    /// Writable and executable at once.
    WriteAndExecute = 18, "memory cannot be writable and executable at once";
    /// No mapping starts at the address.
    NotMapped = 19, "nothing is mapped there";
    /// The resource is held already (interrupt line, bound thread, port range).
    Busy = 20, "the resource is in use";
    /// The futex word did not hold the expected value.
    Changed = 21, "the futex word had another value";
    /// The object was destroyed while the operation waited on it.
    Destroyed = 22, "the object was destroyed";
    /// The machine lacks what was asked for.
    Unsupported = 23, "the machine does not have this";
}

impl core::fmt::Display for Error {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(self.text())
    }
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn codes_round_trip_and_leave_zero_for_success() {
        assert_eq!(Error::from_code(0), None);
        for (position, error) in Error::ALL.iter().enumerate() {
            assert_eq!(error.code(), position as u64 + 1, "codes are dense");
            assert_eq!(Error::from_code(error.code()), Some(*error));
        }
        assert_eq!(Error::from_code(Error::ALL.len() as u64 + 1), None);
    }
}
