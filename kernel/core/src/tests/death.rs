//! Death in every state: what the others see, and that nothing is left.

use super::bench::{
    TestKernel, block, call, give, is, kernel, run, running, settle, status, tag, task, thread,
};
use crate::object::Object;
use crate::task::{Task, TaskState};
use crate::thread::Thread;
use ipc::message::NEVER;
use ipc::{Error, Label, Operation as O, Rights, Tag};

/// The states in which a thread can be when its task is destroyed.
const STATES: [&str; 8] = [
    "stopped",
    "ready",
    "send",
    "receive",
    "reply",
    "notification",
    "futex",
    "serving",
];

struct Scene {
    kernel: TestKernel,
    killer_task: &'static Task,
    killer: &'static Thread,
    endpoint: u64,
}

fn scene() -> Scene {
    let kernel = kernel(1);
    let killer_task = task(kernel, 2 << 20);
    let killer = thread(kernel, killer_task, 9);
    let endpoint = call(kernel, killer, O::EndpointCreate, &[]).unwrap()[0];
    Scene {
        kernel,
        killer_task,
        killer,
        endpoint,
    }
}

fn endpoint_object(scene: &Scene) -> Object {
    scene
        .killer_task
        .handles
        .look_up(ipc::Handle(scene.endpoint))
        .unwrap()
        .object
}

/// Brings a thread of the victim into a state.
fn bring(scene: &Scene, victim: &'static Task, state: &str) {
    let kernel = scene.kernel;
    let object = endpoint_object(scene);
    let own = give(kernel, victim, Object::Task(victim), Rights::ALL).0;
    let endpoint = give(kernel, victim, object, Rights::SEND | Rights::RECEIVE).0;
    if state == "stopped" {
        let start = [own, 0x40_0000, 0x50_0000, 0, 0, 9];
        let maker = thread(kernel, victim, 9);
        call(kernel, maker, O::ThreadCreate, &start).unwrap();
        return;
    }
    let one = thread(kernel, victim, 9);
    match state {
        "ready" => run(kernel, one),
        "send" => block(kernel, one, O::Call, &[endpoint, tag(1, 0)], NEVER),
        "receive" => block(kernel, one, O::Receive, &[endpoint, 0], NEVER),
        "reply" => {
            block(kernel, one, O::Call, &[endpoint, tag(1, 0)], NEVER);
            call(kernel, scene.killer, O::Receive, &[scene.endpoint, 0]).unwrap();
        }
        "notification" => {
            let notification = call(kernel, one, O::NotificationCreate, &[]).unwrap()[0];
            block(kernel, one, O::Wait, &[notification], 1 << 40);
        }
        "futex" => {
            let memory = call(kernel, one, O::MemoryCreate, &[4096, 0]).unwrap()[0];
            call(
                kernel,
                one,
                O::MemoryMap,
                &[own, memory, 0x40_0000, 0, 4096, 1],
            )
            .unwrap();
            block(kernel, one, O::FutexWait, &[0x40_0000, 0], NEVER);
        }
        "serving" => {
            block(kernel, one, O::Receive, &[endpoint, 0], NEVER);
            let client = thread(kernel, scene.killer_task, 9);
            block(kernel, client, O::Call, &[scene.endpoint, tag(2, 0)], NEVER);
            assert!(is(running(kernel), one));
        }
        other => panic!("no such state: {other}"),
    }
}

