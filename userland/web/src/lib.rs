//! Uzura: web.
#![cfg_attr(not(test), no_std)]
