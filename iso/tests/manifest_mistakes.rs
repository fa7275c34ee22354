//! One test for each mistake that a manifest is refused for, named after the mistake, and one for a
//! manifest that is right. What the messages say is checked as far as the mend goes.

use iso::manifest::{Mistake, parse};

const PROGRAMS: [&str; 3] = ["disk", "files", "shell"];

/// A right manifest: a shell that uses a file server that uses a driver.
const RIGHT: &str = r#"
[[task]]
name = "disk"
priority = 40
cpus = [0, 1]
memory = "1 MiB"
stack = "16 KiB"
heap = "64 KiB"
restart = "always"
provides = ["disk"]
io_ports = ["0x1f0-0x1f7", "0x3f6"]
interrupts = [14]
authority = ["log"]

[[task]]
name = "files"
priority = 30
memory = "4 MiB"
stack = "64 KiB"
heap = "1 MiB"
restart = "always"
restart_with = ["disk"]
provides = ["files"]
uses = ["disk", "init"]

[task.grants]
init = ["log", "kill"]

[task.arguments]
root = "disk0"

[[task]]
name = "shell"
binary = "shell"
priority = 10
memory = "1 MiB"
stack = "64 KiB"
heap = "0"
restart = "never"
uses = ["files", "init"]
"#;

/// The mistake found after replacing `from` by `to` in the right manifest.
fn mistake(from: &str, to: &str) -> Mistake {
    assert!(RIGHT.contains(from), "{from}");
    let text = RIGHT.replacen(from, to, 1);
    parse(&text, &PROGRAMS)
        .err()
        .unwrap_or_else(|| panic!("this was not refused:\n{text}"))
}

/// Checks the kind of the mistake after an edit, and that its message mentions all of `words`.
macro_rules! refused {
    ($($name:ident: $from:expr, $to:expr => $mistake:pat, $words:expr;)+) => {
        $(#[test]
        fn $name() {
            let found = mistake($from, $to);
            assert!(matches!(found, $mistake), "{found:?}");
            let message = found.to_string();
            for word in $words {
                assert!(message.contains(word), "`{word}` is missing in: {message}");
            }
        })+
    };
}

