//! Memory, mappings and quotas.

use super::bench::{call, give, kernel, settle, task, thread};
use crate::object::Object;
use crate::page_table;
use crate::sync::Ordering;
use ipc::{Error, Handle, Operation as O, Rights};

const PAGE: u64 = 4096;

#[test]
fn memory_is_mapped_zeroed_and_comes_back() {
    let kernel = kernel(1);
    let task = task(kernel, 4 << 20);
    let one = thread(kernel, task, 10);
    let own = give(kernel, task, Object::Task(task), Rights::ALL).0;
    let (free, used) = (kernel.frames.free_count(), task.quota().used());
    for round in 0..3 {
        let memory = call(kernel, one, O::MemoryCreate, &[100 * PAGE, 0]).unwrap()[0];
        let map = [own, memory, 0x40_0000, 0, 100 * PAGE, 1];
        call(kernel, one, O::MemoryMap, &map).unwrap();
        for page in 0..100 {
            let found =
                page_table::translate(&kernel.platform, task.root(), 0x40_0000 + page * PAGE);
            let physical = found.unwrap().physical;
            let words = crate::platform::Platform::words(
                &kernel.platform,
                crate::frames::Frame::from_address(physical).unwrap(),
            );
            for word in words {
                assert_eq!(
                    word.swap(0x5555, Ordering::Relaxed),
                    0,
                    "round {round}: zeroed"
                );
            }
        }
        call(kernel, one, O::MemoryUnmap, &[own, 0x40_0000]).unwrap();
        let gone = page_table::translate(&kernel.platform, task.root(), 0x40_0000);
        assert!(gone.is_none());
        call(kernel, one, O::Close, &[memory]).unwrap();
        settle(kernel);
    }
    let tables = task.space.lock().tables;
    assert_eq!(kernel.memories.live(), 0);
    let slabs = kernel.memories.frames() + kernel.mappings.frames();
    assert!(
        free - kernel.frames.free_count() <= tables + slabs,
        "all frames came back"
    );
    assert!(
        task.quota().used() - used <= tables * PAGE + 4096,
        "and their charge"
    );
}

#[test]
fn writable_and_executable_is_refused_and_so_are_bad_ranges() {
    let kernel = kernel(1);
    let task = task(kernel, 1 << 20);
    let one = thread(kernel, task, 10);
    let own = give(kernel, task, Object::Task(task), Rights::ALL).0;
    let memory = call(kernel, one, O::MemoryCreate, &[2 * PAGE, 0]).unwrap()[0];
    let map = |address: u64, offset: u64, length: u64, access: u64| {
        call(
            kernel,
            one,
            O::MemoryMap,
            &[own, memory, address, offset, length, access],
        )
        .map(drop)
    };
    assert_eq!(map(0x40_0000, 0, PAGE, 3), Err(Error::WriteAndExecute));
    assert_eq!(map(0x40_0001, 0, PAGE, 0), Err(Error::InvalidArgument));
    assert_eq!(map(0x40_0000, 0, 3 * PAGE, 0), Err(Error::InvalidArgument));
    assert_eq!(
        map(0x40_0000, PAGE, 2 * PAGE, 0),
        Err(Error::InvalidArgument)
    );
    assert_eq!(map(0, 0, PAGE, 0), Err(Error::InvalidArgument));
    assert_eq!(
        map(u64::MAX - PAGE + 1, 0, PAGE, 0),
        Err(Error::InvalidArgument)
    );
    assert_eq!(
        map(0x7fff_0000_0000, 0, PAGE, 0),
        Err(Error::InvalidArgument)
    );
    assert_eq!(map(0x40_0000, 0, 2 * PAGE, 0), Ok(()));
    assert_eq!(map(0x40_1000, 0, PAGE, 0), Err(Error::Occupied));
    assert_eq!(map(0x40_2000, 0, PAGE, 0), Ok(()));
}

