//! The whole table of operations with sound arguments and with wild ones: whatever a task passes, it
//! gets a documented answer, and everything goes on.

use core::sync::atomic::Ordering;

use ipc::{Error, Handle, Operation, Rights};

use crate::child::{Child, QUOTA};
use crate::failure::{Outcome, ensure, ensure_equal};
use crate::operations::Objects;
use crate::raw::{self, Board, Registers};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    ("sound_arguments_are_accepted", sound),
    ("wild_arguments_get_documented_errors", wild),
    ("wild_arguments_from_a_task_without_rights", powerless),
    ("wild_tags_and_handles_in_messages", tags),
];

/// Values that are seldom what an operation wants.
const WILD: [u64; 18] = [
    0,
    1,
    2,
    7,
    63,
    64,
    4095,
    4096,
    0xffff,
    0x1_0000,
    0x7fff_0000_0000,
    0x7fff_ffff_f000,
    0x8000_0000_0000,
    0xffff_8000_0000_0000,
    0xffff_ffff_8000_0000,
    1 << 62,
    u64::MAX - 4095,
    u64::MAX,
];

/// What sound arguments lead to where nobody is there to answer.
const fn expected(operation: Operation) -> Option<Error> {
    match operation {
        Operation::FutexWait => Some(Error::Changed),
        Operation::Call => Some(Error::NotDelivered),
        Operation::Send => Some(Error::WouldBlock),
        Operation::Receive | Operation::SignalReceive | Operation::Wait => Some(Error::TimedOut),
        Operation::ReplyReceive | Operation::Stash => Some(Error::NoReplyPending),
        // Nothing is mapped there.
        Operation::MemoryUnmap => Some(Error::NotMapped),
        // The action is none, so that the machine goes on.
        Operation::SystemPower => Some(Error::InvalidArgument),
        _ => None,
    }
}

/// Every operation, once.
fn sound(context: &Context) -> Outcome {
    let before = context.suite.counts()?;
    for operation in Operation::ALL {
        let objects = Objects::make(context)?;
        let Some(arguments) = objects.arguments(*operation) else {
            continue;
        };
        // Attached ports would stay with the suite; the tests of ports attach some in a child.
        if *operation == Operation::IoPortsAttach {
            continue;
        }
        let result = raw::until(*operation, &arguments, 0);
        let error = result.as_ref().err().copied();
        ensure_equal!(error, expected(*operation), "error of {operation:?}");
        undo(context, *operation, result, &arguments);
        drop(objects);
        let now = || context.suite.counts().unwrap_or(before);
        let back = || crate::left(&before, &now()).is_empty();
        ensure!(
            context.suite.wait_for(2000, back),
            "{operation:?} left behind:{}",
            crate::left(&before, &now())
        );
    }
    Ok(())
}

/// Takes back what a sound operation did.
fn undo(
    context: &Context,
    operation: Operation,
    result: Result<Registers, Error>,
    arguments: &Registers,
) {
    use Operation as Op;
    let Ok([value, ..]) = result else { return };
    match operation {
        Op::Duplicate
        | Op::EndpointCreate
        | Op::BadgeMint
        | Op::NotificationCreate
        | Op::MemoryCreate
        | Op::MemoryDevice
        | Op::InterruptCreate
        | Op::IoPortsCreate => drop(raw::call(Op::Close, &[value])),
        Op::TaskCreate | Op::ThreadCreate => {
            let _ = raw::call(Op::Destroy, &[value]);
            let _ = raw::call(Op::Close, &[value]);
        }
        Op::MemoryMap => drop(raw::call(
            Op::MemoryUnmap,
            &[context.suite.task, arguments[2]],
        )),
        Op::NotificationBind => drop(raw::call(Op::NotificationBind, &[0])),
        Op::MemoryExpose => drop(raw::call(
            Op::MemoryExpose,
            &[arguments[0], arguments[1], 0],
        )),
        _ => {}
    }
}

