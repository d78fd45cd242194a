# Reads what `nm` says of the objects of a link, and writes a linker script that puts functions beside those that run when
# they do. The kernel maps 64 KiB around each page of code that a process touches: what lies between functions that run, and
# does not, is charged to every process.
#
# A function's place is that of the crate and module that it is defined in, the first path of its name (Rust's v0 mangling,
# RFC 2603: `Cs<hash>_<length><crate>`, then `<length><module>` …). What is nobody's here, the standard library above all,
# stays where it is.

# The identifier at the front of `rest`, which is then what comes behind it.
function identifier(    length_, word) {
    if (!match(rest, /^[0-9]+/)) return ""
    length_ = substr(rest, 1, RLENGTH) + 0
    rest = substr(rest, RLENGTH + 1)
    # Between a length and a name that begins with a digit stands a line.
    if (substr(rest, 1, 1) == "_") rest = substr(rest, 2)
    word = substr(rest, 1, length_)
    rest = substr(rest, length_ + 1)
    return word
}

BEGIN {
    # Only the agent calls these.
    split("kedge_agent kedge_api rustls rustls_pki_types webpki ring untrusted httparse hpke", names, " ")
    for (i in names) is_agent[names[i]] = 1
}

$2 ~ /^[tT]$/ && match($3, /Cs[0-9A-Za-z]+_[0-9]/) {
    rest = substr($3, RSTART + RLENGTH - 1)
    crate = identifier()
    module = identifier()
    part = identifier()
    if (crate in is_agent || (crate == "kedge_init" && module == "helpers" && part == "agent")) {
        agent = agent " *(.text." $3 ")\n"
    } else if ((crate == "kedge_store" && (module == "staging" || module == "collect")) || crate == "lexopt" || (crate == "kedge_init" && (module == "ctl" || (module == "helpers" && (part == "stage" || part == "stick"))))) {
        # Only while an update comes, a disk is plugged in, or when somebody asks by a command.
        seldom = seldom " *(.text." $3 ")\n"
    }
}

END {
    # Assembler and C of `ring` have one section each file.
    # Nothing unwinds: what assembler and C bring of tables for that is 16 kB that nobody reads. Nor does a debugger read where
    # MIPS's functions keep their registers (`.pdr`): 197 kB, which stripping leaves in the file.
    printf "SECTIONS {\n /DISCARD/ : { *(.eh_frame) *(.ARM.exidx*) *(.ARM.extab*) *(.pdr) *(.mdebug*) }\n .text.seldom : {\n%s }\n .text.agent : {\n%s *libring*(.text .text.*)\n }\n}\nINSERT AFTER .text;\n", seldom, agent
}
