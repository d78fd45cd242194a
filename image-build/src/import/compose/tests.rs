//! Compose files as people have them, and as nobody should.

use super::*;
use kedge_revision::container::{Capability, Goal, Lifetime, RestartPolicy, RootWrites};

const SHOP: &str = include_str!("../fixtures/shop.yaml");

fn read(name: &str) -> Result<Option<String>> {
    Ok((name == "app.env").then(|| "LOG=info\nPRICE=none\n".to_owned()))
}

fn options<'a>() -> Options<'a> {
    Options {
        variables: BTreeMap::from([("TAG".to_owned(), "1.2".to_owned())]),
        profiles: Vec::new(),
        group: "app".parse().unwrap(),
        source: "shop.yaml".to_owned(),
        read: &read,
    }
}

fn shop() -> Compose {
    parse(SHOP, options()).unwrap_or_else(|error| panic!("{error:#}"))
}

fn refused(text: &str) -> String {
    format!("{:#}", parse(text, options()).unwrap_err())
}

fn find(compose: &Compose, name: &str) -> Draft {
    let found = compose.drafts.iter().find(|one| one.name.as_str() == name);
    found.unwrap().clone()
}

#[test]
fn a_whole_file_becomes_containers() {
    let compose = shop();
    let names: Vec<&str> = compose.drafts.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["app", "cache", "db", "migrate", "proxy"]);
    let app = find(&compose, "app");
    assert_eq!(app.environment[0], ("LOG".to_owned(), "info".to_owned()));
    assert!(
        app.environment
            .contains(&("PRICE".to_owned(), "5$".to_owned()))
    );
    assert_eq!(
        app.environment
            .iter()
            .filter(|(name, _)| name == "PRICE")
            .count(),
        1
    );
    let after: Vec<&str> = app.after.iter().map(Name::as_str).collect();
    assert_eq!(after, ["cache", "db", "migrate"]);
    assert_eq!(
        (
            app.cpu_max_percent,
            app.memory_max,
            app.memory_min,
            app.pids_max
        ),
        (Some(50), Some(256 << 20), Some(64 << 20), Some(100))
    );
    assert!(app.host_network && app.wants_ready);
    assert_eq!(app.restart, RestartPolicy::Always);
    let health = app.health.unwrap();
    assert_eq!(
        (
            health.interval.ms,
            health.timeout.ms,
            health.retries,
            health.start_period.ms
        ),
        (10_000, 3000, 5, 20_000)
    );
}

#[test]
fn rights_places_and_goals_carry_over() {
    let compose = shop();
    let proxy = find(&compose, "proxy");
    assert_eq!(
        proxy.capabilities,
        [
            Capability::Chown,
            Capability::Setgid,
            Capability::Setuid,
            Capability::NetBindService
        ]
    );
    assert_eq!(
        (proxy.root, proxy.stop_grace.ms),
        (RootWrites::Refused, 90_000)
    );
    let volumes: Vec<(&str, Lifetime, Option<u64>)> = proxy
        .volumes
        .iter()
        .map(|one| (one.path.as_str(), one.lifetime, one.size))
        .collect();
    assert_eq!(
        volumes,
        [
            ("/etc/nginx/certs", Lifetime::Permanent, None),
            ("/var/cache/nginx", Lifetime::Boot, Some(16 << 20))
        ]
    );
    let migrate = find(&compose, "migrate");
    assert_eq!(
        (migrate.goal, migrate.max_retries),
        (Goal::Finished, Some(3))
    );
    assert_eq!(
        migrate.command.unwrap(),
        ["python", "manage.py", "migrate", "--noinput"]
    );
    let cache = find(&compose, "cache");
    assert!(!cache.host_network && cache.no_health);
    assert_eq!(cache.volumes[0].lifetime, Lifetime::Revision);
    assert_eq!(compose.secrets, ["db-password".parse::<Name>().unwrap()]);
    assert_eq!(find(&compose, "db").secrets, compose.secrets);
}

