//! The one kernel: `kernel_core::Kernel` over this machine, and how it comes to be from what boot
//! found. The core decides everything from the first thread on.
#![expect(
    unsafe_code,
    reason = "the kernel is reached without a check on every entry"
)]

use crate::boot_memory::BootMemory;
use crate::percpu::{self, PerCpu};
use crate::platform::X86;
use crate::uart::say;
use crate::{exit, physical, smp};
use boot::{BootInfo, PAGE, Range};
use kernel_core::cpu::Cpu;
use kernel_core::frames::{Frame, FrameInfo, FrameTable};
use kernel_core::kernel::{Kernel, Machine};
use kernel_core::platform::PowerAction;
use kernel_core::sync::{AtomicU64, Ordering};
use kernel_core::thread::Thread;
use kernel_core::trace::TraceRing;
use kernel_core::tunables::{Tunable, Tunables};
use spin::Once;

/// Bytes of a trace record: four quadwords.
const RECORD_BYTES: u64 = 32;

static KERNEL: Once<Kernel<X86>> = Once::new();

/// The kernel.
#[inline(always)]
pub(crate) fn get() -> &'static Kernel<X86> {
    // SAFETY: `start` completes it before it lets any CPU into ring 3 or idle, where entries come from.
    unsafe { KERNEL.get_unchecked() }
}

/// The core's state of a CPU that takes part.
#[inline(always)]
pub(crate) fn cpu(cpu: &'static PerCpu) -> &'static Cpu {
    cpu.core
        .get()
        .expect("a CPU enters the core only once it takes part")
}

/// What the command line says should follow a panic.
pub(crate) fn panic_action() -> PowerAction {
    match KERNEL
        .get()
        .map(|kernel| kernel.tunables.get(Tunable::PanicAction))
    {
        Some(1) => PowerAction::Reboot,
        _ => PowerAction::Halt,
    }
}

/// The thread that this CPU runs, for a panic.
pub(crate) fn current_thread() -> Option<&'static Thread> {
    percpu::this().core.get()?.current.get()
}

/// In every turn of a spin loop: another CPU may wait for this one's TLB.
pub(crate) fn relax() {
    if let (Some(kernel), Some(cpu)) = (KERNEL.get(), percpu::this().core.get()) {
        kernel.serve_flush(cpu);
    }
}

/// Makes the kernel from what is left of the memory, and starts init and all CPUs.
pub(crate) fn start(
    info: BootInfo,
    machine: Machine,
    tunables: Tunables,
    mut memory: BootMemory,
) -> ! {
    choose_mutant(machine.command_line);
    #[cfg(feature = "panics")]
    crate::provoke::by(machine.command_line);
    let cpus = memory.place(smp::count() as usize, Cpu::new);
    let records = tunables.get(Tunable::TraceRecords);
    let traces = trace_rings(&mut memory, cpus.len(), records);
    let frames = frame_table(memory);
    let kernel = KERNEL.call_once(|| Kernel::new(X86, frames, cpus, traces, tunables, machine));
    say!(
        "memory: {} MiB free",
        (kernel.frames.free_count() * PAGE) >> 20
    );

    for (index, cpu) in cpus.iter().enumerate() {
        let here = smp::cpu(index);
        cpu.apic
            .store(here.apic.load(Ordering::Relaxed), Ordering::Relaxed);
        here.core.set(Some(cpu));
    }
    let Some(archive) = info.archive else {
        panic!("no boot archive: give it to QEMU with -initrd, or to GRUB with module2");
    };
    if let Err(error) = kernel.start_init(archive_bytes(&info, archive), archive.start) {
        panic!("{error}");
    }
    let others = kernel.cpus().get(1..).unwrap_or_default();
    smp::release_others(|| others.iter().all(|cpu| cpu.online.load(Ordering::Acquire)));
    take_part(percpu::this())
}

/// Lets this CPU take up work.
pub(crate) fn take_part(cpu: &'static PerCpu) -> ! {
    get().bring_online(self::cpu(cpu));
    exit::leave()
}

fn trace_rings(memory: &mut BootMemory, count: usize, records: u64) -> &'static [TraceRing] {
    let words = (records * RECORD_BYTES / 8) as usize;
    let rings = memory.place(count * words, |_| AtomicU64::new(0));
    memory.place(count, |index| {
        TraceRing::new(&rings[index * words..][..words])
    })
}

/// Gives all memory that is left to a frame table.
fn frame_table(mut memory: BootMemory) -> FrameTable {
    let end = memory.end();
    let infos = memory.place((end / PAGE) as usize, |_| FrameInfo::NEW);
    let frames = FrameTable::new(infos);
    for range in memory.rest().as_slice() {
        let end = range.end.min(physical::MOST_MEMORY);
        if let Some(first) = Frame::from_address(range.start) {
            frames.add_range(first, end.saturating_sub(range.start) / PAGE);
        }
    }
    frames
}

/// The boot archive in the direct map.
///
/// # Panics
/// If it lies where no archive can be used.
pub(crate) fn archive_bytes(info: &BootInfo, archive: Range) -> &'static [u8] {
    assert!(
        archive.start.is_multiple_of(PAGE),
        "the boot archive begins on a page"
    );
    assert!(info.ram.contains(archive), "the boot archive is in RAM");
    // SAFETY: RAM, so in the direct map; reserved, so that nobody else has it: the frame table was
    // not given it, and the core maps it read-only.
    unsafe { physical::bytes(archive.start, archive.bytes()) }
}

#[cfg(feature = "mutants")]
fn choose_mutant(command_line: &str) {
    for name in command_line
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix("mutant="))
    {
        if kernel_core::mutant::choose(name) {
            say!("mutant: {name}");
        } else {
            panic!("there is no mutant {name}");
        }
    }
}

#[cfg(not(feature = "mutants"))]
fn choose_mutant(_: &str) {}
