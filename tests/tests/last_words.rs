//! What a panic of the kernel and a fault of a task say: registers, and the functions that led there, in the
//! guest by the boot archive's symbol tables, with source lines afterwards by `symbolize --log`.

use anyhow::{Context, Result, ensure};
use iso::image::Image;
use iso::symbolize::{Symbols, log};
use tests::images::{Kind, image};
use tests::{Setup, case};

/// The functions of a backtrace: of the lines `  0xADDRESS NAME+0xOFFSET` in what was said.
fn functions(said: &str) -> Vec<&str> {
    let function = |line: &'_ str| -> Option<usize> {
        let (_, place) = line.split_once("   0x")?;
        let (_, name) = place.split_once(' ')?;
        Some(line.len() - name.len())
    };
    said.lines()
        .filter_map(|line| Some(&line[function(line)?..]))
        .filter_map(|place| place.rsplit_once("+0x").map(|(name, _)| name))
        .collect()
}

/// Fails unless these functions are in the backtrace, in this order.
fn ensure_in_order(said: &str, expected: &[&str]) -> Result<()> {
    let found = functions(said);
    let mut rest = found.iter();
    for name in expected {
        ensure!(
            rest.any(|found| found == name),
            "`{name}` is not where it should be in {found:?}:\n{said}"
        );
    }
    Ok(())
}

/// Fails unless `symbolize --log` puts these source files under the addresses, in this order.
fn ensure_lines(said: &str, image: &Image, expected: &[&str]) -> Result<()> {
    let annotated = log::annotate(said, &Symbols::read(&image.symbols)?)?;
    let mut lines = annotated.lines().filter(|line| line.starts_with("    "));
    for place in expected {
        ensure!(
            lines.any(|line| line.contains(place)),
            "no `{place}` where it should be:\n{annotated}"
        );
    }
    Ok(())
}

fn panic(name: &str) -> Result<(String, Image)> {
    let image = image(Kind::Panics)?;
    let setup = Setup::new(image.clone()).cpus(2);
    let mut machine = setup.append(&format!("panic={name}")).start()?;
    Ok((machine.console.panic()?, image))
}

#[test]
fn broken_invariant_says_where() {
    let what = "a failed assertion of the kernel: place, registers, functions, source lines";
    case("broken_invariant_says_where", what, || {
        let (said, image) = panic("assertion")?;
        ensure!(
            said.contains("7 on purpose, at kernel/src/provoke.rs:"),
            "{said}"
        );
        ensure!(said.contains("on CPU 0, in no thread"), "{said}");
        for register in ["  rip ffffffff80", "  rsp ", "  rbp "] {
            ensure!(said.contains(register), "no `{register}`: {said}");
        }
        let path = [
            "kernel::provoke::broken_invariant",
            "kernel::provoke::assertion",
            "kernel::kernel::start",
            "kernel_start",
        ];
        ensure_in_order(&said, &path)?;
        let lines = ["provoke.rs:", "provoke.rs:", "kernel.rs:", "start.rs:"];
        ensure_lines(&said, &image, &lines)
    });
}

#[test]
fn exception_of_the_kernel_says_where() {
    let what = "an exception in ring 0: all registers, functions, source lines";
    case("exception_of_the_kernel_says_where", what, || {
        let (said, image) = panic("exception")?;
        ensure!(
            said.contains("exception 14 (error code 0x0, address 0xdead0000) at 0xffffffff80"),
            "{said}"
        );
        // What `provoke` has put into the registers.
        let numbers = [
            ("rax", 0xa0),
            ("rcx", 0xdead_0000),
            ("rdx", 0xa2),
            ("rsi", 0xa3),
            ("rdi", 0xa4),
            ("r8", 0xa8),
            ("r9", 0xa9),
            ("r10", 0xaa),
            ("r11", 0xab),
            ("r12", 0xac),
            ("r13", 0xad),
            ("r14", 0xae),
            ("r15", 0xaf),
            ("cr2", 0xdead_0000_u64),
        ];
        for (register, number) in numbers {
            let expected = format!("  {register} {number:016x}");
            ensure!(said.contains(&expected), "no `{expected}`: {said}");
        }
        let path = [
            "kernel::provoke::wild_read",
            "kernel::provoke::exception",
            "kernel::kernel::start",
            "kernel_start",
        ];
        ensure_in_order(&said, &path)?;
        ensure!(functions(&said).first() == Some(&path[0]), "{said}");
        ensure_lines(&said, &image, &["provoke.rs:", "provoke.rs:", "kernel.rs:"])
    });
}

