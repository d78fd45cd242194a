//! `demo`: the whole of it in a few minutes, on this machine.
//!
//! A hub is started, a project is made with `kedge` as its users do, real software is added, built and signed; the image
//! boots in QEMU, enrols, and is treated badly: a process is ended, the device is rebooted, its power is cut; it pulls a
//! good revision and a bad one, and one whose download and trial are cut short; its hub goes away and comes back. Each step is a line of a timeline and
//! is judged; the exit status says whether all held.

mod fleet;
mod update;

use crate::device::{Device, console_tail, container, fetch, free_port};
use crate::hub::Hub;
use crate::image::Kernel;
use crate::kedge::Kedge;
use crate::project::{self, BOARD, Built};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use kedge_image_build::qemu::{Ending, Forward};
use kedge_image_build::{output::Output, progress};
use serde_json::Value;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// An emulated device with three real services, on a busy machine.
const BOOT: Duration = Duration::from_secs(240);
/// What takes a moment.
const SOON: Duration = Duration::from_secs(60);

/// Start a hub, build a device from real software, boot it in QEMU, update it, break it, and watch it hold.
#[derive(Debug, Args)]
#[command(
    after_help = "Needs no root (packages that are missing are installed with sudo). Ends with PASS or FAIL."
)]
pub(crate) struct Arguments {
    /// Whose kernel; our own if it was built before, else Debian's.
    #[arg(long, value_enum)]
    kernel: Option<Kernel>,
    /// Leave the device running at the end, with hints what to try.
    #[arg(long)]
    keep: bool,
    /// The port of this machine that leads to the device's port 80; any free one if absent.
    #[arg(long)]
    port: Option<u16>,
    /// Show the device's console.
    #[arg(long)]
    console: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let timeline = Timeline::begin();
    let folder = tempfile::Builder::new()
        .prefix("kedge-demo-")
        .tempdir()
        .context("cannot make a temporary folder")?;
    let result = play(arguments, &timeline, folder.path());
    match &result {
        Ok(()) => timeline.event("PASS"),
        Err(error) => {
            timeline.event(format_args!("FAIL: {error:#}"));
            let kept = folder.keep();
            let machine = kept.join("gateway/build/vm");
            let console = console_tail(&machine);
            if !console.is_empty() {
                timeline.event(format_args!(
                    "the end of the device's console (all of it: {}/console.log):\n{console}",
                    machine.display()
                ));
            }
            timeline.event(format_args!(
                "kept for a look: {0}/gateway, with the disk as it was. There, `./kedge run --image build/*.img --port \
                 8080:80` boots it again. If a build failed, its words are above; what is in the cache may be \
                 deleted at any time and is made again",
                kept.display()
            ));
            bail!("the demonstration failed");
        }
    }
    result
}

fn play(arguments: &Arguments, timeline: &Timeline, folder: &std::path::Path) -> Result<()> {
    let kernel = project::kernel(BOARD, arguments.kernel)?;
    let platform = project::platform(BOARD, kernel)?;
    timeline.event(format_args!(
        "platform {BOARD} with kernel {kernel} is there"
    ));
    let hub = Hub::start(folder)?;
    timeline.event(format_args!("a hub listens on {}", hub.url()));
    let token = hub.token().to_string_lossy();
    let gateway = folder.join("gateway");
    let settings = folder.join("settings");
    Kedge::at(&gateway, &settings).ask(&["login", &hub.url(), "--token-file", &token, "--yes"])?;
    let trusts = ["--hub", &hub.url(), "--device-hub", &hub.device_url()];
    let kedge = Kedge::new_project_with(&gateway, BOARD, &settings, &trusts)?;
    let built = project::sample(BOARD, kedge, &platform, update::WINDOW)?;
    timeline.event(format_args!(
        "signed revision {} and disk image, {} MB",
        built.short_revision(),
        built.image_bytes / 1_000_000
    ));
    built.kedge.leave_link()?;
    let port = match arguments.port {
        Some(port) => port,
        None => free_port()?,
    };
    let provision = folder.join("provision.json");
    let out = provision.to_string_lossy();
    let device_hub = hub.device_url();
    let words = ["join-token", "new", "--device-hub", &device_hub];
    // A hub takes in devices of products that it knows.
    let published = update::publish_first(&built)?;
    timeline.event(format_args!("version 1 published: {published} at the hub"));
    built.kedge.ask(&[&words[..], &["--out", &out]].concat())?;
    let mut scene = Scene {
        timeline,
        built: &built,
        hub,
        provision,
        port,
        echo: arguments.console,
    };
    let mut device = scene.boot()?;
    scene.meet(&mut device)?;
    let mut device = scene.break_it(device)?;
    scene.pull(&mut device)?;
    let mut device = scene.cut(device)?;
    scene.alone(&mut device)?;
    if arguments.keep {
        return scene.stay(device);
    }
    scene.power_off(device)
}

