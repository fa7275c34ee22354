//! Handles: those not held, stale ones, rights and kinds.

use ipc::{Error, Handle, ObjectKind, Operation, Rights};

use crate::child::{Child, QUOTA};
use crate::failure::{Outcome, ensure, ensure_equal, ensure_error};
use crate::operations::Objects;
use crate::raw::{self, call, value};
use crate::suite::{Owned, WRITE};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    ("handle_not_held_is_refused", not_held),
    ("closed_handle_is_stale", stale),
    ("rights_are_checked", rights),
    ("duplicate_only_drops_rights", duplicate),
    ("granted_handle_drops_rights", grant),
    ("kinds_are_checked", kinds),
    ("inspect_tells_what_a_handle_is", inspect),
    ("destroy_ends_every_handle", destroy),
    ("control_objects_cannot_be_destroyed", control),
    ("another_tasks_handles_mean_nothing", another),
];

/// Every operation that takes a handle first, with values that name nothing.
fn not_held(context: &Context) -> Outcome {
    let objects = Objects::make(context)?;
    let free = Handle::new(Handle::MAX_PER_TASK - 1, 1).0;
    let later = objects.notification.0 + (1 << Handle::INDEX_BITS);
    let zero_generation = objects.notification.0 & 0xffff;
    for operation in Operation::ALL {
        let Some(good) = objects.handle_arguments(*operation) else {
            continue;
        };
        for wrong in [free, later, zero_generation, u64::MAX, 1 << 63] {
            let mut values = good;
            values[0] = wrong;
            ensure_error!(
                raw::until(*operation, &values, 0),
                InvalidHandle,
                "{operation:?} with handle {wrong:#x}"
            );
        }
    }
    Ok(())
}

/// A handle that was closed names nothing, also when its entry of the table is used again.
fn stale(_: &Context) -> Outcome {
    let old = value(Operation::NotificationCreate, &[])?;
    call(Operation::Close, &[old])?;
    ensure_error!(call(Operation::Signal, &[old, 1]), InvalidHandle, "at once");
    ensure_error!(call(Operation::Close, &[old]), InvalidHandle, "closing it");
    // Fill the table's free entries until the old one has a new occupant.
    let mut others = alloc::vec::Vec::new();
    let index = Handle(old).index();
    let reused = loop {
        let new = Owned::make(Operation::NotificationCreate, &[])?;
        if Handle(new.0).index() == index {
            break new;
        }
        ensure!(others.len() < 1000, "the entry is never used again");
        others.push(new);
    };
    ensure!(reused.0 != old, "the same value names a new object");
    ensure_error!(
        call(Operation::Signal, &[old, 1]),
        InvalidHandle,
        "the old handle of an entry that is used again"
    );
    let bits = raw::until(Operation::Wait, &[reused.0], 0);
    ensure_error!(bits, TimedOut, "the new object was not touched");
    Ok(())
}

/// Each operation is refused to a handle that has every right but the one it needs.
fn rights(context: &Context) -> Outcome {
    let objects = Objects::make(context)?;
    for (operation, position, right) in objects.needs() {
        let Some(mut values) = objects.arguments(operation) else {
            continue;
        };
        let lacking = Rights(Rights::ALL.0 & !right.0);
        let weak = Owned::make(
            Operation::Duplicate,
            &[values[position], u64::from(lacking.0)],
        )?;
        values[position] = weak.0;
        ensure_error!(
            raw::until(operation, &values, 0),
            MissingRights,
            "{operation:?} without right {:#x} of argument {position}",
            right.0
        );
    }
    Ok(())
}

/// Asking for more rights than the original has gives those that it has.
fn duplicate(_: &Context) -> Outcome {
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let few = Rights::SEND | Rights::DUPLICATE;
    let one = Owned::make(Operation::Duplicate, &[endpoint.0, u64::from(few.0)])?;
    let two = Owned::make(Operation::Duplicate, &[one.0, u64::from(Rights::ALL.0)])?;
    for handle in [&one, &two] {
        let [_, rights, ..] = call(Operation::HandleInspect, &[handle.0])?;
        ensure_equal!(rights, u64::from(few.0), "rights of the duplicate");
    }
    ensure_error!(
        raw::until(Operation::Receive, &[two.0], 0),
        MissingRights,
        "receiving through a duplicate that may only send"
    );
    Ok(())
}

