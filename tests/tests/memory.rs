//! The least memory that the default system runs in. 64 MiB and 6 GiB are other files' tests.

use anyhow::{Result, ensure};
use iso::cli::Machine as Model;
use tests::images::{Kind, image};
use tests::{Machine, Setup, case, crowd, http, shell};

/// MiB.
const LEAST: u32 = 24;
/// Clients at a time: more than fit.
const CROWD: usize = 60;

/// The page, a download, more connections at a time than fit at once, and the death of those whose
/// memory another task still holds when they are made again.
fn serves(model: Model) -> Result<()> {
    let setup = Setup::new(image(Kind::System)?).memory(LEAST).forward(80);
    let mut machine = setup.with(|options| options.machine = model).start()?;
    machine.console.wait_for("tasks get less memory")?;
    machine.console.wait_for("web: serving port 80\n")?;
    let page = http::get(&http::client(), &machine.url("/")?)?;
    ensure!(page.contains("Uzura"), "{page}");
    download(&machine, 4 << 20)?;
    let bytes = 1 << 17;
    let crowd = crowd::download(machine.address()?, &format!("/bytes/{bytes}"), CROWD)?;
    let expected = http::expected(bytes);
    ensure!(crowd.iter().all(|got| *got == expected), "{crowd:?}");
    for task in ["netstack", "virtio-net", "pci"] {
        machine.console.send_line(&format!("kill {task}"))?;
        let died = format!("{task} died (killed)");
        machine.console.wait_for(&died)?;
        machine.console.wait_for("attached to the driver, time")?;
    }
    let page = http::get_again(&machine.url("/")?)?;
    ensure!(page.contains("Uzura"), "{page}");
    let tasks = shell::ps(&mut machine.console)?;
    ensure!(
        tasks.iter().all(|task| task.state == "running"),
        "{tasks:?}"
    );
    let text = machine.console.text();
    let short = text.lines().find(|line| line.contains("cannot be made"));
    ensure!(short.is_none(), "{short:?}");
    Ok(())
}

fn download(machine: &Machine, bytes: u64) -> Result<()> {
    let url = machine.url(&format!("/bytes/{bytes}"))?;
    let got = http::download(&http::client(), &url, |_| Ok(()))?;
    ensure!(got == http::expected(bytes), "{got:?}");
    Ok(())
}

/// One test for each machine.
macro_rules! machines {
    ($($name:ident: $what:expr, $model:expr;)+) => {
        $(#[test]
        fn $name() {
            case(stringify!($name), $what, || serves($model));
        })+
    };
}

machines! {
    q35_serves_with_24_mib: "q35 with 24 MiB serves, and its network tasks come back", Model::Q35;
    pc_serves_with_24_mib: "pc with 24 MiB serves, and its network tasks come back", Model::Pc;
    microvm_serves_with_24_mib: "microvm with 24 MiB serves, and its network tasks come back", Model::Microvm;
}

#[test]
fn too_little_memory_is_said() {
    let what = "with 16 MiB the system says how much memory is missing, and the shell works";
    case("too_little_memory_is_said", what, || {
        let setup = Setup::new(image(Kind::System)?).memory(16);
        let mut machine = setup.start()?;
        machine.console.wait_for("KiB free, and the tasks need ")?;
        machine.console.wait_for("cannot be made")?;
        machine.console.wait_for(tests::console::PROMPT)?;
        let tasks = shell::ps(&mut machine.console)?;
        let shell = tasks.iter().find(|task| task.name == "shell");
        ensure!(
            shell.is_some_and(|task| task.state == "running"),
            "{tasks:?}"
        );
        Ok(())
    });
}
