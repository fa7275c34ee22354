//! A task that asks to be told of the system's end and then hangs. Runs only when it is asked for: no
//! test comes after it, and it ends with the system.

use runtime::Notification;

use crate::failure::Outcome;
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[("task_that_never_stops", never_stops)];

/// Hangs. The host's part sees to it that the system ends all the same.
fn never_stops(context: &Context) -> Outcome {
    let bell = Notification::create()?;
    runtime::stop::listen(bell.handle(), 1);
    context.suite.say(format_args!("it hangs from now on"));
    loop {
        core::hint::spin_loop();
    }
}
