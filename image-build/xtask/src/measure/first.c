/* What boots are measured with: a static program that reads the clock before anything else.
 *
 * Without STAMP it is a container's only process: it says when it began, and waits for SIGTERM, which the first
 * process of a namespace hears only if it asks to: else every shutdown would last until it is killed.
 * With STAMP it is what the kernel starts in place of /init: it leaves the time in the kernel's log (the node /kmsg is
 * beside it, as nothing is mounted yet) and becomes /init. So the time is that of the exec itself, by the same clock.
 *
 * No C library: nothing runs before begin(). x86_64 only, as is the board that is measured.
 */

typedef unsigned long u64;

enum {
    WRITE = 1, OPEN = 2, CLOSE = 3, SIGACTION = 13, PAUSE = 34, EXECVE = 59, CLOCK_GETTIME = 228, EXIT = 231,
    MONOTONIC = 1, WRITE_ONLY = 1, TERMINATE = 15, RESTORER = 0x04000000
};

static u64 call(u64 number, u64 first, u64 second, u64 third)
{
    u64 result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(first), "S"(second), "d"(third)
                     : "rcx", "r11", "memory");
    return result;
}

static u64 now(void)
{
    struct { u64 seconds, nanoseconds; } time;
    call(CLOCK_GETTIME, MONOTONIC, (u64)&time, 0);
    return time.seconds * 1000000000 + time.nanoseconds;
}

/* Writes "<prefix><number> ns" and a newline. */
static void say(u64 file, const char *prefix, u64 number)
{
    char text[96];
    u64 length = 0, digits = 1;
    while (prefix[length]) {
        text[length] = prefix[length];
        length++;
    }
    for (u64 rest = number; rest > 9; rest /= 10)
        digits++;
    for (u64 at = length + digits; at > length; number /= 10)
        text[--at] = (char)('0' + number % 10);
    length += digits;
    text[length++] = ' ';
    text[length++] = 'n';
    text[length++] = 's';
    text[length++] = '\n';
    call(WRITE, file, (u64)text, length);
}

#ifndef STAMP
/* It never returns, so that no restorer is needed. */
static void terminated(void)
{
    for (;;)
        call(EXIT, 0, 0, 0);
}

static void hear_terminate(void)
{
    struct { void (*handler)(void); u64 flags; void (*restorer)(void); u64 mask; } action =
        { terminated, RESTORER, terminated, 0 };
    /* The fourth argument is the size of a mask. */
    register u64 size __asm__("r10") = sizeof action.mask;
    u64 result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(SIGACTION), "D"(TERMINATE), "S"(&action), "d"(0), "r"(size)
                     : "rcx", "r11", "memory");
}
#endif

__attribute__((used)) void begin(u64 *stack)
{
    u64 time = now();
#ifdef STAMP
    u64 arguments = stack[0];
    char **argv = (char **)(stack + 1);
    /* Level 7 stays off the console, which would take its time. */
    u64 file = call(OPEN, (u64) "/kmsg", WRITE_ONLY, 0);
    say(file, "<7>measure: exec of /init at ", time);
    call(CLOSE, file, 0, 0);
    argv[0] = "/init";
    call(EXECVE, (u64) "/init", (u64)argv, (u64)(argv + arguments + 1));
#else
    (void)stack;
    say(1, "measure: first instruction at ", time);
    hear_terminate();
#endif
    for (;;)
        call(PAUSE, 0, 0, 0);
}

__asm__(".globl _start\n_start:\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
