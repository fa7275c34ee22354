//! The terminal: a session with the console that is made anew when the console server dies. What was
//! not written by then is lost with it.

use core::time::Duration;

use ipc::client::CallError;
use ipc::interface::console::{
    ConsoleClient, ConsoleError, MAX_READ_BYTES, MAX_WRITE_BYTES, NUMBER, Typed,
};
use runtime::service::{Session, connect_to};
use runtime::{Deadline, Kernel, clock};

/// The console's name in the manifest.
const SERVICE: &str = "console";
/// How long to wait before the next try where the console has no room or another reader.
const PAUSE: Duration = Duration::from_millis(50);

/// The terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    session: Option<Session>,
}

impl Terminal {
    /// A terminal that connects when it is first used.
    pub(crate) const fn new() -> Self {
        Self { session: None }
    }

    /// The console's stub. Waits until there is a console.
    fn client(&mut self) -> ConsoleClient<Kernel> {
        loop {
            if let Some(session) = &self.session {
                return ConsoleClient::new(Kernel, session.handle());
            }
            match connect_to(SERVICE, NUMBER, Deadline::NEVER) {
                Ok(session) => self.session = Some(session),
                // Without a console there is nobody to tell.
                Err(_) => clock::sleep(PAUSE),
            }
        }
    }

    /// Deals with a failed call: a dead session is dropped, anything else is tried again later.
    fn failed(&mut self, error: &CallError<ConsoleError>) {
        match error {
            CallError::Service(_) => clock::sleep(PAUSE),
            _ => {
                self.session = None;
            }
        }
    }

    /// Writes text.
    pub(crate) fn write(&mut self, text: &str) {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let client = self.client();
            let piece = rest.get(..MAX_WRITE_BYTES).unwrap_or(rest);
            match client.write(Deadline::NEVER, piece) {
                Ok(0) => clock::sleep(Duration::from_millis(5)),
                Ok(taken) => rest = rest.get(taken as usize..).unwrap_or(&[]),
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Waits for bytes, and tells whether they came from another session than before.
    pub(crate) fn read(&mut self) -> (Typed, bool) {
        let mut anew = false;
        loop {
            let client = self.client();
            match client.read(Deadline::NEVER, MAX_READ_BYTES as u16) {
                Ok(typed) => return (typed, anew),
                Err(error) => {
                    self.failed(&error);
                    if self.session.is_none() {
                        anew = true;
                        // The prompt comes before what is typed: the caller shows it.
                        return (Typed::new(), anew);
                    }
                }
            }
        }
    }
}
