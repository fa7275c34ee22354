//! Memory: zeroed, mapped and unmapped, never writable and executable, gone on every CPU at once.

use core::sync::atomic::Ordering;

use ipc::info::ThreadParameter;
use ipc::layout::{LARGE_PAGE_BYTES, PAGE_BYTES, USER_END, USER_START};
use ipc::{Operation, Rights};

use crate::child::{Child, PRIORITY, QUOTA, Thread};
use crate::failure::{Outcome, ensure, ensure_equal, ensure_error};
use crate::raw::{self, Board, call, value};
use crate::suite::{EXECUTE, Owned, Region, WRITE, map};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    ("new_memory_is_zero", zero),
    ("writable_and_executable_is_refused", write_and_execute),
    ("mappings_keep_to_their_access", access),
    ("unmapped_memory_is_gone_on_every_cpu", shootdown),
    ("unmapped_memory_is_gone_here", unmap_here),
    ("mappings_do_not_overlap", overlap),
    ("mappings_stay_in_the_user_half", range),
    ("memory_is_shared_by_its_handle", shared),
    ("mapping_outlives_its_handle", outlives),
    ("large_memory_is_whole", large),
    ("stacks_end_in_a_guard", guard),
    ("contiguous_memory_tells_its_address", contiguous),
];

/// Bytes that a test dirties and gets back.
const DIRTY_BYTES: u64 = 2 << 20;

fn fill(region: &Region, seed: u64) {
    for (position, word) in raw::words(region.address, region.bytes).iter().enumerate() {
        word.store(seed ^ position as u64, Ordering::Relaxed);
    }
}

fn first_not_zero(region: &Region) -> Option<u64> {
    let words = raw::words(region.address, region.bytes);
    let found = words
        .iter()
        .position(|word| word.load(Ordering::Relaxed) != 0);
    found.map(|position| position as u64 * 8)
}

/// Frames come zeroed, also those that were full of something a moment ago.
fn zero(context: &Context) -> Outcome {
    for round in 0..6 {
        let region = Region::new(&context.suite, DIRTY_BYTES)?;
        if let Some(offset) = first_not_zero(&region) {
            ensure!(false, "round {round}: not zero at offset {offset:#x}");
        }
        fill(&region, 0x5ec2_e700_0000_0001);
    }
    // Pages that come one by one, and contiguous ones.
    for flags in [0, 1] {
        for _ in 0..200 {
            let memory = Owned::make(Operation::MemoryCreate, &[PAGE_BYTES, flags])?;
            let address = context.suite.area(PAGE_BYTES);
            map(context.suite.task, memory.0, address, PAGE_BYTES, WRITE)?;
            let words = raw::words(address, PAGE_BYTES);
            let clean = words.iter().all(|word| word.load(Ordering::Relaxed) == 0);
            words
                .iter()
                .for_each(|word| word.store(!0, Ordering::Relaxed));
            call(Operation::MemoryUnmap, &[context.suite.task, address])?;
            ensure!(clean, "a page was not zero");
        }
    }
    Ok(())
}

fn write_and_execute(context: &Context) -> Outcome {
    let suite = &context.suite;
    let memory = Owned::make(Operation::MemoryCreate, &[PAGE_BYTES])?;
    let address = suite.area(PAGE_BYTES);
    ensure_error!(
        map(suite.task, memory.0, address, PAGE_BYTES, WRITE | EXECUTE),
        WriteAndExecute,
        "mapping writable and executable"
    );
    ensure_error!(
        call(Operation::MemoryUnmap, &[suite.task, address]),
        NotMapped,
        "what was refused"
    );
    for access in [4, 5, u64::MAX] {
        let result = map(suite.task, memory.0, address, PAGE_BYTES, access);
        ensure!(result.is_err(), "access {access:#x} was allowed");
    }
    Ok(())
}

/// Reads the address in word 0.
fn read(board: &'static Board) {
    let address = board.words[0].load(Ordering::Acquire);
    board.words[1].store(raw::peek(address), Ordering::Release);
}

/// Writes to the address in word 0.
fn write(board: &'static Board) {
    raw::poke(board.words[0].load(Ordering::Acquire), 1);
}

/// Executes at the address in word 0.
fn execute(board: &'static Board) {
    raw::jump(board.words[0].load(Ordering::Acquire));
}

