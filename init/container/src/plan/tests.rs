//! Plans of typical definitions, as text.

use super::*;
use crate::exec::Command;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

const PLAIN: &str = r#"{"group":"app","layers":["v1:LAYER"],
  "process":{"arguments":["/bin/true"],"environment":["PATH=/bin"],"user":{"uid":0,"gid":0},
    "working-directory":"/","stop-signal":15,"stop-grace-ms":1000},
  "goal":"started","restart":{"policy":"no","delay-ms":1,"max-delay-ms":1,"reset-after-ms":1,"then":"leave"}}"#;

const RICH: &str = r#"{"group":"app","layers":["v1:LAYER","v1:LAYER"],
  "process":{"arguments":["serve","-v"],"environment":["PATH=/usr/bin:/bin","SITE=default"],
    "user":{"uid":33,"gid":34,"groups":[4,20]},"working-directory":"/srv","stop-signal":3,"stop-grace-ms":1000,
    "parameters":{"SITE":"site","ZONE":"site"}},
  "goal":"ready","health":{"check":"notify","interval-ms":0,"timeout-ms":1000,"retries":3,"start-period-ms":0},
  "restart":{"policy":"always","delay-ms":1,"max-delay-ms":1,"reset-after-ms":1,"then":"reboot"},
  "root":"boot","volumes":{"z-data":{"path":"/a","lifetime":"permanent","size":1048576},
    "cache":{"path":"/a/cache","lifetime":"boot","size":4096,"owner":{"uid":5,"gid":6}}},
  "limits":{"cpu-weight":50,"cpu-max-percent":150,"memory-max":1048576,"memory-high":524288,"memory-min":65536,"memory-swap-max":0,"pids-max":9,"io-read-max":1048576,"io-writes-max":20,"root-max":131072,"unified":{"cpu.idle":"1","memory.zswap.max":"0"}},
  "network":"host","capabilities":["CHOWN","SYS_TIME"],"roles":["observe"]}"#;

fn definition(text: &str) -> Container {
    let text = text.replace("LAYER", &"0a".repeat(32));
    let definition: Container = serde_json::from_str(&text).unwrap();
    definition.check("container").unwrap();
    definition
}

