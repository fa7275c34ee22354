//! A slice of the machines that Uzura boots on; `cargo run -- test matrix` has all of them.

use tests::{case, machines};

#[test]
fn slice_of_the_matrix() {
    let what = "some machines boot, serve, restart, are debugged and end by themselves";
    case("slice_of_the_matrix", what, || {
        machines::check(machines::SLICE)
    });
}

#[test]
fn bochs_restarts_and_ends() {
    let what = "the ISO in Bochs: shell, page and end with a card; shell, restart and end without";
    case("bochs_restarts_and_ends", what, machines::check_bochs);
}