#[test]
fn a_task_dies_in_every_state_and_leaves_nothing() {
    for state in STATES {
        let scene = scene();
        let kernel = scene.kernel;
        let victim = task(kernel, 1 << 20);
        let used = kernel.root_quota.used();
        let threads = kernel.threads.live();
        bring(&scene, victim, state);
        let handle = give(kernel, scene.killer_task, Object::Task(victim), Rights::ALL).0;
        kernel.drop_reference(Object::Task(victim));
        // The victims are more urgent: the killer acts when they do not run, or from the kernel.
        kernel.destroy_task(victim);
        run(kernel, scene.killer);
        call(kernel, scene.killer, O::Destroy, &[handle]).unwrap();
        settle(kernel);
        assert_eq!(victim.state(), TaskState::Dead, "{state}");
        call(kernel, scene.killer, O::Close, &[handle]).unwrap();
        let extra = if state == "serving" { 1 } else { 0 };
        assert_eq!(kernel.threads.live(), threads + extra, "{state}: threads");
        assert_eq!(kernel.tasks.live(), 1, "{state}: tasks");
        assert_eq!(kernel.memories.live(), 0, "{state}: memory");
        assert_eq!(kernel.notifications.live(), 0, "{state}: notifications");
        assert_eq!(kernel.mappings.live(), 0, "{state}: mappings");
        assert!(
            kernel.root_quota.used() < used,
            "{state}: the quota went back"
        );
        assert_eq!(
            kernel.endpoints.live(),
            1,
            "{state}: the killer's endpoint is alive"
        );
    }
}

/// A supervisor makes a task anew when it hears of its end: the memory must be there again by then, however
/// much others let go of meanwhile.
#[test]
fn the_end_of_a_task_is_told_when_its_memory_is_given_back() {
    let scene = scene();
    let kernel = scene.kernel;
    let used = kernel.root_quota.used();
    let victim = task(kernel, 4 << 20);
    let one = thread(kernel, victim, 9);
    call(kernel, one, O::MemoryCreate, &[300 * 4096, 0]).unwrap();
    // Paid by its maker, as what a task is made of.
    let given = thread(kernel, scene.killer_task, 9);
    let made = call(kernel, given, O::MemoryCreate, &[100 * 4096, 0]).unwrap()[0];
    let object = scene.killer_task.handles.look_up(ipc::Handle(made));
    give(kernel, victim, object.unwrap().object, Rights::ALL);
    call(kernel, given, O::Close, &[made]).unwrap();
    let paid = scene.killer_task.quota().used();
    kernel.destroy_task(victim);
    kernel.drop_reference(Object::Task(victim));
    let live = kernel.tasks.live();
    let mut steps = 0;
    while kernel.tasks.live() == live {
        let later = call(kernel, scene.killer, O::MemoryCreate, &[10 * 4096, 0]).unwrap()[0];
        call(kernel, scene.killer, O::Close, &[later]).unwrap();
        kernel.reclaim_step(&kernel.cpus()[0]);
        steps += 1;
        assert!(steps < 100, "what comes later does not delay it");
    }
    assert!(kernel.reclaim.is_pending(), "there is more to give back");
    assert_eq!(kernel.root_quota.used(), used, "its own memory");
    let later = steps * 12 * 4096;
    let used = scene.killer_task.quota().used();
    assert!(used + 100 * 4096 <= paid + later, "what it was made of");
}

#[test]
fn the_death_of_a_server_abandons_its_caller() {
    let scene = scene();
    let victim = task(scene.kernel, 1 << 20);
    bring(&scene, victim, "serving");
    let client = scene.killer_task.threads().iterate().last().unwrap();
    scene.kernel.destroy_task(victim);
    run(scene.kernel, client);
    assert_eq!(status(client), Err(Error::Abandoned));
}

#[test]
fn the_reply_to_a_dead_caller_is_dropped() {
    let scene = scene();
    let victim = task(scene.kernel, 1 << 20);
    bring(&scene, victim, "reply");
    scene.kernel.destroy_task(victim);
    settle(scene.kernel);
    assert!(call(scene.kernel, scene.killer, O::Reply, &[0, tag(1, 0)]).is_ok());
}

