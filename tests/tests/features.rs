//! Some of the kinds of virtio network card that there are, by their features; `cargo run -- test matrix` has
//! every pair.

use tests::{case, features};

/// The cards that are checked here: each has many pairs of values that those before it lack.
const SOME: usize = 5;

#[test]
fn some_cards_by_their_features() {
    let what = "cards with features there, missing and switched off are used as far as they go, and carry \
                packets both ways";
    case("some_cards_by_their_features", what, || {
        features::check(&features::cards()[..SOME])
    });
}