/// The errors that an operation's documentation names, a bit for each code. Documentation that
/// refers to another operation's includes those.
fn documented(operation: Operation) -> u64 {
    let (_, text) = operation.reference();
    let errors = text
        .split_once("rrors:")
        .or_else(|| text.split_once("rrors "));
    let Some((_, errors)) = errors else { return 0 };
    let mut bits = 0;
    for error in Error::ALL {
        if names(errors, &alloc::format!("{error:?}")) {
            bits |= 1 << error.code();
        }
    }
    for other in [Operation::Call, Operation::Reply, Operation::Receive] {
        if other != operation && refers(errors, other) {
            bits |= documented(other);
        }
    }
    bits
}

/// Whether a word stands in a text.
fn names(text: &str, word: &str) -> bool {
    text.split(|letter: char| !letter.is_ascii_alphanumeric())
        .any(|found| found == word)
}

/// Whether a text says `as` and then the operation's name.
fn refers(text: &str, operation: Operation) -> bool {
    let (name, _) = operation.reference();
    let mut words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    let mut last = "";
    words.any(|word| {
        let found = last == "as" && word == name;
        last = word;
        found
    })
}

/// Board words of the storm: the operation, its sound arguments, the documented errors; calls made,
/// and the first answer that is not documented.
const OPERATION: usize = 0;
const ARGUMENTS: usize = 1;
const DOCUMENTED: usize = 7;
const CALLS: usize = 8;
const BAD_STATUS: usize = 9;
const BAD_ARGUMENTS: usize = 10;

/// Calls one operation with each argument in turn wild, and with all of them wild.
fn storm(board: &'static Board) {
    let word = |index: usize| board.words[index].load(Ordering::Acquire);
    let sound: Registers = core::array::from_fn(|index| word(ARGUMENTS + index));
    // What a wild LogWrite writes is to be harmless.
    raw::buffer().fill(b'\n');
    for value in WILD {
        for position in 0..7 {
            let mut arguments = sound;
            match arguments.get_mut(position) {
                Some(argument) => *argument = value,
                None => arguments = [value; 6],
            }
            let (status, results) = raw::enter(word(OPERATION), arguments, 0);
            board.words[CALLS].fetch_add(1, Ordering::Relaxed);
            let known = status == 0 || (status < 64 && word(DOCUMENTED) & (1 << status) != 0);
            if !known && word(BAD_STATUS) == 0 {
                board.words[BAD_STATUS].store(status, Ordering::Relaxed);
                for (index, argument) in arguments.iter().enumerate() {
                    board.words[BAD_ARGUMENTS + index].store(*argument, Ordering::Relaxed);
                }
            }
            if status == 0 {
                tidy(word(OPERATION), results[0]);
            }
        }
    }
}

/// Closes what a wild call made after all, so that the next one finds room.
fn tidy(operation: u64, handle: u64) {
    use Operation as Op;
    let makes = [
        Op::Duplicate,
        Op::EndpointCreate,
        Op::BadgeMint,
        Op::NotificationCreate,
        Op::MemoryCreate,
        Op::MemoryDevice,
        Op::TaskCreate,
        Op::ThreadCreate,
        Op::InterruptCreate,
        Op::IoPortsCreate,
    ];
    if makes.iter().any(|made| *made as u64 == operation) {
        let _ = raw::call(Op::Destroy, &[handle]);
        let _ = raw::call(Op::Close, &[handle]);
    }
}

/// Lets a child call an operation wildly and checks its answers.
fn storm_in_child(
    context: &Context,
    child: &Child,
    operation: Operation,
    arguments: Registers,
) -> Outcome {
    let mut words = [0; 8];
    words[OPERATION] = operation as u64;
    words[ARGUMENTS..ARGUMENTS + 6].copy_from_slice(&arguments);
    words[DOCUMENTED] = documented(operation);
    let thread = child.run(&context.suite, storm, &words)?;
    ensure_equal!(
        thread.word(CALLS),
        7 * WILD.len() as u64,
        "calls of {operation:?}"
    );
    let status = thread.word(BAD_STATUS);
    let arguments: Registers = core::array::from_fn(|index| thread.word(BAD_ARGUMENTS + index));
    ensure_equal!(
        status,
        0,
        "{operation:?}({arguments:#x?}) has no such error ({:?})",
        Error::from_code(status)
    );
    Ok(())
}

/// Operations that the storm leaves out: they would end the thread, or let it wait for ever.
const fn is_left_out(operation: Operation) -> bool {
    matches!(operation, Operation::Exit)
}

