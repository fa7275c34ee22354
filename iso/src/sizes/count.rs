//! Counts one source file: lines that hold code, apart from tests, comments and documentation; lines
//! of assembly; `unsafe` blocks. Which files are counted is the parent module's.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use proc_macro2::{Delimiter, Group, Ident, Literal, TokenStream, TokenTree};

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Lines of code that are no tests. Assembly within Rust files is counted here too.
    pub code: u64,
    /// Lines of code that are tests.
    pub tests: u64,
    /// Instructions, directives and labels of assembly.
    pub assembly: u64,
    /// `unsafe { ... }` outside tests.
    pub unsafe_blocks: u64,
}

impl Count {
    /// Adds another count.
    pub fn add(&mut self, other: Self) {
        self.code += other.code;
        self.tests += other.tests;
        self.assembly += other.assembly;
        self.unsafe_blocks += other.unsafe_blocks;
    }
}

/// Counts a file; `None` when it is neither Rust nor assembly.
pub fn count(path: &Path) -> Result<Option<Count>> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let read =
        || std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    match extension {
        Some("rs") => {
            // A folder or a file of this name holds tests alone.
            let tests = path
                .iter()
                .any(|part| part == "tests" || part == "tests.rs");
            rust(&read()?, tests)
                .with_context(|| path.display().to_string())
                .map(Some)
        }
        Some("s" | "S") => {
            let assembly = instructions(&read()?);
            Ok(Some(Count {
                code: assembly,
                assembly,
                ..Count::default()
            }))
        }
        _ => Ok(None),
    }
}

fn rust(text: &str, tests: bool) -> Result<Count> {
    let tokens: TokenStream = text
        .parse()
        .map_err(|error| anyhow!("it is not Rust: {error}"))?;
    let mut counter = Counter::default();
    counter.stream(tokens, tests);
    let both = counter.code.intersection(&counter.tests).count();
    Ok(Count {
        code: counter.code.len() as u64,
        tests: (counter.tests.len() - both) as u64,
        assembly: counter.assembly,
        unsafe_blocks: counter.unsafe_blocks,
    })
}

/// Lines that hold tokens, while walking through a file's tokens.
#[derive(Default)]
struct Counter {
    code: BTreeSet<usize>,
    tests: BTreeSet<usize>,
    assembly: u64,
    unsafe_blocks: u64,
}

impl Counter {
    fn stream(&mut self, tokens: TokenStream, tests: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut test_item = false;
        let mut position = 0;
        while let Some(token) = tokens.get(position) {
            let next = tokens.get(position + 1);
            if let Some(length) = attribute(&tokens[position..], "doc") {
                position += length;
                continue;
            }
            if let Some(length) = attribute(&tokens[position..], "cfg") {
                let group = tokens[position + length - 1].to_string();
                test_item |= group.replace(' ', "") == "[cfg(test)]";
            }
            match token {
                TokenTree::Ident(name) if !tests && !test_item => {
                    self.name(name, next, &tokens[position..])
                }
                _ => {}
            }
            self.token(token, tests || test_item);
            // An item ends with its braces or its semicolon.
            let ends = match token {
                TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                TokenTree::Punct(punct) => punct.as_char() == ';',
                _ => false,
            };
            test_item &= !ends;
            position += 1;
        }
    }

    fn token(&mut self, token: &TokenTree, tests: bool) {
        let lines = if tests {
            &mut self.tests
        } else {
            &mut self.code
        };
        if let TokenTree::Group(group) = token {
            lines.insert(group.span_open().start().line);
            lines.insert(group.span_close().start().line);
            self.stream(group.stream(), tests);
        } else {
            lines.extend(token.span().start().line..=token.span().end().line);
        }
    }

    /// Notices what begins with a word: an unsafe block, or assembly.
    fn name(&mut self, name: &Ident, next: Option<&TokenTree>, rest: &[TokenTree]) {
        let braces = |group: &Group| group.delimiter() == Delimiter::Brace;
        if name == "unsafe" && matches!(next, Some(TokenTree::Group(group)) if braces(group)) {
            self.unsafe_blocks += 1;
        }
        let assembly = ["asm", "naked_asm", "global_asm"]
            .iter()
            .any(|known| name == known);
        if let (true, Some(TokenTree::Group(group))) = (assembly, rest.get(2)) {
            for token in group.stream() {
                if let TokenTree::Literal(literal) = token {
                    self.assembly += instructions(&unquoted(&literal));
                }
            }
        }
    }
}

/// The number of tokens of an attribute of this name that `tokens` begin with.
fn attribute(tokens: &[TokenTree], name: &str) -> Option<usize> {
    let is = |token: Option<&TokenTree>, wanted: char| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted);
    if !is(tokens.first(), '#') {
        return None;
    }
    let group = if is(tokens.get(1), '!') { 2 } else { 1 };
    let Some(TokenTree::Group(content)) = tokens.get(group) else {
        return None;
    };
    let first = content.stream().into_iter().next();
    matches!(first, Some(TokenTree::Ident(word)) if word == name).then_some(group + 1)
}

/// The inside of a string literal, with its line ends; nothing for another literal.
fn unquoted(literal: &Literal) -> String {
    let text = literal.to_string();
    if !text.ends_with(['"', '#']) {
        return String::new();
    }
    text.to_string()
        .trim_start_matches('r')
        .trim_matches(['"', '#'])
        .replace("\\n", "\n")
}

/// Lines of assembly that are neither empty nor comments.
fn instructions(text: &str) -> u64 {
    let lines = text.lines().map(str::trim);
    let comment =
        |line: &str| line.starts_with("//") || line.starts_with('#') || line.starts_with("/*");
    lines
        .filter(|line| !line.is_empty() && !comment(line))
        .count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_documentation_and_tests_are_no_code() {
        let text = "//! About.\n\n/// Documented.\npub fn one() {\n    // Why.\n    let text = \"\n    \";\n}\n\
                    #[cfg(test)]\nmod tests {\n    /// Checks.\n    fn two() {}\n}\n";
        let expected = Count {
            code: 4,
            tests: 4,
            assembly: 0,
            unsafe_blocks: 0,
        };
        assert_eq!(rust(text, false).unwrap(), expected);
        assert_eq!(
            rust(text, true).unwrap(),
            Count {
                code: 0,
                tests: 8,
                ..expected
            }
        );
    }

    #[test]
    fn assembly_and_unsafe_blocks_are_found() {
        let text = "unsafe fn f() { unsafe { asm!(\"cli\", \"// no\", \"hlt\\nsti\", in(\"eax\") 1) } }\n\
                    global_asm!(r#\"\n  nop\n\n  # no\n\"#);";
        let counted = rust(text, false).unwrap();
        // The operand's register is a literal inside parentheses and not counted.
        assert_eq!((counted.assembly, counted.unsafe_blocks), (4, 1));
    }
}
