//! The fixed-layout records that operations write into the IPC buffer, the clock page, and the
//! selectors that name them. Each record is an array of quadwords with named positions, so that
//! both sides read it without unsafe code.

macro_rules! record {
    ($(#[$doc:meta])+ $name:ident { $($(#[$field_doc:meta])+ $field:ident,)+ }) => {
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub struct $name { $($(#[$field_doc])+ pub $field: u64,)+ }

        impl $name {
            /// Number of quadwords.
            pub const WORDS: usize = [$(stringify!($field),)+].len();
            /// The fields' names, in order.
            pub const FIELDS: [&'static str; Self::WORDS] = [$(stringify!($field),)+];

            /// The record as quadwords.
            pub const fn to_words(&self) -> [u64; Self::WORDS] { [$(self.$field,)+] }

            /// The record from quadwords.
            pub const fn from_words(words: &[u64; Self::WORDS]) -> Self {
                let [$($field,)+] = *words;
                Self { $($field,)+ }
            }
        }
    };
}

record! {
    /// The message that a faulting thread's kernel sends to the fault endpoint of its task. The
    /// badge says which task. An empty reply resumes the thread where it stopped; dropping the
    /// reply right ends the thread.
    FaultMessage {
        /// Exception vector (Intel SDM volume 3A, table 6-1).
        vector,
        /// Error code, 0 where the vector has none.
        error_code,
        /// CR2 for a page fault, else 0.
        address,
        /// Address of the instruction.
        instruction_pointer,
        /// Stack pointer.
        stack_pointer,
        /// Frame pointer, for a backtrace.
        frame_pointer,
        /// RFLAGS.
        flags,
        /// The kernel's number of the thread, unique since boot.
        thread,
        /// RAX.
        rax,
        /// RBX.
        rbx,
        /// RCX.
        rcx,
        /// RDX.
        rdx,
        /// RSI.
        rsi,
        /// RDI.
        rdi,
    }
}

record! {
    /// State and counters of a task.
    TaskInfo {
        /// 0 alive, 1 dying, 2 dead.
        state,
        /// Quota in bytes.
        quota_bytes,
        /// Bytes of it in use, what was carved off for child tasks included.
        used_bytes,
        /// Handles open.
        handles,
        /// Threads alive.
        threads,
        /// CPU time of all its threads, ended ones included, in nanoseconds.
        cpu_time_ns,
        /// Largest priority among its threads, 0 to 63.
        priority,
        /// Physical address of the page-table root.
        root,
        /// Mappings.
        mappings,
        /// The kernel's number of the task, unique since boot.
        number,
    }
}

record! {
    /// State and counters of a thread.
    ThreadInfo {
        /// 0 stopped, 1 ready or running, 2 waiting, 3 faulted, 4 dead.
        state,
        /// Priority, 0 to 63.
        priority,
        /// Last CPU.
        cpu,
        /// CPUs it may run on, CPUs 0 to 63 (all ones: any).
        affinity,
        /// CPU time in nanoseconds.
        cpu_time_ns,
        /// Times it was switched to.
        switches,
        /// Times it was woken.
        wakes,
        /// Times it moved to another CPU.
        migrations,
        /// Instruction pointer.
        instruction_pointer,
        /// Stack pointer.
        stack_pointer,
        /// Frame pointer.
        frame_pointer,
        /// The kernel's number of the thread, unique since boot.
        number,
    }
}

record! {
    /// State and counters of the whole system.
    SystemInfo {
        /// Number of CPUs running.
        cpus,
        /// Frames of RAM that the kernel manages.
        frames_total,
        /// Frames free.
        frames_free,
        /// Frames in quarantine, waiting for DmaReset.
        frames_quarantined,
        /// Live tasks.
        tasks,
        /// Live threads.
        threads,
        /// Live endpoints.
        endpoints,
        /// Live badges.
        badges,
        /// Live notifications.
        notifications,
        /// Live memory objects.
        memories,
        /// Live mappings.
        mappings,
        /// Live reply objects.
        replies,
        /// Live interrupt objects.
        interrupts,
        /// Live I/O port ranges.
        io_ports,
        /// Open handles in all tasks.
        handles,
        /// Time since boot in nanoseconds.
        uptime_ns,
        /// Dying objects whose memory is not reclaimed yet.
        reclaiming,
        /// Bytes of kernel objects' slabs.
        slab_bytes,
    }
}

record! {
    /// Counters of one CPU.
    CpuInfo {
        /// 1 while it runs threads or idles, 0 if it never came up.
        online,
        /// Local APIC identifier.
        apic,
        /// Switches from one thread to another.
        switches,
        /// Threads woken by this CPU.
        wakes,
        /// Threads taken from another CPU's queue.
        steals,
        /// Threads that came from another CPU.
        migrations,
        /// Inter-processor interrupts sent.
        ipis,
        /// Threads in its run queue.
        queued,
        /// Time spent in threads, in nanoseconds.
        busy_ns,
        /// Device interrupts taken.
        interrupts,
        /// Timer interrupts taken.
        timer_interrupts,
        /// System calls.
        system_calls,
        /// Shootdown requests served.
        shootdowns,
    }
}

record! {
    /// The clock page, read-only in every task at [`crate::layout::CLOCK_PAGE`]. The sequence is odd
    /// while the kernel writes; read it before the other words and after the TSC.
    /// time = base_ns + ((tsc - base_tsc) * multiplier >> 32), as 128-bit product; base_ns before the base.
    ClockPage {
        /// Sequence number: even, and the same before and after, or read again.
        sequence,
        /// TSC at the base.
        base_tsc,
        /// Monotonic time at the base, in nanoseconds.
        base_ns,
        /// Nanoseconds per TSC tick, times 2^32.
        multiplier,
        /// Wall time minus monotonic time, in nanoseconds; 0 where there is no wall clock.
        wall_offset_ns,
        /// 1 where ring 3 may use the TSC, 0 where it must use ClockRead.
        usable,
    }
}

record! {
    /// The machine's power registers, as the firmware's FADT tells of them (ACPI Specification 6.5,
    /// section 5.2.9). All are I/O ports; 0 stands for one that is not there.
    PowerInfo {
        /// First port of the PM1a event block.
        pm1a_event,
        /// First port of the PM1b event block.
        pm1b_event,
        /// Ports of each of the two.
        pm1_event_ports,
        /// Port of the PM1a control register.
        pm1a_control,
        /// First port of the first general-purpose event block.
        general_0,
        /// Its ports.
        general_0_ports,
        /// First port of the second general-purpose event block.
        general_1,
        /// Its ports.
        general_1_ports,
        /// Port that switches ACPI mode on.
        enable_port,
        /// What to write to it.
        enable_value,
        /// I/O APIC input of the events' interrupt.
        line,
        /// 1 where it is level-triggered.
        line_level,
        /// 1 where it is active low.
        line_active_low,
        /// 1 where the power button is among the PM1 events.
        fixed_button,
    }
}

/// First argument of InterruptCreate for a message-signalled interrupt.
pub const INTERRUPT_MESSAGE: u64 = u64::MAX;

/// What SystemInspect writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum SystemSelector {
    /// [`SystemInfo`].
    System = 0,
    /// [`CpuInfo`] of one CPU.
    Cpu = 1,
    /// The kernel's command line, as bytes.
    CommandLine = 2,
    /// Name of the clock source, as bytes.
    ClockSource = 3,
    /// Physical address of the ACPI root pointer, 0 where there is none, as a quadword.
    AcpiRoot = 4,
    /// [`PowerInfo`].
    Power = 5,
}

/// What ThreadSet sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum ThreadParameter {
    /// Starts a thread that was never started; the value is not used.
    Start = 0,
    /// Priority, 0 (least) to 63.
    Priority = 1,
    /// CPUs it may run on, a bit each for CPUs 0 to 63; not 0. All ones: any CPU.
    Affinity = 2,
}

#[cfg(test)]
mod tests {
    use super::{ClockPage, FaultMessage};

    #[test]
    fn records_round_trip_through_words() {
        let mut words = [0; FaultMessage::WORDS];
        for (position, word) in words.iter_mut().enumerate() {
            *word = position as u64 + 1;
        }
        let message = FaultMessage::from_words(&words);
        assert_eq!((message.vector, message.rdi), (1, 14));
        assert_eq!(message.to_words(), words);
        assert_eq!(ClockPage::FIELDS[0], "sequence");
    }
}
