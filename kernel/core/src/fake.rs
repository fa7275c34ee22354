//! A machine of memory and counters, for the tests of the core.
//!
//! Time stands still until a test moves it. Each thread of a test is a CPU: see [`run_on`].

use crate::frames::Frame;
use crate::platform::{
    Access, Caching, FRAME_WORDS, FrameWords, LineMode, MAX_CPUS, Platform, PortRange, PowerAction,
};
use crate::registers::Registers;
use crate::sync::Ordering;
use crate::tlb::SpaceTag;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, MutexGuard};

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

/// Makes the calling thread CPU `cpu` from now on; threads begin as CPU 0.
pub fn run_on(cpu: usize) {
    CPU.set(cpu);
}

/// The CPU that the calling thread is.
pub fn this_cpu() -> usize {
    CPU.get()
}

/// What was done to one CPU.
#[derive(Debug, Default)]
pub struct FakeCpu {
    /// Kicks that others sent to it.
    pub kicks: AtomicU64,
    /// Deadline of its timer; `u64::MAX` for none, 0 if it was never set.
    pub timer: AtomicU64,
    /// Times its timer was set.
    pub timer_sets: AtomicU64,
    /// Number of the root's frame that it runs on; 0 if none was loaded.
    pub root: AtomicU64,
    /// The tag that it was loaded with.
    pub tag: AtomicU64,
    /// What its TLB and its caches of tables hold: filled by the tests of the TLB rules.
    pub tlb: Mutex<BTreeMap<TlbEntry, Range<u32>>>,
    /// Times a root was loaded.
    pub root_loads: AtomicU64,
    /// Times its TLB was flushed.
    pub flushes: AtomicU64,
    /// Number of the frame whose FPU state is in its registers, by the last save or restore.
    pub fpu_area: AtomicU64,
    /// Times FPU state was saved.
    pub fpu_saves: AtomicU64,
    /// Times FPU state was loaded.
    pub fpu_restores: AtomicU64,
    /// 1 while ring 3 may use the FPU.
    pub fpu_enabled: AtomicU64,
    /// Interrupts ended.
    pub interrupts_ended: AtomicU64,
    /// Its I/O ports.
    pub ports: Mutex<Vec<PortRange>>,
}

impl FakeCpu {
    /// What its TLB holds.
    pub fn tlb(&self) -> MutexGuard<'_, BTreeMap<TlbEntry, Range<u32>>> {
        self.tlb.lock().unwrap()
    }
}

/// Where in an address space, and with which tag, a CPU remembers some frames: those of a page (level 1),
/// of a large page (level 2) or of a table (one level more than what it points to).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TlbEntry {
    /// Its tag.
    pub tag: u16,
    /// Which kind.
    pub level: u32,
    /// First address.
    pub address: u64,
}

/// After how many loads of a root a CPU once remembers all of the space that it leaves.
const REMEMBERS: u64 = 7;

/// Of a root as it is loaded: the tag; and that entries with the tag are kept.
const TAG: u64 = 0xfff;
const KEEP: u64 = 1 << 63;

/// One I/O APIC input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FakeLine {
    /// Vector.
    pub vector: u8,
    /// CPU that takes it.
    pub cpu: usize,
    /// How it signals.
    pub mode: LineMode,
    /// Whether it is masked.
    pub masked: bool,
}

/// An interrupt among the operations of [`Fake::ways`].
pub const INTERRUPT: u64 = u64::MAX;

/// Number of I/O APIC inputs.
pub const LINES: u32 = 24;
/// First physical address of the device range, which is [`DEVICE_BYTES`] long.
pub const DEVICE_START: u64 = 0xe000_0000;
/// Length of the device range in bytes.
pub const DEVICE_BYTES: u64 = 0x1000_0000;
/// The clock page: in RAM, but given to nobody.
pub const CLOCK_FRAME: Frame = Frame(1);
/// The root without a task.
pub const KERNEL_ROOT: Frame = Frame(2);
/// What [`Platform::install_kernel_half`] writes into the last entry of a root.
pub const KERNEL_HALF: u64 = 0x1003;

