//! A plugin for QEMU that looks at what the kernel executes between two marks: how many locked instructions,
//! writes of CR3 and of model-specific registers, and which cache lines it writes. The marks are
//! no-operations of ring 3 that nothing else contains (`tests/bench/task/src/counter.rs` has them). What was seen is written to
//! the file that the argument `out` names when a processor comes to its second mark.
//!
//! The interface is QEMU's plugin API, version 1 (QEMU 4.2 to 8.2, `include/qemu/qemu-plugin.h`), of which
//! only what is used is declared.
#![expect(
    unsafe_code,
    reason = "QEMU's plugin interface is C: functions to call, pointers to be called with"
)]

use std::collections::BTreeSet;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// `qemu_plugin_id_t`.
type Id = u64;
/// `qemu_plugin_meminfo_t`.
type MemoryInfo = u32;
type TranslationCallback = extern "C" fn(Id, *mut c_void);
type InstructionCallback = extern "C" fn(c_uint, *mut c_void);
type MemoryCallback = extern "C" fn(c_uint, MemoryInfo, u64, *mut c_void);

/// `QEMU_PLUGIN_CB_NO_REGS`.
const NO_REGISTERS: c_int = 0;
/// `QEMU_PLUGIN_MEM_W`.
const WRITES: c_int = 2;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, callback: TranslationCallback);
    fn qemu_plugin_tb_n_insns(block: *const c_void) -> usize;
    fn qemu_plugin_tb_get_insn(block: *const c_void, index: usize) -> *mut c_void;
    fn qemu_plugin_insn_data(instruction: *const c_void) -> *const u8;
    fn qemu_plugin_insn_size(instruction: *const c_void) -> usize;
    fn qemu_plugin_insn_vaddr(instruction: *const c_void) -> u64;
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut c_void,
        callback: InstructionCallback,
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_mem_is_store(info: MemoryInfo) -> bool;
    fn qemu_plugin_register_vcpu_mem_cb(
        instruction: *mut c_void,
        callback: MemoryCallback,
        flags: c_int,
        accesses: c_int,
        data: *mut c_void,
    );
}

/// The version of the interface that this is made for; QEMU looks for it.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 1;

/// First address of the kernel's half (Intel SDM volume 1, section 3.3.7.1).
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;
/// Bytes of a cache line.
const LINE_BYTES: u64 = 64;
const MAX_CPUS: usize = 8;

/// NOP with a displacement of 32 bits: `nop dword ptr [rax + MARK]` (Intel SDM volume 2B, NOP).
const MARK_OPERATION: [u8; 3] = [0x0f, 0x1f, 0x80];
/// Displacements of the two marks.
const BEGIN: [u8; 4] = 0x5a75_0001_u32.to_le_bytes();
const END: [u8; 4] = 0x5a75_0002_u32.to_le_bytes();

/// What an instruction is, as far as it is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
enum Kind {
    Locked = 0,
    Cr3 = 1,
    Msr = 2,
    Begin = 3,
    End = 4,
}

/// What one processor has done since its first mark.
#[derive(Default)]
struct Seen {
    counts: [u64; 3],
    lines: BTreeSet<u64>,
}

struct Processor {
    is_recording: AtomicBool,
    seen: Mutex<Seen>,
}

static PROCESSORS: [Processor; MAX_CPUS] = [const {
    Processor {
        is_recording: AtomicBool::new(false),
        seen: Mutex::new(Seen {
            counts: [0; 3],
            lines: BTreeSet::new(),
        }),
    }
}; MAX_CPUS];
static OUT: OnceLock<String> = OnceLock::new();

/// What an instruction of these bytes is.
fn kind(bytes: &[u8], is_kernel: bool) -> Option<Kind> {
    if !is_kernel {
        return match bytes.strip_prefix(&MARK_OPERATION)? {
            mark if mark == BEGIN => Some(Kind::Begin),
            mark if mark == END => Some(Kind::End),
            _ => None,
        };
    }
    // Legacy and REX prefixes (Intel SDM volume 2A, section 2.1.1 and 2.2.1).
    let is_prefix = |byte: &u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    let prefixes = bytes.iter().take_while(|byte| is_prefix(byte)).count();
    let (prefixes, operation) = bytes.split_at(prefixes);
    match operation {
        _ if prefixes.contains(&0xf0) => Some(Kind::Locked),
        // XCHG with memory is locked without the prefix (Intel SDM volume 2D, XCHG).
        [0x86 | 0x87, operands, ..] if operands >> 6 != 3 => Some(Kind::Locked),
        [0x0f, 0x22, operands, ..] if operands >> 3 & 7 == 3 => Some(Kind::Cr3),
        [0x0f, 0x30, ..] => Some(Kind::Msr),
        _ => None,
    }
}

