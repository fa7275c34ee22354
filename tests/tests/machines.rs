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
fn bochs_ends_and_is_reset() {
    let what = "the ISO in Bochs: shell, page and end; shell and reset";
    case("bochs_ends_and_is_reset", what, machines::check_bochs);
}
