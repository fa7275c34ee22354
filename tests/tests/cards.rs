//! Which network card is used where the machine has several, the kinds of e1000 cards, and the whole
//! network path on a processor that QEMU does not play.

use anyhow::{Result, ensure};
use tests::images::{Kind, image};
use tests::{Bochs, Machine, Setup, bochs, case, http, shell};

/// The length of the transfers.
const LENGTH: u64 = 8 << 20;

/// The length of the transfers in Bochs, which is slower.
const BOCHS_LENGTH: u64 = 1 << 20;

/// What an upload consists of.
fn body(length: u64) -> Vec<u8> {
    (0..length)
        .map(|position| ((position * 7) >> 3) as u8)
        .collect()
}

/// A page, a download and an upload from this address.
fn transfers(url: impl Fn(&str) -> Result<String>, length: u64) -> Result<()> {
    let page = http::get_again(&url("/")?)?;
    ensure!(page.contains("Uzura"), "{page}");
    let got = http::download(&http::client(), &url(&format!("/bytes/{length}"))?, |_| {
        Ok(())
    })?;
    ensure!(
        got == http::expected(length),
        "{} bytes arrived, with another SHA-256",
        got.length
    );
    let body = body(length);
    let (answer, receipt) = (
        http::upload(&http::client(), &url("/sink")?, &body)?,
        http::receipt(&body),
    );
    ensure!(
        answer == receipt,
        "the sink says `{answer}`, not `{receipt}`"
    );
    Ok(())
}

/// The system on the tool's card and one more of this kind, which leads nowhere; or on those alone.
fn with_card(setup: Setup, model: &str) -> Setup {
    let more = [
        "-netdev".to_owned(),
        "user,id=net1,restrict=on".to_owned(),
        "-device".to_owned(),
        format!("{model},netdev=net1,romfile="),
    ];
    setup.with(|options| options.qemu.extend(more))
}

/// The console says which driver is used, and then that a card of this driver is not.
fn chooses(machine: &mut Machine, used: &str, unused: &str) -> Result<()> {
    let console = &mut machine.console;
    console.wait_for(&format!("attached to the driver, time 1: {used}\n"))?;
    console.wait_for(&format!("netstack: not used: a card of {unused}\n"))?;
    let tasks = shell::ps(console)?;
    ensure!(
        tasks
            .iter()
            .all(|task| task.state == "running" && task.restarts == 0),
        "{tasks:?}"
    );
    Ok(())
}

#[test]
fn second_virtio_card_is_not_used() {
    let what = "with two virtio cards the first serves, and the log names the other";
    case("second_virtio_card_is_not_used", what, || {
        let setup = Setup::new(image(Kind::System)?).cpus(2).forward(80);
        let mut machine = with_card(setup, "virtio-net-pci").start()?;
        chooses(&mut machine, "virtio-net", "virtio-net")?;
        transfers(|path| machine.url(path), LENGTH)
    });
}

#[test]
fn virtio_card_goes_before_an_e1000() {
    let what = "with a virtio card and an e1000 the first driver of the manifest serves, also after its death";
    case("virtio_card_goes_before_an_e1000", what, || {
        let setup = Setup::new(image(Kind::System)?).cpus(2).forward(80);
        let mut machine = with_card(setup, "e1000").start()?;
        chooses(&mut machine, "virtio-net", "e1000")?;
        transfers(|path| machine.url(path), LENGTH)?;
        let console = &mut machine.console;
        console.send_line("kill virtio-net")?;
        console.wait_for("attached to the driver, time 2: virtio-net\n")?;
        transfers(|path| machine.url(path), LENGTH)
    });
}

/// One test for each kind of e1000 card that QEMU has and the other tests do not use.
macro_rules! models {
    ($($name:ident: $model:literal;)+) => {
        $(#[test]
        fn $name() {
            case(stringify!($name), concat!("HTTP over a card of model ", $model), || {
                let card = [concat!($model, ",netdev=net0,romfile=")];
                let setup = Setup::new(image(Kind::System)?).forward(80).devices(&card);
                let mut machine = setup.start()?;
                machine.console.wait_for("attached to the driver, time 1: e1000\n")?;
                transfers(|path| machine.url(path), LENGTH)
            });
        })+
    };
}

models! {
    e1000_82545em: "e1000-82545em";
    e1000_82544gc: "e1000-82544gc";
}

#[test]
fn bochs_serves() {
    let what = "HTTP over the e1000 card of Bochs, on 2 CPUs with x2APIC, TSC deadline timer and PCID; its driver is killed";
    case("bochs_serves", what, || {
        let mut machine = Bochs::start_with_card(&image(Kind::System)?, 2, 80)?;
        let console = &mut machine.console;
        console.wait_for("timer: TSC deadline\n")?;
        console.wait_for("CPUs: 2 of 2, x2APIC, PCID, ")?;
        console.wait_for("attached to the driver, time 1: e1000\n")?;
        console.wait_for("web: serving port 80\n")?;
        transfers(|path| machine.url(path), BOCHS_LENGTH)?;
        let net = machine.console.command("net")?;
        // The address is of the DHCP server of Bochs' network.
        ensure!(
            net.contains(bochs::CARD) && net.contains("10.0.2.15/24"),
            "`net` says: {net}"
        );
        let url = machine.url(&format!("/bytes/{BOCHS_LENGTH}"))?;
        let mut killed = false;
        let got = http::download(&http::client(), &url, |total| {
            if killed || total < BOCHS_LENGTH / 4 {
                return Ok(());
            }
            killed = true;
            machine.console.send_line("kill e1000")?;
            let again = "attached to the driver, time 2: e1000\n";
            machine.console.wait_for(again).map(drop)
        })?;
        ensure!(
            killed && got == http::expected(BOCHS_LENGTH),
            "killed: {killed}; {} bytes arrived, with another SHA-256",
            got.length
        );
        Ok(())
    });
}
