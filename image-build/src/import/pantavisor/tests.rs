//! States as devices have them, and as nobody should.

use super::*;

const STATE: &[u8] = include_bytes!("../fixtures/state.json");
const CONF: &str = include_str!("../fixtures/lxc.container.conf");

fn file(path: &str, _: &str) -> Result<String> {
    ensure!(path.ends_with("lxc.container.conf"), "{path} is not there");
    Ok(CONF.to_owned())
}

fn state() -> State {
    parse(STATE, "state", &file).unwrap_or_else(|error| panic!("{error:#}"))
}

#[test]
fn a_state_becomes_containers_in_their_groups() {
    let state = state();
    let names: Vec<&str> = state.drafts.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["awconnect", "sensor-app"]);
    let groups: Vec<(&str, Change)> = state
        .groups
        .iter()
        .map(|(name, change)| (name.as_str(), *change))
        .collect();
    assert_eq!(groups, [("root", Change::Reboot), ("app", Change::Restart)]);
    let app = &state.drafts[1];
    assert_eq!(app.arguments(), ["/usr/bin/sensor", "--every", "10 s"]);
    assert_eq!(
        app.environment,
        [
            ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
            ("MODE".to_owned(), "field=1".to_owned())
        ]
    );
    assert_eq!(app.working_directory.as_deref(), Some("/srv"));
    assert!(app.host_network);
    assert_eq!(app.root, RootWrites::Boot);
    let volumes: Vec<(&str, Lifetime)> = app
        .volumes
        .iter()
        .map(|one| (one.path.as_str(), one.lifetime))
        .collect();
    assert_eq!(
        volumes,
        [
            ("/etc/sensor-conf", Lifetime::Permanent),
            ("/var/cache/sensor", Lifetime::Revision),
            ("/run", Lifetime::Boot)
        ]
    );
    assert_eq!(
        (app.restart, app.max_retries),
        (RestartPolicy::OnFailure, Some(5))
    );
    assert_eq!(app.restart_delay, Some(Span::s(2)));
    assert!(!app.capabilities.is_empty());
    assert_eq!(state.roots.len(), 2);
    for draft in &state.drafts {
        let text = draft.text();
        crate::project::template::check(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
}

#[test]
fn everything_that_does_not_carry_over_is_listed() {
    let left = state().left;
    let mut paths: Vec<&str> = left.iter().map(|one| one.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        [
            "_config/sensor-app/etc/motd",
            "_sigs/",
            "awconnect/lxc.container.conf",
            "awconnect/lxc.container.conf lxc.apparmor.profile",
            // The device's /dev, and two volumes of the other container.
            "awconnect/lxc.container.conf lxc.mount.entry",
            "awconnect/lxc.container.conf lxc.mount.entry",
            "awconnect/lxc.container.conf lxc.mount.entry",
            "awconnect/run.json drivers",
            "awconnect/run.json storage.docker--etc-connections",
            "awconnect/src.json",
            "bsp/",
            "data-only/run.json type",
            "device.json disks",
            "device.json root.timeout",
            "sensor-app/lxc.container.conf",
            "sensor-app/lxc.container.conf lxc.apparmor.profile",
            "sensor-app/lxc.container.conf lxc.mount.entry",
            "sensor-app/run.json auto_recovery.backoff_factor",
            "sensor-app/run.json logs",
            "sensor-app/run.json services",
            "sensor-app/run.json status_goal",
            "sensor-app/run.json storage.docker--etc-sensor-conf.disk",
        ]
    );
    assert!(
        left.iter()
            .all(|one| !one.why.is_empty() && !one.instead.is_empty())
    );
}

#[test]
fn what_is_no_state_is_refused_by_its_path() {
    let run = |fields: &str| {
        format!(
            "{{\"#spec\":\"pantavisor-service-system@1\",\"a/run.json\":{{\"type\":\"lxc\"{fields}}}}}"
        )
    };
    for (text, words) in [
        ("[]".to_owned(), "no JSON object"),
        ("{}".to_owned(), "#spec is missing"),
        (
            "{\"#spec\":\"pantavisor-multi-platform@1\"}".to_owned(),
            "is not known",
        ),
        (run(""), "a/run.json: there is no root-volume"),
        (
            run(",\"root-volume\":\"r.squashfs\""),
            "the state has no file a/r.squashfs",
        ),
        (run(",\"root-volume\":\"../b/r\""), "the state has no file"),
    ] {
        let error = format!("{:#}", parse(text.as_bytes(), "state", &file).unwrap_err());
        assert!(error.contains(words), "{error}");
    }
    let deep = format!("{{\"#spec\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
    parse(deep.as_bytes(), "state", &file).unwrap_err();
}
