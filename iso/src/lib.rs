//! The host tool of Uzura: finds a compiler that comes with its library source, builds kernel and
//! tasks for the bare machine, packs the boot archive, makes images and starts QEMU. It is a library
//! so that the system tests boot exactly what `cargo run` boots. What the kernel and the tasks do is
//! theirs; what a manifest means is `ipc`'s.

pub mod archive;
pub mod bench;
pub mod build;
pub mod cli;
pub mod counts;
pub mod disk;
pub mod elf;
pub mod figures;
pub mod firmware;
pub mod forward;
pub mod gce;
pub mod grub;
pub mod image;
pub mod inspect;
pub mod manifest;
pub mod packages;
pub mod process;
pub mod qemu;
pub mod run;
pub mod say;
pub mod sizes;
pub mod symbol_table;
pub mod symbolize;
pub mod test;
pub mod toolchain;
pub mod workspace;
