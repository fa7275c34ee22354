//! Makes the symbol table that goes into the boot archive with a program, from the file that the compiler
//! made: which functions there are, and names short enough to read in a backtrace. The table's bytes are
//! `ipc::symbols`'; lines of source are `symbolize`'s.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use ipc::symbols::MAX_NAME;
use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};

/// The symbol whose eight bytes say which build an image is of. Only the kernel has it: a program lies
/// beside its table in one archive.
const BUILD: &str = "__build_id";

/// The table of a compiled file.
pub fn make(file: &[u8]) -> Result<Vec<u8>> {
    let file: ElfFile64<'_, Endianness> =
        ElfFile64::parse(file).context("no ELF file to take symbols from")?;
    let functions = functions(&file)?;
    let listed: Vec<(u64, &str)> = functions
        .iter()
        .map(|(address, name)| (*address, name.as_str()))
        .collect();
    // A name and what is around it: distance and two lengths.
    let longest = MAX_NAME + 16;
    let mut room = vec![0; longest * (listed.len() + 1)];
    let table = ipc::symbols::pack(identity(&file)?, &listed, &mut room)?;
    Ok(table.to_vec())
}

/// What the image says that it is; 0 where it says nothing.
fn identity(file: &ElfFile64<'_, Endianness>) -> Result<u64> {
    let Some(symbol) = file.symbol_by_name(BUILD) else {
        return Ok(0);
    };
    let place = symbol.address();
    let found = file.sections().find_map(|section| {
        let bytes = section.data_range(place, 8).ok().flatten()?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    });
    found.with_context(|| format!("`{BUILD}` is in no section of the file"))
}

/// Where functions begin, by address; an empty name is where a section of code ends.
fn functions(file: &ElfFile64<'_, Endianness>) -> Result<BTreeMap<u64, String>> {
    let mut functions = BTreeMap::new();
    let code = |section: &object::read::elf::ElfSection64<'_, '_, Endianness>| {
        section.kind() == SectionKind::Text
    };
    for section in file.sections().filter(code) {
        functions.insert(section.address() + section.size(), String::new());
    }
    let mut found: Vec<_> = file
        .symbols()
        .filter(|symbol| matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown))
        .filter(|symbol| {
            let section = symbol.section_index();
            section
                .and_then(|index| file.section_by_index(index).ok())
                .is_some_and(|section| code(&section))
        })
        .filter_map(|symbol| Some((symbol, symbol.name().ok().filter(|name| !name.is_empty())?)))
        .collect();
    // Of several names for one place the one of a function that has a size is the most telling.
    found.sort_by_key(|(symbol, name)| (symbol.kind() == SymbolKind::Text, symbol.size(), *name));
    for (symbol, name) in found {
        functions.insert(symbol.address(), short(name));
    }
    ensure!(
        functions.values().any(|name| !name.is_empty()),
        "the file has no symbols: it was stripped"
    );
    Ok(functions)
}

/// A symbol's name as a backtrace shows it: demangled, without hash and generic arguments, and of one that is
/// very long the end, where the function is.
fn short(symbol: &str) -> String {
    let name = without_arguments(&format!("{:#}", rustc_demangle::demangle(symbol)));
    if name.len() <= MAX_NAME {
        return name;
    }
    const CUT: &str = "..";
    let mut start = name.len() - (MAX_NAME - CUT.len());
    while !name.is_char_boundary(start) {
        start += 1;
    }
    format!("{CUT}{}", &name[start..])
}

/// Leaves out what is between angle brackets, but for a type at the beginning of a path or after another
/// bracket: `<Kernel<X86>>::dispatch::<u8>` is `Kernel::dispatch`, `<u8 as Debug>::fmt` stays.
fn without_arguments(name: &str) -> String {
    let Some((qualified, rest)) = leading_type(name) else {
        return drop_brackets(name);
    };
    let (kind, interface) = match top_level_as(qualified) {
        Some((kind, interface)) => (kind, Some(drop_brackets(interface))),
        None => (qualified, None),
    };
    let kind = without_arguments(kind);
    let rest = drop_brackets(rest);
    match interface {
        Some(interface) => format!("<{kind} as {interface}>{rest}"),
        None => format!("{kind}{rest}"),
    }
}

/// Splits `<T>REST` into `T` and `REST`.
fn leading_type(name: &str) -> Option<(&str, &str)> {
    let inner = name.strip_prefix('<')?;
    let end = closing(inner)?;
    Some((&inner[..end], &inner[end + 1..]))
}

