//! The interfaces of all services, each declared once by `interface!`: from the declaration come
//! the client stub, the server trait, the dispatch function and the reference page.
//!
//! How a declaration reads:
//!
//! ```text
//! interface! {
//!     /// What the service is.
//!     Lamp = 9, client LampClient, server LampServer, error LampError;
//!
//!     /// What the operation does. Arguments, result, errors, cost, example.
//!     1 fn dim(percent: u8) [lamp: moved(Rights::ALL)] -> u8 [bell: copied(Rights::SIGNAL)];
//!     /// An operation that the server may answer later.
//!     2 later Wait fn wait() -> ();
//! }
//! ```
//!
//! Arguments and reply travel as bytes. What stands in square brackets is handles, which travel
//! beside them: `moved` leaves the sender (and stays with it when the call ends as
//! [`crate::Error::NotDelivered`]), `copied` leaves the sender its own; either way the receiver gets
//! at most the rights given. A reply with handles is a tuple of the reply's value and the handles.
//!
//! A service's public endpoint speaks [`service`] and nothing else; the other interfaces are spoken
//! on the session endpoint that `connect` gives. Init is the exception: it is never restarted, so the
//! handle it gives a task is a session at once.

use crate::Label;

pub mod console;
pub mod echo;
pub mod net_device;
pub mod network;
pub mod pci;
pub mod service;
pub mod supervisor;

/// What the reference page says of an interface.
#[derive(Clone, Copy, Debug)]
pub struct InterfaceReference {
    /// Name.
    pub name: &'static str,
    /// Number: the upper half of its operations' labels.
    pub number: u16,
    /// Documentation.
    pub documentation: &'static str,
    /// Its operations in the order of the declaration.
    pub operations: &'static [OperationReference],
    /// Its errors: name and sentence.
    pub errors: &'static [(&'static str, &'static str)],
}

/// What the reference page says of an operation.
#[derive(Clone, Copy, Debug)]
pub struct OperationReference {
    /// Name.
    pub name: &'static str,
    /// Number: the lower half of its label.
    pub number: u16,
    /// Documentation.
    pub documentation: &'static str,
    /// Arguments: name and type.
    pub arguments: &'static [(&'static str, &'static str)],
    /// Handles sent: name and how.
    pub takes: &'static [(&'static str, &'static str)],
    /// The reply's type.
    pub reply: &'static str,
    /// Handles in the reply: name and how.
    pub gives: &'static [(&'static str, &'static str)],
    /// Whether the server may answer later.
    pub later: bool,
}

/// Every interface, in the order of the numbers.
pub const ALL: [&InterfaceReference; 6] = [
    &service::REFERENCE,
    &supervisor::REFERENCE,
    &console::REFERENCE,
    &pci::REFERENCE,
    &net_device::REFERENCE,
    &network::REFERENCE,
];

/// The label of an operation.
pub const fn label(interface: u16, operation: u16) -> Label {
    Label((interface as u32) << 16 | operation as u32)
}

