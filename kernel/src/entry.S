// From ring 3 into the kernel and back.
//
// The state of the interrupted thread goes straight into its `Registers` (kernel_core::registers), of a
// system call only what it keeps: arguments, FS and GS base are stored by Rust code where they have to be;
// RSP0 of the task state segment is the end of that structure. Interrupts are off throughout. rax at
// `resume` is the address of the `Registers` to load.
//
// {END} is the size of `Registers`; {RIP} and so on are offsets into it.

// Code between these two is overwritten with no-operations on a processor without the feature.
.macro only_if
700:
.endm
.macro end_only_if feature
702:
    .pushsection .patches, "a"
    .quad 700b
    .long 702b - 700b
    .long \feature
    .popsection
.endm

.section .text.entry, "ax"

// How many of the system calls with the lowest numbers have a function of their own, a power of two.
.set SHORT_CALLS, 16

// SYSCALL: rcx is the thread's rip, r11 its rflags; the rest is as it was in ring 3.
.balign 64
.global syscall_entry
syscall_entry:
    swapgs
    mov gs:[{USER_STACK}], rsp
    mov rsp, gs:[{REGISTERS_END}]
    mov [rsp - {END} + {RIP}], rcx
    mov [rsp - {END} + {RFLAGS}], r11
    mov rcx, gs:[{USER_STACK}]
    mov [rsp - {END} + {RSP}], rcx
    mov [rsp - {END} + {R12}], r12
    mov [rsp - {END} + {R13}], r13
    mov [rsp - {END} + {R14}], r14
    mov [rsp - {END} + {R15}], r15
    mov [rsp - {END} + {RBX}], rbx
    mov [rsp - {END} + {RBP}], rbp
    mov rsp, gs:[{KERNEL_STACK}]
    xor ebp, ebp                            // the chain of frame pointers ends here
    // The arguments are in the registers of the C convention (System V ABI, AMD64 supplement, 3.2.3),
    // but for the last one, which goes to the place that SYSCALL has taken.
    mov rcx, r10
    // Each of these goes on at one of the three ways back.
    cmp rax, SHORT_CALLS - 1
    ja 1f
    and eax, SHORT_CALLS - 1                // also where the processor guesses that it is not above
    call [short_calls + rax * 8]
long_call:
    add rsp, 8                              // not to come back to
1:  cmp rax, {SIGNAL_RECEIVE}
    je 2f
    mov r11, gs:[{REGISTERS_END}]
    mov [r11 - {END} + {RAX}], rax
    call {slow_system_call}
2:  call {signal_receive}
    ud2

// The functions of the system calls with the lowest numbers.
.pushsection .rodata, "a"
.balign 64
short_calls:
.set number, 0
.rept SHORT_CALLS
    .if number == {CALL}
    .quad {call}
    .elseif number == {REPLY_RECEIVE}
    .quad {reply_receive}
    .elseif number == {RECEIVE}
    .quad {receive}
    .elseif number == {SIGNAL}
    .quad {signal}
    .elseif number == {WAIT}
    .quad {wait}
    .elseif number == {YIELD}
    .quad {yield_now}
    .elseif number == {HANDLE_INSPECT}
    .quad {handle_inspect}
    .else
    .quad long_call
    .endif
    .set number, number + 1
.endr
.popsection

// Back to ring 3. Everything that is loaded last is in reach of an NMI or a machine check only,
// which have stacks of their own. The ways back from a short system call are in exit.rs.

// To a thread that came by whatever way; everything is in its `Registers`.
resume:
    only_if
    mov rcx, [rax + {FS_BASE}]
    wrfsbase rcx
    mov rcx, [rax + {GS_BASE}]
    end_only_if {FSGSBASE}
    cmp qword ptr [rax + {ENTRY}], 0
    mov rdi, [rax + {RDI}]
    mov rsi, [rax + {RSI}]
    mov rdx, [rax + {RDX}]
    mov r8, [rax + {R8}]
    mov r9, [rax + {R9}]
    mov r10, [rax + {R10}]
    mov r12, [rax + {R12}]
    mov r13, [rax + {R13}]
    mov r14, [rax + {R14}]
    mov r15, [rax + {R15}]
    mov rbx, [rax + {RBX}]
    mov rbp, [rax + {RBP}]
    swapgs
    only_if
    wrgsbase rcx
    end_only_if {FSGSBASE}
    jne 2f
    mov rcx, [rax + {RIP}]
    mov r11, [rax + {RFLAGS}]
    mov rsp, [rax + {RSP}]
    mov rax, [rax + {RAX}]
    sysretq