/// Splits `T as I` where that is not inside of further brackets.
fn top_level_as(name: &str) -> Option<(&str, &str)> {
    const AS: &str = " as ";
    let places = name.match_indices(AS);
    let mut outside = places.filter(|(at, _)| depth(&name[..*at]) == 0);
    outside
        .next()
        .map(|(at, _)| (&name[..at], &name[at + AS.len()..]))
}

/// Where the bracket that is open at the beginning closes.
fn closing(name: &str) -> Option<usize> {
    name.char_indices()
        .filter(|(_, letter)| *letter == '>')
        .map(|(at, _)| at)
        .find(|at| !name[..*at].ends_with('-') && depth(&name[..*at]) == 0)
}

/// How many brackets are open at the end. The arrow of a function's type is none.
fn depth(name: &str) -> i32 {
    let arrows = name.matches("->").count() as i32;
    name.matches('<').count() as i32 - name.matches('>').count() as i32 + arrows
}

/// Leaves out everything between angle brackets, and the `::` before them.
fn drop_brackets(name: &str) -> String {
    let (mut kept, mut open, mut before) = (String::new(), 0, ' ');
    for letter in name.chars() {
        match letter {
            '<' => {
                if open == 0 && kept.ends_with("::") {
                    kept.truncate(kept.len() - 2);
                }
                open += 1;
            }
            '>' if before != '-' => open -= 1,
            _ if open == 0 => kept.push(letter),
            _ => {}
        }
        before = letter;
    }
    kept
}

#[cfg(test)]
mod tests {
    use ipc::symbols::Symbols;

    use super::*;

    #[test]
    fn generic_arguments_are_left_out() {
        let pairs = [
            ("kernel_start", "kernel_start"),
            (
                "<kernel_core::kernel::Kernel<kernel::platform::X86>>::dispatch",
                "kernel_core::kernel::Kernel::dispatch",
            ),
            (
                "kernel::panic::report::<kernel::panic::exception::{closure#0}>",
                "kernel::panic::report",
            ),
            (
                "<u64 as core::fmt::Debug>::fmt",
                "<u64 as core::fmt::Debug>::fmt",
            ),
            (
                "<alloc::vec::Vec<u8> as core::convert::From<&str>>::from",
                "<alloc::vec::Vec as core::convert::From>::from",
            ),
            (
                "<<web::Page<A> as Part>::Kind as core::fmt::Display>::fmt::<fn(u8) -> u8>",
                "<<web::Page as Part>::Kind as core::fmt::Display>::fmt",
            ),
            ("a::b::<c>::{closure#1}", "a::b::{closure#1}"),
        ];
        for (whole, expected) in pairs {
            assert_eq!(without_arguments(whole), expected);
        }
    }

    #[test]
    fn long_names_keep_their_end() {
        let name = short(&format!("{}::end", "é".repeat(MAX_NAME)));
        assert!(
            name.len() <= MAX_NAME && name.starts_with("..") && name.ends_with("é::end"),
            "{name}"
        );
    }

    #[inline(never)]
    fn landmark() -> usize {
        landmark as *const () as usize
    }

    #[test]
    fn a_function_is_found_where_it_lies() {
        // The test's own file is an ELF file at hand, loaded at an unknown distance.
        let whole = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let table = make(&whole).unwrap();
        let symbols = Symbols::read(&table).unwrap();
        assert_eq!(symbols.image(), 0);
        let file: ElfFile64<'_, Endianness> = ElfFile64::parse(&*whole).unwrap();
        let named = |symbol: &object::read::elf::ElfSymbol64<'_, '_, Endianness>| {
            symbol.name().is_ok_and(|name| name.contains("landmark"))
        };
        let symbol = file.symbols().find(named).unwrap();
        assert_ne!(landmark(), 0);
        for offset in [0, symbol.size() - 1] {
            let found = symbols.find(symbol.address() + offset).unwrap();
            assert!(found.name().ends_with("tests::landmark"), "{found}");
            assert_eq!(found.offset, offset);
        }
        // Constants are no functions.
        let data = file.section_by_name(".rodata").unwrap();
        assert!(
            symbols.find(data.address()).is_none(),
            "{:?}",
            symbols.find(data.address())
        );
    }

    #[test]
    fn a_stripped_file_is_refused() {
        let whole = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let stripped = crate::elf::strip(&whole).unwrap();
        assert!(make(&stripped.bytes).is_err());
        assert!(make(b"#!/bin/sh").is_err());
    }
}