/// Declares an interface; see the module's documentation for how it reads.
macro_rules! interface {
    (
        $(#[doc = $doc:literal])+
        $name:ident = $interface:literal, client $client:ident, server $server:ident,
        error $error:ident;
        $(
            $(#[doc = $op_doc:literal])+
            $number:literal $(later $later:ident)? fn $op:ident
            ( $($arg:ident : $type:ty),* $(,)? )
            $([ $($taken:ident : $taken_mode:ident ( $taken_rights:expr )),* $(,)? ])?
            -> $reply:ty
            $([ $($given:ident : $given_mode:ident ( $given_rights:expr )),* $(,)? ])?;
        )+
    ) => {
        /// The interface's number: the upper half of its operations' labels.
        pub const NUMBER: u16 = $interface;

        /// The interface as the reference page shows it.
        pub const REFERENCE: $crate::interface::InterfaceReference =
            $crate::interface::InterfaceReference {
                name: stringify!($name),
                number: NUMBER,
                documentation: concat!($($doc, "\n",)+),
                errors: $error::REFERENCE,
                operations: &[$($crate::interface::OperationReference {
                    name: stringify!($op),
                    number: $number,
                    documentation: concat!($($op_doc, "\n",)+),
                    arguments: &[$((stringify!($arg), stringify!($type)),)*],
                    takes: &[$($((
                        stringify!($taken),
                        concat!(stringify!($taken_mode), ", ", stringify!($taken_rights)),
                    ),)*)?],
                    reply: stringify!($reply),
                    gives: &[$($((
                        stringify!($given),
                        concat!(stringify!($given_mode), ", ", stringify!($given_rights)),
                    ),)*)?],
                    later: interface!(@is_later $($later)?),
                },)+],
            };

        $(#[doc = $doc])+
        ///
        /// This is the client side: one method an operation. Every method takes a deadline first
        /// and the handles to send last. An error of [`CallError`](crate::client::CallError) tells
        /// what failed on the way from what the service said.
        #[derive(Clone, Copy, Debug)]
        pub struct $client<T> {
            transport: T,
            endpoint: $crate::Handle,
        }

        impl<T: $crate::client::Transport> $client<T> {
            /// The stub that calls this endpoint. It borrows the handle: closing is the owner's.
            pub const fn new(transport: T, endpoint: $crate::Handle) -> Self {
                Self { transport, endpoint }
            }

            /// The endpoint that it calls.
            pub const fn endpoint(&self) -> $crate::Handle {
                self.endpoint
            }

            $(
                $(#[doc = $op_doc])+
                #[allow(clippy::too_many_arguments, reason = "as many as the declaration has")]
                pub fn $op(
                    &self,
                    deadline: $crate::client::Deadline,
                    $($arg: $type,)*
                    $($($taken: $crate::Handle,)*)?
                ) -> Result<
                    interface!(@reply $reply, $($($given)*)?),
                    $crate::client::CallError<$error>,
                > {
                    let (reply, [$($($given,)*)?]) = $crate::client::call(
                        &self.transport,
                        $crate::client::Request {
                            endpoint: self.endpoint,
                            label: $crate::interface::label(NUMBER, $number),
                            deadline,
                            handles: &[$($((
                                $taken,
                                $crate::message::Transfer::$taken_mode($taken_rights),
                            ),)*)?],
                            accept: 0,
                        },
                        &($($arg,)*),
                    )?;
                    Ok(interface!(@value reply, $($($given)*)?))
                }
            )+
        }

        $(#[doc = $doc])+
        ///
        /// This is the server side: one method an operation, called by [`dispatch`]. Handles that
        /// come with a request belong to the method; handles that it returns are sent as declared,
        /// and moved ones are gone afterwards.
        pub trait $server {
            $(
                $(#[doc = $op_doc])+
                #[allow(clippy::too_many_arguments, reason = "as many as the declaration has")]
                fn $op(
                    &mut self,
                    caller: &mut $crate::server::Caller<'_>,
                    $($arg: $type,)*
                    $($($taken: $crate::Handle,)*)?
                ) -> Result<
                    interface!(@answer $reply, ($($later)?) $($($given)*)?),
                    $error,
                >;
            )+
        }

        /// Decodes a request, calls the server's method and encodes its reply. Whatever the bytes
        /// hold, the outcome is a reply: a refusal if need be. Handles that no method took are left
        /// in `received`.
        pub fn dispatch<S: $server + ?Sized>(
            server: &mut S,
            caller: &mut $crate::server::Caller<'_>,
            label: $crate::Label,
            request: &[u8],
            received: &mut $crate::server::Received,
            outgoing: &mut $crate::server::Outgoing<'_>,
        ) -> $crate::server::Outcome {
            $(
                if label == $crate::interface::label(NUMBER, $number) {
                    let Ok(arguments) = $crate::codec::decode(request) else {
                        outgoing.refuse($crate::client::Refusal::Malformed);
                        return $crate::server::Outcome::Reply;
                    };
                    let ($($arg,)*): ($($type,)*) = arguments;
                    let Some([$($($taken,)*)?]) = received.take() else {
                        outgoing.refuse($crate::client::Refusal::WrongHandles);
                        return $crate::server::Outcome::Reply;
                    };
                    let result = server.$op(caller, $($arg,)* $($($taken,)*)?);
                    return interface!(@finish result, outgoing, ($($later)?)
                        [$($($given : $given_mode ( $given_rights ),)*)?]);
                }
            )+
            outgoing.refuse($crate::client::Refusal::UnknownOperation);
            $crate::server::Outcome::Reply
        }

        $(interface!(@later $op, $error, $reply, ($($later)?)
            [$($($given : $given_mode ( $given_rights ),)*)?]);)+

        #[cfg(test)]
        mod numbers {
            #[test]
            fn operations_have_distinct_numbers() {
                let mut seen = std::collections::BTreeSet::new();
                for operation in super::REFERENCE.operations {
                    assert!(operation.number != 0 && seen.insert(operation.number));
                }
            }
        }
    };

    // The reply with its handles, as a type and as a value.
    (@reply $reply:ty,) => { $reply };
    (@reply $reply:ty, $($given:ident)+) => { ($reply, $(interface!(@handle $given),)+) };
    (@handle $given:ident) => { $crate::Handle };
    (@value $reply:ident,) => { $reply };
    (@value $reply:ident, $($given:ident)+) => { ($reply, $($given,)+) };

    // What a server's method returns.
    (@answer $reply:ty, () $($given:ident)*) => { interface!(@reply $reply, $($given)*) };
    (@answer $reply:ty, ($later:ident) $($given:ident)*) => {
        $crate::server::Answer<interface!(@reply $reply, $($given)*)>
    };

    (@is_later) => { false };
    (@is_later $later:ident) => { true };

    // Encodes the result of a method.
    (@finish $result:ident, $outgoing:ident, () $given:tt) => {{
        interface!(@encode $result, $outgoing, $given);
        $crate::server::Outcome::Reply
    }};
    (@finish $result:ident, $outgoing:ident, ($later:ident) $given:tt) => {{
        let answer = match $result {
            Ok($crate::server::Answer::Later(_)) => return $crate::server::Outcome::Later,
            Ok($crate::server::Answer::Now(reply)) => Ok(reply),
            Err(error) => Err(error),
        };
        interface!(@encode answer, $outgoing, $given);
        $crate::server::Outcome::Reply
    }};
    (@encode $result:ident, $outgoing:ident, []) => { $outgoing.answer(&$result, &[]) };
    (@encode $result:ident, $outgoing:ident, [$($given:ident : $mode:ident ($rights:expr),)+]) => {
        match $result {
            Ok((reply, $($given,)+)) => $outgoing.answer(
                &Ok::<_, ()>(reply),
                &[$(($given, $crate::message::Transfer::$mode($rights)),)+],
            ),
            Err(error) => $outgoing.answer(&Err::<(), _>(error), &[]),
        }
    };

    // The type that names a deferrable operation.
    (@later $op:ident, $error:ident, $reply:ty, () $given:tt) => {};
    (@later $op:ident, $error:ident, $reply:ty, ($later:ident)
        [$($given:ident : $mode:ident ($rights:expr),)*]) => {
        #[doc = concat!("Names `", stringify!($op), "`, whose answer can come later.")]
        #[derive(Clone, Copy, Debug)]
        pub struct $later;

        impl $crate::server::LaterOperation for $later {
            type Reply = interface!(@reply $reply, $($given)*);
            type Error = $error;

            fn answer(
                result: Result<Self::Reply, Self::Error>,
                outgoing: &mut $crate::server::Outgoing<'_>,
            ) {
                interface!(@encode result, outgoing, [$($given : $mode ($rights),)*]);
            }
        }
    };
}

/// Declares the errors of an interface: an enumeration with a sentence for each.
macro_rules! service_errors {
    ($(#[$doc:meta])+ $name:ident { $($(#[$variant_doc:meta])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$variant_doc])+ $variant,)+ }

        impl $name {
            /// Every error: name and sentence.
            pub const REFERENCE: &'static [(&'static str, &'static str)] =
                &[$((stringify!($variant), $text),)+];

            /// A sentence for a person.
            pub const fn text(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                formatter.write_str(self.text())
            }
        }

        impl core::error::Error for $name {}
    };
}

use {interface, service_errors};

#[cfg(test)]
mod tests;
