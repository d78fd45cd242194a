/* What a live trial's gap is measured with: a static program that answers every HTTP request on a port with 200.
 *
 * Its only argument is the port. It serves one connection after the other, and ends at SIGTERM: as the first process of
 * its namespace it would not otherwise hear it. No C library, so that nothing of its own makes a start longer. x86_64
 * only, as is the board that is measured.
 */

typedef unsigned long u64;

enum {
    READ = 0, WRITE = 1, CLOSE = 3, SIGACTION = 13, SOCKET = 41, ACCEPT = 43, BIND = 49, LISTEN = 50, SETSOCKOPT = 54,
    EXIT = 231,
    INET = 2, STREAM = 1, SOCKET_LEVEL = 1, REUSE_ADDRESS = 2, TERMINATE = 15, RESTORER = 0x04000000
};

static u64 call(u64 number, u64 a, u64 b, u64 c, u64 d, u64 e)
{
    u64 result;
    register u64 fourth __asm__("r10") = d;
    register u64 fifth __asm__("r8") = e;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth)
                     : "rcx", "r11", "memory");
    return result;
}

static void leave(int status)
{
    for (;;)
        call(EXIT, (u64)status, 0, 0, 0, 0);
}

/* It never returns, so that no restorer is needed. */
static void terminated(void)
{
    leave(0);
}

__attribute__((used)) void begin(u64 *stack)
{
    static const char answer[] = "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";
    struct { void (*handler)(void); u64 flags; void (*restorer)(void); u64 mask; } action =
        { terminated, RESTORER, terminated, 0 };
    struct { unsigned short family; unsigned char port[2]; unsigned char rest[12]; } address = { INET, { 0, 0 }, { 0 } };
    char **argv = (char **)(stack + 1);
    char request[1024];
    unsigned port = 0, one = 1;

    if (stack[0] < 2)
        leave(2);
    for (const char *digit = argv[1]; *digit >= '0' && *digit <= '9'; digit++)
        port = port * 10 + (unsigned)(*digit - '0');
    address.port[0] = (unsigned char)(port >> 8);
    address.port[1] = (unsigned char)port;
    call(SIGACTION, TERMINATE, (u64)&action, 0, sizeof action.mask, 0);
    u64 listener = call(SOCKET, INET, STREAM, 0, 0, 0);
    call(SETSOCKOPT, listener, SOCKET_LEVEL, REUSE_ADDRESS, (u64)&one, sizeof one);
    if (call(BIND, listener, (u64)&address, sizeof address, 0, 0) || call(LISTEN, listener, 64, 0, 0, 0))
        leave(1);
    for (;;) {
        u64 peer = call(ACCEPT, listener, 0, 0, 0, 0);
        if (peer > 0xfffff)
            continue;
        /* A request of ours comes in one piece. */
        call(READ, peer, (u64)request, sizeof request, 0, 0);
        call(WRITE, peer, (u64)answer, sizeof answer - 1, 0, 0);
        call(CLOSE, peer, 0, 0, 0, 0);
    }
}

__asm__(".globl _start\n_start:\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
