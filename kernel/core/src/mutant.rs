//! Deliberate breakages: each leaves out one check, so that the suite can be seen to fail.
//!
//! They exist only in the test-only build (feature `mutants`), one of them chosen on the kernel
//! command line (`mutant=NAME`); in every other build `active` is the constant false and the checks
//! cannot be left out.

/// The breakages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// A handle's rights are not looked at.
    Rights = 1,
    /// The length of a message is not looked at.
    Length,
    /// Memory may be mapped writable and executable.
    WriteAndExecute,
    /// A stashed reply can be answered again.
    ReplyOneShot,
    /// A wait can be claimed twice, and by the deadline of another one.
    WaitArbitration,
    /// Other CPUs keep their TLB entries after an unmap.
    Shootdown,
    /// The local APIC is not told that an interrupt was served.
    EndOfInterrupt,
    /// A quota's limit is not looked at.
    QuotaCharge,
    /// Frames are handed out with what their last user left in them, but for init, which could make no
    /// task of them.
    FrameZeroing,
    /// I/O ports stay usable for the next task.
    PortSwitch,
    /// A handle's generation is not looked at.
    HandleGeneration,
    /// A badged send right carries no badge.
    BadgeMint,
    /// A CPU's clock is late by a millisecond, as if its TSC had not been compared, but for the first's.
    ClockAgreement,
}

impl Mutant {
    /// Every breakage with its name on the command line.
    pub const ALL: [(&'static str, Mutant); 13] = [
        ("rights", Mutant::Rights),
        ("length", Mutant::Length),
        ("write-and-execute", Mutant::WriteAndExecute),
        ("reply-one-shot", Mutant::ReplyOneShot),
        ("wait-arbitration", Mutant::WaitArbitration),
        ("shootdown", Mutant::Shootdown),
        ("end-of-interrupt", Mutant::EndOfInterrupt),
        ("quota-charge", Mutant::QuotaCharge),
        ("frame-zeroing", Mutant::FrameZeroing),
        ("port-switch", Mutant::PortSwitch),
        ("handle-generation", Mutant::HandleGeneration),
        ("badge-mint", Mutant::BadgeMint),
        ("clock-agreement", Mutant::ClockAgreement),
    ];
}

#[cfg(feature = "mutants")]
static CHOSEN: crate::sync::AtomicU8 = crate::sync::AtomicU8::new(0);

/// Chooses a breakage by its name; false if there is none of that name.
#[cfg(feature = "mutants")]
pub fn choose(name: &str) -> bool {
    match Mutant::ALL.iter().find(|(known, _)| *known == name) {
        Some((_, mutant)) => {
            CHOSEN.store(*mutant as u8, crate::sync::Ordering::Relaxed);
            true
        }
        None => false,
    }
}

/// Whether a breakage is in force.
#[cfg(feature = "mutants")]
#[inline(always)]
pub fn active(mutant: Mutant) -> bool {
    CHOSEN.load(crate::sync::Ordering::Relaxed) == mutant as u8
}

/// Whether a breakage is in force: never, in this build.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn active(_mutant: Mutant) -> bool {
    false
}
