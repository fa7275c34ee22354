//! Starting the application processors (Intel SDM volume 3A, section 9.4), one after the other, each
//! with a limit of time; and the list of the CPUs that run. A CPU that does not come up is said and
//! left out.
#![expect(
    unsafe_code,
    reason = "gives memory to a CPU and takes it back as a reference"
)]

use crate::boot_memory::BootMemory;
use crate::paging::{self, Tables};
use crate::percpu::{self, PerCpu};
use crate::uart::say;
use crate::{apic, clock, entry, fpu, gdt, idt, kernel, physical, stop};
use boot::entry::{PARAMETERS, Parameters, early_root_address, trampoline_code};
use core::mem::offset_of;
use kernel_core::clock::agree::{self, Agreement, Round};
use kernel_core::platform::{FrameWords, MAX_CPUS};
use kernel_core::static_ref::AtomicRef;
use kernel_core::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Time between the reset of the others and their start; between two start-up interrupts; and until a
/// CPU is given up. In nanoseconds. An emulator may run the CPUs in turns of many milliseconds.
const RESET_TIME: u64 = 10_000_000;
const RETRY_TIME: u64 = 10_000_000;
const PATIENCE: u64 = 2_000_000_000;
/// States of a start. The CPU goes from the first to the second when it is ready, or the one that
/// starts it to the third: whoever is first decides, so that a CPU that was given up never takes part. Until
/// the CPUs are released one that is ready may be given up as well.
const STARTING: u32 = 0;
const ONLINE: u32 = 1;
const GIVEN_UP: u32 = 2;
/// Comparisons of two CPUs' TSCs.
const TSC_ROUNDS: u32 = 10;

/// The CPUs that run, by number.
static CPUS: [AtomicRef<PerCpu>; MAX_CPUS] = [const { AtomicRef::none() }; MAX_CPUS];
static COUNT: AtomicU32 = AtomicU32::new(0);
/// Numbers the sets of stacks: a CPU that was lost keeps its own.
static STACKS: AtomicU32 = AtomicU32::new(0);
/// Whether another CPU was ever started; whether the started ones may take up work.
static STARTED: AtomicBool = AtomicBool::new(false);
static RELEASED: AtomicBool = AtomicBool::new(false);
/// The comparison of TSCs: the round that is asked for, the one that is answered, and the answer.
static TSC_ASKED: AtomicU32 = AtomicU32::new(0);
static TSC_ANSWERED: AtomicU32 = AtomicU32::new(0);
static TSC_ANSWER: AtomicU64 = AtomicU64::new(0);

/// A CPU that runs.
///
/// # Panics
/// If there is no such CPU.
pub(crate) fn cpu(index: usize) -> &'static PerCpu {
    CPUS[index].get().expect("a CPU that runs")
}

/// Number of CPUs that run.
pub(crate) fn count() -> u32 {
    COUNT.load(Ordering::Relaxed)
}

/// Whether there may be others to stop.
pub(crate) fn started() -> bool {
    STARTED.load(Ordering::Relaxed)
}

/// Gives a CPU its number and its stacks.
pub(crate) fn prepare(cpu: &'static PerCpu, tables: &mut Tables<'_>) {
    let index = count();
    let stacks = STACKS.fetch_add(1, Ordering::Relaxed);
    let (kernel, interrupt) = tables.map_stacks::<{ gdt::INTERRUPT_STACKS }>(stacks);
    cpu.kernel_stack.store(kernel, Ordering::Relaxed);
    cpu.index.store(index, Ordering::Relaxed);
    for (number, end) in (1..).zip(interrupt) {
        cpu.task_state.set_stack(number, end);
    }
}

/// Enters a CPU in the list.
pub(crate) fn enlist(cpu: &'static PerCpu) {
    CPUS[count() as usize].set(Some(cpu));
    COUNT.fetch_add(1, Ordering::Relaxed);
}

/// What every CPU sets up for itself, once its stacks are there and the kernel's tables are loaded.
pub(crate) fn set_up_this_cpu(cpu: &'static PerCpu) {
    paging::enable_protection();
    gdt::load(cpu);
    idt::load();
    entry::enable_system_calls();
    fpu::initialise();
    apic::enable();
    cpu.apic.store(apic::id(), Ordering::Relaxed);
}

