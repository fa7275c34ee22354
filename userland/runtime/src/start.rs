//! What the task was told at its start, for everyone in it.

use ipc::startup::{Startup, names};
use ipc::{Handle, startup as block};
use spin::Once;

static STARTUP: Once<Startup<'static>> = Once::new();

/// What init told the task. On the host, and before the entry point has run, it is empty: no name,
/// no handles.
pub fn startup() -> &'static Startup<'static> {
    STARTUP.call_once(Startup::default)
}

/// Keeps what the entry point decoded. Only its first call has an effect.
pub(crate) fn keep(startup: Startup<'static>) {
    STARTUP.call_once(|| startup);
}

/// The own task's handle; [`Handle::NONE`] where there is none.
pub fn own_task() -> Handle {
    startup().handle(names::TASK).unwrap_or(Handle::NONE)
}

/// Init's session, as the task got it; [`Handle::NONE`] where there is none.
pub fn supervisor() -> Handle {
    startup().handle(names::SUPERVISOR).unwrap_or(Handle::NONE)
}

/// The receive right of the public endpoint that the task serves under this name.
pub fn serves(name: &str) -> Option<Handle> {
    startup().handle_of(block::names::SERVES, name)
}
