//! Hostile programs: what ring 3 must not do is a fault of the culprit, and all else goes on.

use core::sync::atomic::Ordering;

use ipc::Operation;
use ipc::layout::{CLOCK_PAGE, INIT_ARCHIVE, USER_END};

use crate::child::{Child, QUOTA, Thread};
use crate::failure::{Outcome, ensure, ensure_equal};
use crate::processors::spin;
use crate::raw::{self, Board, FORBIDDEN, call};
use crate::suite::Region;
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    ("forbidden_instructions_fault", forbidden),
    ("kernel_memory_cannot_be_read", kernel_reads),
    ("kernel_memory_cannot_be_written", kernel_writes),
    ("kernel_memory_cannot_be_executed", kernel_jumps),
    ("kernel_pages_for_tasks_are_read_only", kernel_pages),
    ("another_tasks_memory_is_not_there", other_task),
    ("system_calls_from_strange_places", strange_calls),
    ("unknown_operations_are_refused", unknown),
    ("fault_can_be_resumed", resumed),
    ("fault_ends_one_thread_when_dropped", one_thread),
    ("task_ends_with_its_last_thread", last_thread),
];

/// Runs a body with these words in a child of its own and gives the vector of its fault, while a
/// bystander in another task goes on.
fn culprit(context: &Context, body: raw::Body, values: &[u64]) -> Outcome<(u64, u64)> {
    let suite = &context.suite;
    let child = Child::new(suite, &context.program, QUOTA)?;
    let thread = child.start(suite, body, values)?;
    let fault = child.fault(suite)?;
    ensure!(!thread.is_done(), "it went on after its fault");
    Ok((fault.vector, fault.address))
}

/// Each forbidden instruction is a fault: general protection, or invalid opcode, or division.
fn forbidden(context: &Context) -> Outcome {
    let suite = &context.suite;
    let bystander = Thread::start(suite, spin, &[])?;
    for (name, body) in FORBIDDEN {
        let (vector, address) = culprit(context, *body, &[])?;
        let expected: &[u64] = match *name {
            "ud2" => &[6],
            "divide" => &[0],
            // Emulators read the frame with the kernel's view, which SMAP forbids: a page fault.
            "iretq_to_ring_0" => &[13, 14],
            // An instruction that the processor lacks or that this mode lacks is an invalid opcode.
            "sysretq" => &[6, 13],
            _ => &[13],
        };
        ensure!(
            expected.contains(&vector),
            "{name}: vector {vector}, address {address:#x}"
        );
        let before = bystander.word(1);
        ensure!(
            suite.wait_for(2000, || bystander.word(1) > before),
            "{name}: another thread does not go on"
        );
    }
    bystander.set_word(0, 1);
    bystander.finish(suite)
}

/// Addresses that belong to the kernel or to nobody.
const FORBIDDEN_ADDRESSES: [u64; 9] = [
    0,
    8,
    0xffff_8000_0000_0000,
    0xffff_8000_0010_0000,
    0xffff_ffff_8000_0000,
    0xffff_ffff_8010_0000,
    0xffff_ffff_ffff_fff8,
    0x0000_8000_0000_0000,
    0x0000_7fff_ffff_f000,
];

fn read(board: &'static Board) {
    let address = board.words[0].load(Ordering::Acquire);
    board.words[1].store(raw::peek(address), Ordering::Release);
}

fn write(board: &'static Board) {
    raw::poke(board.words[0].load(Ordering::Acquire), 0x4141);
}

fn execute(board: &'static Board) {
    raw::jump(board.words[0].load(Ordering::Acquire))
}

fn at_each(context: &Context, body: raw::Body) -> Outcome {
    for address in FORBIDDEN_ADDRESSES {
        let (vector, found) = culprit(context, body, &[address])?;
        // An address that is not canonical is no page's: general protection or stack fault.
        ensure!(
            [12, 13, 14].contains(&vector),
            "{address:#x}: vector {vector}"
        );
        if vector == 14 {
            ensure_equal!(found, address, "address of the fault");
        }
    }
    Ok(())
}

fn kernel_reads(context: &Context) -> Outcome {
    at_each(context, read)
}

fn kernel_writes(context: &Context) -> Outcome {
    at_each(context, write)
}

fn kernel_jumps(context: &Context) -> Outcome {
    at_each(context, execute)
}

/// The clock page is read-only; the IPC buffer is no code, and the page after it is not there.
fn kernel_pages(context: &Context) -> Outcome {
    let suite = &context.suite;
    let child = Child::new(suite, &context.program, QUOTA)?;
    child.run(suite, read, &[CLOCK_PAGE])?;
    drop(child);
    for body in [write as raw::Body, execute] {
        let (vector, _) = culprit(context, body, &[CLOCK_PAGE])?;
        ensure_equal!(vector, 14, "the clock page");
    }
    let child = Child::new(suite, &context.program, QUOTA)?;
    let thread = child.run(suite, own_buffer, &[])?;
    let buffer = thread.word(1);
    drop((thread, child));
    let (vector, _) = culprit(context, execute, &[buffer])?;
    ensure_equal!(vector, 14, "executing an IPC buffer");
    let (vector, _) = culprit(context, read, &[buffer + 4096])?;
    ensure_equal!(vector, 14, "the page after an IPC buffer");
    Ok(())
}

