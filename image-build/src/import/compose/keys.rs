//! Keys of a service that have no counterpart, and what to do instead.

/// Key, why it does not carry over, what to do instead.
pub const WITHOUT_COUNTERPART: [(&str, &str, &str); 43] = [
    (
        "annotations",
        "containers have no annotations",
        "the names in kedge.toml are what is shown",
    ),
    (
        "attach",
        "logs of all containers are kept",
        "`kedge ctl logs NAME`",
    ),
    (
        "blkio_config",
        "limits are about the disk that data is on, and no other",
        "limits.io-read-max, io-write-max, io-reads-max and io-writes-max",
    ),
    (
        "build",
        "Kedge builds no container images",
        "build it before, and name the result with --image",
    ),
    (
        "cgroup",
        "each start has a cgroup of its own",
        "nothing is needed",
    ),
    (
        "cgroup_parent",
        "each start has a cgroup of its own",
        "nothing is needed",
    ),
    (
        "configs",
        "files are not put into containers from outside",
        "put the file into the image, or its values into parameters",
    ),
    (
        "container_name",
        "a container is called as its file",
        "rename containers/NAME.toml",
    ),
    (
        "cpuset",
        "processors are chosen as the kernel names them",
        "\"cpuset.cpus\" in [limits.unified]",
    ),
    (
        "device_cgroup_rules",
        "devices are given by what they are, not by their nodes",
        "rules in devices (docs/devices.md)",
    ),
    (
        "devices",
        "devices are given by what they are, not by their nodes",
        "rules in devices (docs/devices.md)",
    ),
    (
        "dns",
        "all containers have the device's name servers",
        "configuration.network.nameservers",
    ),
    (
        "dns_opt",
        "all containers have the device's name servers",
        "configuration.network.nameservers",
    ),
    (
        "dns_search",
        "all containers have the device's name servers",
        "write whole names",
    ),
    (
        "domainname",
        "a container has no domain of its own",
        "nothing does the same",
    ),
    (
        "external_links",
        "containers are imported with the device's own network",
        "programs reach each other at 127.0.0.1, or by name in a pool (docs/network.md)",
    ),
    (
        "extra_hosts",
        "/etc/hosts is the image's",
        "write it into the image",
    ),
    (
        "gpus",
        "devices are given by what they are, not by their nodes",
        "rules in devices (docs/devices.md)",
    ),
    (
        "hostname",
        "a container's name is its own, on the device's network the device's",
        "configuration.network.hostname",
    ),
    (
        "init",
        "a container's first process is its program, whose orphans it must reap itself",
        "put an init (tini) into the image and name it in arguments",
    ),
    (
        "ipc",
        "each container has its own IPC namespace",
        "nothing does the same",
    ),
    (
        "isolation",
        "there is one kind of isolation",
        "nothing is needed",
    ),
    (
        "labels",
        "containers have no labels",
        "the names in kedge.toml are what is shown",
    ),
    (
        "links",
        "containers are imported with the device's own network",
        "programs reach each other at 127.0.0.1, or by name in a pool (docs/network.md)",
    ),
    (
        "logging",
        "logs go to the device's bounded ring",
        "configuration.logs.disk-max",
    ),
    (
        "mac_address",
        "addresses of interfaces are not chosen",
        "nothing does the same",
    ),
    (
        "mem_swappiness",
        "a device has no swap",
        "nothing is needed",
    ),
    (
        "memswap_limit",
        "a device has no swap of its own",
        "limits.memory-max bounds it, limits.memory-swap-max what of it may be in a swap",
    ),
    (
        "networks",
        "containers are imported with the device's own network, or none",
        "programs reach each other at 127.0.0.1, or by name in a pool (docs/network.md)",
    ),
    (
        "oom_kill_disable",
        "what is above memory-max is killed",
        "limits.memory-max",
    ),
    (
        "oom_score_adj",
        "the kernel chooses by the cgroups' limits",
        "limits.memory-min keeps memory for it",
    ),
    (
        "pid",
        "each container has its own process namespace",
        "nothing does the same",
    ),
    (
        "platform",
        "the board decides the architecture",
        "name an image of that architecture",
    ),
    (
        "post_start",
        "there are no hooks",
        "a container with the goal \"finished\", which others come after",
    ),
    (
        "pre_stop",
        "there are no hooks",
        "let the program act on the stop signal",
    ),
    (
        "privileged",
        "no container has all rights",
        "list what it needs in capabilities",
    ),
    (
        "pull_policy",
        "nothing is pulled on a device",
        "nothing is needed",
    ),
    ("runtime", "there is one runtime", "nothing is needed"),
    (
        "security_opt",
        "the system call filter and no-new-privileges are always on",
        "nothing does the same",
    ),
    (
        "shm_size",
        "/dev/shm has the size that the device gives",
        "a volume with lifetime \"boot\" and a size",
    ),
    (
        "sysctls",
        "a container sets no kernel parameters",
        "kernel arguments, for the device as a whole",
    ),
    ("ulimits", "limits are those of the cgroup", "[limits]"),
    (
        "userns_mode",
        "each container has its own user namespace",
        "nothing is needed",
    ),
];
