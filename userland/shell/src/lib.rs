//! Uzura: shell.
#![cfg_attr(not(test), no_std)]
