//! Handles that are closed when they go out of scope.

use crate::syscall::invoke;
use ipc::message::NEVER;
use ipc::{Error, Handle, ObjectKind, Operation, Rights};

/// A handle that this value owns: dropping it closes it.
#[derive(Debug, PartialEq, Eq)]
pub struct OwnedHandle(Handle);

impl OwnedHandle {
    /// Takes a handle over. Whoever closes it elsewhere as well closes nothing else: handles carry
    /// generations.
    pub const fn new(handle: Handle) -> OwnedHandle {
        OwnedHandle(handle)
    }

    /// The handle, for the time that this value lives.
    pub const fn get(&self) -> Handle {
        self.0
    }

    /// The handle, not to be closed by this value any more.
    pub fn into_raw(self) -> Handle {
        let handle = self.0;
        core::mem::forget(self);
        handle
    }

    /// A second handle with at most these rights. Errors: those of [`Operation::Duplicate`].
    pub fn duplicate(&self, rights: Rights) -> Result<OwnedHandle, Error> {
        duplicate(self.0, rights).map(OwnedHandle)
    }
}

impl Drop for OwnedHandle {
    fn drop(&mut self) {
        close(self.0);
    }
}

/// What a handle names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The kind of object.
    pub kind: ObjectKind,
    /// The rights.
    pub rights: Rights,
    /// The badge, 0 without one.
    pub badge: u64,
}

/// Closes a handle. One that is closed already, or was moved away, is left alone.
pub fn close(handle: Handle) {
    // The only error is that there is nothing to close.
    let _ = invoke(Operation::Close, [handle.0, 0, 0, 0, 0, 0], NEVER);
}

/// Makes a second handle with at most these rights. Errors: those of [`Operation::Duplicate`].
pub fn duplicate(handle: Handle, rights: Rights) -> Result<Handle, Error> {
    let arguments = [handle.0, u64::from(rights.0), 0, 0, 0, 0];
    invoke(Operation::Duplicate, arguments, NEVER).map(|results| Handle(results[0]))
}

/// Says what a handle names. Errors: those of [`Operation::HandleInspect`].
pub fn inspect(handle: Handle) -> Result<Inspection, Error> {
    let [kind, rights, badge, ..] =
        invoke(Operation::HandleInspect, [handle.0, 0, 0, 0, 0, 0], NEVER)?;
    let kind = u8::try_from(kind).ok().and_then(ObjectKind::from_number);
    Ok(Inspection {
        kind: kind.ok_or(Error::WrongKind)?,
        rights: Rights(rights as u32),
        badge,
    })
}

/// Destroys an object: every handle to it, this one too, names nothing from then on, and is still to
/// be closed. Errors: those of [`Operation::Destroy`].
pub fn destroy(handle: Handle) -> Result<(), Error> {
    invoke(Operation::Destroy, [handle.0, 0, 0, 0, 0, 0], NEVER).map(drop)
}

/// Declares a type that owns a handle to one kind of object.
macro_rules! owned {
    ($(#[$doc:meta])+ $name:ident) => {
        $(#[$doc])+
        #[derive(Debug, PartialEq, Eq)]
        pub struct $name(pub(crate) $crate::handle::OwnedHandle);

        impl $name {
            /// Takes over a handle that names an object of this kind. If it names another, the
            /// operations fail with [`ipc::Error::WrongKind`].
            pub const fn from_handle(handle: ipc::Handle) -> Self {
                Self($crate::handle::OwnedHandle::new(handle))
            }

            /// The handle, for the time that this value lives.
            pub const fn handle(&self) -> ipc::Handle {
                self.0.get()
            }

            /// The handle, not to be closed by this value any more.
            pub fn into_handle(self) -> ipc::Handle {
                self.0.into_raw()
            }

            /// A second handle with at most these rights. Errors: those of
            /// [`ipc::Operation::Duplicate`].
            pub fn duplicate(&self, rights: ipc::Rights) -> Result<Self, ipc::Error> {
                self.0.duplicate(rights).map(Self)
            }
        }
    };
}

pub(crate) use owned;
