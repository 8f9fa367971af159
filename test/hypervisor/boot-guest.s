# The whole guest that the driver's tests boot: one boot sector, up in a blink. It counts. Each round it checks that all of
# a 64 KiB stretch of memory holds the count (M on the serial line when not) and that the last sector it wrote holds it too
# (D when not, E on a disk error); then it raises the count, fills the stretch, writes the next sector, and prints the count.
# A memory image torn in time, or a disk that does not go with it, therefore shows within one round. A round takes 10 ms of
# a core under TCG, and tests have many guests: nine a second are enough.
# boot-guest.ts holds its bytes:  as --32 boot-guest.s -o g.o && ld -m elf_i386 -Ttext 0x7c00 --oformat binary g.o -o g.bin
    .code16
    .globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x7c00, %sp
    movb %dl, drive
    movw $0x2000, %ax
    movw %ax, %es
    cld
    sti
    movl %ds:zero, %eax
    movl %eax, 0x8000
    call fill
    movw $0x8000, offset
    movb $0x43, %ah
    call disk
round:
    hlt
    hlt
    movl 0x8000, %eax
    xorw %di, %di
    movw $0x4000, %cx
    repe scasl
    je memory_good
    movb $'M', %al
    call put
memory_good:
    movw $0x8200, offset
    movb $0x42, %ah
    call disk
    movl 0x8200, %eax
    cmpl 0x8000, %eax
    je disk_good
    movb $'D', %al
    call put
disk_good:
    incl 0x8000
    call fill
    movw $0x8000, offset
    movb $0x43, %ah
    call disk
    movl 0x8000, %ebx
    movw $8, %cx
digit:
    roll $4, %ebx
    movb %bl, %al
    andb $15, %al
    addb $'0', %al
    cmpb $'9', %al
    jbe show
    addb $39, %al
show:
    call put
    loop digit
    movb $'\n', %al
    call put
    jmp round

# The stretch at 0x20000, all of it, becomes the count.
fill:
    movl 0x8000, %eax
    xorw %di, %di
    movw $0x4000, %cx
    rep stosl
    ret

# BIOS disk call %ah (0x42 read, 0x43 write) on sector 1 + count % 64.
disk:
    movl 0x8000, %ecx
    andl $63, %ecx
    incl %ecx
    movl %ecx, sector
    xorb %al, %al
    movb drive, %dl
    movw $packet, %si
    pushw %es
    int $0x13
    popw %es
    jnc done
    movb $'E', %al
    call put
done:
    ret

put:
    pushw %ax
    movw $0x3fd, %dx
busy:
    inb %dx, %al
    testb $0x20, %al
    jz busy
    popw %ax
    movw $0x3f8, %dx
    outb %al, %dx
    ret

drive:  .byte 0
    .balign 4
packet: .byte 16, 0
    .word 1
offset: .word 0
    .word 0
sector: .long 0
zero:   .long 0
    .org 510
    .word 0xaa55
