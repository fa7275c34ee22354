//! Dramas about what CPUs remember of address spaces and ports, and how they are made to forget it.

use super::super::bench::{become_cpu, give, interrupted, kernel, pause, settle, task};
use super::super::cast::{Ask, Outcome, ask};
use super::{Stage, explore, try_all};
use crate::explore::{Exploration, Policy, Stores};
use crate::fake::TlbEntry;
use crate::object::Object;
use crate::sync::Ordering;
use ipc::{Handle, Operation as O, Rights};
use std::sync::atomic::{AtomicU64, Ordering as Order};
use std::sync::{Arc, Mutex};

/// A thread that maps a page of memory that nobody else has, and unmaps it when another one has seen it.
fn unmap(
    own: u64,
    stage: Stage,
    done: Stage,
) -> impl FnMut(Option<Outcome>) -> Option<Ask> + Send + 'static {
    let (mut step, mut memory) = (0, 0);
    move |outcome| {
        step += 1;
        let results = outcome.map_or([0; 6], |outcome| outcome.expect("it is done"));
        if step == 2 {
            memory = results[0];
        }
        match step {
            1 => Some(ask(O::MemoryCreate, &[4096, 0])),
            2 => Some(ask(O::MemoryMap, &[own, memory, 0x40_0000, 0, 4096, 1])),
            3 => Some(ask(O::Close, &[memory])),
            4 => {
                stage.next(1);
                stage.wait_for(2);
                Some(ask(O::MemoryUnmap, &[own, 0x40_0000]))
            }
            _ => {
                // What a dying space forgets is explored elsewhere.
                done.next(done.now() + 1);
                done.wait_for(2);
                None
            }
        }
    }
}

#[test]
fn pages_are_forgotten_before_their_frames_are_free() {
    explore(3, |kernel, cast| {
        cast.remembers = true;
        let done = Stage::default();
        // Two spaces, of which the last CPU runs both.
        for cpus in [0b001, 0b010] {
            let space = cast.home();
            let own = give(kernel, space, Object::Task(space), Rights::ALL).0;
            let stage = Stage::default();
            cast.add(space, 10, cpus, unmap(own, stage.clone(), done.clone()));
            let mut turn = 0;
            cast.add(space, 10, 0b100, move |_| {
                turn += 1;
                match turn {
                    1 => stage.wait_for(1),
                    2 => stage.next(2),
                    _ => return None,
                }
                Some(ask(O::Yield, &[]))
            });
        }
        Box::new(|| {})
    });
}

#[test]
fn mailbox_of_a_cpu_loses_no_request() {
    let kernel = kernel(3);
    let tasks = [0; 2].map(|_| task(kernel, 1 << 20));
    let exploration = Exploration::new(3);
    let mut attempt = |policy: Policy, stores: Stores| {
        let over = AtomicU64::new(0);
        for task in tasks {
            task.cpus.add(2);
            let entry = TlbEntry {
                tag: task.tag.load(Ordering::Relaxed),
                level: 1,
                address: 0x40_0000,
            };
            kernel.platform.cpus[2].tlb().insert(entry, 100..101);
        }
        exploration.run(policy, stores, |index| {
            become_cpu(kernel, index);
            let Some(task) = tasks.get(index) else {
                let mut kicks = 0;
                while over.load(Order::SeqCst) < 2 {
                    if !interrupted(kernel, &kernel.cpus()[index], &mut kicks, 0) {
                        pause();
                    }
                }
                return;
            };
            kernel.shoot_down(task);
            let tag = task.tag.load(Ordering::Relaxed);
            let tlb = kernel.platform.cpus[2].tlb();
            assert!(tlb.keys().all(|entry| entry.tag != tag), "not forgotten");
            drop(tlb);
            over.fetch_add(1, Order::SeqCst);
        })
    };
    try_all(&exploration, 2, 3, &mut attempt);
}

#[test]
fn dying_space_is_left_before_it_is_forgotten() {
    let kernel = kernel(3);
    let other = task(kernel, 1 << 20);
    other.cpus.add(2);
    let exploration = Exploration::new(3);
    let mut attempt = |policy: Policy, stores: Stores| {
        let dying = task(kernel, 1 << 20);
        let (stage, over) = (Stage::default(), AtomicU64::new(0));
        kernel.platform.remembers.store(true, Order::SeqCst);
        exploration.run(policy, stores, |index| {
            become_cpu(kernel, index);
            let cpu = &kernel.cpus()[index];
            match index {
                0 => {
                    stage.wait_for(1);
                    kernel.destroy_task(dying);
                    // Frees its tables, which no TLB may remember.
                    settle(kernel);
                    kernel.drop_reference(Object::Task(dying));
                    over.fetch_add(1, Order::SeqCst);
                }
                1 => {
                    stage.wait_for(1);
                    kernel.shoot_down(other);
                    over.fetch_add(1, Order::SeqCst);
                }
                _ => {
                    kernel.load_space(cpu, dying);
                    stage.next(1);
                    let mut kicks = 0;
                    while over.load(Order::SeqCst) < 2 {
                        if !interrupted(kernel, cpu, &mut kicks, 0) {
                            pause();
                        }
                    }
                }
            }
        })
    };
    try_all(&exploration, 2, 3, &mut attempt);
}

#[test]
fn port_range_is_closed_on_every_cpu() {
    explore(3, |kernel, cast| {
        let [driver, other, ender] = [0; 3].map(|_| cast.home());
        let control = give(kernel, driver, Object::DeviceControl, Rights::ALL).0;
        let ports = Arc::new(Mutex::new(None));
        let (made, stage) = (Arc::clone(&ports), Stage::default());
        let (ready, mut step) = (stage.clone(), 0);
        let ended = Stage::default();
        let is_over = ended.clone();
        // Takes turns with a task without ports.
        cast.add(driver, 10, 0b001, move |outcome| {
            step += 1;
            let results = outcome.map_or([0; 6], |outcome| outcome.expect("it is done"));
            if step == 2 {
                let held = driver.handles.look_up(Handle(results[0])).unwrap();
                *made.lock().unwrap() = Some(held);
            }
            match step {
                1 => return Some(ask(O::IoPortsCreate, &[control, 0x60, 4])),
                2 => return Some(ask(O::IoPortsAttach, &[results[0]])),
                3 => ready.next(1),
                _ => {}
            }
            let open = kernel.platform.cpus[0].ports.lock().unwrap().clone();
            assert!(
                is_over.now() == 0 || open.is_empty(),
                "still open: {open:?}"
            );
            (step < 6).then(|| ask(O::Yield, &[]))
        });
        let mut turns = 0..5;
        cast.add(other, 10, 0b001, move |_| {
            turns.next().map(|_| ask(O::Yield, &[]))
        });
        // Two CPUs end the range; when one of them is told that it has ended, it has.
        for cpus in [0b010, 0b100] {
            let (stage, ports) = (stage.clone(), Arc::clone(&ports));
            let (ended, mut step) = (ended.clone(), 0);
            cast.add(ender, 10, cpus, move |outcome| {
                step += 1;
                if step == 1 {
                    stage.wait_for(1);
                    let held = ports.lock().unwrap().expect("it is made");
                    let handle = ender.handles.insert(kernel, ender.quota(), held);
                    return match handle {
                        Ok(handle) => Some(ask(O::Destroy, &[handle.0])),
                        Err(error) => panic!("{error:?}"),
                    };
                }
                assert!(outcome.is_some_and(|outcome| outcome.is_ok()));
                ended.next(1);
                None
            });
        }
        Box::new(|| {})
    });
}
