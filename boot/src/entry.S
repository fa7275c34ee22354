// The front doors: one 32-bit entry for both kinds of loader, and the climb to 64-bit mode.
//
// State at entry (Multiboot2 Specification 2.0, section 3.3; Xen public/arch-x86/hvm/start_info.h):
// 32-bit protected mode with flat segments, paging off, interrupts off, no stack.
// multiboot2: eax = 0x36d76289, ebx = boot information. PVH: ebx = hvm_start_info.

.set MULTIBOOT2_HEADER_MAGIC, 0xe85250d6

.section .boot.header, "a"
.balign 8
multiboot2_header:
    .long MULTIBOOT2_HEADER_MAGIC
    .long 0                                 // architecture: 32-bit protected mode of i386
    .long multiboot2_header_end - multiboot2_header
    .long -(MULTIBOOT2_HEADER_MAGIC + (multiboot2_header_end - multiboot2_header))
    .word 6, 0                              // tag: modules begin on pages
    .long 8
    .word 0, 0                              // tag: end
    .long 8
multiboot2_header_end:

// XEN_ELFNOTE_PHYS32_ENTRY (Xen public/elfnote.h): the physical address of the 32-bit entry.
.section .note.pvh, "a", @note
.balign 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad _start

.section .boot.text, "ax"
.code32
.global _start
_start:
    cli
    cld
    mov esp, offset boot_stack_end + {LOW}
    mov ebp, eax                            // the loader's magic
    mov esi, ebx                            // its information

    mov eax, 0x80000000                     // largest extended CPUID function
    cpuid
    cmp eax, 0x80000001
    jb no_long_mode
    mov eax, 0x80000001
    cpuid
    bt edx, 29                              // LM
    jnc no_long_mode

    // 4 GiB by 2 MiB pages: present, writable, page size.
    mov edi, offset early_directories + {LOW}
    mov eax, 0x83
    mov ecx, 4 * 512
6:  mov [edi], eax
    add edi, 8
    add eax, 0x200000
    loop 6b
    mov edi, offset early_pointers + {LOW}
    mov eax, offset early_directories + {LOW} + 3
    mov ecx, 4
2:  mov [edi], eax
    add edi, 8
    add eax, 0x1000
    loop 2b
    // The kernel's base is entry 511 of the root and 510 of its pointer table: one table serves both.
    mov edi, offset early_pointers + {LOW}
    mov eax, [edi]
    mov [edi + 510 * 8], eax
    mov eax, [edi + 8]
    mov [edi + 511 * 8], eax
    lea eax, [edi + 3]
    mov edi, offset early_root + {LOW}
    mov [edi], eax
    mov [edi + 511 * 8], eax

    mov cr3, edi
    mov eax, cr4
    or eax, 1 << 5                          // PAE
    mov cr4, eax
    mov ecx, 0xc0000080                     // EFER
    rdmsr
    or eax, 1 << 8                          // LME
    wrmsr
    mov eax, cr0
    or eax, 0x80010001                      // PG, WP, PE
    mov cr0, eax

    lgdt [early_gdt_pointer]
    mov eax, offset long_mode
    push 8
    push eax
    retf

no_long_mode:
    mov esi, offset no_long_mode_text
    mov edx, 0x3f8                          // COM1
3:  lodsb
    test al, al
    jz 4f
    out dx, al
    jmp 3b
4:  hlt
    jmp 4b

no_long_mode_text:
    .asciz "uzura: this processor has no 64-bit mode; choose another CPU model\r\n"

.balign 8
early_gdt:
    .quad 0
    .quad 0x00209a0000000000                // 64-bit code, ring 0
early_gdt_pointer:
    .word . - early_gdt - 1
    .long early_gdt

.code64
long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov edi, ebp
    mov esi, esi
    movabs rax, offset high_half
    jmp rax

.section .text.entry, "ax"
high_half:
    movabs rsp, offset boot_stack_end
    xor ebp, ebp                            // the chain of frame pointers ends here
    call kernel_start
    ud2

// A starting processor, on the early page tables: rbx argument, rcx root, rdx stack.
start_ap_high:
    mov rdi, rcx
    mov ecx, 0xc0000080                     // EFER
    mov rsi, rdx
    rdmsr
    or eax, 1 << 11                         // NXE: the kernel's tables use it
    wrmsr
    mov cr3, rdi
    mov rsp, rsi
    mov rdi, rbx
    xor ebp, ebp
    call kernel_start_ap
    ud2

// The trampoline: copied to a page below 1 MiB, where a start-up interrupt begins in real mode with
// cs = page / 16, ip = 0. Straight from real mode to 64-bit mode (AMD APM volume 2, section 14.6).
.section .rodata.trampoline, "a"
.balign 16
.set GDT, trampoline_gdt - trampoline
.set GDT_POINTER, trampoline_gdt_pointer - trampoline
.set GDT_BASE, trampoline_gdt_base - trampoline
.set TARGET, trampoline_target - trampoline
.set LONG, trampoline_long - trampoline
.global trampoline
trampoline:
.code16
    cli
    cld
    mov ax, cs
    mov ds, ax
    movzx ebx, ax
    shl ebx, 4
    // Addresses that depend on where the page is: every processor stores the same.
    lea eax, [ebx + GDT]
    mov ds:[GDT_BASE], eax
    lea eax, [ebx + LONG]
    mov ds:[TARGET], eax
    lgdt ds:[GDT_POINTER]

    mov eax, ds:[{PARAMETERS} + {EARLY_ROOT}]
    mov cr3, eax
    mov eax, 1 << 5                         // PAE
    mov cr4, eax
    mov ecx, 0xc0000080                     // EFER
    rdmsr
    or eax, 1 << 8                          // LME
    wrmsr
    mov eax, 0x80010011                     // PG, WP, ET, PE; caches on
    mov cr0, eax
    .byte 0x66, 0xea                        // far jump, 32-bit offset
trampoline_target:
    .long 0
    .word 8

.balign 8
trampoline_gdt:
    .quad 0
    .quad 0x00209a0000000000
trampoline_gdt_pointer:
    .word 15
trampoline_gdt_base:
    .long 0

.code64
trampoline_long:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov edi, ebx
    xor ebx, ebx
    xchg rbx, [rdi + {PARAMETERS} + {ARGUMENT}]
    test rbx, rbx
    jz 5f
    mov rdx, [rdi + {PARAMETERS} + {STACK}]
    mov rcx, [rdi + {PARAMETERS} + {ROOT}]
    movabs rax, offset start_ap_high
    jmp rax
5:  hlt
    jmp 5b
.global trampoline_end
trampoline_end:

.section .bss.early, "aw", @nobits
.balign 4096
.global early_root
early_root: .skip 4096
early_pointers: .skip 4096
early_directories: .skip 4 * 4096
boot_stack: .skip {STACK_BYTES}
boot_stack_end:
.text
