/* System calls without a C library, for the programs that boots are measured with: their numbers (Linux'
 * `arch/.../syscall.tbl`), how each processor makes them (syscall(2)), and where a program begins. */

#if defined(__x86_64__)
enum {
    WRITE = 1, CLOSE = 3, SIGPROCMASK = 14, EXECVE = 59, SIGTIMEDWAIT = 128, CLOCK_GETTIME = 228, EXIT = 231, OPENAT = 257
};
#elif defined(__aarch64__) || defined(__riscv)
enum {
    OPENAT = 56, CLOSE = 57, WRITE = 64, EXIT = 94, CLOCK_GETTIME = 113, SIGPROCMASK = 135, SIGTIMEDWAIT = 137, EXECVE = 221
};
#elif defined(__arm__)
/* clock_gettime64, whose seconds have 64 bits. */
enum {
    WRITE = 4, CLOSE = 6, EXECVE = 11, SIGPROCMASK = 175, SIGTIMEDWAIT = 177, EXIT = 248, OPENAT = 322, CLOCK_GETTIME = 403
};
#elif defined(__mips__)
enum {
    WRITE = 4004, CLOSE = 4006, EXECVE = 4011, SIGPROCMASK = 4195, SIGTIMEDWAIT = 4197, EXIT = 4246, OPENAT = 4288,
    CLOCK_GETTIME = 4403
};
#else
#error "no system calls are known for this processor"
#endif

/* As wide as a register. */
typedef unsigned long word;

static word call(word number, word first, word second, word third, word fourth)
{
#if defined(__x86_64__)
    word result;
    register word r10 __asm__("r10") = fourth;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(first), "S"(second), "d"(third), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register word x8 __asm__("x8") = number, x0 __asm__("x0") = first, x1 __asm__("x1") = second;
    register word x2 __asm__("x2") = third, x3 __asm__("x3") = fourth;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
#elif defined(__riscv)
    register word a7 __asm__("a7") = number, a0 __asm__("a0") = first, a1 __asm__("a1") = second;
    register word a2 __asm__("a2") = third, a3 __asm__("a3") = fourth;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2), "r"(a3) : "memory");
    return a0;
#elif defined(__arm__)
    register word r7 __asm__("r7") = number, r0 __asm__("r0") = first, r1 __asm__("r1") = second;
    register word r2 __asm__("r2") = third, r3 __asm__("r3") = fourth;
    __asm__ volatile("svc #0" : "+r"(r0) : "r"(r7), "r"(r1), "r"(r2), "r"(r3) : "memory");
    return r0;
#elif defined(__mips__)
    register word v0 __asm__("$2") = number, a0 __asm__("$4") = first, a1 __asm__("$5") = second;
    register word a2 __asm__("$6") = third, a3 __asm__("$7") = fourth;
    __asm__ volatile("syscall" : "+r"(v0), "+r"(a3) : "r"(a0), "r"(a1), "r"(a2)
                     : "$1", "$3", "$8", "$9", "$10", "$11", "$12", "$13", "$14", "$15", "$24", "$25", "hi", "lo", "memory");
    return v0;
#endif
}

/* begin(the stack that the kernel made: the count of arguments, then they, then the environment). */
#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n mov x0, sp\n bl begin\n");
#elif defined(__riscv)
__asm__(".globl _start\n_start:\n mv a0, sp\n andi sp, sp, -16\n call begin\n");
#elif defined(__arm__)
__asm__(".arm\n.globl _start\n.type _start, %function\n_start:\n mov r0, sp\n bic sp, sp, #7\n bl begin\n");
#elif defined(__mips__)
/* 16 bytes of its caller's stack are the callee's for its arguments. */
__asm__(".set noreorder\n.globl __start\n.globl _start\n__start:\n_start:\n move $4, $sp\n addiu $sp, $sp, -32\n"
        " li $8, -8\n and $sp, $sp, $8\n jal begin\n nop\n.set reorder\n");
#endif
