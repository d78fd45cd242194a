//! What a container manager hands to the OCI command: `config.json`, and the filter of system calls in it.

use kedge_oci::config::Spec;
use kedge_oci::plan::Plan;
use kedge_oci_seccomp::{MAX_INSTRUCTIONS, compile};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// Classes of classic BPF (`linux/bpf_common.h`) in the lowest three bits, and the one jump that is not conditional.
const CLASS: u16 = 7;
const JUMP: u16 = 5;
const RETURN: u16 = 6;
const ALWAYS: u16 = 0x05;

/// Whatever is accepted is planned or refused; a plan asks for nothing outside of what it names.
pub(crate) fn config(bytes: &[u8]) {
    let Ok(spec) = Spec::parse(bytes) else {
        return;
    };
    let Ok(plan) = Plan::new("fuzz", &spec, Path::new("/bundle")) else {
        return;
    };
    let texts = plan.masked.iter().chain(&plan.read_only);
    let texts = texts.chain(plan.devices.iter().map(|device| &device.path));
    let paths = texts.map(|text| Path::new(OsStr::from_bytes(text.to_bytes())));
    let settings = plan.settings.iter().map(|(path, _)| Path::new(path));
    for path in paths.chain(settings).chain([plan.cgroup.as_path()]) {
        let up = path.components().any(|part| part == Component::ParentDir);
        assert!(!up, "{} leads out", path.display());
    }
}

/// A filter that is made is one that the kernel's own check takes: bounded, forward, and it ends
/// (`bpf_check_classic`, Linux `net/core/filter.c`).
pub(crate) fn seccomp(bytes: &[u8]) {
    let Ok(seccomp) = serde_json::from_slice(bytes) else {
        return;
    };
    let Ok(compiled) = compile(&seccomp) else {
        return;
    };
    let code = &compiled.code;
    assert!(!code.is_empty() && code.len() <= MAX_INSTRUCTIONS);
    for (at, one) in code.iter().enumerate() {
        let rest = code.len() - at - 1;
        match one.code & CLASS {
            JUMP if one.code == ALWAYS => assert!((one.k as usize) < rest),
            JUMP => assert!(usize::from(one.jt.max(one.jf)) < rest),
            _ => {}
        }
    }
    assert_eq!(code.last().map(|one| one.code & CLASS), Some(RETURN));
}