/// Vector of the page fault, and bits of its error code (Intel SDM volume 3A, section 4.7).
const PAGE_FAULT: u64 = 14;
const PRESENT: u64 = 1;
const WRITING: u64 = 1 << 1;
const FETCHING: u64 = 1 << 4;

/// Runs a body in a child and expects its page fault at the address in its word 0.
fn expect_fault(
    context: &Context,
    child: &Child,
    body: raw::Body,
    address: u64,
    bits: u64,
) -> Outcome {
    let _thread = child.start(&context.suite, body, &[address])?;
    let fault = child.fault(&context.suite)?;
    ensure_equal!(
        (fault.vector, fault.address),
        (PAGE_FAULT, address),
        "vector and address"
    );
    let seen = fault.error_code & (PRESENT | WRITING | FETCHING);
    ensure_equal!(seen, bits, "error code for {address:#x}");
    Ok(())
}

fn access(context: &Context) -> Outcome {
    let suite = &context.suite;
    let child = Child::new(suite, &context.program, QUOTA)?;
    let memory = Owned::make(Operation::MemoryCreate, &[PAGE_BYTES])?;
    let address = suite.area(PAGE_BYTES);
    let remap = |access| {
        let _ = call(Operation::MemoryUnmap, &[child.task, address]);
        map(child.task, memory.0, address, PAGE_BYTES, access)
    };
    remap(0)?;
    child.run(suite, read, &[address])?;
    expect_fault(context, &child, write, address, PRESENT | WRITING)?;
    expect_fault(context, &child, execute, address, PRESENT | FETCHING)?;
    remap(WRITE)?;
    child.run(suite, write, &[address])?;
    expect_fault(context, &child, execute, address, PRESENT | FETCHING)?;
    remap(EXECUTE)?;
    child.run(suite, read, &[address])?;
    expect_fault(context, &child, write, address, PRESENT | WRITING)?;
    // A handle without the right cannot be mapped so.
    for (right, access) in [(Rights::WRITE, WRITE), (Rights::EXECUTE, EXECUTE)] {
        let rights = u64::from(Rights::ALL.0 & !right.0);
        let weak = Owned::make(Operation::Duplicate, &[memory.0, rights])?;
        ensure_error!(
            map(suite.task, weak.0, address, PAGE_BYTES, access),
            MissingRights,
            "access {access}"
        );
    }
    Ok(())
}

/// Reads the address in word 0 for ever; word 1 counts.
fn read_for_ever(board: &'static Board) {
    let address = board.words[0].load(Ordering::Acquire);
    loop {
        raw::peek(address);
        board.words[1].fetch_add(1, Ordering::Release);
    }
}

/// A thread on another CPU that reads a page all the time faults as soon as it is unmapped.
fn shootdown(context: &Context) -> Outcome {
    let suite = &context.suite;
    for round in 0..8 {
        let child = Child::new(suite, &context.program, QUOTA)?;
        let memory = Owned::make(Operation::MemoryCreate, &[PAGE_BYTES])?;
        let address = suite.area(PAGE_BYTES);
        map(child.task, memory.0, address, PAGE_BYTES, 0)?;
        let reader = Thread::stopped(suite, Some(child.task), read_for_ever, &[address], PRIORITY)?;
        if suite.cpus > 1 {
            // Not where the suite is, whose own switches would flush it there.
            reader.set(
                ThreadParameter::Affinity,
                1 << (1 + round % (suite.cpus - 1)),
            )?;
        }
        reader.go()?;
        ensure!(
            suite.wait_for(2000, || reader.word(1) > 1000),
            "the reader does not run"
        );
        call(Operation::MemoryUnmap, &[child.task, address])?;
        let count = reader.word(1);
        let fault = child.fault(suite)?;
        ensure_equal!(
            (fault.vector, fault.address),
            (PAGE_FAULT, address),
            "vector and address"
        );
        // One read may have been finished and not yet counted.
        let later = reader.word(1) - count;
        ensure!(later <= 1, "{later} reads after the page was unmapped");
    }
    Ok(())
}