/// What each step needs.
struct Scene<'a> {
    timeline: &'a Timeline,
    built: &'a Built,
    hub: Hub,
    /// What the device is given to enrol with.
    provision: PathBuf,
    port: u16,
    echo: bool,
}

/// What `/visits` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    visits: u64,
    starts: u64,
}

impl Scene<'_> {
    fn boot(&self) -> Result<Device> {
        let mut config = self.built.machine();
        config.provision = Some(self.provision.clone());
        config.forwards = vec![Forward {
            host: self.port,
            guest: 80,
        }];
        let mut device = Device::start(&self.built.kedge, config, self.echo)?;
        self.timeline.event("QEMU started");
        let status = device.until_goals(BOOT)?;
        let uptime = status.get("uptime-ms").and_then(Value::as_u64);
        self.timeline.event(format_args!(
            "every goal is met, {} s after the kernel began",
            uptime.unwrap_or_default() / 1000
        ));
        Ok(device)
    }

    /// All that is done to the device. It survives, in another QEMU at the end.
    fn break_it(&self, mut device: Device) -> Result<Device> {
        let (code, page) = fetch(self.port, "GET", "/")?;
        ensure!(
            code == 200 && page.contains("It holds."),
            "GET / gives {code}: {page}"
        );
        self.timeline
            .event(format_args!("nginx serves its page on port {}", self.port));
        let first = self.visit(&mut device)?;
        let second = self.visit(&mut device)?;
        ensure!(
            second.visits == first.visits + 1,
            "the count went from {} to {}",
            first.visits,
            second.visits
        );
        self.timeline.event(format_args!(
            "the Python program counts in Redis: {} visits",
            second.visits
        ));

        self.crash(&mut device)?;
        let third = self.expect(&mut device, second.visits + 1, second.starts + 1)?;
        self.timeline.event(format_args!(
            "restarted by PID 1 and counting: {} visits, start {}",
            third.visits, third.starts
        ));
        self.show_logs(&device)?;

        device.ctl(&["reboot"])?;
        let boots = device.boots();
        device.until("the device boots again", SOON, |device| {
            ensure!(device.boots() > boots, "it is shutting down");
            Ok(())
        })?;
        self.timeline.event("orderly reboot: QEMU reset");
        device.until_goals(BOOT)?;
        let fourth = self.expect(&mut device, third.visits + 1, third.starts + 1)?;
        self.timeline.event(format_args!(
            "up again, volumes as they were: {} visits, start {}",
            fourth.visits, fourth.starts
        ));

        // The answer has left Redis, so the count is on the disk: nothing else is waited for.
        let last = self.visit(&mut device)?;
        device.cut_power()?;
        self.timeline
            .event("power cut: QEMU killed right after a visit");
        let mut device = self.boot()?;
        let fifth = self.expect(&mut device, last.visits + 1, last.starts + 1)?;
        self.timeline.event(format_args!(
            "nothing was lost: {} visits, start {}",
            fifth.visits, fifth.starts
        ));
        Ok(device)
    }

    /// Ends the process of the container `visits` from inside, as a bug would.
    fn crash(&self, device: &mut Device) -> Result<()> {
        // There is no answer but the proxy's: the process is gone.
        let (code, _) = fetch(self.port, "POST", "/crash")?;
        ensure!(code == 502, "POST /crash is answered with {code}");
        self.timeline
            .event("the Python process ended itself with status 70");
        device.until("it is restarted", SOON, |device| {
            let status = device.status()?;
            let entry = container(&status, "visits").context("the container is gone")?;
            let restarts = entry.get("restarts").and_then(Value::as_u64);
            let ready = entry.get("ready").and_then(Value::as_bool);
            ensure!(
                restarts.unwrap_or_default() > 0 && ready == Some(true),
                "{entry}"
            );
            Ok(())
        })
    }

    fn show_logs(&self, device: &Device) -> Result<()> {
        let lines = device.texts("visits")?;
        ensure!(
            lines.iter().any(|line| line.starts_with("crashing")),
            "the log lacks the program's last words: {lines:?}"
        );
        self.timeline
            .event("its log, from before and after (kedge ctl logs visits):");
        for line in lines.iter().rev().take(5).rev() {
            self.timeline.more(line);
        }
        Ok(())
    }

    /// One visit; the program behind the proxy may still be starting.
    fn visit(&self, device: &mut Device) -> Result<Seen> {
        let port = self.port;
        device.until("/visits answers", SOON, |_| {
            let (code, body) = fetch(port, "GET", "/visits")?;
            ensure!(code == 200, "GET /visits gives {code}: {body}");
            let value: Value = serde_json::from_str(&body).context("/visits gives no JSON")?;
            let number = |name: &str| value.get(name).and_then(Value::as_u64).context("no number");
            Ok(Seen {
                visits: number("visits")?,
                starts: number("starts")?,
            })
        })
    }

    /// One visit that must bring exactly these numbers: a lost one shows as well as one too many.
    fn expect(&self, device: &mut Device, visits: u64, starts: u64) -> Result<Seen> {
        let seen = self.visit(device)?;
        let wanted = Seen { visits, starts };
        ensure!(seen == wanted, "expected {wanted:?}, found {seen:?}");
        Ok(seen)
    }

    fn power_off(&self, mut device: Device) -> Result<()> {
        device.ctl(&["poweroff"])?;
        match device.until_ended(SOON)? {
            Ending::PoweredOff => {
                self.timeline.event("orderly power-off");
                Ok(())
            }
            other @ (Ending::Killed | Ending::Failed(..) | Ending::NotStarted(_)) => {
                bail!("the device did not power off but: {other:?}")
            }
        }
    }

    /// Stays until the device is over, or we are interrupted (and the device with us).
    fn stay(&self, mut device: Device) -> Result<()> {
        let folder = self.built.kedge.project().display();
        let socket = device.socket().display();
        self.timeline.event(format_args!(
            "PASS; the device keeps running until Ctrl-C. In another terminal:\n\
             \x20 curl http://127.0.0.1:{port}/            and in a browser\n\
             \x20 curl http://127.0.0.1:{port}/visits\n\
             \x20 curl -X POST http://127.0.0.1:{port}/crash\n\
             \x20 cd {folder}\n\
             \x20 ./kedge ctl --socket {socket} status\n\
             \x20 ./kedge ctl --socket {socket} logs -f\n\
             \x20 ./kedge ctl --socket {socket} restart web\n\
             \x20 ./kedge ctl --socket {socket} poweroff\n\
             \x20 ./kedge inspect build/revision.json     and the files there: kedge.toml, containers/",
            port = self.port
        ));
        while !device.is_over() {
            device.listen(Duration::from_secs(1));
        }
        Ok(())
    }
}

/// Seconds since the beginning, and what happened.
#[derive(Debug)]
struct Timeline {
    start: Instant,
    output: Output,
}

impl Timeline {
    fn begin() -> Self {
        progress::say(
            "Kedge: a hub and a device of real software, built, booted, updated, broken. Timeline in seconds.",
        );
        Self {
            start: Instant::now(),
            output: Output::new(false),
        }
    }

    fn event(&self, text: impl Display) {
        let seconds = self.start.elapsed().as_secs_f64();
        self.line(format_args!("{seconds:7.1}  {text}"));
    }

    fn more(&self, text: impl Display) {
        self.line(format_args!("           {text}"));
    }

    /// Whether anybody can read it changes nothing of how the demo ends.
    fn line(&self, text: impl Display) {
        drop(self.output.result(text, &()));
    }
}
