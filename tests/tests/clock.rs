//! The clock against the emulators' own: the TSC's rate from each source, within the error that is
//! announced, and the wall clock.

use anyhow::{Context, Result, anyhow, bail, ensure};
use iso::cli::Machine as Model;
use kernel_core::clock::calendar::{BINARY, Fields, HOURS_24};
use tests::console::PROMPT;
use tests::images::{Kind, image};
use tests::{Bochs, LIMIT, Setup, case};

/// The TSC's rate in Hz where QEMU counts instructions, one a nanosecond.
const COUNTED: u64 = 1_000_000_000;
/// The TSC's rate in Hz in Bochs: an instruction a tick, as many a second as its settings say.
const BOCHS: u64 = 100_000_000;
/// No source is so bad that its error, in millionths, may be more.
const WORST: u64 = 500;

/// What the kernel announces.
#[derive(Debug, PartialEq, Eq)]
struct Announcement {
    khz: u64,
    source: String,
    error_ppm: u64,
}

impl Announcement {
    /// Reads `uzura: clock: TSC at KHZ kHz, by SOURCE, +-ERROR ppm; timer: ...`.
    fn parse(line: &str) -> Result<Self> {
        let fields = || {
            let rest = line.split_once("clock: TSC at ")?.1;
            let (khz, rest) = rest.split_once(" kHz, by ")?;
            let (source, rest) = rest.split_once(", +-")?;
            let (error, _) = rest.split_once(" ppm; timer: ")?;
            Some((khz.parse().ok()?, source.to_owned(), error.parse().ok()?))
        };
        let (khz, source, error_ppm) = fields().with_context(|| format!("`{line}`"))?;
        Ok(Self {
            khz,
            source,
            error_ppm,
        })
    }

    /// Fails unless it is by this source and the truth, in Hz, within its error.
    fn check(&self, source: &str, truth: u64) -> Result<()> {
        ensure!(self.source == source, "by {source} was asked for: {self:?}");
        // It is printed in whole kilohertz, what is less is cut off.
        let (least, most) = (self.khz * 1_000, self.khz * 1_000 + 999);
        let wrong = least.saturating_sub(truth).max(truth.saturating_sub(most));
        let allowed = truth * self.error_ppm / 1_000_000;
        ensure!(wrong <= allowed, "the TSC runs at {truth} Hz: {self:?}");
        ensure!(self.error_ppm <= WORST, "{self:?} says too little");
        Ok(())
    }
}

/// What a machine that counts instructions announces with this command line and these arguments for QEMU, and
/// what the kernel printed before.
fn announced(model: Model, append: &str, arguments: &[&str]) -> Result<(String, Announcement)> {
    let setup = Setup::new(image(Kind::Kernel)?).append(append);
    let mut machine = setup
        .with(|options| {
            options.machine = model;
            options.icount = true;
            options.qemu = arguments.iter().map(|word| (*word).to_owned()).collect();
        })
        .start()?;
    let before = machine.console.wait_for("clock: TSC at ")?;
    let line = machine.console.wait_for("\n")?;
    let announcement = Announcement::parse(&format!("clock: TSC at {line}"))?;
    Ok((before, announcement))
}

/// One test for each way to a rate: the machine, what it lacks, the source that is asked for, and the one that it must
/// be.
macro_rules! sources {
    ($($name:ident: $model:ident, $arguments:expr, $append:literal, $source:literal;)+) => {
        $(#[test]
        fn $name() {
            let what = concat!("the TSC's rate by ", $source, " is right within its error");
            case(stringify!($name), what, || {
                let (_, rate) = announced(Model::$model, $append, &$arguments)?;
                rate.check($source, COUNTED)
            });
        })+
    };
}

sources! {
    rate_by_hpet: Q35, [], "", "HPET";
    rate_by_hpet_on_pc: Pc, [], "", "HPET";
    rate_by_pm_timer: Q35, ["-no-hpet"], "", "PM timer";
    rate_by_pm_timer_on_pc: Pc, [], "clock.source=pm-timer", "PM timer";
    rate_by_pit: Q35, [], "clock.source=pit", "PIT";
    rate_by_pit_on_pc: Pc, ["-no-hpet"], "clock.source=6", "PIT";
}

#[test]
fn rate_in_bochs() {
    let what = "the TSC's rate is right within its error by each timer that Bochs has";
    case("rate_in_bochs", what, || {
        for (append, source) in [
            ("", "HPET"),
            ("clock.source=pm-timer", "PM timer"),
            ("clock.source=pit", "PIT"),
        ] {
            let mut machine = Bochs::start(&image(Kind::Kernel)?, 1, append)?;
            machine.console.wait_for("clock: TSC at ")?;
            let line = machine.console.wait_for("\n")?;
            let rate = Announcement::parse(&format!("clock: TSC at {line}"))?;
            rate.check(source, BOCHS)?;
        }
        Ok(())
    });
}

