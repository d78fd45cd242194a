//! Help, in words.

use anyhow::{Context, Result};

const OVERVIEW: &str = "\
Run containers by their OCI configurations

Usage: kedge-oci [--root FOLDER] [--log FILE] [--log-format text|json] COMMAND …

A container's life:
  create   Make a container from a bundle; its process waits
  start    Have the process of a created container execute its program
  run      Both at once; waits for the end unless --detach is given
  state    Tell what is known of a container, as JSON
  kill     Send a signal to its first process, or to all
  delete   Remove a container that has ended

While it runs:
  exec     Execute another program in it
  ps       List its processes
  pause    Stop all its processes
  resume   Let them go on
  update   Change its limits

Others:
  list     List all containers
  spec     Write a config.json to begin with
  features Tell what this command can do, as JSON
  help     Tell more of a command

Options:
  --root FOLDER        Where containers are known (default: /run/kedge-oci)
  --log FILE           Write errors there, too
  --log-format FORMAT  text or json
  -v, --version        Print the version

With podman:
  podman --runtime /usr/local/bin/kedge-oci --cgroup-manager=cgroupfs run …";

/// Each command's own help.
const COMMANDS: [(&str, &str); 14] = [
    ("create", "\
Make a container from a bundle; its process waits for `start`

Usage: kedge-oci create [OPTIONS] ID

Options:
  -b, --bundle FOLDER     The folder with config.json (default: the current one)
  --pid-file FILE         Write the process's id there
  --console-socket PATH   Send the terminal to whoever listens there; needed with process.terminal
  --preserve-fds N        Leave N descriptors open, from 3 on
  --no-pivot              Move the root instead of exchanging it, for machines that run from their initramfs
  --no-new-keyring        Keep the keyring of the caller's session"),
    ("run", "\
Make and start a container, wait for its end, and delete it

Usage: kedge-oci run [OPTIONS] ID

Options: those of `create`, and
  -d, --detach            Do not wait
  --keep                  Do not delete it at its end

Exits as its process does: with its status, or 128 and the number of the signal that ended it.

Example, in a folder with rootfs/:
  kedge-oci spec && kedge-oci run one"),
    ("start", "\
Have the process of a created container execute its program

Usage: kedge-oci start ID

Returns when the program is executed; fails if it is not."),
    ("state", "\
Tell what is known of a container, as JSON

Usage: kedge-oci state ID

status is created, running, paused or stopped."),
    ("kill", "\
Send a signal to a container's first process

Usage: kedge-oci kill [--all] ID [SIGNAL]

SIGNAL is a number or a name (default: SIGTERM).
  -a, --all               To all its processes; with SIGKILL at once, by its control group"),
    ("delete", "\
Remove a container that has ended, with its control group, and run its poststop hooks

Usage: kedge-oci delete [--force] ID

  -f, --force             Kill it if it runs; succeed if there is none"),
    ("exec", "\
Execute another program in a container

Usage: kedge-oci exec [OPTIONS] ID PROGRAM [ARGUMENT…]
       kedge-oci exec --process FILE [OPTIONS] ID

Options:
  -p, --process FILE      The process's description, as `process` of a config.json
  -e, --env NAME=VALUE    A variable of its environment
  --cwd FOLDER            Its working directory
  -u, --user UID[:GID]    Its user
  -g, --additional-gids N A further group
  -c, --cap NAME          A further capability
  --no-new-privs          Programs with more privilege lose it
  -t, --tty               Give it a terminal
  --console-socket PATH   Send the terminal to whoever listens there
  --pid-file FILE         Write its id there
  --preserve-fds N        Leave N descriptors open, from 3 on
  -d, --detach            Do not wait for its end

What the options do not say is as for the container's first process."),
    ("ps", "\
List a container's processes

Usage: kedge-oci ps [--format table|json] ID [ps OPTIONS…]

The table is that of ps(1); json are numbers, and needs no other program."),
    ("pause", "\
Stop all processes of a container

Usage: kedge-oci pause ID"),
    ("resume", "\
Let the processes of a paused container go on

Usage: kedge-oci resume ID"),
    ("update", "\
Change a container's limits

Usage: kedge-oci update [OPTIONS] ID

Options:
  -r, --resources FILE    A document as linux.resources of a config.json; - is standard input
  --memory BYTES          At most; -1 is no limit
  --memory-reservation B  What is left to it when others want memory
  --memory-swap BYTES     Memory and swap together
  --cpu-share N           Weight; 1024 is what everyone has
  --cpu-quota US          Time in each period
  --cpu-period US         The period
  --cpu-burst US          Time that may be saved up
  --cpu-idle 0|1          Only what nobody else wants
  --cpuset-cpus LIST      Processors, as 0-3,5
  --cpuset-mems LIST      Nodes of memory
  --pids-limit N          Processes
  --blkio-weight N        Weight for input and output"),
    ("list", "\
List all containers

Usage: kedge-oci list [--format table|json] [--quiet]

  -q, --quiet             Only their ids"),
    ("spec", "\
Write a config.json to begin with: a shell in rootfs/, confined

Usage: kedge-oci spec [--bundle FOLDER]"),
    ("features", "\
Tell what this command can do, as JSON (runtime specification, features.md)

Usage: kedge-oci features"),
];

/// The help of a command, or of all.
///
/// # Errors
/// There is no such command.
pub(crate) fn text(word: Option<&str>) -> Result<&'static str> {
    let Some(word) = word else {
        return Ok(OVERVIEW);
    };
    let found = COMMANDS.iter().find(|(command, _)| *command == word);
    let (_, text) = found.with_context(|| format!("there is no command {word:?}"))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_overview_is_told_of() {
        for (command, text) in COMMANDS {
            assert!(OVERVIEW.contains(&format!("\n  {command} ")), "{command}");
            assert!(
                text.contains(&format!("Usage: kedge-oci {command}")),
                "{command}"
            );
        }
        text(Some("help me")).unwrap_err();
    }
}
