//! The rules of `crate::tlb`, with TLBs that remember as much as a processor's may: whatever the tables of
//! the loaded space lead to, and the tables themselves, until they are told to forget it. Each frame that is
//! given back is looked for in every one of them.

use super::bench::{
    TestKernel, become_cpu, call, give, kernel, run, run_on_all, served, settle, task, thread,
};
use crate::fake::{FakeCpu, TlbEntry, this_cpu};
use crate::frames::{Frame, FrameTable};
use crate::object::Object;
use crate::platform::{FRAME_WORDS, Platform};
use crate::sync::Ordering;
use crate::thread::Thread;
use crate::tlb::SpaceTag;
use ipc::{Operation as O, Rights};
use std::ops::Range;
use std::sync::atomic::AtomicBool;

const PAGE: u64 = 4096;
const LARGE_PAGE_FRAMES: u32 = 512;
/// Bits of an entry (Intel SDM volume 3A, tables 4-15 to 4-20), and levels of tables.
const PRESENT: u64 = 1 << 0;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const ROOT_LEVEL: u32 = 4;

/// Lets a CPU remember all that it can of the space that it has loaded.
pub(super) fn remember_all(kernel: TestKernel, cpu: usize) {
    let cpu = &kernel.platform.cpus[cpu];
    let root = cpu.root.load(Ordering::SeqCst) as u32;
    if root != 0 {
        remember(kernel, cpu, ROOT_LEVEL, 0, Frame(root));
    }
}

/// The same for the CPU that the calling thread has become.
pub(crate) fn remember_loaded() {
    if let Some(kernel) = served() {
        crate::explore::without_turns(|| remember_all(kernel, this_cpu()));
    }
}

/// The table that covers what begins at `start`, and all below it.
fn remember(kernel: TestKernel, cpu: &FakeCpu, level: u32, start: u64, table: Frame) {
    let note = |level: u32, address: u64, frames: Range<u32>| {
        let tag = cpu.tag.load(Ordering::SeqCst) as u16;
        let entry = TlbEntry {
            tag,
            level,
            address,
        };
        cpu.tlb().insert(entry, frames);
    };
    note(level + 1, start, table.0..table.0 + 1);
    let entries = match level {
        ROOT_LEVEL => FRAME_WORDS / 2,
        _ => FRAME_WORDS,
    };
    for (index, entry) in kernel.platform.words(table)[..entries].iter().enumerate() {
        let entry = entry.load(Ordering::SeqCst);
        let address = start + ((index as u64) << (3 + 9 * level));
        let first = ((entry & ADDRESS) / PAGE) as u32;
        match (entry & PRESENT != 0, level, entry & LARGE != 0) {
            (false, ..) => {}
            (_, 1, _) => note(1, address, first..first + 1),
            (_, 2, true) => note(2, address, first..first + LARGE_PAGE_FRAMES),
            _ => remember(kernel, cpu, level - 1, address, Frame(first)),
        }
    }
}

/// To be called for frames that are given back: no CPU may remember one of them.
pub(crate) fn check_forgotten(table: &FrameTable, first: Frame, count: u64) {
    let Some(kernel) = served() else { return };
    if !core::ptr::eq(&kernel.frames, table) {
        return;
    }
    let freed = first.0..first.0 + count as u32;
    for cpu in kernel.cpus() {
        let fake = &kernel.platform.cpus[cpu.index];
        let overlaps = |frames: &Range<u32>| frames.start < freed.end && freed.start < frames.end;
        let remembered = fake
            .tlb()
            .iter()
            .find(|(_, frames)| overlaps(frames))
            .map(|(entry, frames)| (*entry, frames.clone()));
        assert_eq!(
            remembered, None,
            "CPU {} while {freed:?} is freed",
            cpu.index
        );
    }
}

/// Entries that a CPU has with the tag of a thread's task.
fn remembered(kernel: TestKernel, cpu: usize, thread: &'static Thread) -> usize {
    let tag = thread.task().tag.load(Ordering::Relaxed);
    let tlb = kernel.platform.cpus[cpu].tlb();
    tlb.keys().filter(|entry| entry.tag == tag).count()
}

/// Maps a page of new memory into the thread's task, at an address; the handle of the task itself.
fn map_page(kernel: TestKernel, thread: &'static Thread, address: u64) -> u64 {
    let own = give(
        kernel,
        thread.task(),
        Object::Task(thread.task()),
        Rights::ALL,
    );
    let memory = call(kernel, thread, O::MemoryCreate, &[PAGE, 0]).unwrap()[0];
    let map = [own.0, memory, address, 0, PAGE, 1];
    call(kernel, thread, O::MemoryMap, &map).unwrap();
    call(kernel, thread, O::Close, &[memory]).unwrap();
    own.0
}

