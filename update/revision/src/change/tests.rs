//! Every field that can differ, and what it costs.

use super::*;
use crate::configuration::{Interface, Sticks};
use crate::container::{Check, Goal, Network, Snapshot, Volume};
use crate::container::{Lifetime, RootWrites};
use crate::content::{Group, HubGoal};
use crate::parameters::{Parameter, ParameterType};
use crate::pool::{Place, Pool};
use fixture::{container, content, health, name};
use proptest::prelude::*;

mod fixture;

/// A revision that owns what [`Running`] borrows.
#[derive(Debug, Clone)]
struct Made {
    revision: ObjectId,
    boot: Boot,
    content: Content,
    parameters: BTreeMap<Name, String>,
}

impl Made {
    fn running(&self) -> Running<'_> {
        Running {
            revision: self.revision,
            boot: &self.boot,
            content: &self.content,
            parameters: &self.parameters,
        }
    }

    /// As a new revision that differs in what `edit` does.
    fn but(&self, edit: impl FnOnce(&mut Self)) -> Self {
        let mut made = self.clone();
        made.revision = object(2);
        edit(&mut made);
        made
    }

    fn container(&mut self, text: &str) -> &mut Container {
        self.content.containers.get_mut(&name(text)).unwrap()
    }
}

fn object(byte: u8) -> ObjectId {
    ObjectId::from_digest([byte; 32])
}

fn names(list: &[&str]) -> Vec<Name> {
    list.iter().map(|text| name(text)).collect()
}

/// `base` changes by a reboot and holds `db`; `apps` by a restart and holds `api` and `web`; `web` uses `site`.
fn made() -> Made {
    let mut web = container("apps", Goal::Started);
    web.process.parameters = BTreeMap::from([("SITE".to_owned(), name("site"))]);
    let mut content = content(
        &["base", "apps"],
        vec![
            ("api", container("apps", Goal::Started)),
            ("db", container("base", Goal::Started)),
            ("web", web),
        ],
    );
    content.groups[1].change = Cost::Restart;
    let parameter = Parameter {
        kind: ParameterType::String,
        max_length: None,
        default: Some("north".to_owned()),
        secret: false,
    };
    content.parameters = BTreeMap::from([
        (name("site"), parameter.clone()),
        (name("unused"), parameter),
    ]);
    Made {
        revision: object(1),
        boot: Boot {
            kernel: object(10),
            initramfs: object(11),
            files: BTreeMap::from([("board.dtb".parse().unwrap(), object(12))]),
            statement: None,
            arguments: "quiet".to_owned(),
        },
        content,
        parameters: BTreeMap::from([
            (name("site"), "north".to_owned()),
            (name("unused"), "north".to_owned()),
        ]),
    }
}

fn of(old: &Made, new: &Made) -> Change {
    change(&old.running(), &new.running())
}

/// What the exchange must be: all containers of both revisions by what happens to them.
fn restart(kept: &[&str], stopped: &[&str], started: &[&str]) -> Change {
    Change::Restart(Exchange {
        kept: names(kept),
        stopped: names(stopped),
        started: names(started),
    })
}

const ALL: [&str; 3] = ["api", "db", "web"];

#[test]
fn the_same_revision_with_the_same_values_changes_nothing() {
    assert_eq!(of(&made(), &made()), Change::Nothing);
}

#[test]
fn what_the_loader_starts_needs_the_other_slot() {
    let edits: [fn(&mut Made); 9] = [
        |made| made.boot.kernel = object(20),
        |made| made.boot.initramfs = object(20),
        |made| {
            made.boot
                .files
                .insert("more.dtb".parse().unwrap(), object(20));
        },
        |made| {
            made.boot
                .files
                .insert("board.dtb".parse().unwrap(), object(20));
        },
        // The same bytes by another name.
        |made| made.boot.files = BTreeMap::from([("other.dtb".parse().unwrap(), object(12))]),
        |made| made.boot.files.clear(),
        |made| made.boot.statement = Some(object(20)),
        |made| made.boot.arguments.push_str(" debug"),
        // The slot covers everything else that differs.
        |made| {
            made.boot.kernel = object(20);
            made.content.groups.pop();
            made.content.containers.clear();
        },
    ];
    for edit in edits {
        assert_eq!(of(&made(), &made().but(edit)), Change::Slot);
    }
}