2:  mov qword ptr [rax + {ENTRY}], 0          // until the next entry that is no system call
    mov rcx, [rax + {RCX}]
    mov r11, [rax + {R11}]
    // The only selectors that ring 3 has.
    mov qword ptr [rax + {CS}], {USER_CODE}
    mov qword ptr [rax + {SS}], {USER_DATA}
    lea rsp, [rax + {RIP}]
    mov rax, [rax + {RAX}]
    iretq

// Interrupts and exceptions. The CPU has pushed ss, rsp, rflags, cs, rip (and an error code): from
// ring 3 to the end of the thread's registers. Each stub is 16 bytes long.
.balign 16
.global stubs
stubs:
.set vector, 0
.rept 256
    .balign 16
    // Exceptions with an error code (Intel SDM volume 3A, table 6-1).
    .if vector != 8 && (vector < 10 || vector > 14) && vector != 17 && vector != 21 && vector != 29 && vector != 30
    push 0
    .endif
    push rax
    mov eax, offset vector
    .if vector == {NMI}
    jmp non_maskable
    .elseif vector == {DEBUG}
    jmp debug
    .elseif vector == {DOUBLE_FAULT} || vector == {MACHINE_CHECK}
    jmp fatal
    .else
    jmp trap
    .endif
    .set vector, vector + 1
.endr

.balign 16
trap:
    only_if
    clac                                    // an interrupt gate leaves AC as ring 3 had it
    end_only_if {SMAP}
    cld
    test byte ptr [rsp + 24], 3             // ring of the saved cs
    jz trap_in_ring_0
    swapgs
trap_in_ring_3:
    push rcx
    push r11
    push r10
    push r9
    push r8
    push rdx
    push rsi
    push rdi
    push rbp
    push rbx
    push r15
    push r14
    push r13
    push r12
    push 1                                  // entry
    only_if
    swapgs
    rdgsbase rcx
    swapgs
    push rcx
    rdfsbase rcx
    push rcx
    end_only_if {FSGSBASE}
dispatch:
    mov edi, eax
    mov rsp, gs:[{KERNEL_STACK}]
    xor ebp, ebp
    call {trap}                             // goes on at one of the ways back
    ud2

trap_in_ring_0:
    // An interrupt can only come in the idle loop, whose frame is of no more use.
    cmp eax, {FIRST_INTERRUPT}
    jae dispatch
    // falls through

// An exception that the kernel cannot survive: all registers are for its last words. A double fault and a machine
// check come here as they are, with the flags of whatever they interrupted.
fatal:
    only_if
    clac
    end_only_if {SMAP}
    cld
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov edi, eax
    mov rsi, rsp
    and rsp, -16
    call {fatal_exception}
    ud2

// A debug exception has a stack of its own. From ring 3 it goes on as any other, once its frame has
// been moved to where RSP0 would have put it. In ring 0 it can only be a leftover of ring 3's single
// step, and goes away.
debug:
    test byte ptr [rsp + 24], 3
    jz 3f
    only_if
    clac
    end_only_if {SMAP}
    cld
    swapgs
    mov rax, gs:[{REGISTERS_END}]
    pop qword ptr [rax - {END} + {RAX}]
    pop qword ptr [rax - {END} + {ERROR_CODE}]
    pop qword ptr [rax - {END} + {RIP}]
    pop qword ptr [rax - {END} + {CS}]
    pop qword ptr [rax - {END} + {RFLAGS}]
    pop qword ptr [rax - {END} + {RSP}]
    pop qword ptr [rax - {END} + {SS}]
    lea rsp, [rax - {END} + {RAX}]
    mov eax, {DEBUG}
    jmp trap_in_ring_3
3:  and dword ptr [rsp + 32], ~0x100        // TF
    pop rax
    add rsp, 8
    iretq

// An NMI may come between any two instructions, whichever GS base is loaded: the handler uses none.
non_maskable:
    push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    cld
    sub rsp, 8
    call {non_maskable}
    add rsp, 8
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rax
    add rsp, 8
    iretq
.text
