//! What a machine can be chosen from, what of it goes together, and the rows: a few that are picked, and as
//! many more as it takes for every pair of values to be met.

use iso::cli::{Boot, Machine, Nic, RunOptions};
use iso::grub;
use iso::image::Image;
use iso::qemu::DiskBus;
use tempfile::TempDir;

use anyhow::{Context, Result};

use super::pairs::{self, cover};
use crate::{Setup, media};

/// A machine that QEMU plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    board: Board,
    /// The processor's model, as QEMU calls it.
    model: &'static str,
    cpus: u32,
    /// In MiB.
    memory: u32,
    firmware: Firmware,
    medium: Medium,
    card: Card,
}

/// The chipset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Board {
    Q35,
    /// Without PIT and PIC.
    Q35WithoutLegacy,
    Pc,
    Microvm,
}

/// What starts the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Firmware {
    /// QEMU's own loader.
    None,
    Bios,
    Uefi,
}

/// What a machine boots from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Medium {
    /// Kernel and archive.
    Files,
    /// The ISO as a CD.
    Cd,
    /// The ISO as a disk.
    IsoDisk(DiskBus),
    /// The disk that Compute Engine gets.
    Disk(DiskBus),
}

/// The network card, or cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Card {
    Modern,
    Legacy,
    E1000,
    /// Modern, in the last slot that the board has free.
    LastSlot,
    RootPort,
    LegacyRootPort,
    /// Two modern ones, the second plugged in nowhere.
    Two,
    /// A modern one, and an e1000 plugged in nowhere.
    TwoKinds,
    None,
}

