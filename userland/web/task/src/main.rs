//! The task binary.
#![cfg_attr(target_os = "none", no_std, no_main)]

runtime::task_main!(run);

fn run(_: &'static runtime::entry::Startup<'static>) {
    runtime::log!("web: nothing to serve yet");
}
