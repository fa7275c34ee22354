//! kvmclock's mechanism: the memory that KVM writes, and the registers that tell it where that is. What
//! it says is `kernel_core::clock::kvmclock`'s. Not run on KVM so far: QEMU's translator and Bochs lack it.
#![expect(unsafe_code, reason = "gives the hypervisor memory to write")]

use crate::clock;
use crate::uart::say;
use boot::entry::KERNEL_BASE;
use core::arch::x86_64::__cpuid;
use kernel_core::clock::kvmclock::{
    self, KvmClock, KvmClockError, Registers, TIME_WORDS, TimeInfo, WALL_WORDS,
};
use kernel_core::clock::source::Answer;
use kernel_core::clock::told::Leaf;
use kernel_core::sync::{AtomicU32, Ordering};
use spin::Once;
use x86_64::registers::model_specific::Msr;

/// A structure that KVM writes: words of 32 bits, which do not cross a page.
#[repr(C, align(64))]
struct Shared<const WORDS: usize>([AtomicU32; WORDS]);

static TIME: Shared<TIME_WORDS> = Shared([const { AtomicU32::new(0) }; TIME_WORDS]);
static WALL: Shared<WALL_WORDS> = Shared([const { AtomicU32::new(0) }; WALL_WORDS]);

/// Set once the clock runs by kvmclock.
static FOLLOWED: Once<(KvmClock, Registers)> = Once::new();
/// The version that the clock goes by; 0 where it does not, and KVM writes no structure.
static VERSION: AtomicU32 = AtomicU32::new(0);

/// Bit 0 of the time's register.
const ENABLE: u64 = 1;

impl<const WORDS: usize> Shared<WORDS> {
    fn address(&self) -> u64 {
        self.0.as_ptr().addr() as u64 - KERNEL_BASE
    }

    fn word(&self, position: usize) -> u32 {
        // Loads are not taken ahead of earlier ones.
        self.0[position].load(Ordering::Acquire)
    }
}

/// CPUID, subleaf 0.
pub(crate) fn cpuid(leaf: u32) -> Leaf {
    let result = __cpuid(leaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// Gives a register of KVM's a value.
fn write(register: u32, value: u64) {
    // SAFETY: `registers` found the feature bits that say that the register is there. KVM writes nothing but the
    // structure at the address, whose fields are atomic and live for good; the static lies in the image, so
    // its physical address is what `address` says.
    unsafe { Msr::new(register).write(value) };
}

/// Asks KVM for the time from now on, on the CPU that boots: its structure is everybody's.
fn time(registers: Registers) -> Result<TimeInfo, KvmClockError> {
    write(registers.system_time, TIME.address() | ENABLE);
    TimeInfo::read(|position| TIME.word(position))
}

fn wall(registers: Registers) -> Option<u64> {
    write(registers.wall_clock, WALL.address());
    kvmclock::wall_clock(|position| WALL.word(position)).ok()
}

/// The TSC's rate, as KVM says it.
pub(crate) fn rate() -> Option<Answer> {
    let registers = kvmclock::registers(cpuid)?;
    match time(registers) {
        Ok(info) => Some(Answer {
            rate: info.rate(),
            sure: true,
        }),
        Err(error) => {
            say!("kvmclock: {error}; it is not used");
            write(registers.system_time, 0);
            None
        }
    }
}

/// Where there is kvmclock: the clock, which has its rate, goes by it from now on. Returns whether all
/// CPUs' TSCs agree by its word, and the wall clock's offset.
pub(crate) fn begin() -> Option<(bool, Option<u64>)> {
    let registers = kvmclock::registers(cpuid)?;
    let info = time(registers).ok()?;
    let (tsc, now) = clock::pair();
    let clock = KvmClock::start(&info, registers.tells_stable, tsc, now);
    let offset = wall(registers).map(|wall| KvmClock::wall_offset(&info, wall, tsc, now));
    FOLLOWED.call_once(|| (clock, registers));
    VERSION.store(info.version, Ordering::Relaxed);
    Some((clock.is_stable(&info), offset))
}

/// Whether the clock goes by kvmclock.
pub(crate) fn is_followed() -> bool {
    FOLLOWED.is_completed()
}

/// Looks whether KVM wrote the time anew, and lets the clock follow. Costs two loads where it did not.
#[inline]
pub(crate) fn follow() {
    if TIME.word(0) != VERSION.load(Ordering::Relaxed) {
        follow_change();
    }
}

#[cold]
fn follow_change() {
    let Some((clock, registers)) = FOLLOWED.get() else {
        return;
    };
    // Both structures are one for all CPUs: only who changes the clock reads the time's and asks for the wall
    // clock's. Where the time's is being written or nonsense, or another CPU changes the clock, the next timer
    // interrupt looks again.
    let word = |position| TIME.word(position);
    clock::change(|old, tsc| clock.follow(&VERSION, word, || wall(*registers), old, tsc));
}
