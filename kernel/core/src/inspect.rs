//! Operations that say how things are: counters, states, tunables, traces, and the kernel's log.

use crate::cpu::Cpu;
use crate::handles::Held;
use crate::kernel::{Kernel, Next, Outcome};
use crate::memory::{Memory, MemoryKind};
use crate::object::Object;
use crate::platform::{FrameWords, Platform};
use crate::queue::Linked;
use crate::sync::Ordering;
use crate::task::Task;
use crate::thread::{QUEUE, Thread, Wait};
use ipc::info::{CpuInfo, PowerInfo, SystemInfo, SystemSelector, TaskInfo, ThreadInfo};
use ipc::layout::PAGE_BYTES;
use ipc::message::MAX_BYTES;
use ipc::{Error, Rights};

/// Quadwords of a trace record.
const RECORD_WORDS: usize = 4;
/// Trace records that fit into an IPC buffer.
const MAX_RECORDS: usize = 125;
/// A fault-free upper bound for the bytes of one LogWrite.
const LOG_BYTES: usize = MAX_BYTES;

fn write_words(buffer: &FrameWords, words: &[u64]) {
    for (place, word) in buffer.iter().zip(words) {
        place.store(*word, Ordering::Relaxed);
    }
}

fn write_bytes(buffer: &FrameWords, bytes: &[u8]) -> u64 {
    let bytes = &bytes[..bytes.len().min(MAX_BYTES)];
    for (place, chunk) in buffer.iter().zip(bytes.chunks(8)) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        place.store(u64::from_le_bytes(word), Ordering::Relaxed);
    }
    bytes.len() as u64
}

impl<P: Platform> Kernel<P> {
    /// MemoryInspect.
    pub fn inspect_memory(&'static self, thread: &'static Thread, memory: &Memory) -> Outcome {
        let exposed = memory.is_exposed(self.dma_epoch.load(Ordering::Relaxed));
        let device = memory.kind() == MemoryKind::Device;
        let flags =
            u64::from(memory.is_contiguous()) | u64::from(device) << 1 | u64::from(exposed) << 2;
        thread.registers.rdi.set(memory.pages() * PAGE_BYTES);
        thread.registers.rsi.set(flags);
        Ok(Next::Return)
    }

    /// TaskInspect.
    pub fn inspect_task(&'static self, thread: &'static Thread, task: &'static Task) -> Outcome {
        let (mut ticks, mut priority, mut threads) = (task.cpu_ticks.load(Ordering::Relaxed), 0, 0);
        for member in task.threads().iterate() {
            ticks += self.cpu_ticks(member);
            priority = priority.max(u64::from(member.priority()));
            threads += 1;
        }
        let info = TaskInfo {
            state: task.state() as u64,
            quota_bytes: task.quota_limit(),
            used_bytes: task.quota_used(),
            handles: task.handles.open(),
            threads,
            cpu_time_ns: self.platform.ticks_to_ns(ticks),
            priority,
            root: task.root().address(),
            mappings: task.space.lock().count(),
            number: task.slot.number(),
        };
        write_words(thread.buffer(), &info.to_words());
        Ok(Next::Return)
    }

    /// ThreadInspect.
    pub fn inspect_thread(&'static self, thread: &'static Thread, of: &'static Thread) -> Outcome {
        let state = if of.dead.load(Ordering::Relaxed) {
            4
        } else if of.faulting.load(Ordering::Relaxed) {
            3
        } else if !of.is_waiting() {
            1
        } else if of.wait_kind() == Wait::Start {
            0
        } else {
            2
        };
        let info = ThreadInfo {
            state,
            priority: u64::from(of.priority()),
            cpu: u64::from(of.cpu.load(Ordering::Relaxed)),
            affinity: of.affinity.load(Ordering::Relaxed),
            cpu_time_ns: self.platform.ticks_to_ns(self.cpu_ticks(of)),
            switches: of.switches.load(Ordering::Relaxed),
            wakes: of.wakes.load(Ordering::Relaxed),
            migrations: of.migrations.load(Ordering::Relaxed),
            instruction_pointer: of.registers.rip.get(),
            stack_pointer: of.registers.rsp.get(),
            frame_pointer: of.registers.rbp.get(),
            number: of.slot.number(),
        };
        write_words(thread.buffer(), &info.to_words());
        Ok(Next::Return)
    }

