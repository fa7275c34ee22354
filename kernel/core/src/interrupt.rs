//! Interrupts and I/O ports as objects: what a driver may be told, and what it may touch.
//!
//! An interrupt sets bits of its notification. A level-triggered input is masked until it is
//! acknowledged, so that a driver that never does costs nobody else anything.

use crate::cpu::Cpu;
use crate::kernel::{Kernel, Next, Outcome};
use crate::mutant::{self, Mutant};
use crate::notification::Notification;
use crate::object::Object;
use crate::platform::{FIRST_DEVICE_VECTOR, LAST_DEVICE_VECTOR, LineMode, Platform, PortRange};
use crate::quota::Quota;
use crate::slab::{Slot, Slotted};
use crate::static_ref::AtomicRef;
use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Lock, Ordering, Rank};
use ipc::Error;
use ipc::info::INTERRUPT_MESSAGE;

/// Number of vectors for devices.
pub const VECTORS: usize = (LAST_DEVICE_VECTOR - FIRST_DEVICE_VECTOR) as usize + 1;

/// The line number of an interrupt without one.
const NO_LINE: u32 = u32::MAX;

/// An interrupt.
#[repr(align(64))]
pub struct Interrupt {
    /// Book-keeping.
    pub slot: Slot<Interrupt>,
    notification: AtomicRef<Notification>,
    bits: AtomicU64,
    line: AtomicU32,
    vector: AtomicU8,
    level: AtomicBool,
}

impl Slotted for Interrupt {
    fn make() -> Interrupt {
        Interrupt {
            slot: Slot::new(),
            notification: AtomicRef::none(),
            bits: AtomicU64::new(0),
            line: AtomicU32::new(NO_LINE),
            vector: AtomicU8::new(0),
            level: AtomicBool::new(false),
        }
    }
    fn slot(&self) -> &Slot<Interrupt> {
        &self.slot
    }
}

/// Which interrupt a vector raises.
pub struct Vectors {
    entries: [AtomicRef<Interrupt>; VECTORS],
    changing: Lock<()>,
}

impl Vectors {
    /// No vector is taken.
    pub const fn new() -> Vectors {
        Vectors {
            entries: [const { AtomicRef::none() }; VECTORS],
            changing: Lock::new(Rank::Interrupt, ()),
        }
    }
}

impl Vectors {
    /// The interrupt of a vector, if its line is not to be masked.
    #[inline(always)]
    pub(crate) fn edge(&self, vector: u8) -> Option<&'static Interrupt> {
        let position = usize::from(vector.wrapping_sub(FIRST_DEVICE_VECTOR));
        let interrupt = self.entries.get(position)?.get()?;
        (!interrupt.level.load(Ordering::Relaxed)).then_some(interrupt)
    }
}

impl Interrupt {
    /// What it signals.
    #[inline(always)]
    pub(crate) fn notification(&self) -> Option<&'static Notification> {
        self.notification.get()
    }

    /// The vector that raises it; 0 for none.
    #[cfg(test)]
    pub(crate) fn vector(&self) -> u8 {
        self.vector.load(Ordering::Relaxed)
    }

    /// With which bits.
    #[inline(always)]
    pub(crate) fn bits(&self) -> u64 {
        self.bits.load(Ordering::Relaxed)
    }
}

impl Default for Vectors {
    fn default() -> Self {
        Self::new()
    }
}

/// What an interrupt is to be made from.
pub struct InterruptSource {
    /// I/O APIC input, or [`INTERRUPT_MESSAGE`].
    pub line: u64,
    /// How the input signals.
    pub mode: LineMode,
}

