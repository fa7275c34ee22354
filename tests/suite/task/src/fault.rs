//! Faults of the suite itself, for the tests of what init says of one: `suite.fault=NAME` on the kernel command
//! line.

use crate::suite::Suite;

/// Ends the task if the command line says so.
pub(crate) fn by(suite: &Suite) {
    match suite.option("suite.fault=").as_deref() {
        Some("wild-write") => outer(),
        Some("panic") => panic!("on purpose"),
        Some(other) => runtime::log!("there is no fault {other}"),
        None => {}
    }
}

#[inline(never)]
fn outer() {
    inner(core::hint::black_box(0xdead_0000));
    // What the call returns to is in this function: it is no tail call.
    core::hint::black_box(());
}

/// Writes where nothing is mapped.
#[inline(never)]
fn inner(address: u64) {
    crate::raw::poke(address, 1);
    core::hint::black_box(());
}