    /// SystemInspect.
    pub fn inspect_system(
        &'static self,
        thread: &'static Thread,
        selector: u64,
        index: u64,
    ) -> Outcome {
        const SYSTEM: u64 = SystemSelector::System as u64;
        const CPU: u64 = SystemSelector::Cpu as u64;
        const COMMAND_LINE: u64 = SystemSelector::CommandLine as u64;
        const CLOCK_SOURCE: u64 = SystemSelector::ClockSource as u64;
        const ACPI_ROOT: u64 = SystemSelector::AcpiRoot as u64;
        const POWER: u64 = SystemSelector::Power as u64;
        let buffer = thread.buffer();
        let bytes = match selector {
            SYSTEM => {
                write_words(buffer, &self.system_info().to_words());
                SystemInfo::WORDS as u64 * 8
            }
            CPU => {
                write_words(buffer, &self.cpu_info(index)?.to_words());
                CpuInfo::WORDS as u64 * 8
            }
            COMMAND_LINE => write_bytes(buffer, self.machine.command_line.as_bytes()),
            CLOCK_SOURCE => write_bytes(buffer, self.machine.clock_source.as_bytes()),
            ACPI_ROOT => {
                write_words(buffer, &[self.machine.acpi_root]);
                8
            }
            POWER => {
                write_words(buffer, &self.machine.power.to_words());
                PowerInfo::WORDS as u64 * 8
            }
            _ => return Err(Error::InvalidArgument),
        };
        thread.registers.rdi.set(bytes);
        Ok(Next::Return)
    }

    fn system_info(&'static self) -> SystemInfo {
        let online = self
            .cpus()
            .iter()
            .filter(|cpu| cpu.online.load(Ordering::Relaxed));
        let slab_frames = [
            self.endpoints.frames(),
            self.badges.frames(),
            self.notifications.frames(),
            self.memories.frames(),
            self.mappings.frames(),
            self.tasks.frames(),
            self.threads.frames(),
            self.replies.frames(),
            self.interrupts.frames(),
            self.io_ports.frames(),
            self.chunks.frames(),
            self.quotas.frames(),
        ];
        SystemInfo {
            cpus: online.count() as u64,
            frames_total: self.frames.total(),
            frames_free: self.frames.free_count(),
            frames_quarantined: self.quarantined.load(Ordering::Relaxed),
            tasks: self.tasks.live(),
            threads: self.threads.live(),
            endpoints: self.endpoints.live(),
            badges: self.badges.live(),
            notifications: self.notifications.live(),
            memories: self.memories.live(),
            mappings: self.mappings.live(),
            replies: self.replies.live(),
            interrupts: self.interrupts.live(),
            io_ports: self.io_ports.live(),
            handles: self.open_handles.load(Ordering::Relaxed),
            uptime_ns: self.platform.now(),
            reclaiming: self.reclaim.count(),
            slab_bytes: slab_frames.iter().sum::<u64>() * PAGE_BYTES,
        }
    }

    /// A thread's CPU time, with what it has run since it was last charged: a thread that is never
    /// switched out is charged late.
    fn cpu_ticks(&self, thread: &'static Thread) -> u64 {
        let charged = thread.cpu_ticks.load(Ordering::Relaxed);
        let cpu = &self.cpus()[thread.cpu.load(Ordering::Relaxed) as usize];
        let running = cpu.current.get();
        if running.is_some_and(|running| core::ptr::eq(running, thread)) {
            let since = cpu.charged_at.load(Ordering::Relaxed);
            charged + self.platform.ticks_on(cpu.index).saturating_sub(since)
        } else {
            charged
        }
    }

    /// How long a CPU has not been idle, in ticks: a snapshot.
    fn busy_ticks(&self, cpu: &Cpu) -> u64 {
        let ended = cpu.counters.busy_ticks.get();
        if !cpu.online.load(Ordering::Relaxed) || cpu.seen_epoch.load(Ordering::Relaxed) == u64::MAX
        {
            return ended;
        }
        let now = self.platform.ticks_on(cpu.index);
        ended + now.saturating_sub(cpu.busy_since.load(Ordering::Relaxed))
    }

