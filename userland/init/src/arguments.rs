//! Words of the kernel's command line that say something to one task: `netstack.ip=10.0.0.5/24` takes the
//! place of the argument `ip` that the manifest gives the task `netstack`, or is added to its arguments.
//! What the words mean is the task's.

use core::fmt;

use ipc::manifest::{Argument, MAX_ARGUMENTS, OTHER_GROUPS, Task};

/// Why a word does nothing, with the mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// The word.
    pub word: &'a str,
    /// What is wrong with it.
    pub mistake: Mistake<'a>,
}

/// What can be wrong with a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake<'a> {
    /// No task has this name.
    NoTask(&'a str),
    /// It has no name of an argument, or no value.
    NoValue(&'a str),
    /// The task has as many arguments as it can have.
    TooMany(&'a str),
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: ", self.word)?;
        match self.mistake {
            Mistake::NoTask(name) => write!(
                out,
                "no task is named {name}; the manifest has the names, and `tasks` in the shell shows them"
            ),
            Mistake::NoValue(task) => {
                write!(
                    out,
                    "it says nothing; write {task}.NAME=VALUE without spaces"
                )
            }
            Mistake::TooMany(task) => write!(
                out,
                "{task} has {MAX_ARGUMENTS} arguments already; leave one out, or write it in the manifest"
            ),
        }
    }
}

/// Gives the tasks the arguments that the words `task.name=value` of a command line say, the last word for
/// a name at the end. A word that names no task, or says nothing, goes to `report`; words without a
/// point before the equals sign, and those of groups that are no tasks, are others' affair.
pub fn apply<'a>(tasks: &mut [Task<'a>], line: &'a str, report: &mut dyn FnMut(Refusal<'a>)) {
    for word in line.split_ascii_whitespace() {
        if let Err(mistake) = apply_word(tasks, word) {
            report(Refusal { word, mistake });
        }
    }
}

fn apply_word<'a>(tasks: &mut [Task<'a>], word: &'a str) -> Result<(), Mistake<'a>> {
    let (path, value) = word.split_once('=').unwrap_or((word, ""));
    let Some((group, name)) = path.split_once('.') else {
        return Ok(());
    };
    if OTHER_GROUPS.contains(&group) {
        return Ok(());
    }
    let task = tasks.iter_mut().find(|task| task.name == group);
    let arguments = &mut task.ok_or(Mistake::NoTask(group))?.arguments;
    if name.is_empty() || value.is_empty() {
        return Err(Mistake::NoValue(group));
    }
    if let Some(argument) = arguments.iter_mut().find(|argument| argument.name == name) {
        argument.value = value;
        return Ok(());
    }
    let pushed = arguments.push(Argument { name, value });
    pushed.map_err(|_| Mistake::TooMany(group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::manifest::Restart;

    fn task(name: &'static str, arguments: &[(&'static str, &'static str)]) -> Task<'static> {
        let argument = |(name, value): &(&'static str, &'static str)| Argument { name, value };
        Task {
            name,
            binary: name,
            priority: 0,
            affinity: u64::MAX,
            memory: 0,
            memory_least: 0,
            stack: 0,
            heap: 0,
            heap_least: 0,
            restart: Restart::Always,
            restart_with: Default::default(),
            grants: Default::default(),
            arguments: arguments.iter().map(argument).collect(),
        }
    }

    type Arguments = Vec<(String, String)>;

    /// The arguments of `netstack` and of `web` after this line, and the words refused.
    fn after(line: &str) -> (Arguments, Arguments, Vec<String>) {
        let mut tasks = [task("netstack", &[("ip", "dhcp")]), task("web", &[])];
        let mut refused = Vec::new();
        apply(&mut tasks, line, &mut |refusal| {
            refused.push(refusal.to_string());
        });
        let arguments = |task: &Task<'_>| {
            let owned = |argument: &Argument<'_>| (argument.name.into(), argument.value.into());
            task.arguments.iter().map(owned).collect()
        };
        (arguments(&tasks[0]), arguments(&tasks[1]), refused)
    }

    fn pairs(expected: &[(&str, &str)]) -> Arguments {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        expected.iter().map(owned).collect()
    }

    #[test]
    fn words_replace_and_add_arguments_of_the_task_they_name() {
        let line =
            "netstack.ip=10.0.0.5/24 netstack.gw=10.0.0.1 web.port=81=2 netstack.gw=10.0.0.9";
        let (netstack, web, refused) = after(line);
        assert_eq!(
            netstack,
            pairs(&[("ip", "10.0.0.5/24"), ("gw", "10.0.0.9")])
        );
        assert_eq!(web, pairs(&[("port", "81=2")]));
        assert_eq!(refused, [""; 0]);
    }

    #[test]
    fn words_of_others_are_left_alone() {
        let line = "quiet BOOT_IMAGE=/boot/uzura-0.1 sched.slice_us=2000 sched.typo=1 ipc.x=1 \
                    virtio_mmio.device=512@0xfeb02e00:47 = a=b.c";
        let (netstack, web, refused) = after(line);
        assert_eq!((netstack, web), (pairs(&[("ip", "dhcp")]), pairs(&[])));
        assert_eq!(refused, [""; 0]);
    }

    #[test]
    fn mistakes_are_told_with_their_mend_and_change_nothing() {
        let (netstack, _, refused) =
            after("netsack.ip=10.0.0.5/24 netstack.ip netstack.ip= netstack.=1 .=1");
        assert_eq!(netstack, pairs(&[("ip", "dhcp")]));
        assert_eq!(refused.len(), 5);
        assert!(refused[0].starts_with("netsack.ip=10.0.0.5/24: no task is named netsack;"));
        for refusal in &refused[1..4] {
            assert!(refusal.contains("write netstack.NAME=VALUE"), "{refusal}");
        }
    }

    #[test]
    fn a_task_has_so_many_arguments_and_no_more() {
        let words: Vec<String> = (0..MAX_ARGUMENTS)
            .map(|number| format!("web.a{number}=1"))
            .collect();
        let line = format!("{} web.more=1 web.a0=2", words.join(" "));
        let (_, web, refused) = after(&line);
        assert_eq!(web.len(), MAX_ARGUMENTS);
        assert_eq!(web[0], ("a0".to_owned(), "2".to_owned()));
        assert_eq!(refused.len(), 1);
        assert!(refused[0].starts_with("web.more=1: web has"), "{refused:?}");
    }
}
