//! What is decided of whole documents.

use std::path::Path;

use anyhow::Result;
use kedge_sys::privilege::CapabilitySet;
use serde_json::{Value, json};

use super::Plan;
use crate::config::Spec;

/// The plan of a small document with these members of `linux`, of `process` and of the whole.
fn plan(linux: &Value, process: &Value, whole: &Value) -> Result<Plan> {
    let mut document = json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {"args": ["true"], "cwd": "/"},
        "linux": {"namespaces": [{"type": "mount"}]},
    });
    let mut merge = |place: &str, members: &Value| {
        let place = document.pointer_mut(place).unwrap();
        for (name, value) in members.as_object().unwrap() {
            place[name] = value.clone();
        }
    };
    merge("/linux", linux);
    merge("/process", process);
    merge("", whole);
    let spec = Spec::parse(document.to_string().as_bytes())?;
    Plan::new("one", &spec, Path::new("/bundle"))
}

#[test]
fn architectures_that_a_filter_does_not_judge_are_told_once() {
    let told = |architectures: Value| {
        let filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures});
        let plan = plan(&json!({"seccomp": filter}), &json!({}), &json!({})).unwrap();
        plan.passed_over().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(told(json!([])).is_empty());
    let all = told(json!(["SCMP_ARCH_S390", "SCMP_ARCH_PPC"]));
    let [line] = &all[..] else {
        panic!("{all:?}");
    };
    assert!(
        line.contains("calls of SCMP_ARCH_S390, SCMP_ARCH_PPC are not judged"),
        "{line}"
    );
}

#[test]
fn a_process_has_as_many_groups_as_the_kernel_takes() {
    let with = |count: usize| {
        let user = json!({"additionalGids": vec![7; count]});
        plan(&json!({}), &json!({"user": user}), &json!({}))
    };
    assert_eq!(with(65_536).unwrap().process.groups.len(), 65_536);
    let error = with(65_537).unwrap_err().to_string();
    assert!(error.contains("additionalGids"), "{error}");
}

#[test]
fn what_the_specification_wants_told_is_told_and_not_refused() {
    let capabilities = json!({"bounding": ["CAP_FLY", "CAP_KILL"], "effective": ["CAP_FLY"]});
    let mut plan = plan(
        &json!({"personality": {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}}),
        &json!({"capabilities": capabilities, "apparmorProfile": "unconfined"}),
        &json!({}),
    )
    .unwrap();
    let told: Vec<_> = plan.passed_over().map(str::to_owned).collect();
    let expected = [
        "linux.personality.flags: \"ADDR_NO_RANDOMIZE\" is no flag: it is passed over",
        "process.capabilities: \"CAP_FLY\" is no capability: it is passed over",
    ];
    assert_eq!(told, expected);
    // One that is known, but not to be had.
    assert_eq!(plan.process.capabilities.bounding.bits(), 1 << 5);
    plan.process.leave_ungrantable(CapabilitySet::CHOWN);
    assert!(plan.process.capabilities.bounding.is_empty());
    let told = plan.passed_over().last().unwrap();
    assert!(told.contains("CAP_KILL is passed over"), "{told}");
}

#[test]
fn a_hook_must_have_time() {
    let hook = |timeout: u32| {
        let hook = json!({"path": "/bin/true", "timeout": timeout});
        plan(
            &json!({}),
            &json!({}),
            &json!({"hooks": {"poststop": [hook]}}),
        )
    };
    hook(1).unwrap();
    let error = hook(0).unwrap_err().to_string();
    assert!(
        error.contains("hooks.poststop: /bin/true: timeout"),
        "{error}"
    );
}

#[test]
fn all_flags_of_a_filter_are_known() {
    let options = |flags: Value| {
        let filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags});
        let plan = plan(&json!({"seccomp": filter}), &json!({}), &json!({}));
        plan.map(|plan| plan.filter.unwrap().options)
    };
    let both = json!([
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        "SECCOMP_FILTER_FLAG_LOG"
    ]);
    let both = options(both).unwrap();
    assert!(both.killable_wait && both.log, "{both:?}");
    let log = options(json!(["SECCOMP_FILTER_FLAG_LOG"])).unwrap();
    assert!(!log.killable_wait && log.log, "{log:?}");
    options(json!(["SECCOMP_FILTER_FLAG_WHAT"])).unwrap_err();
}