    fn cpu_info(&'static self, index: u64) -> Result<CpuInfo, Error> {
        let cpu = usize::try_from(index)
            .ok()
            .and_then(|index| self.cpus().get(index));
        let cpu = cpu.ok_or(Error::InvalidArgument)?;
        let counters = &cpu.counters;
        Ok(CpuInfo {
            online: u64::from(cpu.online.load(Ordering::Relaxed)),
            apic: u64::from(cpu.apic.load(Ordering::Relaxed)),
            switches: counters.switches.get() + counters.handovers.get(),
            wakes: counters.wakes.get(),
            steals: counters.steals.get(),
            migrations: counters.migrations.get(),
            ipis: counters.ipis.get(),
            queued: cpu.run_queue().len(),
            busy_ns: self.platform.ticks_to_ns(self.busy_ticks(cpu)),
            interrupts: counters.interrupts.get(),
            timer_interrupts: counters.timer_interrupts.get(),
            system_calls: counters.system_calls.get() + counters.handovers.get(),
            shootdowns: counters.shootdowns.get(),
        })
    }

    /// LogWrite.
    pub fn write_log(&'static self, thread: &'static Thread, bytes: u64) -> Outcome {
        let length = usize::try_from(bytes)
            .ok()
            .filter(|length| *length <= LOG_BYTES);
        let length = length.ok_or(Error::InvalidArgument)?;
        let mut line = [0; 64];
        let words = &thread.buffer()[..length.div_ceil(8)];
        let mut left = length;
        for group in words.chunks(line.len() / 8) {
            for (place, word) in line.chunks_mut(8).zip(group) {
                place.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
            }
            let part = left.min(line.len());
            self.platform.write_log(&line[..part]);
            left -= part;
        }
        Ok(Next::Return)
    }

    /// Tunable.
    pub fn tunable(
        &'static self,
        thread: &'static Thread,
        held: Held,
        number: u64,
        set: u64,
        value: u64,
    ) -> Outcome {
        let Object::SchedControl = held.object else {
            return Err(Error::WrongKind);
        };
        held.require(if set == 0 {
            Rights::READ_STATE
        } else {
            Rights::TUNE
        })?;
        let (definition, _) = self.tunables.read(number).ok_or(Error::InvalidArgument)?;
        match set {
            0 => {}
            1 => {
                let set = self.tunables.set(number, value);
                set.map_err(|_| Error::InvalidArgument)?;
                for cpu in self.cpus() {
                    self.allow_fast(cpu);
                    // It may be set for the end of a longer slice.
                    cpu.reuse_timer_until.store(0, Ordering::Relaxed);
                }
            }
            _ => return Err(Error::InvalidArgument),
        }
        let (_, now) = self.tunables.read(number).ok_or(Error::InvalidArgument)?;
        let registers = &thread.registers;
        registers.rdi.set(now);
        registers.rsi.set(definition.smallest);
        registers.rdx.set(definition.largest);
        registers.r8.set(definition.default);
        Ok(Next::Return)
    }

    /// TraceRead.
    pub fn read_trace(&'static self, thread: &'static Thread, held: Held, cpu: u64) -> Outcome {
        let Object::Trace = held.object else {
            return Err(Error::WrongKind);
        };
        held.require(Rights::READ_STATE)?;
        let ring = usize::try_from(cpu)
            .ok()
            .and_then(|cpu| self.trace_ring(cpu));
        let ring = ring.ok_or(Error::InvalidArgument)?;
        let buffer = thread.buffer();
        let mut position = 0;
        let taken = ring.read(MAX_RECORDS, &mut |record| {
            for (place, word) in buffer[position..].iter().zip(record) {
                place.store(*word, Ordering::Relaxed);
            }
            position += RECORD_WORDS;
        });
        thread.registers.rdi.set(taken.records as u64);
        thread.registers.rsi.set(taken.lost);
        Ok(Next::Return)
    }

    /// Whether a thread stands in some queue: for the tests of the wait rules.
    pub fn is_queued(thread: &Thread) -> bool {
        <Thread as Linked<QUEUE>>::links(thread).owner() != 0
    }
}
