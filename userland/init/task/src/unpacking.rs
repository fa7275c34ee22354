//! A packed file of the boot archive with the room that one part of it is unpacked to.

use alloc::vec::Vec;

use init::archive::Archive;
use init::packed::{BLOCK, Packed};
use init::report::Cause;
use ipc::Error;

/// A file at one of its parts.
#[derive(Debug)]
pub(crate) struct Unpacking {
    packed: Packed<'static>,
    room: Vec<u8>,
    position: u64,
    length: usize,
}

impl Unpacking {
    /// Unpacks the first part of the file with this name and suffix.
    pub(crate) fn begin(
        archive: &Archive<'static>,
        name: &str,
        suffix: &str,
    ) -> Result<Unpacking, Cause<'static>> {
        let packed = archive.find_packed(name, suffix).ok_or(Cause::NoProgram)?;
        let mut room = Vec::new();
        room.try_reserve_exact(BLOCK)
            .map_err(|_| Cause::Refused(Error::OutOfMemory))?;
        room.resize(BLOCK, 0);
        let mut file = Unpacking {
            packed: packed.map_err(Cause::Packed)?,
            room,
            position: 0,
            length: 0,
        };
        file.go_on()?;
        Ok(file)
    }

    /// All of a file of at most `most` bytes.
    pub(crate) fn whole(
        archive: &Archive<'static>,
        name: &str,
        suffix: &str,
        most: u64,
    ) -> Result<Vec<u8>, Cause<'static>> {
        let no_room = Cause::Refused(Error::OutOfMemory);
        let mut file = Self::begin(archive, name, suffix)?;
        let length = usize::try_from(file.length().min(most)).map_err(|_| no_room)?;
        let mut contents = Vec::new();
        contents.try_reserve_exact(length).map_err(|_| no_room)?;
        loop {
            if contents.len() + file.part().len() > length {
                return Err(no_room);
            }
            contents.extend_from_slice(file.part());
            if !file.go_on()? {
                return Ok(contents);
            }
        }
    }

    /// Length of the whole file in bytes, as it says itself.
    pub(crate) const fn length(&self) -> u64 {
        self.packed.length()
    }

    /// Where in the file the part begins.
    pub(crate) const fn position(&self) -> u64 {
        self.position
    }

    /// The part.
    pub(crate) fn part(&self) -> &[u8] {
        &self.room[..self.length]
    }

    /// Unpacks the next part; false at the end of the file, when all of it was as it should be.
    pub(crate) fn go_on(&mut self) -> Result<bool, Cause<'static>> {
        self.position += self.length as u64;
        self.length = 0;
        let part = self.packed.next(&mut self.room).map_err(Cause::Packed)?;
        self.length = part.map_or(0, <[u8]>::len);
        Ok(self.length > 0)
    }
}