refused! {
    syntax_error: "[[task]]", "[[task]" => Mistake::Syntax(_), ["line", "iso/README.md"];
    unknown_key: "heap = \"0\"", "heep = \"0\"" => Mistake::Syntax(_), ["heep"];
    missing_key: "heap = \"0\"\n", "" => Mistake::Syntax(_), ["heap"];
    unknown_authority: "\"log\"", "\"root\"" => Mistake::Syntax(_), ["root", "device-control"];
    unknown_restart: "\"never\"", "\"sometimes\"" => Mistake::Syntax(_), ["sometimes", "always"];
    size_without_unit_it_knows: "\"4 MiB\"", "\"4 MB\"" => Mistake::Syntax(_), ["4 MB", "2 MiB"];
    ports_not_hexadecimal: "\"0x3f6\"", "\"1014\"" => Mistake::Syntax(_), ["1014", "0x3f8-0x3ff"];
    bad_name: "name = \"files\"", "name = \"Files\"" => Mistake::BadName { .. }, ["Files", "a-z"];
    bad_service_name: "provides = [\"files\"]", "provides = [\"\"]" => Mistake::BadName { .. }, ["a-z"];
    name_too_long: "name = \"files\"", "name = \"files-with-a-name-of-32-characte\"" => Mistake::BadName { .. }, ["31"];
    name_twice: "name = \"shell\"", "name = \"disk\"" => Mistake::NameTwice { .. }, ["disk", "another name"];
    name_is_init: "name = \"shell\"", "name = \"init\"" => Mistake::NameIsInit, ["supervisor"];
    name_is_group: "name = \"shell\"", "name = \"sched\"" => Mistake::NameIsGroup { .. }, ["sched", "command line", "another name"];
    unknown_binary: "binary = \"shell\"", "binary = \"shall\"" => Mistake::UnknownBinary { .. }, ["shall", "shall-task", "disk, files"];
    priority_out_of_range: "priority = 40", "priority = 63" => Mistake::PriorityOutOfRange { .. }, ["63", "62"];
    no_cpu: "cpus = [0, 1]", "cpus = []" => Mistake::NoCpu { .. }, ["leave `cpus` out"];
    cpu_out_of_range: "cpus = [0, 1]", "cpus = [64]" => Mistake::CpuOutOfRange { .. }, ["64", "63"];
    size_not_pages: "\"16 KiB\"", "\"5000\"" => Mistake::SizeNotPages { .. }, ["stack", "5000", "round it up"];
    no_stack: "\"16 KiB\"", "\"0\"" => Mistake::NoStack { .. }, ["4 KiB"];
    quota_too_small: "\"4 MiB\"", "\"1 MiB\"" => Mistake::QuotaTooSmall { .. }, ["1 MiB", "1088 KiB"];
    least_quota_too_small: "\"4 MiB\"", "\"4 MiB\"\nmemory_least = \"1 MiB\"" => Mistake::QuotaTooSmall { .. }, ["memory_least", "1 MiB", "1088 KiB"];
    least_not_pages: "\"4 MiB\"", "\"4 MiB\"\nmemory_least = \"3000001\"" => Mistake::SizeNotPages { .. }, ["memory_least", "3000001"];
    least_is_more: "\"4 MiB\"", "\"4 MiB\"\nmemory_least = \"5 MiB\"" => Mistake::LeastIsMore { .. }, ["memory_least", "5 MiB", "4 MiB"];
    heap_least_is_more: "heap = \"0\"", "heap = \"0\"\nheap_least = \"4 KiB\"" => Mistake::LeastIsMore { .. }, ["heap_least", "4 KiB"];
    heap_least_alone: "heap = \"64 KiB\"", "heap = \"64 KiB\"\nheap_least = \"4 KiB\"" => Mistake::HeapLeastAlone { .. }, ["memory_least"];
    service_provided_twice: "provides = [\"files\"]", "provides = [\"files\", \"disk\"]" => Mistake::ServiceProvidedTwice { .. }, ["disk", "files"];
    service_not_provided: "uses = [\"disk\", ", "uses = [\"tape\", " => Mistake::ServiceNotProvided { .. }, ["tape", "provides"];
    grant_without_use: "init = [\"log\", \"kill\"]", "tape = [\"read\"]" => Mistake::GrantWithoutUse { .. }, ["files", "tape", "`uses`"];
    unknown_grant: "\"kill\"", "\"reed\"" => Mistake::UnknownGrant { .. }, ["reed", "power, read"];
    uses_own_service: "uses = [\"disk\", ", "uses = [\"files\", " => Mistake::UsesOwnService { .. }, ["take it out"];
    calls_less_urgent: "priority = 10", "priority = 31" => Mistake::CallsLessUrgent { .. }, ["shell", "31", "files", "30", "raise"];
    unknown_restart_with: "restart_with = [\"disk\"]", "restart_with = [\"tape\"]" => Mistake::UnknownRestartWith { .. }, ["tape"];
    restart_with_itself: "restart_with = [\"disk\"]", "restart_with = [\"files\"]" => Mistake::RestartWithItself { .. }, ["files"];
    restart_with_but_never: "restart = \"never\"", "restart = \"never\"\nrestart_with = [\"files\"]" => Mistake::RestartWithButNever { .. }, ["always"];
    ports_backwards: "\"0x1f0-0x1f7\"", "\"0x1f7-0x1f0\"" => Mistake::PortsBackwards { .. }, ["0x1f7-0x1f0", "swap"];
    ports_overlap: "heap = \"0\"", "heap = \"0\"\nio_ports = [\"0x1f7-0x200\"]" => Mistake::PortsOverlap { .. }, ["disk", "shell", "one owner"];
    interrupt_twice: "heap = \"0\"", "heap = \"0\"\ninterrupts = [14]" => Mistake::InterruptTwice { .. }, ["14", "disk", "shell"];
    same_twice: "[\"log\"]", "[\"log\", \"log\"]" => Mistake::SameTwice { .. }, ["authority", "take one out"];
}

