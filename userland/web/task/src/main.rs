//! The web server's program: the library's server, and nothing else.
#![cfg_attr(target_os = "none", no_std, no_main)]

runtime::task_main!(web::task::run);
