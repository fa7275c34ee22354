//! The symbol table of an image: where its functions begin and what they are called, for the kernel's
//! panic, for init's report of a fault and for the host tool, which writes it. A look-up needs no memory
//! of its own and works on any bytes: a damaged table is an error, never a panic or a wrong name.
//!
//! What names look like is the tool's business; which image a table is for, its reader's.
//!
//! The table, all numbers little-endian:
//!
//! | at | what |
//! |---|---|
//! | 0 | [`MAGIC`] |
//! | 4 | u32: FNV-1a of everything behind it |
//! | 8 | u64: the image's identity, 0 where nobody asks |
//! | 16 | u64: address of the first function |
//! | 24 | the functions in the order of their addresses |
//!
//! A function is the distance from the one before (LEB128), how many bytes its name shares with the
//! beginning of the name before, how many bytes more it has (a byte each), and these bytes. One without
//! a name ends the one before it: what follows belongs to no function.

use core::fmt;

/// What a table begins with.
pub const MAGIC: [u8; 4] = *b"uzsy";

/// Largest number of bytes in a name.
pub const MAX_NAME: usize = 120;

/// Bytes before the functions.
const HEADER: usize = 24;

/// Bytes that the sum does not cover: the magic number and itself.
const BEFORE_SUM: usize = 8;

/// What the archive's file with the symbols of a program is called: its name and this.
pub const SUFFIX: &str = ".symbols";

/// The archive's file with the kernel's symbols.
pub const KERNEL_FILE: &str = "kernel.symbols";

/// Why bytes are no symbol table, or a table could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SymbolsError {
    /// They do not begin as a table does.
    NotATable,
    /// The sum is another one.
    Damaged,
    /// There is no room for it.
    NoRoom,
    /// A function comes before the one that it should follow, or its name is longer than [`MAX_NAME`].
    Unsuitable,
}

impl fmt::Display for SymbolsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            SymbolsError::NotATable => "no symbol table",
            SymbolsError::Damaged => "a damaged symbol table",
            SymbolsError::NoRoom => "the symbol table does not fit",
            SymbolsError::Unsuitable => "a function is out of order or its name too long",
        })
    }
}

impl core::error::Error for SymbolsError {}

/// A symbol table that is whole.
#[derive(Clone, Copy, Debug)]
pub struct Symbols<'a> {
    image: u64,
    first: u64,
    functions: &'a [u8],
}

/// A function and a place in it. Displayed as `NAME+0xOFFSET`.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    name: Name,
    /// Address of the function.
    pub start: u64,
    /// Bytes from there to the place.
    pub offset: u64,
}

impl<'a> Symbols<'a> {
    /// Reads a table. Takes time proportional to its length.
    ///
    /// # Errors
    /// [`SymbolsError::NotATable`], [`SymbolsError::Damaged`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, SymbolsError> {
        if bytes.len() < HEADER || !bytes.starts_with(&MAGIC) {
            return Err(SymbolsError::NotATable);
        }
        let (head, functions) = bytes.split_at(HEADER);
        let (head, covered) = (head.as_chunks::<8>().0, &bytes[BEFORE_SUM..]);
        let [begin, image, first] = head else {
            return Err(SymbolsError::NotATable);
        };
        let [_, _, _, _, sum @ ..] = *begin;
        if u32::from_le_bytes(sum) != self::sum(covered) {
            return Err(SymbolsError::Damaged);
        }
        Ok(Symbols {
            image: u64::from_le_bytes(*image),
            first: u64::from_le_bytes(*first),
            functions,
        })
    }

    /// Identity of the image that the table was made for; 0 where nobody asks.
    pub fn image(&self) -> u64 {
        self.image
    }

    /// The function that an address lies in. Takes time proportional to the length of the table.
    pub fn find(&self, address: u64) -> Option<Function> {
        let mut reader = self.reader();
        let mut found = None;
        while let Some(start) = reader.next() {
            if start > address {
                break;
            }
            found = (!reader.name.is_empty()).then_some(Function {
                name: reader.name,
                start,
                offset: address - start,
            });
        }
        found
    }

    fn reader(&self) -> Reader<'a> {
        Reader {
            rest: self.functions,
            address: self.first,
            name: Name::EMPTY,
        }
    }
}