#[test]
fn double_fault_says_where() {
    let what =
        "a kernel stack that is not there, in the middle of a copy downwards: registers, functions";
    case("double_fault_says_where", what, || {
        let (said, image) = panic("double-fault")?;
        ensure!(
            said.contains("exception 8 (error code 0x0, address 0xdeacfff8) at 0xffffffff80"),
            "{said}"
        );
        ensure!(said.contains("  rsp 00000000dead0000"), "{said}");
        let path = [
            "kernel::provoke::double_fault",
            "kernel::kernel::start",
            "kernel_start",
        ];
        ensure_in_order(&said, &path)?;
        ensure_lines(&said, &image, &["provoke.rs:", "kernel.rs:", "start.rs:"])
    });
}

#[test]
fn interrupted_panic_goes_on() {
    let what = "an NMI from elsewhere while a panic speaks: it says all that it has to";
    case("interrupted_panic_goes_on", what, || {
        let (said, _) = panic("interrupted")?;
        ensure!(
            said.contains("panic: interrupted on purpose, at "),
            "{said}"
        );
        ensure_in_order(&said, &["kernel::kernel::start", "kernel_start"])
    });
}

#[test]
fn symbols_of_another_build_are_not_used() {
    let what = "kernel and archive of two builds: said at boot, and a panic has addresses alone";
    case("symbols_of_another_build_are_not_used", what, || {
        let mixed = Image {
            archive: image(Kind::Suite)?.archive,
            ..image(Kind::Panics)?
        };
        let mut machine = Setup::new(mixed.clone())
            .append("panic=assertion")
            .start()?;
        machine.console.wait_for("is another build's")?;
        let said = machine.console.panic()?;
        ensure!(functions(&said).is_empty(), "{said}");
        ensure!(said.contains("\nuzura: panic:   0xffffffff80"), "{said}");
        // The files with symbols are the kernel's own, so that its log can be read afterwards.
        ensure_lines(&said, &mixed, &["provoke.rs:", "provoke.rs:", "kernel.rs:"])
    });
}

/// What init says when the suite ends by `fault`.
fn fault(fault: &str) -> Result<(String, Image)> {
    let image = image(Kind::Suite)?;
    let setup = Setup::new(image.clone());
    let mut machine = setup.append(&format!("suite.fault={fault}")).start()?;
    machine.console.wait_for("init: suite died (")?;
    Ok((machine.console.text(), image))
}

#[test]
fn fault_of_a_task_says_where() {
    let what = "a task writes where nothing is: registers, its own functions, source lines";
    case("fault_of_a_task_says_where", what, || {
        let (said, image) = fault("wild-write")?;
        let line = said
            .lines()
            .find(|line| line.contains("init: suite faulted: "))
            .with_context(|| format!("init did not tell the fault: {said}"))?;
        ensure!(
            line.contains("page fault at 0xdead0000 (write, not mapped)"),
            "{line}"
        );
        ensure!(said.contains("init:   rip 0000"), "{said}");
        ensure_in_order(
            &said,
            &["suite_task::fault::inner", "suite_task::fault::outer"],
        )?;
        ensure_lines(&said, &image, &["fault.rs:", "fault.rs:"])
    });
}

#[test]
fn panic_of_a_task_says_where() {
    let what = "a task panics: its own line with the place, init's with its functions";
    case("panic_of_a_task_says_where", what, || {
        let (said, image) = fault("panic")?;
        ensure!(
            said.contains("fault.rs:") && said.contains("on purpose"),
            "{said}"
        );
        ensure_lines(&said, &image, &["fault.rs:"])?;
        let names = functions(&said);
        ensure!(
            names.iter().any(|name| name.contains("panic")),
            "{names:?}:\n{said}"
        );
        Ok(())
    });
}
