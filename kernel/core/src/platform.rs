//! The boundary between policy and mechanism: what the safe kernel core asks of the machine.
//!
//! The kernel binary implements [`Platform`] with page tables, APICs and the TSC; the host tests
//! implement it with memory and counters. The mechanism in turn calls the core with interrupts off.
//! First, where there is one, the short way ([`crate::fast`]), which says itself what to resume. Where
//! that does nothing, with the interrupted thread's registers saved in [`crate::thread::Thread`]:
//! `Kernel::system_call`, `Kernel::fault`, `Kernel::interrupt`, `Kernel::timer`, `Kernel::kicked`;
//! after each it calls `Kernel::leave`, which says what to resume.

use crate::frames::Frame;
use crate::registers::Registers;
use crate::sync::AtomicU64;
use crate::tlb::SpaceTag;

/// Quadwords in a frame.
pub const FRAME_WORDS: usize = 512;

/// The contents of one frame, shared with ring 3 and other CPUs: every access is atomic.
pub type FrameWords = [AtomicU64; FRAME_WORDS];

/// What to do with the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerAction {
    /// Power off, or halt for good where the machine has no power control.
    Halt,
    /// Reset the machine.
    Reboot,
}

/// A range of I/O ports: first port and number of ports (1 to 65,536).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Number of ports; 0 for an unused entry.
    pub count: u32,
}

/// How an I/O APIC input signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineMode {
    /// Level-triggered; edge-triggered otherwise.
    pub level: bool,
    /// Active low; active high otherwise.
    pub active_low: bool,
}

/// Page permissions of a user mapping; readable always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Writable.
    pub write: bool,
    /// Executable; never together with `write`.
    pub execute: bool,
}

/// How the CPU may cache a mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caching {
    /// Ordinary memory.
    #[default]
    WriteBack,
    /// Device registers.
    Uncached,
    /// Frame buffers and the like.
    WriteCombining,
}

/// The machine, as the kernel core sees it. "This CPU" is the one that calls.
///
/// None of these functions blocks or takes a lock of the core.
pub trait Platform: Sync + Sized + 'static {
    /// Monotonic time since boot in nanoseconds; the same on every CPU.
    fn now(&self) -> u64;

    /// This CPU's counter that is as cheap to read as can be, for charging time; it never goes back.
    /// Other CPUs' counters are about the same.
    fn ticks(&self) -> u64;

    /// What [`Platform::ticks`] says on another CPU now, as well as that is known.
    fn ticks_on(&self, cpu: usize) -> u64;

    /// How many ticks so many nanoseconds are.
    fn ns_to_ticks(&self, nanoseconds: u64) -> u64;

    /// What so many ticks are in nanoseconds.
    fn ticks_to_ns(&self, ticks: u64) -> u64;

    /// Wall time minus monotonic time in nanoseconds; 0 where the machine has no wall clock.
    fn wall_offset(&self) -> u64;

    /// Whether [`Platform::save_bases`] can be called.
    fn saves_bases_fast() -> bool;

    /// Saves this CPU's FS and GS base of ring 3, which the entry of a system call leaves to the fast path.
    fn save_bases(&self, registers: &Registers);

    /// Programs this CPU's timer to interrupt at `deadline` (monotonic nanoseconds), at once if it
    /// is past, or never for `u64::MAX`. Replaces the previous deadline.
    fn set_timer(&self, deadline: u64);

    /// Interrupts another CPU so that it enters the kernel (`Kernel::kicked`). Orders all stores
    /// before it ahead of the interrupt.
    fn kick(&self, cpu: usize);

    /// The contents of a frame of RAM that the frame table handed out and that is no slab page.
    ///
    /// # Panics
    /// If the frame is no RAM: a broken invariant of the core.
    fn words(&self, frame: Frame) -> &'static FrameWords;

    /// Turns `count` contiguous frames for good into as many `T` as fit, each made by `make`.
    /// The frames are never used for anything else again.
    fn objects<T: Sync>(&self, first: Frame, count: usize, make: fn() -> T) -> &'static [T];

    /// Fills the kernel half of a new page-table root whose user half is zero.
    fn install_kernel_half(&self, root: Frame);

    /// What [`Platform::load_root`] takes for a root whose TLB entries bear a tag: its physical address in
    /// bits 12 to 43, and whatever the processor wants beside it, if it has tags, in bits 0 to 11 and from
    /// 44 on.
    fn tagged_root(&self, root: Frame, tag: SpaceTag) -> u64;

    /// Loads a page-table root on this CPU, as [`Platform::tagged_root`] gave it, or the address of the
    /// kernel's. Its non-global TLB entries with the root's tag are gone afterwards if that is the shared
    /// one; and where the processor has no tags, all.
    fn load_root(&self, root: u64);

    /// Drops this CPU's non-global TLB entries that bear a tag; where the processor has no tags, all.
    fn flush(&self, tag: SpaceTag);

    /// Drops all of this CPU's non-global TLB entries.
    fn flush_all(&self);

    /// Number of this CPU.
    fn this_cpu(&self) -> usize;

    /// Code and stack segment selectors of ring 3, as IRETQ takes them.
    fn user_selectors(&self) -> (u64, u64);

    /// The root that maps the kernel alone: for CPUs without a task.
    fn kernel_root(&self) -> Frame;

    /// The frame of the clock page, mapped read-only into every task.
    fn clock_frame(&self) -> Frame;

    /// Puts the initial FPU state into a save area (one frame).
    fn fpu_initialise(&self, area: Frame);

    /// Saves this CPU's FPU registers.
    fn fpu_save(&self, area: Frame);

    /// Loads this CPU's FPU registers.
    fn fpu_restore(&self, area: Frame);

    /// Lets ring 3 on this CPU use the FPU, or makes its use a fault (CR0.TS).
    fn fpu_enable(&self, enabled: bool);

    /// Makes exactly these I/O ports usable from ring 3 on this CPU. An empty slice refuses all and
    /// is cheap where the previous call on this CPU had an empty slice as well.
    fn set_ports(&self, ranges: &[PortRange]);

    /// Whether the range is outside RAM and outside the kernel's own APICs, so that a driver may map it.
    fn is_device_range(&self, first: u64, bytes: u64) -> bool;

    /// Routes an I/O APIC input to a vector of a CPU and unmasks it. False if there is no such input.
    fn line_enable(&self, line: u32, vector: u8, cpu: usize, mode: LineMode) -> bool;

    /// Masks or unmasks an I/O APIC input.
    fn line_mask(&self, line: u32, masked: bool);

    /// Message address and data that raise a vector on a CPU.
    fn message(&self, vector: u8, cpu: usize) -> (u64, u32);

    /// Tells this CPU's local APIC that the interrupt in service is done with.
    fn end_of_interrupt(&self);

    /// Writes to the debug UART, polled.
    fn write_log(&self, bytes: &[u8]);

    /// Stops the machine.
    fn power(&self, action: PowerAction) -> !;
}

/// First vector that [`Platform::line_enable`] and [`Platform::message`] are given.
pub const FIRST_DEVICE_VECTOR: u8 = 0x30;
/// Last vector (inclusive) that they are given; above it are the mechanism's own.
pub const LAST_DEVICE_VECTOR: u8 = 0xef;
/// Most CPUs that the core supports.
pub const MAX_CPUS: usize = 128;