#[test]
fn everything_that_does_not_carry_over_is_listed() {
    let left = shop().left;
    let mut paths: Vec<&str> = left.iter().map(|one| one.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        [
            "name",
            "networks",
            "secrets.db_password.file",
            "services.app.deploy.replicas",
            "services.app.devices",
            "services.app.environment.HOST_LOCALE",
            "services.app.frobnicate",
            "services.app.healthcheck.start_interval",
            "services.app.logging",
            "services.app.secrets",
            "services.backup",
            "services.db.secrets",
            "services.db.secrets.mode",
            "services.db.shm_size",
            "services.db.volumes",
            "services.proxy.logging",
            "services.proxy.networks",
            "services.proxy.ports",
            "services.proxy.ports.mode",
            "services.proxy.tmpfs",
            "services.proxy.volumes",
            "services.proxy.volumes",
            "volumes.certs.driver",
        ]
    );
    assert!(
        left.iter()
            .all(|one| !one.why.is_empty() && !one.instead.is_empty())
    );
    let devices = left
        .iter()
        .find(|one| one.path == "services.app.devices")
        .unwrap();
    let line = SHOP
        .lines()
        .position(|line| line.contains("devices:"))
        .unwrap()
        + 1;
    assert_eq!(devices.line, Some(line));
}

#[test]
fn what_it_writes_is_read_back() {
    for draft in shop().drafts {
        let text = draft.text();
        let parsed: crate::project::container::ContainerText =
            toml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(parsed.volumes.len(), draft.volumes.len());
        assert_eq!(parsed.process.arguments, draft.arguments());
        assert_eq!(parsed.goal, draft.goal);
    }
}

#[test]
fn contradictions_are_refused_with_their_place() {
    let services = |text: &str| format!("services:\n{text}");
    for (text, words) in [
        (
            services(
                "  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [c]}\n  c: {image: x, depends_on: [b]}\n",
            ),
            "goes round: b → c → b",
        ),
        (
            services("  a: {image: x, depends_on: [z]}\n"),
            "line 2: services.a.depends_on: there is no service `z`",
        ),
        (
            services("  a: {image: x, ports: [\"80:80\"]}\n  b: {image: x, ports: [\"80:81\"]}\n"),
            "line 3: services.b.ports: port 80/tcp is published twice",
        ),
        (
            services("  a: {image: x, volumes: [\"v:/v\"]}\n"),
            "there is no volume `v`",
        ),
        (
            services("  a: {image: x, secrets: [s]}\n"),
            "there is no secret `s`",
        ),
        (
            services("  a: {image: x}\n  A: {image: x}\n"),
            "is also what services.a is called",
        ),
        (services("  a: {}\n"), "neither `image` nor `build`"),
        (
            services("  a: {image: x, extends: b}\n"),
            "docker compose config",
        ),
        (
            services("  a: {image: x, mem_limit: lots}\n"),
            "line 2: services.a.mem_limit: `lots` is no size",
        ),
        (
            services("  a: {image: x, restart: sometimes}\n"),
            "services.a.restart",
        ),
        (
            services("  a: {image: x, cap_add: [FLY]}\n"),
            "`FLY` is no capability",
        ),
        (
            services("  a: {image: \"x:${NO:?say which}\"}\n"),
            "line 2: the variable NO is required: say which",
        ),
        (
            services("  a: {image: x, env_file: none.env}\n"),
            "there is no none.env",
        ),
        (
            services("  a: {image: x}\n  a: {image: y}\n"),
            "line 3: the key `a` stands there twice",
        ),
    ] {
        let error = refused(&text);
        assert!(error.contains(words), "{error}\n{text}");
    }
}

#[test]
fn what_is_no_such_file_is_refused() {
    for (text, words) in [
        (
            "version: \"4\"\nservices: {}\n",
            "line 1: version `4` is not known",
        ),
        ("web:\n  image: x\n", "there is no `services`"),
        ("include: [b.yaml]\nservices: {}\n", "line 1: `include`"),
        ("- a\n", "is a mapping with `services`"),
    ] {
        let error = refused(text);
        assert!(error.contains(words), "{error}\n{text}");
    }
}

#[test]
fn a_profile_that_is_asked_for_is_taken() {
    let mut with = options();
    with.profiles.push("manual".to_owned());
    let compose = parse(SHOP, with).unwrap();
    assert!(
        compose
            .drafts
            .iter()
            .any(|one| one.name.as_str() == "backup")
    );
    assert!(!compose.left.iter().any(|one| one.path == "services.backup"));
}
