//! What is decided of whole documents.

use std::path::Path;

use anyhow::Result;
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
        plan.passed_over().collect::<Vec<_>>()
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
