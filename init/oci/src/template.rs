//! A `config.json` to begin with: a shell, with what every container should have and nothing more.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Writes it into a bundle that has none.
///
/// # Errors
/// There is one.
pub(crate) fn write(bundle: &Path) -> Result<()> {
    let path = bundle.join("config.json");
    let file = std::fs::File::create_new(&path);
    let mut file = file.with_context(|| format!("write {}", path.display()))?;
    file.write_all(serde_json::to_string_pretty(&document())?.as_bytes())?;
    Ok(file.write_all(b"\n")?)
}

/// The document.
pub(crate) fn document() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let kernel = ["nosuid", "noexec", "nodev"];
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": crate::state::VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "kedge",
        "mounts": [
            mount("/proc", "proc", &kernel),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &kernel),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"},
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                "/sys/devices/virtual/powercap",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Spec;
    use crate::plan::Plan;

    #[test]
    fn it_is_a_document_that_can_be_started() {
        let bundle = tempfile::tempdir().unwrap();
        write(bundle.path()).unwrap();
        let (spec, _) = Spec::load(bundle.path()).unwrap();
        let plan = Plan::new("one", &spec, bundle.path()).unwrap();
        assert_eq!(plan.root, bundle.path().join("rootfs"));
        assert_eq!(plan.mounts.len(), 7);
        let again = write(bundle.path()).unwrap_err();
        assert!(format!("{again:#}").contains("config.json"), "{again:#}");
    }
}