const BOARDS: [Board; 4] = [
    Board::Q35,
    Board::Q35WithoutLegacy,
    Board::Pc,
    Board::Microvm,
];
const MODELS: [&str; 4] = ["max", "qemu64", "Nehalem", "EPYC"];
const CPUS: [u32; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
/// The least, the least that UEFI starts with, what `cargo run` gives, and more than lies below 4 GiB.
const MEMORY: [u32; 4] = [24, 64, 256, 6144];
const FIRMWARE: [Firmware; 3] = [Firmware::None, Firmware::Bios, Firmware::Uefi];
const MEDIA: [Medium; 6] = [
    Medium::Files,
    Medium::Cd,
    Medium::IsoDisk(DiskBus::Virtio),
    Medium::IsoDisk(DiskBus::Scsi),
    Medium::Disk(DiskBus::Virtio),
    Medium::Disk(DiskBus::Scsi),
];
const CARDS: [Card; 9] = [
    Card::Modern,
    Card::Legacy,
    Card::E1000,
    Card::LastSlot,
    Card::RootPort,
    Card::LegacyRootPort,
    Card::Two,
    Card::TwoKinds,
    Card::None,
];

/// Number of values on each axis, in the order of [`Row`]'s fields.
const VALUES: [usize; 7] = [
    BOARDS.len(),
    MODELS.len(),
    CPUS.len(),
    MEMORY.len(),
    FIRMWARE.len(),
    MEDIA.len(),
    CARDS.len(),
];

/// What `cargo test` checks.
pub const SLICE: &[Row] = &[
    Row {
        board: Board::Pc,
        model: "qemu64",
        cpus: 1,
        memory: 24,
        firmware: Firmware::None,
        medium: Medium::Files,
        card: Card::Modern,
    },
    Row {
        board: Board::Q35WithoutLegacy,
        model: "Nehalem",
        cpus: 4,
        memory: 256,
        firmware: Firmware::None,
        medium: Medium::Files,
        card: Card::RootPort,
    },
    Row {
        board: Board::Microvm,
        model: "max",
        cpus: 8,
        memory: 6144,
        firmware: Firmware::None,
        medium: Medium::Files,
        card: Card::Modern,
    },
    Row {
        board: Board::Q35,
        model: "EPYC",
        cpus: 3,
        memory: 64,
        firmware: Firmware::Uefi,
        medium: Medium::Cd,
        card: Card::E1000,
    },
    // The nearest to a T2D instance of Compute Engine that QEMU plays.
    Row {
        board: Board::Pc,
        model: "EPYC",
        cpus: 8,
        memory: 6144,
        firmware: Firmware::Uefi,
        medium: Medium::Disk(DiskBus::Scsi),
        card: Card::Legacy,
    },
];

/// The slice, and further rows, so that every pair of values that can go together is in one of all.
pub fn all() -> Vec<Row> {
    let possible: Vec<Row> = every().filter(Row::is_possible).collect();
    let numbers: Vec<_> = possible.iter().map(Row::numbers).collect();
    let given: Vec<_> = SLICE.iter().map(Row::numbers).collect();
    let chosen = cover(&numbers, &given);
    let more = chosen.into_iter().map(|index| possible[index]);
    SLICE.iter().copied().chain(more).collect()
}

/// Every combination, possible or not.
fn every() -> impl Iterator<Item = Row> {
    (0..VALUES.iter().product()).map(|number: usize| {
        let mut left = number;
        let [board, model, cpus, memory, firmware, medium, card] = VALUES.map(|values| {
            let value = left % values;
            left /= values;
            value
        });
        Row {
            board: BOARDS[board],
            model: MODELS[model],
            cpus: CPUS[cpus],
            memory: MEMORY[memory],
            firmware: FIRMWARE[firmware],
            medium: MEDIA[medium],
            card: CARDS[card],
        }
    })
}

/// The number of a value on its axis.
fn number<T: PartialEq>(values: &[T], value: &T) -> u8 {
    let place = values.iter().position(|known| known == value);
    place.map_or(u8::MAX, |place| place as u8)
}

/// QEMU's description of a PCI Express root port.
const ROOT_PORT: &str =
    "pcie-root-port,port=0x10,chassis=1,id=pci.1,bus=pcie.0,multifunction=on,addr=0x3";

impl Row {
    fn numbers(&self) -> pairs::Row<{ VALUES.len() }> {
        [
            number(&BOARDS, &self.board),
            number(&MODELS, &self.model),
            number(&CPUS, &self.cpus),
            number(&MEMORY, &self.memory),
            number(&FIRMWARE, &self.firmware),
            number(&MEDIA, &self.medium),
            number(&CARDS, &self.card),
        ]
    }

    /// Whether its values go together.
    fn is_possible(&self) -> bool {
        let is_from_files = self.medium == Medium::Files;
        let has_pci = self.board != Board::Microvm;
        let has_root_ports = matches!(self.board, Board::Q35 | Board::Q35WithoutLegacy);
        let wants_root_port = matches!(self.card, Card::RootPort | Card::LegacyRootPort);
        let wants_pci = !is_from_files || !matches!(self.card, Card::Modern | Card::None);
        // Firmware and GRUB want memory of their own.
        let has_room = is_from_files || self.memory >= iso::firmware::LEAST_MEMORY;
        is_from_files == (self.firmware == Firmware::None)
            && (has_pci || !wants_pci)
            && (has_root_ports || !wants_root_port)
            && has_room
    }

    /// Whether it has a card that leads somewhere.
    pub(super) fn has_card(&self) -> bool {
        self.card != Card::None
    }

    /// The machine in the words of the table.
    pub(super) fn cells(&self) -> [String; super::COLUMNS.len()] {
        let bus = |bus| match bus {
            DiskBus::Virtio => "virtio",
            DiskBus::Scsi => "SCSI",
        };
        let medium = match self.medium {
            Medium::Files => "files".to_owned(),
            Medium::Cd => "ISO as CD".to_owned(),
            Medium::IsoDisk(on) => format!("ISO as {}", bus(on)),
            Medium::Disk(on) => format!("disk, {}", bus(on)),
        };
        let board = match self.board {
            Board::Q35WithoutLegacy => "q35, no PIT/PIC",
            Board::Q35 | Board::Pc | Board::Microvm => self.board.name(),
        };
        let firmware = match self.firmware {
            Firmware::None => "-",
            Firmware::Bios => "BIOS",
            Firmware::Uefi => "UEFI",
        };
        let card = match self.card {
            Card::Modern => "modern",
            Card::Legacy => "legacy",
            Card::E1000 => "e1000",
            Card::LastSlot => "modern, last slot",
            Card::RootPort => "modern, root port",
            Card::LegacyRootPort => "legacy, root port",
            Card::Two => "two modern",
            Card::TwoKinds => "modern and e1000",
            Card::None => "none",
        };
        [
            board.to_owned(),
            self.model.to_owned(),
            self.cpus.to_string(),
            self.memory.to_string(),
            firmware.to_owned(),
            medium,
            card.to_owned(),
        ]
    }

    /// How to start it, with the folder of the disk that it boots from.
    pub(super) fn setup(&self, image: &Image) -> Result<(Setup, TempDir)> {
        let folder = tempfile::tempdir().context("cannot make a folder for the disk")?;
        let mut setup = Setup::new(image.clone())
            .cpus(self.cpus)
            .memory(self.memory)
            .with(|options| self.choose(options));
        if self.has_card() {
            setup = setup.forward(80);
        }
        let devices = self.devices();
        if !devices.is_empty() {
            setup = setup.devices(&devices);
        }
        let setup = match self.medium {
            Medium::Files | Medium::Cd => setup,
            Medium::IsoDisk(bus) => setup.disk(grub::iso(image, "", folder.path())?, bus),
            Medium::Disk(bus) => setup.disk(media::compute_engine(image, "", folder.path())?, bus),
        };
        Ok((setup, folder))
    }

    /// What is the tool's to choose.
    fn choose(&self, options: &mut RunOptions) {
        options.machine = match self.board {
            Board::Q35 | Board::Q35WithoutLegacy => Machine::Q35,
            Board::Pc => Machine::Pc,
            Board::Microvm => Machine::Microvm,
        };
        options.cpu = Some(self.model.to_owned());
        options.uefi = self.firmware == Firmware::Uefi;
        options.nic = match self.card {
            Card::Legacy => Nic::VirtioLegacy,
            Card::E1000 => Nic::E1000,
            Card::None => Nic::None,
            _ => Nic::Virtio,
        };
        if self.medium == Medium::Cd {
            options.boot = Boot::Iso;
        }
        if self.board == Board::Q35WithoutLegacy {
            let machine = ["-machine", "q35,pit=off,pic=off"];
            options.qemu.extend(machine.map(str::to_owned));
        }
    }

    /// What QEMU is told of cards that the tool does not have, or not there.
    fn devices(&self) -> Vec<&'static str> {
        match self.card {
            // A Q35's last slot is the chipset's own.
            Card::LastSlot if self.board == Board::Pc => {
                vec!["virtio-net-pci,netdev=net0,romfile=,addr=0x1f"]
            }
            Card::LastSlot => vec!["virtio-net-pci,netdev=net0,romfile=,addr=0x1e"],
            Card::RootPort => vec![ROOT_PORT, "virtio-net-pci,netdev=net0,romfile=,bus=pci.1"],
            Card::LegacyRootPort => vec![
                ROOT_PORT,
                "virtio-net-pci,netdev=net0,romfile=,bus=pci.1,disable-modern=on,disable-legacy=off",
            ],
            Card::Two => vec![
                "virtio-net-pci,netdev=net0,romfile=,addr=0x4",
                "virtio-net-pci,romfile=,addr=0x5",
            ],
            Card::TwoKinds => vec!["virtio-net-pci,netdev=net0,romfile=", "e1000,romfile="],
            Card::Modern | Card::Legacy | Card::E1000 | Card::None => Vec::new(),
        }
    }
}

impl Board {
    /// As QEMU calls it.
    fn name(self) -> &'static str {
        match self {
            Board::Q35 | Board::Q35WithoutLegacy => "q35",
            Board::Pc => "pc",
            Board::Microvm => "microvm",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_possible_and_each_value_is_met() {
        let rows = all();
        assert!(rows.iter().all(Row::is_possible));
        for (axis, values) in VALUES.iter().enumerate() {
            for value in 0..*values {
                let met = rows
                    .iter()
                    .any(|row| usize::from(row.numbers()[axis]) == value);
                assert!(met, "value {value} of axis {axis}");
            }
        }
    }

    #[test]
    fn pairs_of_distant_axes_are_met() {
        let rows = all();
        let meets = |pair: &dyn Fn(&Row) -> bool| rows.iter().any(pair);
        for cpus in CPUS {
            assert!(meets(&|row| row.cpus == cpus && row.board == Board::Microvm));
            assert!(meets(&|row| row.cpus == cpus && row.memory == 24));
        }
        for (card, medium) in CARDS
            .iter()
            .flat_map(|card| MEDIA.map(|medium| (*card, medium)))
        {
            assert!(meets(&|row| row.card == card && row.medium == medium));
        }
    }
}
