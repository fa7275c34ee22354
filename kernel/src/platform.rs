//! The machine as the core sees it: [`kernel_core::platform::Platform`], each function handed on to
//! the module whose concept it is.

use crate::cpuid::{self, Feature};
use crate::{
    apic, clock, exit, fpu, gdt, idt, ioapic, paging, percpu, physical, ports, power, smp, timer,
    uart,
};
use boot::Range;
use kernel_core::frames::Frame;
use kernel_core::platform::{FrameWords, LineMode, Platform, PortRange, PowerAction};
use kernel_core::registers::Registers;
use kernel_core::sync::Ordering;
use kernel_core::tlb::SpaceTag;

/// This machine.
#[derive(Debug)]
pub(crate) struct X86;

impl Platform for X86 {
    #[inline(always)]
    fn now(&self) -> u64 {
        clock::now()
    }

    #[inline(always)]
    fn ticks(&self) -> u64 {
        clock::ticks()
    }

    fn ticks_on(&self, cpu: usize) -> u64 {
        clock::ticks_on(smp::cpu(cpu))
    }

    fn ns_to_ticks(&self, nanoseconds: u64) -> u64 {
        clock::ticks_in(nanoseconds)
    }

    fn ticks_to_ns(&self, ticks: u64) -> u64 {
        clock::nanoseconds(ticks)
    }

    fn wall_offset(&self) -> u64 {
        clock::wall_offset()
    }

    #[inline(always)]
    fn saves_bases_fast() -> bool {
        cpuid::has(Feature::FsGsBase)
    }

    #[inline(always)]
    fn save_bases(&self, registers: &Registers) {
        exit::save_bases(registers);
    }

    fn set_timer(&self, deadline: u64) {
        timer::set(deadline);
    }

    fn kick(&self, cpu: usize) {
        apic::interrupt(smp::cpu(cpu).apic.load(Ordering::Relaxed), idt::KICK);
    }

    #[inline(always)]
    fn words(&self, frame: Frame) -> &'static FrameWords {
        physical::words(frame)
    }

    fn objects<T: Sync>(&self, first: Frame, count: usize, make: fn() -> T) -> &'static [T] {
        physical::objects(first, count, make)
    }

    fn install_kernel_half(&self, root: Frame) {
        paging::install_kernel_half(root);
    }

    fn tagged_root(&self, root: Frame, tag: SpaceTag) -> u64 {
        paging::tagged(root, tag)
    }

    #[inline(always)]
    fn load_root(&self, root: u64) {
        paging::load(root);
    }

    fn flush(&self, tag: SpaceTag) {
        paging::flush(tag);
    }

    fn flush_all(&self) {
        paging::flush_all();
    }

    #[inline(always)]
    fn this_cpu(&self) -> usize {
        percpu::this().index.load(Ordering::Relaxed) as usize
    }

    fn user_selectors(&self) -> (u64, u64) {
        (u64::from(gdt::USER_CODE), u64::from(gdt::USER_DATA))
    }

    fn kernel_root(&self) -> Frame {
        paging::root()
    }

    fn clock_frame(&self) -> Frame {
        clock::page()
    }

    fn fpu_initialise(&self, area: Frame) {
        fpu::initial(area);
    }

    fn fpu_save(&self, area: Frame) {
        fpu::save(area);
    }

    fn fpu_restore(&self, area: Frame) {
        fpu::restore(area);
    }

    #[inline]
    fn fpu_enable(&self, enabled: bool) {
        fpu::enable(enabled);
    }

    #[inline]
    fn set_ports(&self, ranges: &[PortRange]) {
        ports::set(ranges);
    }

    fn is_device_range(&self, first: u64, bytes: u64) -> bool {
        Range::of(first, bytes).is_some_and(paging::is_device_range)
    }

    fn line_enable(&self, line: u32, vector: u8, cpu: usize, mode: LineMode) -> bool {
        ioapic::enable(line, vector, smp::cpu(cpu), mode)
    }

    fn line_mask(&self, line: u32, masked: bool) {
        ioapic::mask(line, masked);
    }

    fn message(&self, vector: u8, cpu: usize) -> (u64, u32) {
        ioapic::message(vector, smp::cpu(cpu), smp::cpu(0))
    }

    fn end_of_interrupt(&self) {
        apic::end_of_interrupt();
    }

    fn write_log(&self, bytes: &[u8]) {
        uart::write_bytes(bytes);
    }

    fn power(&self, action: PowerAction) -> ! {
        power::act(action)
    }
}
