//! The end of the system from a task's side: to be told of it, and to say that what must not be cut off
//! is finished. A task that does neither is ended without a word.

use crate::start::supervisor;
use crate::transport::Kernel;
use ipc::Handle;
use ipc::client::Deadline;
use ipc::interface::supervisor::SupervisorClient;

/// Asks init to signal these bits when the task is to stop; [`finished`] is to follow soon after. What
/// goes wrong is logged: the task is then ended without a word, and works until then.
pub fn listen(bell: Handle, bits: u64) {
    let client = SupervisorClient::new(Kernel, supervisor());
    if let Err(error) = client.stop_bell(Deadline::NEVER, bits, bell) {
        crate::log!("the end of the system will come unheard: {error}");
    }
}

/// Says that the task has finished: init ends it. Returns only where init does not.
pub fn finished() {
    let client = SupervisorClient::new(Kernel, supervisor());
    match client.stopped(Deadline::NEVER) {
        // Ended in the middle of this call, as a rule: then nothing of this runs any more.
        Ok(()) => {}
        Err(error) => crate::log!("init does not hear that this task has finished: {error}"),
    }
}
