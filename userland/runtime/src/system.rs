//! The system's counters, power, kernel log, tunables and trace: for tasks that hold the control
//! objects.

use crate::buffer::{Buffer, Bytes};
use crate::syscall::invoke;
use ipc::info::{CpuInfo, PowerInfo, SystemInfo, SystemSelector};
use ipc::message::{MAX_BYTES, NEVER};
use ipc::{Error, Handle, Operation};

/// The first words of the IPC buffer.
pub(crate) fn words<const N: usize>(buffer: &Bytes) -> [u64; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(buffer.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

fn inspect<R>(
    control: Handle,
    selector: SystemSelector,
    index: u64,
    read: impl FnOnce(&Bytes, usize) -> R,
) -> Result<R, Error> {
    let mut buffer = Buffer::take()?;
    let arguments = [control.0, selector as u64, index, 0, 0, 0];
    let [length, ..] = invoke(Operation::SystemInspect, arguments, NEVER)?;
    Ok(read(buffer.bytes(), (length as usize).min(MAX_BYTES)))
}

/// The whole system's counters. Errors: those of [`Operation::SystemInspect`], as for all the
/// functions that read here.
pub fn counters(control: Handle) -> Result<SystemInfo, Error> {
    inspect(control, SystemSelector::System, 0, |buffer, _| {
        SystemInfo::from_words(&words(buffer))
    })
}

/// One CPU's counters.
pub fn cpu(control: Handle, cpu: u64) -> Result<CpuInfo, Error> {
    inspect(control, SystemSelector::Cpu, cpu, |buffer, _| {
        CpuInfo::from_words(&words(buffer))
    })
}

/// Copies the kernel's command line to `into` and returns the part that was used.
pub fn command_line(control: Handle, into: &mut [u8]) -> Result<&[u8], Error> {
    text(control, SystemSelector::CommandLine, into)
}

/// Copies the name of the clock source to `into` and returns the part that was used.
pub fn clock_source(control: Handle, into: &mut [u8]) -> Result<&[u8], Error> {
    text(control, SystemSelector::ClockSource, into)
}

/// Physical address of the ACPI root pointer, 0 where there is none.
pub fn acpi_root(control: Handle) -> Result<u64, Error> {
    let read = |buffer: &Bytes, _| words::<1>(buffer)[0];
    inspect(control, SystemSelector::AcpiRoot, 0, read)
}

/// The machine's power registers.
pub fn power_registers(control: Handle) -> Result<PowerInfo, Error> {
    inspect(control, SystemSelector::Power, 0, |buffer, _| {
        PowerInfo::from_words(&words(buffer))
    })
}

fn text(control: Handle, selector: SystemSelector, into: &mut [u8]) -> Result<&[u8], Error> {
    let length = inspect(control, selector, 0, |buffer, length| {
        let length = length.min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..length), buffer.get(..length)) {
            to.copy_from_slice(from);
        }
        length
    })?;
    Ok(into.get(..length).unwrap_or(&[]))
}

/// Writes to the kernel's log, in pieces of 4,000 bytes. Errors: those of [`Operation::LogWrite`].
pub fn kernel_log(control: Handle, bytes: &[u8]) -> Result<(), Error> {
    let mut buffer = Buffer::take()?;
    for piece in bytes.chunks(MAX_BYTES) {
        if let Some(to) = buffer.bytes().get_mut(..piece.len()) {
            to.copy_from_slice(piece);
        }
        invoke(
            Operation::LogWrite,
            [control.0, piece.len() as u64, 0, 0, 0, 0],
            NEVER,
        )?;
    }
    Ok(())
}

/// Halts the machine, or reboots it. Errors: those of [`Operation::SystemPower`].
pub fn power(control: Handle, reboot: bool) -> Result<core::convert::Infallible, Error> {
    invoke(
        Operation::SystemPower,
        [control.0, u64::from(reboot), 0, 0, 0, 0],
        NEVER,
    )?;
    Err(Error::Unsupported)
}

/// A tunable's value and range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunable {
    /// Present value.
    pub value: u64,
    /// Smallest value.
    pub smallest: u64,
    /// Largest value.
    pub largest: u64,
    /// Value at boot where the command line says nothing.
    pub default: u64,
}

/// Reads a tunable, after setting it if `set` says so. Errors: those of [`Operation::Tunable`].
pub fn tunable(control: Handle, number: u64, set: Option<u64>) -> Result<Tunable, Error> {
    let arguments = [
        control.0,
        number,
        u64::from(set.is_some()),
        set.unwrap_or_default(),
        0,
        0,
    ];
    let [value, smallest, largest, default, ..] = invoke(Operation::Tunable, arguments, NEVER)?;
    Ok(Tunable {
        value,
        smallest,
        largest,
        default,
    })
}

/// A record of a trace ring: four quadwords whose meaning the kernel's trace page has.
pub type TraceRecord = [u64; 4];

/// Takes records out of a CPU's trace ring and returns how many were lost before them. Errors:
/// those of [`Operation::TraceRead`].
pub fn trace(control: Handle, cpu: u64, mut each: impl FnMut(TraceRecord)) -> Result<u64, Error> {
    let mut buffer = Buffer::take()?;
    let [count, lost, ..] = invoke(Operation::TraceRead, [control.0, cpu, 0, 0, 0, 0], NEVER)?;
    let (records, _) = buffer.bytes().as_chunks::<32>();
    for record in records.iter().take(count as usize) {
        let mut quadwords = [0; 4];
        for (word, bytes) in quadwords.iter_mut().zip(record.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        each(quadwords);
    }
    Ok(lost)
}
