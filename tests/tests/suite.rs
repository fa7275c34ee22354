//! The in-emulator suite's part that needs much memory.

use anyhow::Result;
use tests::images::{Kind, image};
use tests::{Setup, case, suite};

fn passes(kind: Kind, change: impl FnOnce(Setup) -> Setup) -> Result<()> {
    let mut machine = change(Setup::new(image(kind)?)).start()?;
    suite::run(&mut machine)?.all_passed()
}

#[test]
fn suite_6_gib() {
    case(
        "suite_6_gib",
        "a task maps and checks memory above 4 GiB, to the end of 6 GiB",
        || passes(Kind::Large, |setup| setup.memory(6 * 1024)),
    );
}
