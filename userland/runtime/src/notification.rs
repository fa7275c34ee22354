//! Notifications: a word of signal bits.

use crate::handle::owned;
use crate::syscall::invoke;
use ipc::client::Deadline;
use ipc::message::NEVER;
use ipc::{Error, Handle, Operation};

owned! {
    /// A notification.
    Notification
}

impl Notification {
    /// Makes a notification. Errors: those of [`Operation::NotificationCreate`].
    pub fn create() -> Result<Notification, Error> {
        let [handle, ..] = invoke(Operation::NotificationCreate, [0; 6], NEVER)?;
        Ok(Notification::from_handle(Handle(handle)))
    }

    /// Sets bits and wakes the waiter. Errors: those of [`Operation::Signal`].
    pub fn signal(&self, bits: u64) -> Result<(), Error> {
        signal(self.handle(), bits)
    }

    /// Waits until there are bits, takes them all and clears them. Errors: those of
    /// [`Operation::Wait`].
    pub fn wait(&self, deadline: Deadline) -> Result<u64, Error> {
        wait(self.handle(), deadline)
    }

    /// Takes the bits that are there now, 0 if there are none. Errors: those of
    /// [`Operation::Wait`].
    pub fn poll(&self) -> Result<u64, Error> {
        match self.wait(Deadline(0)) {
            Err(Error::TimedOut) => Ok(0),
            result => result,
        }
    }

    /// Binds it to the calling thread, whose receives then end for its signals as well. Errors:
    /// those of [`Operation::NotificationBind`].
    pub fn bind(&self) -> Result<(), Error> {
        bind(self.handle())
    }
}

/// Sets bits of a notification. Errors: those of [`Operation::Signal`].
pub fn signal(notification: Handle, bits: u64) -> Result<(), Error> {
    invoke(Operation::Signal, [notification.0, bits, 0, 0, 0, 0], NEVER).map(drop)
}

/// Waits for bits of a notification. Errors: those of [`Operation::Wait`].
pub fn wait(notification: Handle, deadline: Deadline) -> Result<u64, Error> {
    invoke(Operation::Wait, [notification.0, 0, 0, 0, 0, 0], deadline.0).map(|results| results[0])
}

/// Binds a notification to the calling thread. Errors: those of [`Operation::NotificationBind`].
pub fn bind(notification: Handle) -> Result<(), Error> {
    invoke(
        Operation::NotificationBind,
        [notification.0, 0, 0, 0, 0, 0],
        NEVER,
    )
    .map(drop)
}