impl<P: Platform> Kernel<P> {
    /// Makes an interrupt and enables it, with one reference that the caller owns; the caller has one
    /// to the notification.
    ///
    /// # Errors
    /// InvalidArgument, Busy (the input is taken), Unsupported (no vector left, no such input),
    /// OutOfQuota, OutOfMemory.
    pub fn make_interrupt(
        &'static self,
        quota: &'static Quota,
        source: &InterruptSource,
        notification: &'static Notification,
        bits: u64,
    ) -> Result<&'static Interrupt, Error> {
        let line = match source.line {
            INTERRUPT_MESSAGE => NO_LINE,
            line => u32::try_from(line)
                .ok()
                .filter(|line| *line != NO_LINE)
                .ok_or(Error::InvalidArgument)?,
        };
        let interrupt = self.interrupts.allocate(self, quota)?;
        notification.slot.reference();
        interrupt.notification.set(Some(notification));
        interrupt.bits.store(bits, Ordering::Relaxed);
        interrupt.line.store(line, Ordering::Relaxed);
        // A message is an edge, whatever the arguments say: it has no line to mask.
        let level = source.mode.level && line != NO_LINE;
        interrupt.level.store(level, Ordering::Relaxed);
        let enabled = self.take_vector(interrupt, line).and_then(|vector| {
            let ready = line == NO_LINE || self.platform.line_enable(line, vector, 0, source.mode);
            if ready {
                Ok(())
            } else {
                // There is no such line to be masked at the end.
                interrupt.line.store(NO_LINE, Ordering::Relaxed);
                Err(Error::Unsupported)
            }
        });
        if let Err(error) = enabled {
            self.release_interrupt(interrupt);
            return Err(error);
        }
        Ok(interrupt)
    }

    fn take_vector(&self, interrupt: &'static Interrupt, line: u32) -> Result<u8, Error> {
        let _guard = self.vectors.changing.lock();
        interrupt.vector.store(0, Ordering::Relaxed);
        let taken = |entry: &AtomicRef<Interrupt>| {
            entry
                .get()
                .is_some_and(|other| other.line.load(Ordering::Relaxed) == line)
        };
        if line != NO_LINE && self.vectors.entries.iter().any(taken) {
            return Err(Error::Busy);
        }
        let free = self
            .vectors
            .entries
            .iter()
            .position(|entry| entry.get().is_none());
        let position = free.ok_or(Error::Unsupported)?;
        let vector = FIRST_DEVICE_VECTOR + position as u8;
        interrupt.vector.store(vector, Ordering::Relaxed);
        self.vectors.entries[position].set(Some(interrupt));
        Ok(vector)
    }

    /// The message that raises the interrupt; zeros for one with a line.
    pub fn interrupt_message(&self, interrupt: &Interrupt) -> (u64, u32) {
        if interrupt.line.load(Ordering::Relaxed) == NO_LINE {
            self.platform
                .message(interrupt.vector.load(Ordering::Relaxed), 0)
        } else {
            (0, 0)
        }
    }

    /// Ends an interrupt: it comes no more, and its line and vector are free.
    pub fn silence(&'static self, interrupt: &'static Interrupt) {
        let _guard = self.vectors.changing.lock();
        let vector = interrupt.vector.swap(0, Ordering::Relaxed);
        if vector == 0 {
            return;
        }
        let line = interrupt.line.load(Ordering::Relaxed);
        if line != NO_LINE {
            self.platform.line_mask(line, true);
        }
        self.vectors.entries[usize::from(vector - FIRST_DEVICE_VECTOR)].set(None);
    }

    /// Takes back an interrupt whose last handle is closed.
    pub fn release_interrupt(&'static self, interrupt: &'static Interrupt) {
        self.silence(interrupt);
        let notification = interrupt.notification.take();
        self.interrupts.retire(self, interrupt);
        if let Some(notification) = notification {
            self.drop_reference(Object::Notification(notification));
        }
    }

    /// A device interrupt arrived on this CPU.
    pub fn interrupt(&'static self, cpu: &'static Cpu, vector: u8) {
        self.enter(cpu);
        cpu.counters.interrupts.add(1);
        let position = usize::from(vector.wrapping_sub(FIRST_DEVICE_VECTOR));
        let interrupt = self.vectors.entries.get(position).and_then(AtomicRef::get);
        if let Some(interrupt) = interrupt
            && interrupt.level.load(Ordering::Relaxed)
        {
            self.mask(interrupt, true);
        }
        if !mutant::active(Mutant::EndOfInterrupt) {
            self.platform.end_of_interrupt();
        }
        let Some(interrupt) = interrupt else { return };
        let Some(notification) = interrupt.notification.get() else {
            return;
        };
        let bits = interrupt.bits.load(Ordering::Relaxed);
        if let Some(thread) = self.set_bits(notification, bits) {
            self.make_ready(cpu, thread);
        }
    }

    /// InterruptAcknowledge.
    pub fn acknowledge(&'static self, interrupt: &'static Interrupt) -> Outcome {
        if interrupt.level.load(Ordering::Relaxed) {
            self.mask(interrupt, false);
        }
        Ok(Next::Return)
    }

    /// Masks or unmasks an interrupt's line, unless it has ended: then the line is nobody's, and
    /// unmasked would storm for ever, or another interrupt's.
    fn mask(&self, interrupt: &Interrupt, masked: bool) {
        let _guard = self.vectors.changing.lock();
        if interrupt.vector.load(Ordering::Relaxed) != 0 {
            let line = interrupt.line.load(Ordering::Relaxed);
            self.platform.line_mask(line, masked);
        }
    }
}

/// A range of I/O ports.
#[repr(align(64))]
pub struct IoPorts {
    /// Book-keeping.
    pub slot: Slot<IoPorts>,
    first: AtomicU32,
    count: AtomicU32,
}

impl Slotted for IoPorts {
    fn make() -> IoPorts {
        IoPorts {
            slot: Slot::new(),
            first: AtomicU32::new(0),
            count: AtomicU32::new(0),
        }
    }
    fn slot(&self) -> &Slot<IoPorts> {
        &self.slot
    }
}

impl<P: Platform> Kernel<P> {
    /// Ends a port range: on return no CPU lets it through. No lock may be held.
    pub(crate) fn close_ports(&'static self, ports: &'static IoPorts) {
        // Also when another CPU has begun with it: it may not be done.
        ports.slot.kill();
        self.ports_generation.fetch_add(1, Ordering::SeqCst);
        // A CPU that lets ports through leaves the kernel once, and looks at the generation then.
        self.request_flush(None, |cpu| cpu.ports_open.load(Ordering::Relaxed));
    }
}

impl IoPorts {
    /// The range.
    pub fn range(&self) -> PortRange {
        PortRange {
            first: self.first.load(Ordering::Relaxed) as u16,
            count: self.count.load(Ordering::Relaxed),
        }
    }

    /// Sets the range of a fresh object.
    ///
    /// # Errors
    /// InvalidArgument if it is empty or goes beyond port 65,535.
    pub fn check(first: u64, count: u64) -> Result<PortRange, Error> {
        if count == 0 || first >= 1 << 16 || count > (1 << 16) - first {
            return Err(Error::InvalidArgument);
        }
        Ok(PortRange {
            first: first as u16,
            count: count as u32,
        })
    }

    /// Sets the range of a fresh object.
    pub fn set_range(&self, range: PortRange) {
        self.first.store(u32::from(range.first), Ordering::Relaxed);
        self.count.store(range.count, Ordering::Relaxed);
    }
}