/// The machine.
pub struct Fake {
    /// The CPUs.
    pub cpus: [FakeCpu; MAX_CPUS],
    /// Monotonic time in nanoseconds.
    pub time: AtomicU64,
    /// A CPU of a test with several threads has panicked: the others are not to wait for it.
    pub failed: AtomicBool,
    /// Whether every CPU remembers all of each space that it loads, when it does and when it leaves it.
    pub remembers: AtomicBool,
    /// Whether system calls try the fast path.
    pub fast: AtomicBool,
    /// How many took it, and ran the partner at once; how many took it, and queued it.
    pub taken: [AtomicU64; 2],
    /// How often each way of the fast path was taken: which operation ([`INTERRUPT`] for an interrupt), how it
    /// ended, and whether it had a deadline.
    pub ways: Mutex<BTreeMap<(u64, &'static str, bool), u64>>,
    /// Everything that was logged.
    pub log: Mutex<Vec<u8>>,
    /// I/O APIC inputs that were enabled.
    pub lines: Mutex<BTreeMap<u32, FakeLine>>,
    ram_end: Frame,
    frames: Mutex<BTreeMap<Frame, &'static FrameWords>>,
}

impl Fake {
    /// A machine with RAM in all frames below `ram_end`. It is never freed.
    pub fn new(ram_end: Frame) -> &'static Fake {
        Box::leak(Box::new(Fake::machine(ram_end)))
    }

    /// The same, to be owned by a kernel.
    pub fn machine(ram_end: Frame) -> Fake {
        Fake {
            cpus: std::array::from_fn(|_| FakeCpu::default()),
            time: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            remembers: AtomicBool::new(false),
            fast: AtomicBool::new(true),
            taken: Default::default(),
            ways: Mutex::default(),
            log: Mutex::default(),
            lines: Mutex::default(),
            ram_end,
            frames: Mutex::default(),
        }
    }

    /// The CPU that the calling thread is.
    pub fn cpu(&self) -> &FakeCpu {
        &self.cpus[this_cpu()]
    }

    /// Lets time pass, in nanoseconds.
    pub fn advance(&self, nanoseconds: u64) {
        self.time.fetch_add(nanoseconds, Ordering::SeqCst);
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::SeqCst);
}

impl Platform for Fake {
    fn now(&self) -> u64 {
        self.time.load(Ordering::SeqCst)
    }

    fn ticks(&self) -> u64 {
        self.now()
    }

    fn ticks_on(&self, _cpu: usize) -> u64 {
        self.now()
    }

    fn ns_to_ticks(&self, nanoseconds: u64) -> u64 {
        nanoseconds
    }

    fn ticks_to_ns(&self, ticks: u64) -> u64 {
        ticks
    }

    fn wall_offset(&self) -> u64 {
        0
    }

    fn saves_bases_fast() -> bool {
        true
    }

    fn save_bases(&self, _: &Registers) {}

    fn set_timer(&self, deadline: u64) {
        self.cpu().timer.store(deadline, Ordering::SeqCst);
        count(&self.cpu().timer_sets);
    }

    fn kick(&self, cpu: usize) {
        crate::explore::drain();
        count(&self.cpus[cpu].kicks);
    }

