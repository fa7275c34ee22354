//! The platform driver's program.
#![cfg_attr(target_os = "none", no_std, no_main)]

runtime::task_main!(platform::run);