/// A task with rights to everything but the machine's power: each operation with objects of its own,
/// and each argument in turn wild.
fn wild(context: &Context) -> Outcome {
    for operation in Operation::ALL {
        if is_left_out(*operation) {
            continue;
        }
        let objects = Objects::make(context)?;
        let Some(sound) = objects.arguments(*operation) else {
            continue;
        };
        let child = Child::new(&context.suite, &context.program, 4 * QUOTA)?;
        let mut arguments = sound;
        for argument in &mut arguments {
            // The machine is to go on even where rights are not looked at.
            if *operation == Operation::SystemPower {
                break;
            }
            if let Some(there) = grant(context, &child, &objects, *argument)? {
                *argument = there;
            }
        }
        let tunables = read_tunables(context);
        storm_in_child(context, &child, *operation, arguments)?;
        for (number, value) in tunables.iter().enumerate() {
            let values = [context.suite.sched, number as u64, 1, *value];
            raw::call(Operation::Tunable, &values)?;
        }
    }
    Ok(())
}

/// The scheduler's tunables, which a wild call may change.
fn read_tunables(context: &Context) -> alloc::vec::Vec<u64> {
    let read = |number| raw::value(Operation::Tunable, &[context.suite.sched, number]);
    (0..).map_while(|number| read(number).ok()).collect()
}

/// What a value of the suite's is in the child, if it is one of the objects' handles.
fn grant(context: &Context, child: &Child, objects: &Objects, value: u64) -> Outcome<Option<u64>> {
    let suite = &context.suite;
    if value == suite.task {
        // Its own task, for it to do its worst to; but not to end itself.
        let rights = Rights(Rights::ALL.0 & !Rights::DESTROY.0);
        return Ok(Some(child.grant(child.task, rights)?));
    }
    let known = objects
        .one_of_each()
        .iter()
        .any(|(_, handle)| *handle == value);
    if !known && value != objects.child.task {
        return Ok(None);
    }
    let weak = Rights(Rights::ALL.0 & !Rights::POWER.0);
    let rights = if value == suite.system {
        weak
    } else {
        Rights::ALL
    };
    // What cannot be duplicated, a reply, the child has not.
    Ok(child.grant(value, rights).ok())
}

/// A task that holds nothing calls everything.
fn powerless(context: &Context) -> Outcome {
    let child = Child::new(&context.suite, &context.program, QUOTA)?;
    let nothing = Handle::new(9, 1).0;
    for operation in Operation::ALL {
        if !is_left_out(*operation) {
            storm_in_child(context, &child, *operation, [nothing, 0, 0, 0, 0, 0])?;
        }
    }
    Ok(())
}

/// Calls, sends and receives on the endpoint in word 0 with every bit of the tag, and with handles in
/// the buffer that are none. Word 1 counts answers that are no errors of the table.
fn wild_tags(board: &'static Board) {
    let endpoint = board.words[0].load(Ordering::Acquire);
    for bit in 0..64 {
        for other in [0, 0x0000_7fff_0000_0000, u64::MAX >> 1] {
            raw::buffer().fill(0xff);
            let tag = 1_u64 << bit | other;
            for operation in [
                Operation::Call,
                Operation::Send,
                Operation::Receive,
                Operation::ReplyReceive,
                Operation::SignalReceive,
                Operation::Reply,
            ] {
                let first = if operation == Operation::Reply {
                    0
                } else {
                    endpoint
                };
                let (status, _) = raw::enter(operation as u64, [first, tag, 1, 2, 3, 4], 0);
                if status != 0 && Error::from_code(status).is_none() {
                    board.words[1].fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

fn tags(context: &Context) -> Outcome {
    let child = Child::new(&context.suite, &context.program, QUOTA)?;
    let endpoint = crate::suite::Owned::make(Operation::EndpointCreate, &[])?;
    let there = child.grant(endpoint.0, Rights::ALL)?;
    let thread = child.run(&context.suite, wild_tags, &[there])?;
    ensure_equal!(thread.word(1), 0, "answers that are no errors of the table");
    ensure!(child.is_sound(&context.suite, 5), "the child faulted");
    Ok(())
}