/// What a task is granted has at most the rights of the original.
fn grant(context: &Context) -> Outcome {
    let child = Child::empty(&context.suite, QUOTA)?;
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    let signal_only = Rights::SIGNAL | Rights::DUPLICATE;
    let weak = Owned::make(
        Operation::Duplicate,
        &[notification.0, u64::from(signal_only.0)],
    )?;
    child.grant(weak.0, Rights::ALL)?;
    let unduplicable = Owned::make(
        Operation::Duplicate,
        &[notification.0, u64::from(Rights::SIGNAL.0)],
    )?;
    ensure_error!(
        child.grant(unduplicable.0, Rights::ALL),
        MissingRights,
        "granting what may not be duplicated"
    );
    ensure_equal!(child.info()?.handles, 1, "handles of the child");
    Ok(())
}

/// Every operation refuses a handle of every kind that it does not take.
fn kinds(context: &Context) -> Outcome {
    let objects = Objects::make(context)?;
    for operation in Operation::ALL {
        let Some(good) = objects.handle_arguments(*operation) else {
            continue;
        };
        if Objects::takes_any_kind(*operation) {
            continue;
        }
        let [taken, ..] = call(Operation::HandleInspect, &[good[0]])?;
        for (kind, handle) in objects.one_of_each() {
            if kind as u64 == taken {
                continue;
            }
            let mut values = good;
            values[0] = handle;
            // Rights are numbered by kind: a handle of another kind may lack them as well.
            let found = raw::until(*operation, &values, 0);
            ensure!(
                matches!(found, Err(Error::WrongKind | Error::MissingRights)),
                "{operation:?} with a handle to {kind:?}: {found:?}"
            );
        }
    }
    Ok(())
}

fn inspect(context: &Context) -> Outcome {
    let objects = Objects::make(context)?;
    for (kind, handle) in objects.one_of_each() {
        let [found, ..] = call(Operation::HandleInspect, &[handle])?;
        ensure_equal!(
            u8::try_from(found).ok().and_then(ObjectKind::from_number),
            Some(kind),
            "kind of a handle"
        );
    }
    let badged = Owned::make(Operation::BadgeMint, &[objects.endpoint.0, 77])?;
    let [_, rights, badge, ..] = call(Operation::HandleInspect, &[badged.0])?;
    let expected = Rights::SEND | Rights::DUPLICATE | Rights::TRANSFER;
    ensure_equal!(
        (rights, badge),
        (u64::from(expected.0), 77),
        "a badged handle"
    );
    Ok(())
}

/// Destroying an object ends every handle to it, in every task, and its mappings.
fn destroy(context: &Context) -> Outcome {
    let suite = &context.suite;
    let memory = Owned::make(Operation::MemoryCreate, &[4096])?;
    let second = Owned::make(Operation::Duplicate, &[memory.0, u64::from(Rights::ALL.0)])?;
    let child = Child::empty(suite, QUOTA)?;
    child.grant(memory.0, Rights::ALL)?;
    let address = suite.area(4096);
    crate::suite::map(suite.task, memory.0, address, 4096, WRITE)?;
    call(Operation::Destroy, &[memory.0])?;
    for handle in [memory.0, second.0] {
        ensure_error!(
            call(Operation::MemoryInspect, &[handle]),
            InvalidHandle,
            "a handle to what was destroyed"
        );
    }
    ensure_error!(
        call(Operation::MemoryUnmap, &[suite.task, address]),
        NotMapped,
        "its mapping"
    );
    Ok(())
}

fn control(context: &Context) -> Outcome {
    let suite = &context.suite;
    for handle in [suite.device, suite.sched, suite.system, suite.trace] {
        ensure_error!(
            call(Operation::Destroy, &[handle]),
            WrongKind,
            "destroying a control object"
        );
        call(Operation::HandleInspect, &[handle])?;
    }
    Ok(())
}

/// A value that names something in one task names nothing in another.
fn another(context: &Context) -> Outcome {
    let child = Child::new(&context.suite, &context.program, QUOTA)?;
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    let thread = child.run(&context.suite, try_handles, &[notification.0])?;
    ensure_equal!(thread.word(1), 0, "handles that a child without any found");
    Ok(())
}

/// Tries the handle in word 0 and all small values; word 1 counts what names something.
fn try_handles(board: &'static raw::Board) {
    use core::sync::atomic::Ordering;
    let told = board.words[0].load(Ordering::Acquire);
    let mut found = u64::from(call(Operation::HandleInspect, &[told]).is_ok());
    for index in 0..2048 {
        let handle = Handle::new(index, 1).0;
        found += u64::from(call(Operation::HandleInspect, &[handle]).is_ok());
    }
    board.words[1].store(found, Ordering::Release);
}
