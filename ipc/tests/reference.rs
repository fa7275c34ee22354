//! Writes the reference page `ipc/OPERATIONS.md` from the declarations, and fails when the page in
//! the repository is another one.

use ipc::interface::{self, InterfaceReference, OperationReference};
use ipc::{Error, ObjectKind, Operation};
use std::fmt::Write;

/// The page.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/OPERATIONS.md");
/// With this variable set the test writes the page.
const RENEW: &str = "RENEW";

const HEAD: &str = "\
# Operations

The reference of all system calls and of all services' operations. Generated from the declarations
(`ipc/src/operation.rs`, `ipc/src/interface/`) by a test; renew it with

    RENEW=1 cargo test -p ipc --test reference

What calls, replies, deadlines and restarts mean is in [README.md](README.md).
";

const REGISTERS: &str = "
## System calls

| register | in | out |
|---|---|---|
| `rax` | number | status: 0, or the code of an error |
| `rdi`, `rsi`, `rdx`, `r8`, `r9`, `r10` | arguments 0 to 5 | results 0 to 5 |
| `r12` | deadline: nanoseconds of the monotonic clock, all ones for none | kept |
| `rcx`, `r11` | | lost |

All other registers are kept. A message travels in the same registers: `rdi` the handle (received:
the badge), `rsi` the tag, `rdx`, `r8`, `r9`, `r10` its first 32 bytes.
";

/// Documentation as it stands in the source, for a page without links to items.
fn plain(documentation: &str) -> String {
    let lines = documentation
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(line));
    let mut text = lines.collect::<Vec<_>>().join("\n");
    for (from, to) in [("[`", "`"), ("`]", "`"), ("crate::", "")] {
        text = text.replace(from, to);
    }
    text.trim_end().to_owned()
}

fn system_calls(page: &mut String) {
    page.push_str(REGISTERS);
    for operation in Operation::ALL {
        let (name, documentation) = operation.reference();
        let number = *operation as u8;
        let _ = write!(page, "\n### {number} {name}\n\n{}\n", plain(documentation));
    }
}

fn tables(page: &mut String) {
    page.push_str("\n## Errors of system calls\n\n| code | name | meaning |\n|---|---|---|\n");
    for error in Error::ALL {
        let _ = writeln!(page, "| {} | {error:?} | {error} |", error.code());
    }
    page.push_str("\n## Kinds of object\n\n| number | name |\n|---|---|\n");
    for kind in ObjectKind::ALL {
        let _ = writeln!(page, "| {} | {kind:?} |", kind as u8);
    }
}

fn list(entries: &[(&str, &str)], separator: &str) -> String {
    let entries = entries
        .iter()
        .map(|(name, what)| format!("{name}{separator}{what}"));
    entries.collect::<Vec<_>>().join(", ")
}

fn operation(page: &mut String, operation: &OperationReference) {
    let OperationReference {
        name,
        number,
        reply,
        ..
    } = operation;
    let arguments = list(operation.arguments, ": ");
    let _ = write!(
        page,
        "\n#### {number} {name}\n\n    {name}({arguments}) -> {reply}\n\n"
    );
    for (what, handles) in [
        ("Handles sent", operation.takes),
        ("Handles in the reply", operation.gives),
    ] {
        for (name, how) in handles {
            let how = how.replace("Rights::", "");
            let _ = writeln!(page, "- {what}: `{name}` ({how})");
        }
    }
    if operation.later {
        page.push_str("- The answer can come later.\n");
    }
    if operation.later || !operation.takes.is_empty() || !operation.gives.is_empty() {
        page.push('\n');
    }
    let _ = writeln!(page, "{}", plain(operation.documentation));
}

fn service(page: &mut String, interface: &InterfaceReference) {
    let InterfaceReference { name, number, .. } = interface;
    let documentation = plain(interface.documentation);
    let _ = write!(page, "\n### {number} {name}\n\n{documentation}\n");
    for declared in interface.operations {
        operation(page, declared);
    }
    page.push_str("\n#### Errors\n\n| name | meaning |\n|---|---|\n");
    for (name, meaning) in interface.errors {
        let _ = writeln!(page, "| {name} | {meaning} |");
    }
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    system_calls(&mut page);
    tables(&mut page);
    page.push_str(
        "\n## Services\n\nThe label of an operation is the interface's number times 65,536 plus its \
         own. Arguments and\nreply are postcard; the reply is a `Result` of the type given and the \
         interface's errors.\n",
    );
    for interface in interface::ALL {
        service(&mut page, interface);
    }
    page
}

#[test]
fn the_reference_page_is_what_the_declarations_say() {
    let page = page();
    if std::env::var_os(RENEW).is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    let found = std::fs::read_to_string(PAGE).unwrap_or_default();
    let differs = page
        .lines()
        .zip(found.lines())
        .position(|(one, other)| one != other);
    assert!(
        found == page,
        "ipc/OPERATIONS.md is stale from line {} on; renew it with\n\n    \
         {RENEW}=1 cargo test -p ipc --test reference\n",
        differs.map_or(page.lines().count().min(found.lines().count()), |line| line) + 1
    );
}

/// What the documentation of every operation must say.
#[test]
fn every_operation_says_arguments_result_errors_cost_and_example() {
    for interface in interface::ALL {
        for operation in interface.operations {
            let text = operation.documentation;
            for heading in ["Result:", "Errors:", "Cost:", "Example:"] {
                assert!(
                    text.contains(heading),
                    "{}.{} does not say {heading}",
                    interface.name,
                    operation.name
                );
            }
            let mentions = |name: &str| text.contains(&format!("`{name}`"));
            for (name, _) in operation.arguments.iter().chain(operation.takes) {
                assert!(
                    mentions(name),
                    "{}.{} does not say what `{name}` is",
                    interface.name,
                    operation.name
                );
            }
        }
    }
}

#[test]
fn every_system_call_says_arguments_result_and_errors_that_exist() {
    let known: Vec<String> = Error::ALL
        .iter()
        .map(|error| format!("{error:?}"))
        .collect();
    for operation in Operation::ALL {
        let (name, text) = operation.reference();
        for heading in ["Arguments:", "Result", "rrors"] {
            assert!(text.contains(heading), "{name} does not say {heading}");
        }
        let errors = text.split("Errors: ").nth(1).unwrap_or("none.");
        let listed = errors.split(['.', ';', ',', '(', ')']).map(str::trim);
        for word in listed.filter(|word| word.chars().all(char::is_alphanumeric)) {
            let is_name = word.chars().filter(|letter| letter.is_uppercase()).count() > 1;
            assert!(
                !is_name || known.iter().any(|known| known == word),
                "{name}: {word}"
            );
        }
    }
}

#[test]
fn the_readme_lists_every_shared_field_of_a_ring() {
    let readme = include_str!("../README.md");
    for field in ipc::ring::FIELDS {
        let writer = format!("{:?}", field.writer).to_lowercase();
        let row = format!(
            "| `{}` | {} | {writer} | {} |",
            field.name, field.word, field.meaning
        );
        assert!(readme.contains(&row), "ipc/README.md lacks: {row}");
    }
}
