//! The e1000 network driver's program.
#![cfg_attr(target_os = "none", no_std, no_main)]

runtime::task_main!(e1000::run);
