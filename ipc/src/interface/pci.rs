//! The PCI bus, and the slots of virtio-mmio: finding functions and handing a driver exactly its
//! device.

use super::{interface, service_errors};
use crate::Rights;
use serde::{Deserialize, Serialize};

/// Grant in the manifest: the client may claim devices and use DMA. Listing needs no grant.
pub const GRANT_CLAIM: u32 = 1 << 0;
/// Largest number of functions in one reply of [`PciClient::list`].
pub const FUNCTIONS_PER_REPLY: usize = 32;

/// Where a function is on the bus.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct PciAddress {
    /// Segment group; 0 without an MCFG table.
    pub segment: u16,
    /// Bus.
    pub bus: u8,
    /// Device, 0 to 31.
    pub device: u8,
    /// Function, 0 to 7.
    pub function: u8,
}

/// What a function says it is: the header fields of the PCI Local Bus Specification 3.0, 6.2.1.
///
/// A virtio-mmio device (Virtual I/O Device 1.2, 4.2), which is on no bus, is listed with vendor and
/// device of a modern PCI function of its kind (4.1.2) and zeros for the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciFunction {
    /// Where it is on the bus.
    pub address: PciAddress,
    /// Physical address of a virtio-mmio device's registers: it is there, and `address` says nothing.
    pub registers: Option<u64>,
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Subsystem vendor.
    pub subsystem_vendor: u16,
    /// Subsystem.
    pub subsystem: u16,
    /// Class code: base class, subclass and programming interface in bits 16..24, 8..16, 0..8.
    pub class: u32,
    /// Revision.
    pub revision: u8,
    /// Whether a session has claimed it.
    pub claimed: bool,
}

/// A part of the list of functions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionList {
    /// Number of functions in all.
    pub total: u16,
    /// Functions from the position asked for, in the order of their addresses.
    pub functions: heapless::Vec<PciFunction, FUNCTIONS_PER_REPLY>,
}

/// Which function a driver wants: every field that is given must be equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// Where it is on the bus.
    pub address: Option<PciAddress>,
    /// Vendor.
    pub vendor: Option<u16>,
    /// Device.
    pub device: Option<u16>,
    /// Base class and subclass, in bits 8..16 and 0..8.
    pub class: Option<u16>,
}

/// What a base address register stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BarKind {
    /// Memory: the handle is Memory that begins on the page of the register's address.
    Memory {
        /// Offset of the first byte of the BAR in the memory handed out; 0 but for small BARs.
        offset: u32,
        /// Size in bytes.
        bytes: u64,
        /// Whether reads have no side effects.
        prefetchable: bool,
    },
    /// I/O ports: the handle is IoPorts.
    Ports {
        /// First port.
        first: u16,
        /// Number of ports.
        count: u16,
    },
}

/// How a device's interrupt arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InterruptKind {
    /// MSI-X, programmed and unmasked by pci.
    MsiX {
        /// Position in the device's table, 0 to 2,047.
        entry: u16,
    },
    /// MSI, programmed and enabled by pci.
    Msi,
    /// The level-triggered line, held by nobody else; to be acknowledged each time.
    Line {
        /// Global system interrupt.
        line: u32,
    },
}

/// The virtio structures that a modern device's capabilities locate (Virtual I/O Device 1.2,
/// 4.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VirtioStructure {
    /// `VIRTIO_PCI_CAP_COMMON_CFG`.
    Common,
    /// `VIRTIO_PCI_CAP_NOTIFY_CFG`.
    Notify,
    /// `VIRTIO_PCI_CAP_ISR_CFG`.
    InterruptStatus,
    /// `VIRTIO_PCI_CAP_DEVICE_CFG`.
    Device,
}

/// Where a virtio structure lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioLocation {
    /// Base address register, 0 to 5.
    pub bar: u8,
    /// Offset in it, in bytes.
    pub offset: u32,
    /// Length in bytes; offset plus length are within the BAR.
    pub bytes: u32,
    /// `notify_off_multiplier` of the notify structure, else 0.
    pub notify_multiplier: u32,
}

/// Memory that the claimed device can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmaRegion {
    /// Names it in `dma_detach`; unique in the session.
    pub region: u32,
    /// Address as the device sees it.
    pub physical: u64,
    /// Size in bytes.
    pub bytes: u64,
}

interface! {
    /// The PCI bus. A session claims at most one function; the operations from `read_config` on are
    /// about that one and fail with NotClaimed before. When the session ends - closed, or its task
    /// died - pci switches the function's bus mastering and interrupts off, destroys what it has
    /// handed out, and only then lets the DMA memory go.
    ///
    /// A virtio-mmio device is claimed as a function is. It has no configuration space; its registers
    /// are base address register 0, its interrupt a line. It has no bus mastering either: to switch
    /// that off is to reset it, and it counts as off as long as the device's status reads 0.
    Pci = 4, client PciClient, server PciServer, error PciError;

    /// Lists the functions found at start.
    ///
    /// Arguments: `first` position of the first wanted, from 0. Result: up to 32 functions and the
    /// number of all; empty past the end. Errors: none of its own. Cost: one call.
    ///
    /// Example: `for function in pci.list(deadline, 0)?.functions { .. }`
    1 fn list(first: u16) -> FunctionList;

    /// Claims the first unclaimed function that matches.
    ///
    /// Arguments: `wanted`. Result: the function. Its bus mastering and interrupts are off, its
    /// memory and port decoding on; resetting it is its driver's first act. Errors: NotPermitted, AlreadyClaimed (this session
    /// has one), NoSuchDevice, DeviceBusy (all that match are claimed, or share the page of their
    /// registers with a virtio-mmio device that is), DeviceRunning (a virtio-mmio device that does
    /// not stop). Cost: one call.
    ///
    /// Example: `let card = pci.claim(deadline, Match { vendor: Some(0x1af4), ..Match::default() })?;`
    2 fn claim(wanted: Match) -> PciFunction;