/// A context with whatever the definitions above ask for.
fn with_context<T>(layers: usize, test: impl FnOnce(&mut Context<'_>) -> T) -> T {
    let parameters = BTreeMap::from([(name("site"), "field".to_owned())]);
    let all = [
        Path::new("/run/kedge/layers/0"),
        Path::new("/run/kedge/layers/1"),
    ];
    let volumes = BTreeMap::from([
        (name("z-data"), Path::new("/data/volumes/c/z-data")),
        (name("cache"), Path::new("/run/kedge/volumes/c/cache")),
    ]);
    test(&mut Context {
        id_base: 1_000_000,
        host_name: "web",
        parameters: &parameters,
        layers: &all[..layers],
        volumes: &volumes,
        overlay: Some(Path::new("/run/kedge/overlay/c")),
        sockets: Some(Path::new("/run/kedge/sockets/c")),
        resolv_conf: Some(Path::new("/run/kedge/resolv.conf")),
        hosts: Some(Path::new("/run/kedge/hosts/front")),
        disk: Some((254, 0)),
    })
}

#[test]
fn a_plain_container() {
    let plan = with_context(1, |context| {
        context.sockets = None;
        Plan::new(&name("plain"), &definition(PLAIN), context)
    });
    let wanted = "container plain\n\
        cgroup pids.max = 512\ncgroup memory.oom.group = 1\n\
        network own, loopback only\nids 0 1000000 65536\n\
        layer /run/kedge/layers/0\nroot read-only\n\
        host-name web\ndirectory /\nuser 0:0 []\ncapabilities 0x0\nfilter default\n\
        environment PATH=/bin\nargument /bin/true\n";
    assert_eq!(plan.unwrap().to_string(), wanted);
}

#[test]
fn a_rich_container() {
    let plan = with_context(2, |context| {
        Plan::new(&name("rich"), &definition(RICH), context)
    });
    let wanted = "container rich\n\
        cgroup memory.max = 1048576\ncgroup memory.high = 524288\ncgroup memory.min = 65536\n\
        cgroup memory.swap.max = 0\ncgroup cpu.weight = 50\ncgroup pids.max = 9\ncgroup cpu.max = 150000 100000\n\
        cgroup io.max = 254:0 rbps=1048576 wiops=20\ncgroup memory.oom.group = 1\n\
        cgroup cpu.idle = 1\ncgroup memory.zswap.max = 0\n\
        network the device's\nids 0 1000000 65536\n\
        layer /run/kedge/layers/0\nlayer /run/kedge/layers/1\n\
        root writes to /run/kedge/overlay/c, 131072 bytes in memory\n\
        volume /a from /data/volumes/c/z-data owner 33:34, 1048576 bytes on disk\n\
        volume /a/cache from /run/kedge/volumes/c/cache owner 5:6, 4096 bytes in memory\n\
        sockets /run/kedge/sockets/c\nresolv.conf /run/kedge/resolv.conf\n\
        host-name web\ndirectory /srv\nuser 33:34 [4, 20]\ncapabilities 0x2000001\n\
        filter widened by capabilities\n\
        environment PATH=/usr/bin:/bin\nenvironment SITE=field\nenvironment ZONE=field\n\
        environment NOTIFY_SOCKET=/dev/kedge/notify\nenvironment KEDGE_CONTROL=/dev/kedge/control\n\
        argument serve\nargument -v\n";
    assert_eq!(plan.unwrap().to_string(), wanted);
}

#[test]
fn a_container_in_a_pool() {
    let plan = |address: &str| {
        let network =
            format!(r#""started","network":{{"pool":{{"name":"front","address":"{address}"}}}}"#);
        let definition = definition(&PLAIN.replace(r#""started""#, &network));
        with_context(1, |context| {
            Plan::new(&name("in-pool"), &definition, context)
        })
    };
    let text = plan("10.88.1.3/23").unwrap().to_string();
    assert!(
        text.contains("\nnetwork own, 10.88.1.3/23 by 10.88.0.1, broadcast 10.88.1.255\n"),
        "{text}"
    );
    assert!(
        text.contains("\nresolv.conf /run/kedge/resolv.conf\nhosts /run/kedge/hosts/front\n"),
        "{text}"
    );
    for bad in ["fd00::2/64", "10.88.0.2/32"] {
        assert_eq!(
            plan(bad).unwrap_err(),
            PlanError::Address(bad.parse().unwrap())
        );
    }
}

#[test]
fn a_context_that_does_not_fit_is_refused() {
    let rich = definition(RICH);
    let refused = |change: fn(&mut Context<'_>)| {
        with_context(2, |context| {
            change(context);
            Plan::new(&name("rich"), &rich, context).unwrap_err()
        })
    };
    assert_eq!(refused(|context| context.id_base = 0), PlanError::Ids(0));
    assert_eq!(
        refused(|context| context.id_base = u32::MAX),
        PlanError::Ids(u32::MAX)
    );
    assert_eq!(
        refused(|context| context.layers = &[]),
        PlanError::Layers(0)
    );
    assert_eq!(refused(|context| context.disk = None), PlanError::Disk);
    assert_eq!(
        refused(|context| context.overlay = None),
        PlanError::Overlay
    );
    let empty = BTreeMap::new();
    let error = with_context(2, |context| {
        let context = Context {
            parameters: &empty,
            ..*context
        };
        Plan::new(&name("rich"), &rich, &context).unwrap_err()
    });
    let variable = "SITE".to_owned();
    let parameter = name("site");
    assert_eq!(
        error,
        PlanError::Parameter {
            variable,
            parameter
        }
    );
    let empty = BTreeMap::new();
    let error = with_context(2, |context| {
        let context = Context {
            volumes: &empty,
            ..*context
        };
        Plan::new(&name("rich"), &rich, &context).unwrap_err()
    });
    assert_eq!(error, PlanError::Volume(name("cache")));
}

#[test]
fn a_program_is_looked_up_in_its_path() {
    let plan = with_context(2, |context| {
        Plan::new(&name("rich"), &definition(RICH), context)
    });
    let plan = plan.unwrap();
    let image = format!("{:?}", plan.image());
    assert!(
        image.contains("/usr/bin/serve") && image.contains("\"/bin/serve"),
        "{image}"
    );
    let refused = |arguments: &[String]| plan.command(&Command::new(arguments)).unwrap_err();
    assert_eq!(refused(&[]), PlanError::NoProgram);
    let nul = "a\0b".to_owned();
    assert_eq!(refused(std::slice::from_ref(&nul)), PlanError::Nul(nul));
}