#[test]
fn spaces_keep_their_entries_while_others_run() {
    let kernel = kernel(1);
    become_cpu(kernel, 0);
    let [one, two] = [0; 2].map(|_| thread(kernel, task(kernel, 1 << 20), 10));
    map_page(kernel, one, 0x40_0000);
    run(kernel, one);
    remember_all(kernel, 0);
    let before = remembered(kernel, 0, one);
    assert!(before > 0);
    run(kernel, two);
    remember_all(kernel, 0);
    assert_eq!(
        remembered(kernel, 0, one),
        before,
        "and nothing was flushed"
    );
    assert!(remembered(kernel, 0, two) > 0);
}

#[test]
fn unmapped_page_is_forgotten_also_where_another_space_runs() {
    let kernel = kernel(2);
    become_cpu(kernel, 0);
    let [one, two] = [0; 2].map(|_| thread(kernel, task(kernel, 1 << 20), 10));
    let own = map_page(kernel, one, 0x40_0000);
    let (ready, done) = (AtomicBool::new(false), AtomicBool::new(false));
    // CPU 1 has had the first space, and has the second.
    run_on_all(2, |index| {
        become_cpu(kernel, index);
        let cpu = &kernel.cpus()[index];
        if index == 0 {
            while !ready.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            let others = remembered(kernel, 1, two);
            assert!(remembered(kernel, 1, one) > 0, "CPU 1 kept what it had");
            call(kernel, one, O::MemoryUnmap, &[own, 0x40_0000]).unwrap();
            assert_eq!(remembered(kernel, 1, one), 0, "and has forgotten it");
            assert_eq!(remembered(kernel, 1, two), others, "but nothing else");
            done.store(true, Ordering::SeqCst);
            return;
        }
        for thread in [one, two] {
            kernel.load_space(cpu, thread.task());
            remember_all(kernel, index);
        }
        ready.store(true, Ordering::SeqCst);
        while !done.load(Ordering::SeqCst) {
            kernel.serve_flush(cpu);
            std::thread::yield_now();
        }
    });
    settle(kernel);
}

#[test]
fn task_in_the_same_place_inherits_no_entry() {
    let kernel = kernel(1);
    become_cpu(kernel, 0);
    let main = thread(kernel, task(kernel, 1 << 20), 10);
    let mut tags = Vec::new();
    for _ in 0..8 {
        let one = thread(kernel, task(kernel, 1 << 20), 20);
        map_page(kernel, one, 0x40_0000);
        run(kernel, one);
        remember_all(kernel, 0);
        assert!(remembered(kernel, 0, one) > 0);
        tags.push(one.task().tag.load(Ordering::Relaxed));
        let cpu = &kernel.cpus()[0];
        kernel.enter(cpu);
        kernel.destroy_task(one.task());
        kernel.drop_reference(Object::Task(one.task()));
        run(kernel, main);
        settle(kernel);
        let tlb = kernel.platform.cpus[0].tlb();
        assert!(tlb.keys().all(|entry| Some(&entry.tag) != tags.last()));
    }
    tags.sort_unstable();
    tags.dedup();
    assert!(tags.len() < 8, "places were used again, and their tags");
}

#[test]
fn spaces_without_a_tag_of_their_own_keep_nothing() {
    let kernel = kernel(1);
    become_cpu(kernel, 0);
    while kernel.tags.take() != SpaceTag::SHARED {}
    assert_eq!(kernel.tags.take(), SpaceTag::SHARED, "there are no more");
    let [one, two] = [0; 2].map(|_| thread(kernel, task(kernel, 1 << 20), 10));
    run(kernel, one);
    remember_all(kernel, 0);
    let root = one.task().root();
    let has_root = || {
        let tlb = kernel.platform.cpus[0].tlb();
        tlb.values().any(|frames| frames.contains(&root.0))
    };
    assert!(has_root());
    run(kernel, two);
    assert!(!has_root());
}

#[test]
fn tags_are_given_out_once() {
    let tags = crate::tlb::Tags::new();
    let given: Vec<SpaceTag> = std::iter::repeat_with(|| tags.take())
        .take_while(|tag| *tag != SpaceTag::SHARED)
        .collect();
    assert_eq!(given.len(), usize::from(SpaceTag::MAX.number()));
    assert!(given.is_sorted_by(|one, next| one < next));
    assert_eq!(given.last(), Some(&SpaceTag::MAX));
}
