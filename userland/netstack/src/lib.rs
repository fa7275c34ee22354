//! Uzura: netstack.
#![cfg_attr(not(test), no_std)]