impl Function {
    /// What it is called.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }
}

impl fmt::Display for Function {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}+{:#x}", self.name(), self.offset)
    }
}

/// The functions of a table, one after the other.
struct Reader<'a> {
    rest: &'a [u8],
    address: u64,
    /// The name of the function that was read last.
    name: Name,
}

impl Reader<'_> {
    /// The next function's address; its name is then in `name`. `None` at the end, or where the bytes make no
    /// sense.
    fn next(&mut self) -> Option<u64> {
        self.address = self.address.checked_add(self.distance()?)?;
        let shared = usize::from(self.byte()?);
        let more = usize::from(self.byte()?);
        let (more, rest) = self.rest.split_at_checked(more)?;
        self.rest = rest;
        self.name.change(shared, more)?;
        Some(self.address)
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    /// LEB128, unsigned, of at most 64 bits (DWARF 5, section 7.6).
    fn distance(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

/// A function's name.
#[derive(Clone, Copy, Debug)]
struct Name {
    bytes: [u8; MAX_NAME],
    length: usize,
}

impl Name {
    const EMPTY: Name = Name {
        bytes: [0; MAX_NAME],
        length: 0,
    };

    fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Keeps `shared` bytes and puts `more` behind them.
    fn change(&mut self, shared: usize, more: &[u8]) -> Option<()> {
        if shared > self.length {
            return None;
        }
        let length = shared + more.len();
        self.bytes.get_mut(shared..length)?.copy_from_slice(more);
        self.length = length;
        Some(())
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).unwrap_or("?")
    }
}

/// Writes the table of an image into `room` and returns the part that was used. `functions` are addresses and
/// names in the order of the addresses; one without a name ends the one before it.
///
/// # Errors
/// [`SymbolsError::NoRoom`], [`SymbolsError::Unsuitable`].
pub fn pack<'room>(
    image: u64,
    functions: &[(u64, &str)],
    room: &'room mut [u8],
) -> Result<&'room [u8], SymbolsError> {
    let first = functions.first().map_or(0, |(address, _)| *address);
    let mut writer = Writer { room, used: 0 };
    writer.put(&MAGIC)?;
    writer.put(&[0; 4])?;
    writer.put(&image.to_le_bytes())?;
    writer.put(&first.to_le_bytes())?;
    let (mut before, mut name_before) = (first, "");
    for (address, name) in functions {
        let distance = address
            .checked_sub(before)
            .ok_or(SymbolsError::Unsuitable)?;
        writer.distance(distance)?;
        writer.name(name_before, name)?;
        (before, name_before) = (*address, name);
    }
    let used = writer.used;
    let sum = sum(&room[BEFORE_SUM..used]);
    room[4..BEFORE_SUM].copy_from_slice(&sum.to_le_bytes());
    Ok(&room[..used])
}

struct Writer<'room> {
    room: &'room mut [u8],
    used: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SymbolsError> {
        let end = self.used + bytes.len();
        self.room
            .get_mut(self.used..end)
            .ok_or(SymbolsError::NoRoom)?
            .copy_from_slice(bytes);
        self.used = end;
        Ok(())
    }

    fn distance(&mut self, mut value: u64) -> Result<(), SymbolsError> {
        while value > 0x7f {
            self.put(&[value as u8 | 0x80])?;
            value >>= 7;
        }
        self.put(&[value as u8])
    }

    fn name(&mut self, before: &str, name: &str) -> Result<(), SymbolsError> {
        if name.len() > MAX_NAME {
            return Err(SymbolsError::Unsuitable);
        }
        let pairs = before.bytes().zip(name.bytes());
        let shared = pairs.take_while(|(one, other)| one == other).count();
        let more = &name.as_bytes()[shared..];
        self.put(&[shared as u8, more.len() as u8])?;
        self.put(more)
    }
}

