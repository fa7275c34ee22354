//! Uzura: system tests.
