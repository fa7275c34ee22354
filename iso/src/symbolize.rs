//! `cargo run -- symbolize`: from addresses that the guest printed to functions and source lines, by
//! the files with symbols that were kept beside the image. Building them is `image`'s; where addresses are in
//! a console log, `log`'s.

pub mod log;

use std::io::Read;
use std::path::{Path, PathBuf};

use addr2line::{Loader, demangle_auto};
use anyhow::{Context, Result, anyhow, bail};
use object::{Object, ObjectSegment};

use crate::cli::SymbolizeOptions;
use crate::workspace::Workspace;

/// Where an address lies in the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `kernel`, or the name of a program.
    pub file: String,
    /// Functions with their lines, innermost first: more than one where code was inlined.
    pub frames: Vec<Frame>,
}

/// One function of a [`Place`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The function.
    pub function: String,
    /// `FILE:LINE`, where known.
    pub line: Option<String>,
}

/// Prints the place of every address.
pub fn command(options: &SymbolizeOptions) -> Result<()> {
    let folder = Workspace::read()?
        .results()
        .join(&options.image)
        .join("symbols");
    let symbols = Symbols::read(&folder)?;
    if let Some(file) = &options.log {
        print!("{}", log::annotate(&read_log(file)?, &symbols)?);
        return Ok(());
    }
    // A backtrace has addresses that calls return to: the call itself is just before, and may be the
    // last instruction of its function.
    let before = u64::from(!options.exact);
    for text in &options.addresses {
        let address = parse(text)?;
        match symbols.place(address.saturating_sub(before))? {
            Some(place) => show(address, &place),
            None => println!("{address:#018x} is in no file of {}", folder.display()),
        }
    }
    Ok(())
}

/// The text of a log; `-` is standard input. What is no UTF-8 in it, such as noise on a serial line, is passed
/// over.
fn read_log(file: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        std::io::stdin()
            .read_to_end(&mut bytes)
            .context("cannot read standard input")?;
    } else {
        bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The files with symbols of one image.
#[derive(Debug)]
pub struct Symbols {
    files: Vec<(PathBuf, Vec<std::ops::Range<u64>>)>,
}

impl Symbols {
    /// Reads which file covers which addresses.
    pub fn read(folder: &Path) -> Result<Self> {
        let entries = std::fs::read_dir(folder)
            .with_context(|| format!("{} is not there; run the image once", folder.display()))?;
        let mut files = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let bytes =
                std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let Ok(file) = object::File::parse(&*bytes) else {
                continue;
            };
            let segments = file
                .segments()
                .map(|segment| segment.address()..segment.address() + segment.size());
            files.push((path, segments.collect()));
        }
        Ok(Self { files })
    }

    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.files.iter().any(|(path, _)| path.ends_with(name))
    }

    /// Where an address lies; `None` when no file covers it.
    pub fn place(&self, address: u64) -> Result<Option<Place>> {
        self.place_in(address, |_| true)
    }

    /// Where an address lies, of the files whose names are `wanted`; `None` when none of them covers it.
    pub fn place_in(&self, address: u64, wanted: impl Fn(&str) -> bool) -> Result<Option<Place>> {
        let covers =
            |ranges: &[std::ops::Range<u64>]| ranges.iter().any(|range| range.contains(&address));
        let named = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(&wanted)
        };
        let mut files = self.files.iter();
        let Some((path, _)) = files.find(|(path, ranges)| named(path) && covers(ranges)) else {
            return Ok(None);
        };
        let foreign = |error: Box<dyn std::error::Error>| anyhow!("{}: {error}", path.display());
        let loader = Loader::new(path).map_err(foreign)?;
        // The function that the machine code belongs to: the last frame, where debug information
        // names only what was inlined into it.
        let outermost = loader
            .find_symbol(address)
            .map(|name| demangle_auto(name.into(), None));
        let mut frames = Vec::new();
        let mut iterator = loader.find_frames(address).map_err(foreign)?;
        while let Some(frame) = iterator.next()? {
            let named = frame
                .function
                .as_ref()
                .and_then(|name| name.demangle().ok());
            let function = named
                .or_else(|| outermost.clone())
                .unwrap_or("?".into())
                .into_owned();
            let line = frame
                .location
                .and_then(|at| Some(format!("{}:{}", at.file?, at.line?)));
            frames.push(Frame { function, line });
        }
        // Assembly and code without debug information have a symbol and no frames.
        if frames.is_empty() {
            let function = outermost.unwrap_or("?".into()).into_owned();
            frames.push(Frame {
                function,
                line: None,
            });
        }
        let file = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        Ok(Some(Place {
            file: file.unwrap_or_default(),
            frames,
        }))
    }
}

fn parse(text: &str) -> Result<u64> {
    let digits = text.trim_start_matches("0x").replace(['_', '`'], "");
    match u64::from_str_radix(&digits, 16) {
        Ok(address) => Ok(address),
        Err(_) => bail!("`{text}` is no address; write it in hexadecimal, as in ffffffff80201234"),
    }
}

fn show(address: u64, place: &Place) {
    for (position, frame) in place.frames.iter().enumerate() {
        let line = frame.line.as_deref().unwrap_or("?");
        if position == 0 {
            println!(
                "{address:#018x} {}: {} at {line}",
                place.file, frame.function
            );
        } else {
            println!("{:18} inlined into {} at {line}", "", frame.function);
        }
    }
}