fn unmap_here(context: &Context) -> Outcome {
    let suite = &context.suite;
    let child = Child::new(suite, &context.program, QUOTA)?;
    let memory = Owned::make(Operation::MemoryCreate, &[PAGE_BYTES])?;
    let address = suite.area(PAGE_BYTES);
    map(child.task, memory.0, address, PAGE_BYTES, WRITE)?;
    child.run(suite, write, &[address])?;
    call(Operation::MemoryUnmap, &[child.task, address])?;
    expect_fault(context, &child, write, address, WRITING)?;
    expect_fault(context, &child, read, address, 0)?;
    ensure_error!(
        call(Operation::MemoryUnmap, &[child.task, address]),
        NotMapped,
        "a second time"
    );
    Ok(())
}

fn overlap(context: &Context) -> Outcome {
    let suite = &context.suite;
    let memory = Owned::make(Operation::MemoryCreate, &[4 * PAGE_BYTES])?;
    let base = suite.area(8 * PAGE_BYTES);
    let place = |offset: u64, pages: u64| {
        let address = base + offset * PAGE_BYTES;
        map(suite.task, memory.0, address, pages * PAGE_BYTES, WRITE)
    };
    place(2, 2)?;
    for (offset, pages) in [(2, 2), (1, 2), (3, 2), (1, 4), (2, 1), (3, 1)] {
        ensure_error!(
            place(offset, pages),
            Occupied,
            "{pages} pages at page {offset}"
        );
    }
    place(0, 2)?;
    place(4, 2)?;
    // A mapping is removed whole, by its first address.
    ensure_error!(
        call(Operation::MemoryUnmap, &[suite.task, base + 3 * PAGE_BYTES]),
        NotMapped,
        "the middle of a mapping"
    );
    for offset in [0, 2, 4] {
        let address = base + offset * PAGE_BYTES;
        call(Operation::MemoryUnmap, &[suite.task, address])?;
    }
    Ok(())
}

fn range(context: &Context) -> Outcome {
    let suite = &context.suite;
    let memory = Owned::make(Operation::MemoryCreate, &[2 * PAGE_BYTES])?;
    let kernel_half = 0xffff_8000_0000_0000;
    for address in [
        0,
        PAGE_BYTES,
        USER_START - PAGE_BYTES,
        USER_END - PAGE_BYTES,
        USER_END,
        1 << 47,
        kernel_half,
        u64::MAX - PAGE_BYTES + 1,
        0x6800_0000_0001,
    ] {
        ensure_error!(
            map(suite.task, memory.0, address, 2 * PAGE_BYTES, WRITE),
            InvalidArgument,
            "at {address:#x}"
        );
    }
    let address = suite.area(PAGE_BYTES);
    let wild = [
        (PAGE_BYTES, 2 * PAGE_BYTES),
        (2 * PAGE_BYTES, PAGE_BYTES),
        (u64::MAX - PAGE_BYTES + 1, PAGE_BYTES),
        (0, 0),
        (0, 100),
        (0, u64::MAX),
        (1, PAGE_BYTES),
    ];
    for (offset, length) in wild {
        let values = [suite.task, memory.0, address, offset, length, WRITE];
        ensure_error!(
            call(Operation::MemoryMap, &values),
            InvalidArgument,
            "offset {offset:#x}, length {length:#x}"
        );
    }
    Ok(())
}

fn shared(context: &Context) -> Outcome {
    let suite = &context.suite;
    let region = Region::new(suite, PAGE_BYTES)?;
    raw::poke(region.address, 0x1234);
    let child = Child::new(suite, &context.program, QUOTA)?;
    let there = suite.area(PAGE_BYTES);
    map(child.task, region.memory, there, PAGE_BYTES, WRITE)?;
    let thread = child.run(suite, read, &[there])?;
    ensure_equal!(thread.word(1), 0x1234, "what the child reads");
    child.run(suite, write, &[there])?;
    ensure_equal!(raw::peek(region.address), 1, "what the child wrote");
    Ok(())
}

/// Closing the last handle leaves mappings alone; their memory goes with the last of them.
fn outlives(context: &Context) -> Outcome {
    let suite = &context.suite;
    let memory = value(Operation::MemoryCreate, &[PAGE_BYTES])?;
    let address = suite.area(PAGE_BYTES);
    map(suite.task, memory, address, PAGE_BYTES, WRITE)?;
    call(Operation::Close, &[memory])?;
    raw::poke(address, 77);
    ensure_equal!(raw::peek(address), 77, "the word");
    call(Operation::MemoryUnmap, &[suite.task, address])?;
    Ok(())
}