/// Word 1 gets the address of the own IPC buffer.
fn own_buffer(board: &'static Board) {
    let address = raw::buffer().as_ptr().expose_provenance() as u64;
    board.words[1].store(address, Ordering::Release);
}

/// What one task has mapped is not mapped in another.
fn other_task(context: &Context) -> Outcome {
    let region = Region::new(&context.suite, 4096)?;
    raw::poke(region.address, 0x5ec2e7);
    for body in [read as raw::Body, write] {
        let (vector, address) = culprit(context, body, &[region.address])?;
        ensure_equal!(
            (vector, address),
            (14, region.address),
            "the suite's memory"
        );
        let (vector, _) = culprit(context, body, &[INIT_ARCHIVE])?;
        ensure_equal!(vector, 14, "init's memory");
    }
    ensure_equal!(raw::peek(region.address), 0x5ec2e7, "the word");
    Ok(())
}

/// Makes system calls with strange flags, and reads the time all the while.
fn calls_with_flags(board: &'static Board) {
    for _ in 0..100 {
        if raw::call_with_direction_flag() == 0 {
            board.words[1].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Flags that the kernel must not take over do it no harm.
fn strange_calls(context: &Context) -> Outcome {
    let suite = &context.suite;
    let child = Child::new(suite, &context.program, QUOTA)?;
    let thread = child.run(suite, calls_with_flags, &[])?;
    ensure_equal!(thread.word(1), 100, "system calls that came back");
    // The trap flag makes each instruction a fault of the task, never one of the kernel.
    let (vector, _) = culprit(context, raw::trap_flag, &[])?;
    ensure_equal!(vector, 1, "vector with the trap flag");
    Ok(())
}

fn unknown(_: &Context) -> Outcome {
    let first = Operation::ALL.len() as u64;
    for number in [
        first,
        first + 1,
        255,
        256,
        1 << 31,
        1 << 32,
        1 << 63,
        u64::MAX,
    ] {
        for value in [0, u64::MAX, USER_END] {
            let (status, _) = raw::enter(number, [value; 6], 0);
            ensure_equal!(
                status,
                ipc::Error::InvalidOperation.code(),
                "operation {number:#x}"
            );
        }
    }
    Ok(())
}

/// Reads the page at the address in word 0, which is mapped when the fault is answered.
fn resumed(context: &Context) -> Outcome {
    let suite = &context.suite;
    let child = Child::new(suite, &context.program, QUOTA)?;
    let region = Region::new(suite, 4096)?;
    raw::poke(region.address, 0x77);
    let there = suite.area(4096);
    let thread = child.start(suite, read, &[there])?;
    let (_, tag, _) = crate::suite::receive(child.faults.0, suite.after(2000))?;
    ensure_equal!(tag.label(), ipc::Label::FAULT, "the message");
    crate::suite::map(child.task, region.memory, there, 4096, 0)?;
    call(Operation::Reply, &[0])?;
    thread.finish(suite)?;
    ensure_equal!(thread.word(1), 0x77, "what it read after all");
    Ok(())
}

/// A fault whose reply is dropped ends that thread; the others of its task go on.
fn one_thread(context: &Context) -> Outcome {
    let suite = &context.suite;
    let child = Child::new(suite, &context.program, QUOTA)?;
    let other = child.start(suite, spin, &[])?;
    let culprit = child.start(suite, read, &[0])?;
    child.fault(suite)?;
    culprit.reach(suite, 4)?;
    let before = other.word(1);
    ensure!(
        suite.wait_for(2000, || other.word(1) > before),
        "the other thread does not go on"
    );
    other.set_word(0, 1);
    other.finish(suite)
}

/// Does nothing.
fn idle(_: &'static Board) {}

/// When the last thread of a task ends, the task does, and its fault endpoint's badge is closed.
fn last_thread(context: &Context) -> Outcome {
    let suite = &context.suite;
    let mut child = Child::new(suite, &context.program, QUOTA)?;
    let first = child.start(suite, spin, &[])?;
    let second = child.start(suite, idle, &[])?;
    second.finish(suite)?;
    suite.sleep(20);
    child.let_go()?;
    ensure_equal!(child.info()?.state, 0, "state with a thread left");
    first.set_word(0, 1);
    child.closed(suite)?;
    let state = child.info().map(|info| info.state);
    ensure!(state != Ok(0), "it still counts as alive");
    Ok(())
}