/// FNV-1a, 32 bits.
fn sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| {
        (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xffff_ffff_8020_1000;

    const FUNCTIONS: [(u64, &str); 6] = [
        (BASE, "kernel_start"),
        (BASE + 0x40, "kernel_core::sched::choose"),
        (BASE + 0x1_2345, "kernel_core::sched::enqueue"),
        (BASE + 0x1_2346, "trap"),
        (BASE + 0x1_3000, ""),
        (BASE + 0x10_0000, "far"),
    ];

    fn table(room: &mut [u8]) -> &[u8] {
        pack(7, &FUNCTIONS, room).unwrap()
    }

    fn name(symbols: &Symbols<'_>, address: u64) -> Option<String> {
        symbols
            .find(address)
            .map(|function| function.name().to_owned())
    }

    #[test]
    fn every_address_of_a_function_is_its_own() {
        let mut room = [0; 512];
        let symbols = Symbols::read(table(&mut room)).unwrap();
        assert_eq!(symbols.image(), 7);
        for pair in FUNCTIONS.windows(2) {
            let [(start, expected), (end, _)] = pair else {
                unreachable!()
            };
            for address in [*start, start + 1.min(end - start - 1), end - 1] {
                let expected = (!expected.is_empty()).then(|| (*expected).to_owned());
                assert_eq!(name(&symbols, address), expected, "{address:#x}");
            }
        }
        assert_eq!(name(&symbols, BASE - 1), None);
        assert_eq!(name(&symbols, 0), None);
        assert_eq!(name(&symbols, u64::MAX), Some("far".to_owned()));
        let place = symbols.find(BASE + 0x52).unwrap();
        assert_eq!(place.to_string(), "kernel_core::sched::choose+0x12");
    }

    #[test]
    fn shared_beginnings_are_written_once() {
        let mut room = [0; 512];
        let bytes = table(&mut room);
        let names: usize = FUNCTIONS.iter().map(|(_, name)| name.len()).sum();
        assert!(bytes.len() < HEADER + names);
        let times = bytes
            .windows(7)
            .filter(|bytes| *bytes == b"sched::")
            .count();
        assert_eq!(times, 1);
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_noticed() {
        let mut room = [0; 512];
        let good = table(&mut room).to_vec();
        for length in 0..good.len() {
            assert!(Symbols::read(&good[..length]).is_err(), "{length} bytes");
        }
        for position in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[position] ^= 1 << bit;
                assert!(
                    Symbols::read(&bytes).is_err(),
                    "bit {bit} of byte {position}"
                );
            }
        }
    }

    /// Someone who makes tables can make the sum right: looking up must bear what the sum does not catch.
    #[test]
    fn senseless_functions_with_a_right_sum_are_borne() {
        let mut room = [0; 512];
        let good = table(&mut room).to_vec();
        for position in BEFORE_SUM..good.len() {
            for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[position] = value;
                let sum = sum(&bytes[BEFORE_SUM..]);
                bytes[4..8].copy_from_slice(&sum.to_le_bytes());
                let symbols = Symbols::read(&bytes).unwrap();
                for address in [0, BASE, BASE + 0x50, BASE + 0x1_2400, u64::MAX] {
                    if let Some(found) = symbols.find(address) {
                        assert!(found.start <= address && found.name().len() <= MAX_NAME);
                    }
                }
            }
        }
        for functions in [&[0xff; 64][..], &[0x80; 64], &[1, 200, 0], &[1, 0, 200]] {
            let symbols = Symbols {
                image: 0,
                first: BASE,
                functions,
            };
            assert!(symbols.find(u64::MAX).is_none());
        }
    }

    #[test]
    fn a_table_that_cannot_be_written_is_an_error() {
        let mut room = [0; 512];
        let backwards = [(2, "a"), (1, "b")];
        assert_eq!(
            pack(0, &backwards, &mut room),
            Err(SymbolsError::Unsuitable)
        );
        let long = "x".repeat(MAX_NAME + 1);
        assert_eq!(
            pack(0, &[(0, &long)], &mut room),
            Err(SymbolsError::Unsuitable)
        );
        for length in 0..table(&mut [0; 512]).len() {
            let written = pack(7, &FUNCTIONS, &mut room[..length]);
            assert_eq!(written, Err(SymbolsError::NoRoom), "{length} bytes");
        }
    }

    #[test]
    fn an_empty_table_knows_nothing() {
        let mut room = [0; HEADER];
        let symbols = Symbols::read(pack(0, &[], &mut room).unwrap()).unwrap();
        assert!(symbols.find(0).is_none() && symbols.find(u64::MAX).is_none());
    }
}
