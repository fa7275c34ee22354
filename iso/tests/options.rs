//! The command line as a person types it: its defaults, and what is refused by name.

use clap::Parser;
use iso::cli::{Boot, Cli, Command, Net, RunOptions, Serial};
use iso::qemu::{self, Medium};

fn run(arguments: &str) -> RunOptions {
    let words = ["iso", "run"]
        .into_iter()
        .chain(arguments.split_whitespace());
    match Cli::try_parse_from(words)
        .expect("the options are right")
        .command()
    {
        Command::Run(options) => *options,
        other => panic!("{other:?}"),
    }
}

/// Checks that these options are refused and that the message names each of `words`.
fn refused(arguments: &str, words: &[&str]) {
    let message = run(arguments).check().expect_err(arguments).to_string();
    for word in words {
        assert!(message.contains(word), "`{word}` is missing in: {message}");
    }
}

#[test]
fn no_command_means_run() {
    let command = Cli::try_parse_from(["iso"]).unwrap().command();
    let Command::Run(options) = command else {
        panic!("{command:?}")
    };
    assert_eq!(
        format!("{options:?}"),
        format!("{:?}", run("")),
        "the two sets of defaults differ"
    );
    options.check().unwrap();
}

#[test]
fn what_is_not_yet_available_is_refused_by_name() {
    refused("--app some/crate", &["--app", "not yet available"]);
}

#[test]
fn options_of_another_benchmark_are_refused_by_name() {
    let check = |arguments: &str| {
        let words = ["iso", "bench"].into_iter();
        let parsed = Cli::try_parse_from(words.chain(arguments.split_whitespace()));
        match parsed.expect("the options are right").command() {
            Command::Bench(options) => options.check(),
            other => panic!("{other:?}"),
        }
    };
    check("net --only tcp_rr,udp_rr --smp 2 --quick --json").unwrap();
    check("ipc --wall --record --json").unwrap();
    for (arguments, option) in [
        ("ipc --only tcp_rr", "--only"),
        ("ipc --smp 2", "--smp"),
        ("sched --quick", "--quick"),
        ("net --record", "--record"),
        ("net --wall", "--wall"),
    ] {
        let message = check(arguments).expect_err(arguments).to_string();
        assert!(message.contains(option), "{message}");
    }
}

#[test]
fn uefi_starts_an_iso_unless_a_disk_is_named() {
    for (arguments, boot) in [
        ("--uefi", Boot::Iso),
        ("--uefi --boot iso", Boot::Iso),
        ("--boot disk --uefi", Boot::Disk),
        ("--boot disk", Boot::Disk),
        ("", Boot::Kernel),
    ] {
        for machine in ["q35", "pc"] {
            let options = run(&format!("--machine {machine} {arguments}"));
            assert_eq!(options.boot, boot, "{arguments}");
            options.check().unwrap();
        }
    }
}

#[test]
fn impossible_pairs_are_refused_by_name() {
    refused("--uefi --boot kernel", &["--uefi", "--boot kernel"]);
    refused("--uefi --memory 63", &["--uefi", "--memory", "64 MiB"]);
    refused(
        "--forward 80:80 --net tap:tap0",
        &["--forward", "--net tap"],
    );
    refused("--forward 80:80 --nic none", &["--forward", "--nic none"]);
    refused("--net tap:tap0 --nic none", &["--net tap", "--nic none"]);
    refused("--icount --accel kvm", &["--icount", "--accel kvm"]);
    for option in ["--boot iso", "--boot disk", "--uefi", "--nic virtio-legacy"] {
        refused(
            &format!("--machine microvm {option}"),
            &[option, "--machine microvm"],
        );
    }
    refused("--headless --serial file:log", &["--headless", "--serial"]);
    refused(
        "--no-archive --manifest a.toml",
        &["--no-archive", "--manifest"],
    );
}

#[test]
fn values_of_several_parts_are_read() {
    assert_eq!(run("--net tap:tap0").net, Net::Tap("tap0".to_owned()));
    assert_eq!(run("--serial file:a/b").serial, Serial::File("a/b".into()));
    assert_eq!(run("--serial unix:s").serial, Serial::Unix("s".into()));
    assert_eq!(run("--forward 1:2 --forward 3:4").forward.len(), 2);
    assert_eq!(run("-- -d int").qemu, ["-d", "int"]);
}

#[test]
fn nonsense_is_refused() {
    for arguments in [
        "--net bridge",
        "--serial",
        "--cpus 0",
        "--memory 1",
        "--forward 80",
        "--boot floppy",
    ] {
        let words = ["iso", "run"]
            .into_iter()
            .chain(arguments.split_whitespace());
        assert!(Cli::try_parse_from(words).is_err(), "{arguments}");
    }
}

/// Whether QEMU gets all of `words`, one after the other, for these options.
fn starts(arguments: &str, words: &[&str]) -> bool {
    let medium = Medium::Files {
        kernel: "kernel".into(),
        archive: None,
    };
    let command = qemu::command(&run(arguments), &medium, &[], None);
    let all: Vec<_> = command.get_args().collect();
    all.windows(words.len()).any(|part| part == words)
}

#[test]
fn microvm_s_devices_are_where_the_command_line_says() {
    let word = "virtio_mmio.device=512@0xfeb02e00:47";
    let card = "virtio-net-device,netdev=net0,bus=virtio-mmio-bus.23";
    let button = "acpi_ged=0xfea00000,9";
    let line = format!("{word} {button}");
    assert!(starts("--machine microvm", &["-append", &line]));
    assert!(starts("--machine microvm", &["-device", card]));
    let modern = ["-global", "virtio-mmio.force-legacy=false"];
    assert!(starts("--machine microvm", &modern));
    let both = format!("a=b {line}");
    assert!(starts(
        "--machine microvm --append a=b",
        &["-append", &both]
    ));
    let bare = format!("a=b {button}");
    assert!(starts(
        "--machine microvm --append a=b --nic none",
        &["-append", &bare]
    ));
    assert!(starts("--append a=b", &["-append", "a=b"]));
    assert!(!starts("", &["-append"]));
}