#[test]
fn what_only_a_boot_sets_up_needs_a_reboot() {
    type Edit = fn(&mut Made);
    let groups: [Edit; 5] = [
        |made| made.content.groups.reverse(),
        |made| made.content.groups[1].change = Cost::Reboot,
        |made| made.content.groups[0].change = Cost::Restart,
        |made| {
            made.content.groups.push(Group {
                name: name("more"),
                change: Cost::Restart,
            });
        },
        |made| made.content.groups[1].name = name("others"),
    ];
    for edit in groups {
        assert_eq!(of(&made(), &made().but(edit)), Change::Reboot(Why::Groups));
    }
    let configuration: [Edit; 3] = [
        |made| {
            made.content
                .configuration
                .hubs
                .push("https://hub".to_owned());
        },
        |made| made.content.configuration.logs.disk_max += 1,
        |made| made.content.configuration.network.hostname = Some(name("other")),
    ];
    for edit in configuration {
        let change = of(&made(), &made().but(edit));
        assert_eq!(change, Change::Reboot(Why::Configuration));
    }
    // Looked up at each stick: whatever runs goes on.
    let sticks = made().but(|made| made.content.configuration.sticks = Sticks::Accept);
    assert!(matches!(
        of(&made(), &sticks),
        Change::Nothing | Change::Restart(_)
    ));
    let new = made().but(|made| made.content.requires.push("fs-verity".to_owned()));
    assert_eq!(of(&made(), &new), Change::Reboot(Why::Requires));
}

#[test]
fn another_network_stops_nothing() {
    let new = made().but(|made| {
        let prefix = "10.88.0.0/24".parse().unwrap();
        let networks = &mut made.content.configuration.networks;
        networks.insert(
            name("front"),
            Pool {
                prefix,
                prefix6: None,
            },
        );
        let network = &mut made.content.configuration.network;
        network.nameservers.push([10, 0, 2, 3].into());
        network.interfaces.insert(
            "eth0".to_owned(),
            Interface {
                dhcp: true,
                ..Interface::default()
            },
        );
    });
    let Change::Restart(exchange) = of(&made(), &new) else {
        panic!("it is no exchange");
    };
    assert!(exchange.stopped.is_empty() && exchange.started.is_empty());
}

#[test]
fn what_nobody_can_see_stops_nothing() {
    let edits: [fn(&mut Made); 5] = [
        |_| {},
        |made| made.content.commit.window_s += 1,
        |made| made.content.commit.hub = HubGoal::IfReachableBefore,
        |made| {
            made.parameters.insert(name("unused"), "south".to_owned());
        },
        |made| {
            let unused = made.content.parameters.get_mut(&name("unused"));
            unused.unwrap().max_length = Some(7);
        },
    ];
    for edit in edits {
        assert_eq!(of(&made(), &made().but(edit)), restart(&ALL, &[], &[]));
    }
}

#[test]
fn any_field_of_a_definition_exchanges_that_container_alone() {
    let edits: [fn(&mut Container); 13] = [
        |c| c.layers.push(object(9)),
        |c| c.process.arguments.push("-v".to_owned()),
        |c| c.process.stop_grace_ms += 1,
        |c| c.goal = Goal::Finished,
        |c| c.health = Some(health(Check::Notify)),
        |c| c.restart.max_retries = Some(3),
        |c| c.root = RootWrites::Boot,
        |c| {
            c.volumes.insert(name("data"), volume(Lifetime::Permanent));
        },
        |c| c.limits.memory_max = Some(1 << 20),
        |c| c.network = Network::Host,
        |c| c.network = Network::Pool(Place::without_address(name("front"), Vec::new())),
        |c| c.roles.push(crate::ControlRole::Observe),
        |c| c.after.push(name("web")),
    ];
    for edit in edits {
        let new = made().but(|made| edit(made.container("api")));
        assert_eq!(
            of(&made(), &new),
            restart(&["db", "web"], &["api"], &["api"])
        );
    }
}

#[test]
fn added_and_removed_containers_are_started_and_stopped() {
    let more = made().but(|made| {
        let new = container("apps", Goal::Started);
        made.content.containers.insert(name("aaa"), new);
    });
    assert_eq!(of(&made(), &more), restart(&ALL, &[], &["aaa"]));
    assert_eq!(of(&more, &made()), restart(&ALL, &["aaa"], &[]));
}

#[test]
fn values_exchange_the_containers_that_use_them() {
    let one = &["api", "db"];
    // The same revision, other values.
    let mut new = made();
    new.parameters.insert(name("site"), "south".to_owned());
    assert_eq!(of(&made(), &new), restart(one, &["web"], &["web"]));
    new.parameters.remove(&name("site"));
    assert_eq!(of(&made(), &new), restart(one, &["web"], &["web"]));
    // Another default is another value on a device to which nobody gave one; the caller fills them in.
    let new = made().but(|made| {
        let site = made.content.parameters.get_mut(&name("site")).unwrap();
        site.default = Some("south".to_owned());
    });
    assert_eq!(of(&made(), &new), restart(&ALL, &[], &[]));
}

