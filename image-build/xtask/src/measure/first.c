/* What boots are measured with: static programs that read the clock before anything else. What they stand on is in call.h.
 *
 * FIRST is a container's only process: it says when it began, and waits for SIGTERM. The first process of a namespace
 * hears only signals that it handles or, as here, holds back: else every shutdown would last until it is killed.
 * STAMP is what the kernel starts in place of /init: it leaves the time in the kernel's log (the node /kmsg is beside it,
 * as nothing is mounted yet) and becomes /init. So the time is that of the exec itself, by the same clock.
 * BARE is all that a system needs to be one: in place of /init, it says that it runs, and does nothing for ever.
 */

enum { MONOTONIC = 1, WRITE_ONLY = 1, TERMINATE = 15, BLOCK_MIPS = 1, BLOCK = 0, THIS_FOLDER = -100 };

struct time { unsigned long long seconds, nanoseconds; };

static struct time now(void)
{
    struct time time = { 0, 0 };
    call(CLOCK_GETTIME, MONOTONIC, (word)&time, 0, 0);
    return time;
}

/* Digits by subtraction: small processors would call a library to divide. */
static char *digits(char *to, unsigned rest)
{
    static const unsigned powers[] = { 100000000, 10000000, 1000000, 100000, 10000, 1000, 100, 10, 1 };
    for (unsigned place = 0; place < sizeof powers / sizeof *powers; place++) {
        char digit = '0';
        for (; rest >= powers[place]; rest -= powers[place])
            digit++;
        *to++ = digit;
    }
    return to;
}

/* Writes "<prefix><nanoseconds> ns" and a newline; the number has eighteen digits. */
static void say(word file, const char *prefix, struct time time)
{
    char text[96];
    char *end = text;
    while (*prefix)
        *end++ = *prefix++;
    end = digits(end, (unsigned)time.seconds);
    end = digits(end, (unsigned)time.nanoseconds);
    *end++ = ' ';
    *end++ = 'n';
    *end++ = 's';
    *end++ = '\n';
    call(WRITE, file, (word)text, (word)(end - text), 0);
}

/* Until SIGTERM. MIPS has signals up to 128 and another number for `block`. */
static void wait_for_the_end(void)
{
#if defined(__mips__)
    unsigned long mask[4] = { 1ul << (TERMINATE - 1), 0, 0, 0 };
    const word block = BLOCK_MIPS;
#else
    unsigned long long mask[1] = { 1ull << (TERMINATE - 1) };
    const word block = BLOCK;
#endif
    call(SIGPROCMASK, block, (word)mask, 0, sizeof mask);
    while (call(SIGTIMEDWAIT, (word)mask, 0, 0, sizeof mask) != TERMINATE)
        ;
    for (;;)
        call(EXIT, 0, 0, 0, 0);
}

__attribute__((used)) void begin(word *stack)
{
    struct time time = now();
#if defined(STAMP)
    word arguments = stack[0];
    char **argv = (char **)(stack + 1);
    /* Level 7 stays off the console, which would take its time. */
    word file = call(OPENAT, (word)THIS_FOLDER, (word) "/kmsg", WRITE_ONLY, 0);
    say(file, "<7>measure: exec of /init at ", time);
    call(CLOSE, file, 0, 0, 0);
    argv[0] = "/init";
    call(EXECVE, (word) "/init", (word)argv, (word)(argv + arguments + 1), 0);
#elif defined(BARE)
    (void)stack;
    /* Level 0 is shown whatever the console leaves out. */
    word file = call(OPENAT, (word)THIS_FOLDER, (word) "/kmsg", WRITE_ONLY, 0);
    say(file, "<0>measure: a bare init runs at ", time);
#else
    (void)stack;
    say(1, "measure: first instruction at ", time);
#endif
    wait_for_the_end();
}