extern "C" fn translated(_: Id, block: *mut c_void) {
    // SAFETY: QEMU calls this with a block that lives until it returns; its instructions are asked for by
    // numbers below their count, and their bytes by their size.
    unsafe {
        for index in 0..qemu_plugin_tb_n_insns(block) {
            let instruction = qemu_plugin_tb_get_insn(block, index);
            let (start, size) = (
                qemu_plugin_insn_data(instruction),
                qemu_plugin_insn_size(instruction),
            );
            if start.is_null() || size == 0 {
                continue;
            }
            let bytes = std::slice::from_raw_parts(start, size);
            let is_kernel = qemu_plugin_insn_vaddr(instruction) >= KERNEL_HALF;
            if let Some(kind) = kind(bytes, is_kernel) {
                let data = kind as usize as *mut c_void;
                qemu_plugin_register_vcpu_insn_exec_cb(instruction, executed, NO_REGISTERS, data);
            }
            if is_kernel {
                let data = std::ptr::null_mut();
                qemu_plugin_register_vcpu_mem_cb(instruction, wrote, NO_REGISTERS, WRITES, data);
            }
        }
    }
}

extern "C" fn executed(cpu: c_uint, kind: *mut c_void) {
    let Some(processor) = PROCESSORS.get(cpu as usize) else {
        return;
    };
    let kind = kind as usize;
    let is_recording = processor.is_recording.load(Ordering::Relaxed);
    if kind == Kind::Begin as usize {
        *processor
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Seen::default();
        processor.is_recording.store(true, Ordering::Relaxed);
    } else if kind == Kind::End as usize && is_recording {
        processor.is_recording.store(false, Ordering::Relaxed);
        write_out(cpu, processor);
    } else if is_recording {
        let mut seen = processor
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = seen.counts.get_mut(kind) {
            *count += 1;
        }
    }
}

extern "C" fn wrote(cpu: c_uint, info: MemoryInfo, address: u64, _: *mut c_void) {
    // An instruction that both reads and writes comes here for each.
    // SAFETY: the function looks at the number only.
    if !unsafe { qemu_plugin_mem_is_store(info) } {
        return;
    }
    if let Some(processor) = PROCESSORS.get(cpu as usize)
        && processor.is_recording.load(Ordering::Relaxed)
    {
        let mut seen = processor
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        seen.lines.insert(address / LINE_BYTES * LINE_BYTES);
    }
}

/// A line: `CPU LOCKED CR3 MSR LINE...`, numbers in decimal but for lines' addresses.
fn write_out(cpu: c_uint, processor: &Processor) {
    let seen = processor
        .seen
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let [locked, cr3, msr] = seen.counts;
    let mut text = format!("{cpu} {locked} {cr3} {msr}");
    for line in &seen.lines {
        text.push_str(&format!(" {line:x}"));
    }
    text.push('\n');
    let Some(path) = OUT.get() else { return };
    let file = OpenOptions::new().create(true).append(true).open(path);
    if let Err(error) = file.and_then(|mut file| file.write_all(text.as_bytes())) {
        eprintln!("path-plugin: {path}: {error}");
    }
}

/// QEMU calls this once. Not 0: it refuses the plugin.
///
/// # Safety
/// `arguments` are `count` C strings, as QEMU gives them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    _: *const c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the caller's promise.
        let argument = unsafe { CStr::from_ptr(*arguments.add(index)) };
        if let Some(path) = argument
            .to_str()
            .ok()
            .and_then(|text| text.strip_prefix("out="))
        {
            let _ = OUT.set(path.to_owned());
        }
    }
    if OUT.get().is_none() {
        eprintln!("path-plugin: the argument out=FILE is missing");
        return 1;
    }
    // SAFETY: the callback is a function, and `id` is the one that QEMU gave.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, translated) };
    0
}