#[test]
fn no_task() {
    assert!(matches!(parse("", &PROGRAMS), Err(Mistake::NoTask)));
}

#[test]
fn uses_circle() {
    let text = RIGHT.replace("priority = 40", "priority = 30").replace(
        "provides = [\"disk\"]",
        "provides = [\"disk\"]\nuses = [\"files\"]",
    );
    let message = parse(&text, &PROGRAMS).unwrap_err().to_string();
    assert!(message.contains("disk -> files -> disk"), "{message}");
}

#[test]
fn too_many() {
    let arguments: String = (0..=ipc::manifest::MAX_ARGUMENTS)
        .map(|number| format!("name{number} = \"\"\n"))
        .collect();
    let manifest = parse(
        &format!("{RIGHT}\n[task.arguments]\n{arguments}"),
        &PROGRAMS,
    )
    .unwrap();
    let found = manifest.pack().unwrap_err();
    assert!(
        matches!(
            found,
            Mistake::TooMany {
                count: 17,
                limit: 16,
                ..
            }
        ),
        "{found:?}"
    );
}

#[test]
fn quota_too_small_for_the_program() {
    let manifest = parse(RIGHT, &PROGRAMS).unwrap();
    assert!(manifest.task[0].fits(900 << 10).is_ok());
    assert!(matches!(
        manifest.task[0].fits(1 << 20),
        Err(Mistake::QuotaTooSmall { .. })
    ));
}

#[test]
fn right_manifest_is_packed() {
    use ipc::interface::supervisor;
    use ipc::manifest::{Grant, Restart, Tasks};
    let packed = parse(RIGHT, &PROGRAMS).unwrap().pack().unwrap();
    let tasks: Vec<_> = Tasks::read(&packed).unwrap().map(Result::unwrap).collect();
    assert_eq!(
        tasks.iter().map(|task| task.name).collect::<Vec<_>>(),
        ["disk", "files", "shell"]
    );
    assert_eq!(tasks[0].affinity, 0b11);
    assert_eq!(tasks[1].affinity, u64::MAX);
    assert_eq!(
        tasks[0].grants.as_slice(),
        [
            Grant::Provide("disk"),
            Grant::IoPorts {
                first: 0x1f0,
                count: 8
            },
            Grant::IoPorts {
                first: 0x3f6,
                count: 1
            },
            Grant::Interrupt { input: 14 },
            Grant::Log,
        ]
    );
    assert_eq!(
        tasks[1].grants.as_slice(),
        [
            Grant::Provide("files"),
            Grant::Use {
                service: "disk",
                grants: 0
            },
            Grant::Use {
                service: "init",
                grants: supervisor::GRANT_KILL | supervisor::GRANT_LOG
            },
        ]
    );
    assert_eq!(
        (tasks[1].restart, tasks[2].restart),
        (Restart::Always, Restart::Never)
    );
    assert_eq!(tasks[1].restart_with.as_slice(), ["disk"]);
    assert_eq!(
        (tasks[1].arguments[0].name, tasks[1].arguments[0].value),
        ("root", "disk0")
    );
}

#[test]
fn system_manifest_is_right() {
    let workspace = iso::workspace::Workspace::read().unwrap();
    let programs: Vec<&str> = workspace
        .tasks
        .iter()
        .filter_map(|task| task.strip_suffix("-task"))
        .collect();
    iso::manifest::read(&workspace.root.join(iso::image::SYSTEM), &programs).unwrap();
}