#[test]
fn source_that_is_not_there() {
    let what = "a clock source that the machine lacks is refused, and another one taken";
    case("source_that_is_not_there", what, || {
        for (arguments, word, name) in [
            (vec!["-no-hpet"], "hpet", "HPET"),
            (vec!["-machine", "pit=off"], "pit", "PIT"),
            (vec![], "kvmclock", "kvmclock"),
            (vec![], "processor", "processor"),
            (vec![], "hypervisor", "hypervisor"),
        ] {
            let append = format!("clock.source={word}");
            let (before, rate) = announced(Model::Q35, &append, &arguments)?;
            let refusal = format!("clock.source: no rate by {name} on this machine");
            ensure!(before.contains(&refusal), "{before}");
            let other = if name == "HPET" { "PM timer" } else { "HPET" };
            rate.check(other, COUNTED)?;
        }
        let (before, rate) = announced(Model::Q35, "clock.source=sundial", &[])?;
        ensure!(
            before.contains("clock.source=sundial: the value is no number"),
            "{before}"
        );
        rate.check("HPET", COUNTED)
    });
}

/// Seconds since 1970 of what `date` prints: `2031-02-28 23:59:58 UTC`.
fn date(console: &mut tests::Console) -> Result<u64> {
    let printed = console.command("date")?;
    let numbers = |line: &str| -> Option<Vec<u16>> {
        let (text, _) = line.split_once(" UTC")?;
        let words = text.rsplitn(3, ' ').take(2).collect::<Vec<_>>();
        let numbers = words.iter().rev().flat_map(|word| word.split(['-', ':']));
        numbers.map(|number| number.parse().ok()).collect()
    };
    let found = printed.lines().find_map(numbers);
    let Some([year, rest @ ..]) = found.as_deref() else {
        bail!("`date` prints {printed}");
    };
    let [month, day, hour, minute, second] =
        <[u8; 5]>::try_from(rest.iter().map(|number| *number as u8).collect::<Vec<_>>())
            .map_err(|_| anyhow!("`date` prints {printed}"))?;
    let fields = Fields {
        second,
        minute,
        hour,
        day,
        month,
        year: (year % 100) as u8,
        century: Some((year / 100) as u8),
    };
    let seconds = fields.seconds(BINARY | HOURS_24);
    seconds.with_context(|| format!("`date` prints {printed}"))
}

/// The machine's real-time clock begins at `base`, which is so many seconds after 1970.
fn wall_begins_at(base: &str, seconds: u64) -> Result<()> {
    let setup = Setup::new(image(Kind::System)?).with(|options| {
        options.qemu = ["-rtc", &format!("base={base},clock=vm")]
            .map(str::to_owned)
            .to_vec();
    });
    let mut machine = setup.start()?;
    machine.console.wait_for(PROMPT)?;
    let first = date(&mut machine.console)?;
    let second = date(&mut machine.console)?;
    ensure!(second >= first, "{second} after {first}");
    // Everything that is wrong with a calendar is wrong by an hour or more; a test that hangs ends before.
    let latest = seconds + LIMIT.as_secs() * 2;
    ensure!(
        (seconds..=latest).contains(&first),
        "the clock began at {seconds}, `date` says {first}"
    );
    Ok(())
}

#[test]
fn wall_time() {
    let what = "`date` tells the time of the real-time clock, at a leap day and in another century";
    case("wall_time", what, || {
        wall_begins_at("2031-02-28T23:59:58", 1_930_089_598)?;
        wall_begins_at("2028-02-29T12:00:00", 1_835_438_400)?;
        wall_begins_at("2105-12-31T23:59:59", 4_291_747_199)
    });
}

#[test]
fn announcements_are_read() {
    let line = "uzura: clock: TSC at 999999 kHz, by PM timer, +-15 ppm; timer: TSC deadline\n";
    let rate = Announcement::parse(line).unwrap();
    let expected = Announcement {
        khz: 999_999,
        source: "PM timer".to_owned(),
        error_ppm: 15,
    };
    assert_eq!(rate, expected);
    assert!(rate.check("PM timer", COUNTED).is_ok());
    assert!(rate.check("HPET", COUNTED).is_err());
    assert!(rate.check("PM timer", COUNTED + 20_000).is_err());
    assert!(rate.check("PM timer", COUNTED - 20_000).is_err());
    let vague = Announcement {
        error_ppm: 501,
        ..expected
    };
    assert!(vague.check("PM timer", COUNTED).is_err());
    assert!(Announcement::parse("clock: TSC at 5 kHz, by PIT").is_err());
}