    /// Reads configuration space.
    ///
    /// Arguments: `offset` in bytes, a multiple of `width`, below 256 (4,096 where the machine has
    /// memory-mapped configuration); `width` 1, 2 or 4. Result: the value. Errors: NotClaimed,
    /// OutOfRange, as everything is of a virtio-mmio device. Cost: one call and one or two accesses,
    /// each an exit on a virtual machine.
    ///
    /// Example: `let revision = pci.read_config(deadline, 8, 1)?;`
    3 fn read_config(offset: u16, width: u8) -> u32;

    /// Hands out a base address register's region.
    ///
    /// Arguments: `bar` 0 to 5. Result: what it is; `region` a handle to Memory or IoPorts. Pages
    /// that hold the MSI-X table are not handed out. Errors: NotClaimed, OutOfRange, NoSuchBar,
    /// NotShareable (another function's registers, or the MSI-X table, lie on the page), Kernel.
    /// Cost: one call and one or two system calls.
    ///
    /// Example: `let (kind, region) = pci.bar(deadline, 0)?;`
    4 fn bar(bar: u8) -> BarKind [region: moved(Rights::ALL)];

    /// Allocates an interrupt: MSI-X where the device has it, else MSI for entry 0, else the line.
    ///
    /// Arguments: `entry` position in the MSI-X table, 0 for the others; `messages` false for the line
    /// whatever else the device has; `bits` what to set in the notification. Handles: `notification` of the driver. Result: the kind; `interrupt` to be
    /// acknowledged where the kind says so. Errors: NotClaimed, OutOfRange, LineShared (another task
    /// holds the line), Kernel. Cost: one call.
    ///
    /// Example: `let (kind, interrupt) = pci.interrupt(deadline, 0, true, 1, notification)?;`
    5 fn interrupt(entry: u16, messages: bool, bits: u64) [notification: copied(Rights::WAIT)]
        -> InterruptKind [interrupt: moved(Rights::ALL)];

    /// Switches the device's bus mastering, its access to memory, on or off.
    ///
    /// Arguments: `on`. Result: none. Errors: NotClaimed, DeviceRunning (a virtio-mmio device that
    /// does not stop). Cost: one call and two accesses.
    ///
    /// Example: `pci.set_bus_master(deadline, true)?;`
    6 fn set_bus_master(on: bool) -> ();

    /// Finds a structure of a modern virtio device.
    ///
    /// Arguments: `structure`. Result: where it lies, `None` where the device does not have it.
    /// Errors: NotClaimed. Cost: one call and a walk of the capability list.
    ///
    /// Example: `let common = pci.virtio_structure(deadline, VirtioStructure::Common)?;`
    7 fn virtio_structure(structure: VirtioStructure) -> Option<VirtioLocation>;

    /// Makes memory reachable for the device. pci keeps a handle, so that the frames stay until the
    /// device was stopped, whatever becomes of the driver.
    ///
    /// Handles: `memory` contiguous. Result: the region. Errors: NotClaimed, NotContiguous,
    /// Exhausted (16 regions a session), Kernel. Cost: one call and two system calls.
    ///
    /// Example: `let region = pci.dma_attach(deadline, memory)?;`
    8 fn dma_attach() [memory: copied(Rights::ALL)] -> DmaRegion;

    /// Ends a region's use. The device must not use it any more: the driver has reset it or taken
    /// the buffers back; else `reset` comes first.
    ///
    /// Arguments: `region`. Result: none. Errors: NotClaimed, NoSuchRegion, DeviceRunning (bus
    /// mastering is on). Cost: one call.
    ///
    /// Example: `pci.dma_detach(deadline, region.region)?;`
    9 fn dma_detach(region: u32) -> ();

    /// Stops the device: bus mastering off, every DMA region let go. There is no function-level
    /// reset: it takes 100 ms (PCI Express Base 6.0, 6.6.2) in which pci would serve nobody.
    ///
    /// Arguments: none. Result: none; the function stays claimed. Errors: NotClaimed, DeviceRunning
    /// (as for `set_bus_master`; the regions stay). Cost: one call, and a system call a region.
    ///
    /// Example: `pci.reset(deadline)?;`
    10 fn reset() -> ();
}

service_errors! {
    /// The bus's own errors.
    PciError {
        /// The manifest does not grant claiming.
        NotPermitted = "the system manifest does not let this task claim devices",
        /// No function matches.
        NoSuchDevice = "no device matches",
        /// Every function that matches is claimed.
        DeviceBusy = "the device is claimed by another session",
        /// The session has claimed a function before.
        AlreadyClaimed = "this session has claimed a device already",
        /// The session has not claimed a function.
        NotClaimed = "this session has not claimed a device",
        /// An argument is out of its documented range.
        OutOfRange = "an argument is out of range",
        /// The function does not implement the register.
        NoSuchBar = "the device has no such base address register",
        /// The page holds registers that are not the driver's.
        NotShareable = "the registers share a page with what the driver may not touch",
        /// Another task holds the interrupt line.
        LineShared = "the interrupt line is in use by another task",
        /// DMA needs contiguous memory.
        NotContiguous = "the memory is not contiguous",
        /// The session has as many regions as it can keep.
        Exhausted = "the session has no room for another region",
        /// The session has no region of this number.
        NoSuchRegion = "there is no such region",
        /// The device could still use the memory.
        DeviceRunning = "the device runs: its bus mastering is on, or it does not stop",
        /// The kernel refused pci what the operation needs.
        Kernel = "the kernel refused what the operation needs",
    }
}
