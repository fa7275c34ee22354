//! The shell: reads commands from the console and carries them out by calls to the services. Editing,
//! parsing and texts are the library's (`shell`).
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

mod commands;
mod terminal;

use alloc::string::String;

use ipc::startup::Startup;
use shell::PROMPT;
use shell::command::{WORDS, parse};
use shell::editor::{Editor, Outcome};
use shell::key::Decoder;

use crate::commands::Commands;
use crate::terminal::Terminal;

runtime::task_main!(run);

/// Reads and obeys, for ever.
fn run(_: &'static Startup<'static>) {
    let mut terminal = Terminal::new();
    let mut commands = Commands::new();
    let mut editor = Editor::new(PROMPT, WORDS);
    let mut decoder = Decoder::new();
    let mut out = String::new();
    editor.show(&mut out);
    loop {
        terminal.write(&out);
        out.clear();
        let (typed, anew) = terminal.read();
        if anew {
            // Another console: what was on the screen is not known.
            out.push_str("\r\n");
            editor.show(&mut out);
        }
        for byte in typed {
            let Some(key) = decoder.feed(byte) else {
                continue;
            };
            match editor.key(key, &mut out) {
                Outcome::Editing => {}
                Outcome::Interrupted => editor.show(&mut out),
                Outcome::Entered(line) => {
                    terminal.write(&out);
                    out.clear();
                    obey(&line, &mut commands, &mut terminal);
                    editor.show(&mut out);
                }
            }
        }
    }
}

/// Carries out a line.
fn obey(line: &str, commands: &mut Commands, terminal: &mut Terminal) {
    match parse(line) {
        Ok(Some(command)) => commands.run(command, &mut |text| terminal.write(text)),
        Ok(None) => {}
        Err(error) => terminal.write(&alloc::format!("{error}\r\n")),
    }
}
