//! Every mistake in a manifest that the tool refuses, each with what is wrong and the mend. Finding
//! them is `check`'s.

use thiserror::Error;

use super::text::{Ports, Size};

/// Why a manifest is refused.
#[derive(Debug, Error)]
#[expect(
    missing_docs,
    reason = "the messages say what each one is; the fields are the parts of the messages"
)]
pub enum Mistake {
    #[error("{0}mend: iso/README.md lists the keys and how their values are written")]
    Syntax(Box<toml::de::Error>),
    #[error("it has no task; write at least one [[task]]")]
    NoTask,
    #[error(
        "`{name}` cannot be a name; use 1 to {} of a-z, 0-9 and -, beginning with a letter",
        ipc::manifest::MAX_NAME
    )]
    BadName { name: String },
    #[error(
        "two tasks are named `{name}`; give one of them another name (`binary` may be the same)"
    )]
    NameTwice { name: String },
    #[error(
        "words `{name}.…` of the command line are the kernel's, so no task can be named `{name}`; give it another name (`binary` may stay)"
    )]
    NameIsGroup { name: String },
    #[error(
        "`init` is the supervisor, which the kernel starts; take it out, or rename the task or service"
    )]
    NameIsInit,
    #[error(
        "task `{task}`: there is no program `{binary}`; there are: {known}; a new one is a package `{binary}-task` in a folder named task"
    )]
    UnknownBinary {
        task: String,
        binary: String,
        known: String,
    },
    #[error("task `{task}`: priority {priority} is out of range; use 0 (least) to {max}")]
    PriorityOutOfRange { task: String, priority: u8, max: u8 },
    #[error(
        "task `{task}`: `cpus` is empty, so it could run nowhere; name a CPU, or leave `cpus` out"
    )]
    NoCpu { task: String },
    #[error("task `{task}`: CPU {cpu} cannot be named; use 0 to 63, or leave `cpus` out")]
    CpuOutOfRange { task: String, cpu: u8 },
    #[error("task `{task}`: `{field}` is {size}, which is no multiple of 4 KiB; round it up")]
    SizeNotPages {
        task: String,
        field: &'static str,
        size: Size,
    },
    #[error("task `{task}`: `stack` is 0; give it at least 4 KiB")]
    NoStack { task: String },
    #[error(
        "task `{task}`: `{field}` is {memory}, but program, stack and heap take {needed}; give it more than that"
    )]
    QuotaTooSmall {
        task: String,
        field: &'static str,
        memory: Size,
        needed: Size,
    },
    #[error(
        "task `{task}`: `{field}` is {least}, more than `{whole}`, which is {most}; swap them, or leave `{field}` out"
    )]
    LeastIsMore {
        task: String,
        field: &'static str,
        least: Size,
        whole: &'static str,
        most: Size,
    },
    #[error(
        "task `{task}` has `heap_least`, but its memory is always the same; give it `memory_least` too, or make `heap` smaller"
    )]
    HeapLeastAlone { task: String },
    #[error(
        "service `{service}` is provided by `{one}` and by `{other}`; one of them must provide something else"
    )]
    ServiceProvidedTwice {
        service: String,
        one: String,
        other: String,
    },
    #[error(
        "task `{task}` uses `{service}`, which no task provides; add it to `provides` of the one that does"
    )]
    ServiceNotProvided { task: String, service: String },
    #[error(
        "task `{task}` has `grants` for `{service}`, which it does not use; add it to `uses` or take them out"
    )]
    GrantWithoutUse { task: String, service: String },
    #[error("task `{task}`: there is no grant `{grant}`; there are: {known}")]
    UnknownGrant {
        task: String,
        grant: String,
        known: String,
    },
    #[error(
        "task `{task}` uses its own service `{service}` and would wait for itself; take it out of `uses`"
    )]
    UsesOwnService { task: String, service: String },
    #[error(
        "task `{task}` (priority {priority}) uses `{service}` of the less urgent `{provider}` (priority {provider_priority}); raise the provider to at least {priority}"
    )]
    CallsLessUrgent {
        task: String,
        priority: u8,
        service: String,
        provider: String,
        provider_priority: u8,
    },
    #[error(
        "these tasks use each other in a circle and could wait for each other for ever: {circle}; turn one `uses` into a notification"
    )]
    UsesCircle { circle: String },
    #[error("task `{task}` is restarted with `{other}`, which is no task; correct the name")]
    UnknownRestartWith { task: String, other: String },
    #[error("task `{task}` is restarted with itself; take it out of `restart_with`")]
    RestartWithItself { task: String },
    #[error(
        "task `{task}` is never restarted and has `restart_with`; make it `restart = \"always\"` or take `restart_with` out"
    )]
    RestartWithButNever { task: String },
    #[error("task `{task}`: the ports {ports} end before they begin; swap the ends")]
    PortsBackwards { task: String, ports: Ports },
    #[error(
        "the ports {one_ports} of `{one}` and {other_ports} of `{other}` overlap; a port has one owner"
    )]
    PortsOverlap {
        one: String,
        one_ports: Ports,
        other: String,
        other_ports: Ports,
    },
    #[error("interrupt {input} goes to `{one}` and to `{other}`; an input has one owner")]
    InterruptTwice {
        input: u32,
        one: String,
        other: String,
    },
    #[error("task `{task}`: `{field}` names {value} twice; take one out")]
    SameTwice {
        task: String,
        field: &'static str,
        value: String,
    },
    #[error("task `{task}` has {count} {what}; at most {limit} fit (ipc/src/manifest.rs)")]
    TooMany {
        task: String,
        what: &'static str,
        count: usize,
        limit: usize,
    },
    #[error("the manifest does not fit its packed form: {0}; make it shorter")]
    Packed(ipc::manifest::ManifestError),
}