/// Starts the processors with these local APIC identifiers, but for this one. `page` is the
/// trampoline's. Returns whether all TSCs agree.
pub(crate) fn start_others(processors: &[u32], page: u64, memory: &mut BootMemory) -> bool {
    let this = percpu::this().apic.load(Ordering::Relaxed);
    let others = || processors.iter().copied().filter(|apic| *apic != this);
    if others().next().is_none() {
        return true;
    }
    // SAFETY: the page is RAM, mapped, and the trampoline's alone.
    let words = unsafe { physical::early_words(page) };
    copy_trampoline(words);
    STARTED.store(true, Ordering::Relaxed);
    apic::reset_others();
    clock::spin(RESET_TIME);
    let mut agree = true;
    let mut spare = None;
    for (number, apic) in others().enumerate() {
        if count() as usize == MAX_CPUS {
            say!(
                "{} more processors are left out: the kernel supports {MAX_CPUS}",
                others().count() - number
            );
            break;
        }
        if !apic::reaches(apic) {
            say!("processor with APIC {apic} is left out: an xAPIC cannot name it");
            continue;
        }
        let cpu = spare.take().unwrap_or_else(|| new_cpu(memory));
        match start(cpu, apic, page, words) {
            Outcome::Online => match compare_tsc(cpu) {
                Some(same) => {
                    agree &= same;
                    enlist(cpu);
                }
                None => give_up(cpu, apic),
            },
            // It never touched what was meant for it: the next one can have it.
            Outcome::Absent => spare = Some(cpu),
            Outcome::Lost => {}
        }
    }
    agree
}

/// Lets the others take up work, and waits until `all_have`: from the first instruction of init on, whoever asks for a
/// CPU that was announced gets it. One that falls silent now is not waited for.
pub(crate) fn release_others(all_have: impl Fn() -> bool) {
    RELEASED.store(true, Ordering::Release);
    wait(clock::now() + PATIENCE, all_have);
}

fn new_cpu(memory: &mut BootMemory) -> &'static PerCpu {
    let place = physical::address_of(memory.take(size_of::<PerCpu>() as u64)) as *mut PerCpu;
    // SAFETY: boot memory: mapped, page-aligned, large enough, and nobody else's.
    let cpu = unsafe {
        place.write(PerCpu::new());
        &*place
    };
    prepare(cpu, &mut Tables::again(memory));
    cpu
}

fn copy_trampoline(words: &FrameWords) {
    let code = trampoline_code();
    assert!(code.len() <= PARAMETERS, "the trampoline fits its page");
    for (word, bytes) in words.iter().zip(code.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
    }
}

/// How the start of a CPU ended.
enum Outcome {
    Online,
    /// It did nothing.
    Absent,
    /// It began and did not come to an end.
    Lost,
}

fn start(cpu: &'static PerCpu, apic: u32, page: u64, words: &FrameWords) -> Outcome {
    let parameter = |offset: usize| &words[(PARAMETERS + offset) / 8];
    let argument = parameter(offset_of!(Parameters, argument));
    let stack = cpu.kernel_stack.load(Ordering::Relaxed);
    parameter(offset_of!(Parameters, stack)).store(stack, Ordering::Relaxed);
    parameter(offset_of!(Parameters, root)).store(paging::root().address(), Ordering::Relaxed);
    parameter(offset_of!(Parameters, early_root)).store(early_root_address(), Ordering::Relaxed);
    argument.store(
        core::ptr::from_ref(cpu).expose_provenance() as u64,
        Ordering::Release,
    );

    let end = clock::now() + PATIENCE;
    while argument.load(Ordering::Acquire) != 0 && clock::now() < end {
        // A processor that has begun ignores a second start.
        apic::start(apic, page);
        wait(clock::now() + RETRY_TIME, || {
            argument.load(Ordering::Acquire) == 0
        });
    }
    // Taking the argument back decides whether the processor has it.
    if argument.swap(0, Ordering::AcqRel) != 0 {
        say!("processor with APIC {apic} does not start; it is left out");
        return Outcome::Absent;
    }
    wait(clock::now() + PATIENCE, || {
        cpu.start.load(Ordering::Acquire) == ONLINE
    });
    let given_up =
        cpu.start
            .compare_exchange(STARTING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire);
    if given_up.is_err() {
        return Outcome::Online;
    }
    say_lost(apic);
    Outcome::Lost
}

