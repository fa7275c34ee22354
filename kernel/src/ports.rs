//! Which I/O ports ring 3 may use on this CPU: the permission bitmap of its task state segment (Intel
//! SDM volume 1, section 19.5.2), in which only what changes is edited.

use crate::gdt::{BITMAP_OFF, BITMAP_ON, PORTS};
use crate::percpu::{self, MAX_PORT_RANGES, PerCpu};
use kernel_core::platform::PortRange;
use kernel_core::sync::Ordering;

/// Makes exactly these ranges usable. Those beyond [`MAX_PORT_RANGES`] are not: the core admits no
/// more to a task.
pub(crate) fn set(ranges: &[PortRange]) {
    let cpu = percpu::this();
    let state = &cpu.task_state.bitmap_offset;
    if ranges.is_empty() {
        // The bitmap stays as it is, for the task's next turn.
        if state.load(Ordering::Relaxed) != BITMAP_OFF {
            state.store(BITMAP_OFF, Ordering::Relaxed);
        }
        return;
    }
    let wanted = |place: usize| ranges.get(place).copied().unwrap_or_default();
    if (0..MAX_PORT_RANGES).any(|place| cpu.port_range(place) != wanted(place)) {
        // Refuse all of the old first: old and new ranges may overlap.
        for place in 0..MAX_PORT_RANGES {
            edit(cpu, cpu.port_range(place), true);
        }
        for place in 0..MAX_PORT_RANGES {
            edit(cpu, wanted(place), false);
            cpu.note_port_range(place, wanted(place));
        }
    }
    state.store(BITMAP_ON, Ordering::Relaxed);
}

/// Sets or clears the bits of a range, a byte at a time.
fn edit(cpu: &PerCpu, range: PortRange, refuse: bool) {
    let first = usize::from(range.first);
    let end = (first + range.count as usize).min(PORTS);
    let mut port = first;
    while port < end {
        let byte_end = (port / 8 + 1) * 8;
        let bits = (port..byte_end.min(end)).fold(0u8, |bits, port| bits | 1 << (port % 8));
        let byte = &cpu.task_state.bitmap[port / 8];
        let old = byte.load(Ordering::Relaxed);
        byte.store(
            if refuse { old | bits } else { old & !bits },
            Ordering::Relaxed,
        );
        port = byte_end;
    }
}
