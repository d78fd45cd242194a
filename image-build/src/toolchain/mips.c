/* In place of two functions of musl's, which look a symbol up at run time: a static program has none to look up, and musl's
 * own say so, too. Theirs are in assembler that finds the table of addresses by $25, where position-independent callers leave
 * the function's address. Zig compiles musl position-dependent, so the linker sees no such need, has them called directly, and
 * they jump to wherever $25 leads. rustix and Rust's standard library ask them for calls that an older C library has not, and
 * make the system call where the answer is null. The second is what `dlsym` is where the time has 64 bits. */
void *dlsym(void *library, const char *name) { (void)library; (void)name; return 0; }
void *__dlsym_time64(void *library, const char *name) { (void)library; (void)name; return 0; }