#[test]
fn a_fault_is_a_call_to_the_fault_endpoint_and_the_reply_resumes() {
    let scene = scene();
    let kernel = scene.kernel;
    let quota = kernel.root_quota.carve(kernel, 1 << 20).unwrap();
    let Object::Endpoint(endpoint) = endpoint_object(&scene) else {
        unreachable!()
    };
    let badge = kernel.make_badge(endpoint, 77, &kernel.root_quota).unwrap();
    let victim = kernel
        .make_task(&kernel.root_quota, quota, Some(Object::Badge(badge)), 20)
        .unwrap();
    kernel.drop_reference(Object::Badge(badge));
    let one = thread(kernel, victim, 9);
    run(kernel, one);
    one.registers.rax.set(0x1234);
    kernel.fault(&kernel.cpus()[0], 14, 6, 0xdead_0000);
    assert!(is(running(kernel), scene.killer), "the thread waits");
    let received = call(kernel, scene.killer, O::Receive, &[scene.endpoint, 0]).unwrap();
    assert_eq!(received[0], 77);
    assert_eq!(Tag(received[1]).label(), Label::FAULT);
    assert_eq!(received[2..5], [14, 6, 0xdead_0000]);
    call(kernel, scene.killer, O::Reply, &[0, 0]).ok();
    run(kernel, one);
    assert_eq!(one.registers.rax.get(), 0x1234, "it goes on as it was");
    // The end of the task is told by its badge, after everything was given back.
    kernel.destroy_task(victim);
    kernel.drop_reference(Object::Task(victim));
    running(kernel);
    settle(kernel);
    let received = call(kernel, scene.killer, O::Receive, &[scene.endpoint, 0]).unwrap();
    assert_eq!(
        received[..2],
        [77, Tag::new(Label::CLOSED, 0, 0).0 | Tag::KERNEL]
    );
    assert_eq!(kernel.tasks.live(), 1);
}

#[test]
fn a_task_without_a_fault_endpoint_ends_with_its_fault() {
    let scene = scene();
    let victim = task(scene.kernel, 1 << 20);
    let one = thread(scene.kernel, victim, 9);
    run(scene.kernel, one);
    scene.kernel.fault(&scene.kernel.cpus()[0], 6, 0, 0);
    assert!(is(running(scene.kernel), scene.killer));
    settle(scene.kernel);
    assert_eq!(victim.state(), TaskState::Dead);
}

#[test]
fn the_last_thread_ends_its_task() {
    let scene = scene();
    let victim = task(scene.kernel, 1 << 20);
    let one = thread(scene.kernel, victim, 9);
    run(scene.kernel, one);
    super::bench::system_call_until(scene.kernel, one, O::Exit, &[0], NEVER);
    assert!(is(running(scene.kernel), scene.killer));
    settle(scene.kernel);
    assert_eq!(victim.state(), TaskState::Dead);
}

#[test]
fn objects_outlive_their_maker_at_its_makers_cost() {
    let scene = scene();
    let kernel = scene.kernel;
    let victim = task(kernel, 1 << 20);
    let one = thread(kernel, victim, 9);
    let memory = call(kernel, one, O::MemoryCreate, &[10 * 4096, 0]).unwrap()[0];
    let object = victim.handles.look_up(ipc::Handle(memory)).unwrap().object;
    let kept = give(kernel, scene.killer_task, object, Rights::ALL).0;
    let before = kernel.root_quota.used();
    kernel.destroy_task(victim);
    kernel.drop_reference(Object::Task(victim));
    running(kernel);
    settle(kernel);
    let rest = before - (1 << 20);
    let now = kernel.root_quota.used();
    assert!(
        now > rest + 10 * 4096 - 8192 && now < rest + 16 * 4096,
        "{now} {rest}"
    );
    call(kernel, scene.killer, O::Close, &[kept]).unwrap();
    settle(kernel);
    assert!(kernel.root_quota.used() <= rest, "all is paid back");
    assert_eq!(
        kernel.quotas.live(),
        1,
        "only the killer's own quota is left"
    );
}