#[test]
fn a_group_that_changes_by_a_reboot_does_so_from_either_side() {
    let because = |text| {
        Change::Reboot(Why::Container {
            container: name(text),
            group: name("base"),
        })
    };
    let changed = made().but(|made| made.container("db").network = Network::Host);
    assert_eq!(of(&made(), &changed), because("db"));
    let moved = made().but(|made| made.container("api").group = name("base"));
    assert_eq!(of(&made(), &moved), because("api"));
    assert_eq!(of(&moved, &made()), because("api"));
    let removed = made().but(|made| {
        made.content.containers.remove(&name("db"));
    });
    assert_eq!(of(&made(), &removed), because("db"));
    assert_eq!(of(&removed, &made()), because("db"));
    let value = |made: &mut Made| {
        made.container("db").process.parameters =
            BTreeMap::from([("SITE".to_owned(), name("site"))]);
    };
    let (old, mut new) = (made().but(value), made().but(value));
    new.parameters.insert(name("site"), "south".to_owned());
    assert_eq!(of(&old, &new), because("db"));
}

fn volume(lifetime: Lifetime) -> Volume {
    Volume {
        path: "/data".to_owned(),
        lifetime,
        owner: None,
        size: None,
        snapshot: Snapshot::Never,
        snapshot_max: None,
    }
}

#[test]
fn a_container_that_writes_goes_on_through_a_revision_that_leaves_it_alone() {
    type Edit = fn(&mut Container);
    let edits: [Edit; 3] = [
        |c| c.root = RootWrites::Revision,
        |c| drop(c.volumes.insert(name("v"), volume(Lifetime::Revision))),
        |c| drop(c.volumes.insert(name("v"), volume(Lifetime::Permanent))),
    ];
    for edit in edits {
        let mut old = made();
        edit(old.container("api"));
        assert_eq!(of(&old, &old.but(|_| {})), restart(&ALL, &[], &[]));
    }
}

#[test]
fn reasons_are_said_in_words() {
    let why = Why::Container {
        container: name("db"),
        group: name("base"),
    };
    assert_eq!(
        why.to_string(),
        "container db differs, and group base changes by a reboot"
    );
    assert_eq!(Why::Groups.to_string(), "the groups differ");
    assert_eq!(Change::Reboot(why).word(), "reboot");
}

/// Containers `a` to `e`, each absent or of one of three definitions, in a group that changes by a restart.
fn revisions() -> impl Strategy<Value = Made> {
    (prop::collection::vec(0_u32..4, 5), 1_u8..3, 0_u8..2).prop_map(|(kinds, id, site)| {
        let mut base = made();
        base.content.containers.clear();
        for (text, kind) in ["a", "b", "c", "d", "e"].into_iter().zip(kinds) {
            let mut made = container("apps", Goal::Started);
            made.process.stop_grace_ms = kind;
            if kind == 3 {
                made.process.parameters = BTreeMap::from([("SITE".to_owned(), name("site"))]);
            }
            if kind > 0 {
                base.content.containers.insert(name(text), made);
            }
        }
        base.revision = object(id);
        base.parameters.insert(name("site"), site.to_string());
        base
    })
}

proptest! {
    #[test]
    fn an_exchange_leads_from_one_set_to_the_other(old in revisions(), new in revisions()) {
        let Change::Restart(there) = of(&old, &new) else {
            prop_assert_eq!((old.revision, &old.parameters), (new.revision, &new.parameters));
            return Ok(());
        };
        for list in [&there.kept, &there.stopped, &there.started] {
            prop_assert!(list.is_sorted_by(|a, b| a < b));
        }
        let both = |one: &[Name], two: &[Name]| {
            let mut all = [one, two].concat();
            all.sort();
            all
        };
        let all = |made: &Made| made.content.containers.keys().cloned().collect::<Vec<_>>();
        prop_assert_eq!(both(&there.kept, &there.stopped), all(&old));
        prop_assert_eq!(both(&there.kept, &there.started), all(&new));
        for name in &there.kept {
            prop_assert_eq!(old.content.containers.get(name), new.content.containers.get(name));
        }
        // The way back undoes it.
        let Change::Restart(back) = of(&new, &old) else {
            return Err(TestCaseError::fail("no way back"));
        };
        prop_assert_eq!((&back.kept, &back.stopped, &back.started), (&there.kept, &there.started, &there.stopped));
    }
}
