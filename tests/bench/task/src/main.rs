//! The benchmark's tasks: one that measures, and the servers that it calls. Which of them this is, the
//! manifest says. What is printed is `NAME VALUE UNIT`, a line each; the tool (`iso/src/bench.rs`) makes
//! the table.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(
    not(target_os = "none"),
    allow(dead_code, unused, reason = "on the host there is nothing to measure")
)]

extern crate alloc;

mod calls;
mod children;
mod counter;
mod growth;
mod handed;
mod interleave;
mod interrupts;
mod pairs;
mod paths;
mod servers;
mod signals;
mod switches;
mod wall;

runtime::task_main!(run);

/// The public endpoint of the server that echoes words.
pub(crate) const RAW: &str = "raw";
/// The public endpoint of the server that takes handles.
pub(crate) const TAKER: &str = "taker";
/// The public endpoint of the server behind derived stubs.
pub(crate) const ECHO: &str = "echo";

fn run(startup: &'static ipc::startup::Startup<'static>) {
    let ended = match startup.argument("role") {
        Some("raw") => servers::raw(startup.argument("service").unwrap_or(RAW)),
        Some("pair") => pairs::pair(startup),
        Some("echo") => servers::echo(),
        Some("taker") => servers::taker(),
        Some("partner") => signals::partner(startup.argument("service").unwrap_or_default()),
        Some("yielder") => switches::yielder(),
        Some("driver") => interrupts::driver(),
        Some("timer") => interrupts::timer(),
        Some("measure") => measure(),
        Some("interleave") => interleave::run(startup),
        Some("wall") => wall::measure(startup),
        role => {
            runtime::log!("no such role: {role:?}");
            Ok(())
        }
    };
    if let Err(error) = ended {
        runtime::log!("FAIL {error}");
    }
}

/// How long the other tasks are given to start: until they wait there is somebody else to run.
const SETTLING: core::time::Duration = core::time::Duration::from_millis(100);

fn measure() -> Result<(), ipc::Error> {
    runtime::clock::sleep(SETTLING);
    counter::calibrate();
    paths::measure()?;
    calls::measure()?;
    let urgent = signals::measure()?;
    switches::measure()?;
    children::measure()?;
    interrupts::measure()?;
    growth::measure(&urgent)?;
    runtime::log!("done");
    Ok(())
}
