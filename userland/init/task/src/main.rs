//! Init: the first task, which starts all others as the manifest says and starts them again when they
//! die. What is decided is in the library `init`; here it is done. `userland/init/README.md` has the
//! rules.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

mod desk;
mod logs;
mod maker;
mod system;
mod unpacking;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use init::archive::Archive;
use init::arguments;
use init::share::{self, Shares};
use ipc::layout::init_handles;
use ipc::manifest::{FILE, Task, Tasks};
use runtime::{log, server, system as kernel};

use crate::system::System;

/// Bytes of the longest command line that is kept.
const COMMAND_LINE_BYTES: usize = 2048;

// The heap holds the manifest, the joined log and a little for each task.
runtime::init_main!(run, 512 * 1024);

/// Starts the system and looks after it. Returns only when it cannot.
fn run(archive: &'static [u8]) {
    let reason = match prepare(archive) {
        Ok(mut system) => system.serve(),
        Err(reason) => reason,
    };
    log!("init: {reason}; nothing can run without it");
    // Without the right to it the kernel deals with the end of init in its own way.
    let _ = kernel::power(init_handles::SYSTEM_CONTROL, false);
}

/// Reads archive and manifest.
fn prepare(archive: &'static [u8]) -> Result<System, alloc::string::String> {
    let archive =
        Archive::read(archive).map_err(|error| alloc::format!("the boot archive: {error}"))?;
    let manifest = archive
        .find(FILE)
        .ok_or("the boot archive has no manifest")?;
    let mut tasks: Vec<Task<'static>> = Tasks::read(manifest)
        .and_then(Iterator::collect)
        .map_err(|error| alloc::format!("{error}"))?;
    log!("init: the manifest has {} tasks", tasks.len());
    take_arguments(&mut tasks);
    settle_memory(&mut tasks).map_err(|error| alloc::format!("own quota: {error}"))?;
    System::new(archive, tasks).map_err(|error| alloc::format!("cannot begin: {error}"))
}

/// Gives the tasks what the kernel's command line says to them.
fn take_arguments(tasks: &mut [Task<'static>]) {
    // It is needed as long as the tasks' other arguments, for ever.
    let line = Box::leak(vec![0; COMMAND_LINE_BYTES].into_boxed_slice());
    let line = kernel::command_line(init_handles::SYSTEM_CONTROL, line);
    let line = line.ok().and_then(|line| core::str::from_utf8(line).ok());
    arguments::apply(tasks, line.unwrap_or(""), &mut |refusal| {
        log!("init: command line: {refusal}");
    });
}

/// Decides how much memory each task gets, and tells where that is not what the manifest wishes.
fn settle_memory(tasks: &mut [Task<'static>]) -> Result<(), ipc::Error> {
    let own = runtime::task::info(init_handles::TASK)?;
    let free = own.quota_bytes.saturating_sub(own.used_bytes);
    match share::settle(tasks, free) {
        Shares::Whole => {}
        Shares::Partial => log!("init: a small machine: tasks get less memory than they wish"),
        Shares::TooLittle { needed, free } => log!(
            "init: {} KiB free, and the tasks need {}: the last ones may not be made",
            free >> 10,
            needed >> 10
        ),
    }
    Ok(())
}

/// Serves until the kernel refuses to go on.
impl System {
    fn serve(&mut self) -> alloc::string::String {
        let (endpoint, bell) = self.doors();
        let error = server::serve_sessions(&endpoint, Some(&bell), self);
        alloc::format!("cannot go on: {error}")
    }
}