/// Gives up a CPU that was ready and fell silent: should it go on after all it halts when the others are released.
fn give_up(cpu: &PerCpu, apic: u32) {
    cpu.start.store(GIVEN_UP, Ordering::Release);
    // The next one is asked for rounds of its own.
    TSC_ASKED.fetch_add(TSC_ROUNDS, Ordering::Relaxed);
    say_lost(apic);
}

fn say_lost(apic: u32) {
    say!("processor with APIC {apic} started and was lost; it is left out");
}

/// Waits until `done` or `end`.
fn wait(end: u64, done: impl Fn() -> bool) {
    while !done() && clock::now() < end {
        core::hint::spin_loop();
    }
}

/// Finds by how much a CPU's TSC differs from this one's, on the CPU that starts it. Whether it does
/// not, so that a time handed from one to the other does not lie in the future there; `None` if it does not
/// answer in time.
fn compare_tsc(cpu: &PerCpu) -> Option<bool> {
    let mut rounds = [Round::default(); TSC_ROUNDS as usize];
    for round in &mut rounds {
        *round = ask_tsc()?;
    }
    let agreement = agree::compare(rounds);
    let offset = agreement.offset();
    cpu.tsc_offset.store(offset, Ordering::Relaxed);
    let index = cpu.index.load(Ordering::Relaxed);
    let ticks = offset.cast_signed();
    match agreement {
        Agreement::Agree => {}
        Agreement::Differ(_) => say!("CPU {index}: its TSC is {ticks} ticks behind CPU 0's"),
        Agreement::Unsteady(_) => {
            say!("CPU {index}: its TSC is about {ticks} ticks behind CPU 0's, and that changes");
        }
    }
    Some(agreement == Agreement::Agree)
}

/// Asks the CPU that is being started for its TSC.
fn ask_tsc() -> Option<Round> {
    let number = TSC_ASKED.load(Ordering::Relaxed) + 1;
    let is_answered = || TSC_ANSWERED.load(Ordering::Acquire) == number;
    let end = clock::now() + PATIENCE;
    let before = clock::tsc();
    TSC_ASKED.store(number, Ordering::Release);
    wait(end, is_answered);
    let after = clock::tsc();
    is_answered().then(|| Round {
        before,
        answer: TSC_ANSWER.load(Ordering::Relaxed),
        after,
    })
}

/// The other side of [`compare_tsc`]: answers until the CPUs are released.
fn answer_until_released(first: u32) {
    let mut answered = first;
    while !RELEASED.load(Ordering::Acquire) {
        let asked = TSC_ASKED.load(Ordering::Acquire);
        if asked != answered && asked <= first + TSC_ROUNDS {
            TSC_ANSWER.store(clock::tsc(), Ordering::Relaxed);
            TSC_ANSWERED.store(asked, Ordering::Release);
            answered = asked;
        }
        core::hint::spin_loop();
    }
}

/// A starting CPU, with the kernel's tables and its stack loaded.
#[unsafe(no_mangle)]
extern "C" fn kernel_start_ap(argument: u64) -> ! {
    // SAFETY: `start` stored it, from a `&'static PerCpu`, and the trampoline took it once.
    let cpu: &'static PerCpu = unsafe { &*core::ptr::with_exposed_provenance(argument as usize) };
    cpu.load();
    set_up_this_cpu(cpu);
    // Only one CPU is started at a time, so the next rounds are this one's.
    let first = TSC_ASKED.load(Ordering::Relaxed);
    let online = cpu
        .start
        .compare_exchange(STARTING, ONLINE, Ordering::AcqRel, Ordering::Acquire);
    if online.is_err() {
        stop::halt();
    }
    answer_until_released(first);
    // It may not have answered in time.
    if cpu.start.load(Ordering::Acquire) == GIVEN_UP {
        stop::halt();
    }
    kernel::take_part(cpu)
}