    fn words(&self, frame: Frame) -> &'static FrameWords {
        assert!(frame < self.ram_end, "{frame:?} is no RAM");
        let make = || -> &'static FrameWords {
            Box::leak(Box::new(
                [const { crate::sync::AtomicU64::new(0) }; FRAME_WORDS],
            ))
        };
        self.frames
            .lock()
            .unwrap()
            .entry(frame)
            .or_insert_with(make)
    }

    fn objects<T: Sync>(&self, first: Frame, count: usize, make: fn() -> T) -> &'static [T] {
        assert!(first < self.ram_end, "{first:?} is no RAM");
        let fit = count * FRAME_WORDS * size_of::<u64>() / size_of::<T>();
        (0..fit).map(|_| make()).collect::<Vec<T>>().leak()
    }

    fn install_kernel_half(&self, root: Frame) {
        self.words(root)[FRAME_WORDS - 1].store(KERNEL_HALF, Ordering::SeqCst);
    }

    fn tagged_root(&self, root: Frame, tag: SpaceTag) -> u64 {
        let keep = if tag == SpaceTag::SHARED { 0 } else { KEEP };
        root.address() | u64::from(tag.number()) | keep
    }

    fn load_root(&self, root: u64) {
        // To load CR3 is serialising (Intel SDM volume 3A, section 8.3).
        crate::explore::drain();
        let (tag, cpu) = ((root & TAG) as u16, self.cpu());
        // A processor may fill its TLB up to the last moment, and from the first on. To try it each time takes
        // too long for most tests.
        let remembers = self.remembers.load(Ordering::Relaxed)
            || cpu
                .root_loads
                .load(Ordering::SeqCst)
                .is_multiple_of(REMEMBERS);
        if remembers {
            crate::tests::tlb::remember_loaded();
        }
        cpu.root.store(root % KEEP / 4096, Ordering::SeqCst);
        cpu.tag.store(u64::from(tag), Ordering::SeqCst);
        if root & KEEP == 0 {
            cpu.tlb().retain(|entry, _| entry.tag != tag);
        }
        count(&cpu.root_loads);
        if remembers {
            crate::tests::tlb::remember_loaded();
        }
    }

    fn flush(&self, tag: SpaceTag) {
        self.cpu()
            .tlb()
            .retain(|entry, _| entry.tag != tag.number());
        count(&self.cpu().flushes);
    }

    fn flush_all(&self) {
        self.cpu().tlb().clear();
        count(&self.cpu().flushes);
    }

    fn this_cpu(&self) -> usize {
        this_cpu()
    }

    fn user_selectors(&self) -> (u64, u64) {
        (0x33, 0x2b)
    }

    fn kernel_root(&self) -> Frame {
        KERNEL_ROOT
    }

    fn clock_frame(&self) -> Frame {
        CLOCK_FRAME
    }

    fn fpu_initialise(&self, area: Frame) {
        self.words(area)
            .iter()
            .for_each(|word| word.store(0, Ordering::SeqCst));
    }

    fn fpu_save(&self, area: Frame) {
        self.cpu()
            .fpu_area
            .store(u64::from(area.0), Ordering::SeqCst);
        count(&self.cpu().fpu_saves);
    }

    fn fpu_restore(&self, area: Frame) {
        self.cpu()
            .fpu_area
            .store(u64::from(area.0), Ordering::SeqCst);
        count(&self.cpu().fpu_restores);
    }

    fn fpu_enable(&self, enabled: bool) {
        self.cpu()
            .fpu_enabled
            .store(u64::from(enabled), Ordering::SeqCst);
    }

    fn set_ports(&self, ranges: &[PortRange]) {
        *self.cpu().ports.lock().unwrap() = ranges.to_vec();
    }

    fn is_device_range(&self, first: u64, bytes: u64) -> bool {
        first >= DEVICE_START
            && bytes <= DEVICE_BYTES
            && first - DEVICE_START <= DEVICE_BYTES - bytes
    }

    fn line_enable(&self, line: u32, vector: u8, cpu: usize, mode: LineMode) -> bool {
        let input = FakeLine {
            vector,
            cpu,
            mode,
            masked: false,
        };
        line < LINES && {
            self.lines.lock().unwrap().insert(line, input);
            true
        }
    }

    fn line_mask(&self, line: u32, masked: bool) {
        self.lines
            .lock()
            .unwrap()
            .get_mut(&line)
            .expect("the line is enabled")
            .masked = masked;
    }

    fn message(&self, vector: u8, cpu: usize) -> (u64, u32) {
        (0xfee0_0000 | (cpu as u64) << 12, u32::from(vector))
    }

    fn end_of_interrupt(&self) {
        count(&self.cpu().interrupts_ended);
    }

    fn write_log(&self, bytes: &[u8]) {
        self.log.lock().unwrap().extend_from_slice(bytes);
    }

    fn power(&self, action: PowerAction) -> ! {
        panic!("power: {action:?}");
    }
}

/// Permissions in the order in which tests like to list them.
pub const READ: Access = Access {
    write: false,
    execute: false,
};
/// Readable and writable.
pub const WRITE: Access = Access {
    write: true,
    execute: false,
};
/// Readable and executable.
pub const EXECUTE: Access = Access {
    write: false,
    execute: true,
};
/// The caching of ordinary memory.
pub const MEMORY: Caching = Caching::WriteBack;
