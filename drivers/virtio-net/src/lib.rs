//! Uzura: virtio-net.
#![cfg_attr(not(test), no_std)]