/// Memory of several large pages, mapped where large pages are possible and where they are not.
fn large(context: &Context) -> Outcome {
    let suite = &context.suite;
    let bytes = 4 * LARGE_PAGE_BYTES;
    let memory = Owned::make(Operation::MemoryCreate, &[bytes])?;
    for shift in [0, PAGE_BYTES] {
        let address = suite.aligned_area(bytes + PAGE_BYTES, LARGE_PAGE_BYTES) + shift;
        map(suite.task, memory.0, address, bytes, WRITE)?;
        let words = raw::words(address, bytes);
        for (position, word) in words.iter().enumerate().step_by(512) {
            let found = word.load(Ordering::Relaxed);
            let expected = if shift == 0 { 0 } else { position as u64 + 1 };
            ensure_equal!(found, expected, "page {}", position / 512);
            word.store(position as u64 + 1, Ordering::Relaxed);
        }
        call(Operation::MemoryUnmap, &[suite.task, address])?;
    }
    for bytes in [0, 1, 4095, 4097, (1 << 30) + PAGE_BYTES, u64::MAX, 1 << 63] {
        ensure_error!(
            call(Operation::MemoryCreate, &[bytes]),
            InvalidArgument,
            "{bytes:#x} bytes"
        );
    }
    Ok(())
}

/// A thread that runs over the end of its stack's memory faults there.
fn guard(context: &Context) -> Outcome {
    let suite = &context.suite;
    let child = Child::new(suite, &context.program, QUOTA)?;
    let thread = child.start(suite, overrun, &[])?;
    let fault = child.fault(suite)?;
    ensure_equal!(fault.vector, PAGE_FAULT, "vector");
    let board = core::ptr::from_ref(thread.board).expose_provenance() as u64;
    ensure!(
        fault.address < board && board - fault.address <= 8192,
        "the fault is at {:#x}, the stack's memory begins at {board:#x}",
        fault.address
    );
    Ok(())
}

/// Writes downwards from its stack.
fn overrun(_: &'static Board) {
    let local = 0_u64;
    let mut address = core::ptr::from_ref(&local).expose_provenance() as u64 & !7;
    loop {
        address -= 8;
        raw::poke(address, 0);
    }
}

fn contiguous(context: &Context) -> Outcome {
    let suite = &context.suite;
    let memory = Owned::make(Operation::MemoryCreate, &[16 * PAGE_BYTES, 1])?;
    let physical = value(Operation::MemoryExpose, &[suite.device, memory.0, 1])?;
    ensure!(
        physical != 0 && physical.is_multiple_of(PAGE_BYTES),
        "physical address {physical:#x}"
    );
    let [bytes, flags, ..] = call(Operation::MemoryInspect, &[memory.0])?;
    ensure_equal!((bytes, flags), (16 * PAGE_BYTES, 0b101), "size and flags");
    call(Operation::MemoryExpose, &[suite.device, memory.0, 0])?;
    let scattered = Owned::make(Operation::MemoryCreate, &[2 * PAGE_BYTES])?;
    ensure_error!(
        call(Operation::MemoryExpose, &[suite.device, scattered.0, 1]),
        InvalidArgument,
        "exposing memory that is not contiguous"
    );
    exposed_is_kept(context)
}

/// Exposed memory that is closed waits in quarantine for DmaReset.
fn exposed_is_kept(context: &Context) -> Outcome {
    let suite = &context.suite;
    let before = suite.counts()?.frames_quarantined;
    let memory = Owned::make(Operation::MemoryCreate, &[4 * PAGE_BYTES, 1])?;
    call(Operation::MemoryExpose, &[suite.device, memory.0, 1])?;
    drop(memory);
    let waits = || {
        let counts = suite.counts();
        counts.is_ok_and(|counts| counts.frames_quarantined == before + 4)
    };
    ensure!(
        suite.wait_for(2000, waits),
        "its frames are not in quarantine"
    );
    let freed = value(Operation::DmaReset, &[suite.device])?;
    ensure_equal!(freed, before + 4, "frames freed");
    ensure_equal!(suite.counts()?.frames_quarantined, 0, "frames left");
    Ok(())
}