#[test]
fn a_quota_stops_its_task_and_nobody_else() {
    let kernel = kernel(1);
    let greedy = task(kernel, 64 * PAGE);
    let modest = task(kernel, 64 * PAGE);
    let (one, other) = (thread(kernel, greedy, 10), thread(kernel, modest, 10));
    let mut handles = Vec::new();
    let error = loop {
        match call(kernel, one, O::MemoryCreate, &[4 * PAGE, 0]) {
            Ok(results) => handles.push(results[0]),
            Err(error) => break error,
        }
    };
    assert_eq!(error, Error::OutOfQuota);
    assert!(handles.len() > 5);
    assert!(greedy.quota().used() <= 64 * PAGE);
    assert!(call(kernel, other, O::MemoryCreate, &[4 * PAGE, 0]).is_ok());
    for handle in handles {
        call(kernel, one, O::Close, &[handle]).unwrap();
    }
    settle(kernel);
    assert!(call(kernel, one, O::MemoryCreate, &[4 * PAGE, 0]).is_ok());
}

#[test]
fn handles_run_out_for_their_task_alone() {
    let kernel = kernel(1);
    let greedy = task(kernel, 1 << 20);
    let one = thread(kernel, greedy, 10);
    let first = call(kernel, one, O::NotificationCreate, &[]).unwrap()[0];
    let mut count = 1;
    let error = loop {
        match call(kernel, one, O::Duplicate, &[first, u64::from(u32::MAX)]) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, Error::TableFull);
    assert_eq!(count, crate::handles::MAX_HANDLES - 1);
}

#[test]
fn a_closed_handle_never_names_the_next_object() {
    let kernel = kernel(1);
    let task = task(kernel, 1 << 20);
    let one = thread(kernel, task, 10);
    let stale = call(kernel, one, O::EndpointCreate, &[]).unwrap()[0];
    call(kernel, one, O::Close, &[stale]).unwrap();
    let fresh = call(kernel, one, O::NotificationCreate, &[]).unwrap()[0];
    assert_eq!(
        Handle(stale).index(),
        Handle(fresh).index(),
        "the entry is used again"
    );
    assert_eq!(
        call(kernel, one, O::HandleInspect, &[stale]),
        Err(Error::InvalidHandle)
    );
    assert!(call(kernel, one, O::HandleInspect, &[fresh]).is_ok());
}

#[test]
fn destroying_memory_takes_it_out_of_every_task() {
    let kernel = kernel(1);
    let (mine, yours) = (task(kernel, 1 << 20), task(kernel, 1 << 20));
    let one = thread(kernel, mine, 10);
    let memory = call(kernel, one, O::MemoryCreate, &[40 * PAGE, 0]).unwrap()[0];
    let targets = [mine, yours].map(|task| give(kernel, mine, Object::Task(task), Rights::ALL).0);
    for target in targets {
        call(
            kernel,
            one,
            O::MemoryMap,
            &[target, memory, 0x40_0000, 0, 40 * PAGE, 1],
        )
        .unwrap();
    }
    call(kernel, one, O::Destroy, &[memory]).unwrap();
    for task in [mine, yours] {
        assert!(page_table::translate(&kernel.platform, task.root(), 0x40_0000).is_none());
        assert_eq!(task.space.lock().count(), 0);
    }
    assert_eq!(
        call(kernel, one, O::MemoryInspect, &[memory]),
        Err(Error::InvalidHandle)
    );
    call(kernel, one, O::Close, &[memory]).unwrap();
    settle(kernel);
    assert_eq!(kernel.memories.live(), 0);
}

#[test]
fn exposed_memory_waits_in_quarantine_for_the_dma_reset() {
    let kernel = kernel(1);
    let task = task(kernel, 1 << 20);
    let one = thread(kernel, task, 10);
    let control = give(kernel, task, Object::DeviceControl, Rights::ALL).0;
    let memory = call(kernel, one, O::MemoryCreate, &[8 * PAGE, 1]).unwrap()[0];
    call(kernel, one, O::MemoryExpose, &[control, memory, 1]).unwrap();
    let free = kernel.frames.free_count();
    call(kernel, one, O::Close, &[memory]).unwrap();
    settle(kernel);
    assert_eq!(
        kernel.frames.free_count(),
        free,
        "a device may still write them"
    );
    assert_eq!(call(kernel, one, O::DmaReset, &[control]).unwrap()[0], 8);
    settle(kernel);
    assert_eq!(kernel.frames.free_count(), free + 8);
    let scattered = call(kernel, one, O::MemoryCreate, &[PAGE, 0]).unwrap()[0];
    let refused = call(kernel, one, O::MemoryExpose, &[control, scattered, 1]);
    assert_eq!(refused, Err(Error::InvalidArgument));
}
