//! The product of the VM tier: many small containers of one program, each with something to show.
//!
//! It is made once a run and board through the host command, as a user makes a product, and every disk is a copy of its
//! image.

use crate::bridge;
use crate::kedge::Kedge;
use anyhow::{Context, Result, bail, ensure};
use kedge_board_support::boards;
use kedge_image_build::cache::Cache;
use kedge_image_build::platform::{self, KernelSource, Platform};
use kedge_image_build::{files, toolchain};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};

/// First bytes of the blocks of `/big` in the layer of `delicate`; nothing else on a disk begins so.
pub const MARKER: &[u8] = b"kedge-tests: a block that one bit is flipped in. ";
/// Bytes of `/big`.
pub const BIG: usize = 256 * 1024;
/// The board that most tests boot.
pub const BOARD: &str = "qemu-x86-64";

/// A built product.
#[derive(Debug, Clone)]
pub struct Product {
    /// The host command in its project.
    pub kedge: Kedge,
    /// The disk image.
    pub image: PathBuf,
    /// The platform's folder that it was made with.
    pub platform: PathBuf,
    /// The folder that all of this is in.
    folder: PathBuf,
}

/// The product for a board, made by whoever asks first; `kedge` is the path of the host command.
///
/// # Errors
/// It cannot be built.
pub fn product(kedge: &str, board: &str) -> Result<Product> {
    static MADE: PerBoard<Product> = PerBoard::new();
    let made = MADE.get(board, || make(kedge, board))?;
    Ok(Product::clone(&made))
}

/// What is made once for each board, by whoever asks first. Nobody waits for another board's: to build the device binary of an
/// architecture takes minutes.
#[derive(Debug)]
pub(crate) struct PerBoard<T>(Mutex<BTreeMap<String, Arc<Cell<T>>>>);

/// None as long as nobody has asked.
pub(crate) type Cell<T> = Mutex<Option<Arc<T>>>;

impl<T> PerBoard<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// A board's own: whoever holds it is alone at work for that board.
    pub(crate) fn cell(&self, board: &str) -> Arc<Cell<T>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(board.to_owned()).or_default())
    }

    /// What was made for the board, or is made now.
    pub(crate) fn get(&self, board: &str, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let cell = self.cell(board);
        let mut made = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &*made {
            return Ok(Arc::clone(made));
        }
        let new = Arc::new(make()?);
        *made = Some(Arc::clone(&new));
        Ok(new)
    }
}

/// The platform: named by whoever runs the tests (`KEDGE_PLATFORM`), or made here, with the kernel that is asked for
/// (`KEDGE_KERNEL`); unasked our own if it was built before.
///
/// # Errors
/// It cannot be made.
pub fn platform(board: &str) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("KEDGE_PLATFORM").map(PathBuf::from)
        && Platform::load(&folder)?.board == board
    {
        return Ok(folder);
    }
    let kernel = match std::env::var("KEDGE_KERNEL") {
        Ok(word) => KernelSource::from_str(&word)?.or_usual(&boards::find(board)?),
        Err(_) => platform::cheapest(board)?,
    };
    platform::make(board, kernel)
}

/// A folder of this process's own in the cache: images are large, and `/tmp` is memory on many machines. What processes
/// that are gone have left is removed.
pub(crate) fn folder(board: &str) -> Result<PathBuf> {
    let place = Cache::open()?.folder("tests")?;
    for old in files::list(&place)? {
        let name = old.file_name().unwrap_or_default().to_string_lossy();
        let process = name
            .strip_prefix("vm-")
            .map(|id| Path::new("/proc").join(id));
        if process.is_some_and(|process| !process.exists()) {
            files::remove_folder(&old)?;
        }
    }
    let own = place.join(format!("vm-{}", std::process::id())).join(board);
    files::make_folder(&own)?;
    Ok(own)
}

fn make(kedge: &str, board: &str) -> Result<Product> {
    let probe = toolchain::build_program(&boards::find(board)?, "kedge-probe", "probe")
        .context("cannot build the program in the containers")?;
    let folder = folder(board)?;
    for name in ["plain", "delicate"] {
        root_file_system(&folder.join(name), &probe)?;
    }
    // In the place of a volume, a link that leads up and out, as if there were something above `/`.
    let link = folder.join("plain/astray");
    std::os::unix::fs::symlink("/proc/1/root//../../../keep", &link)
        .with_context(|| format!("cannot make {}", link.display()))?;
    let mut big = Vec::new();
    for number in 0..BIG / 4096 {
        let mut block = MARKER.to_vec();
        block.extend(
            format!("{number:08} ")
                .bytes()
                .cycle()
                .take(4096 - MARKER.len()),
        );
        big.extend(block);
    }
    files::write(&folder.join("delicate/big"), big)?;
    let kedge = Kedge::new(kedge, &folder.join("product"));
    kedge.create("harness", board)?;
    let mut layers = Vec::new();
    for name in ["plain", "delicate"] {
        let image = format!("dir:{}", folder.join(name).display());
        let added = kedge.ask(&[
            "add",
            &image,
            "--name",
            name,
            "--command",
            "/probe",
            "sleep",
        ])?;
        layers.push(layer(&added)?);
        let written = kedge.folder().join(format!("containers/{name}.toml"));
        std::fs::remove_file(&written)
            .with_context(|| format!("kedge add wrote no {}", written.display()))?;
    }
    let [plain, delicate] = layers.as_slice() else {
        bail!("two layers were added, not {}", layers.len())
    };
    for container in CONTAINERS {
        let layer = if container.name == "delicate" {
            delicate
        } else {
            plain
        };
        let path = kedge
            .folder()
            .join(format!("containers/{}.toml", container.name));
        files::write(&path, container.text(layer))?;
    }
    bridge(kedge.folder(), board, plain)?;
    let platform = platform(board)?;
    let built = kedge.ask(&["build", "--platform", &platform.to_string_lossy()])?;
    let image = built
        .pointer("/image/path")
        .and_then(Value::as_str)
        .context("kedge build names no image")?;
    let image = kedge.folder().join(image);
    Ok(Product {
        kedge,
        image,
        platform,
        folder,
    })
}

pub(crate) fn root_file_system(folder: &Path, probe: &Path) -> Result<()> {
    for name in [
        "dev", "proc", "sys", "tmp", "etc", "run", "data", "keep", "rev", "boot", "srv/work",
    ] {
        files::make_folder(&folder.join(name))?;
    }
    files::write_executable(&folder.join("probe"), files::read(probe)?)
}

/// Adds the container that leads to the control interface of a board without a port for that.
pub(crate) fn bridge(project: &Path, board: &str, layer: &str) -> Result<()> {
    if !bridge::is_needed(&boards::find(board)?) {
        return Ok(());
    }
    let text = bridge::container(layer);
    files::write(&project.join("containers/bridge.toml"), text)
}

pub(crate) fn layer(added: &Value) -> Result<String> {
    let layers = added
        .get("layers")
        .and_then(Value::as_array)
        .context("kedge add names no layers")?;
    ensure!(
        layers.len() == 1,
        "one folder became {} layers",
        layers.len()
    );
    let id = layers
        .first()
        .and_then(Value::as_str)
        .context("a layer has no id")?;
    Ok(id.to_owned())
}

/// The layers' sources are next to the project; a test that needs another project puts it there too.
impl Product {
    /// The folder with the project and its sources.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// One container of the product.
struct Container {
    name: &'static str,
    group: &'static str,
    goal: &'static str,
    arguments: &'static [&'static str],
    /// Lines for the top of the file.
    top: &'static str,
    /// Lines of `[process]`.
    process: &'static str,
    /// Further tables.
    tables: &'static str,
}

impl Container {
    const fn new(name: &'static str, arguments: &'static [&'static str]) -> Self {
        Self {
            name,
            group: "app",
            goal: "started",
            arguments,
            top: "",
            process: "",
            tables: "",
        }
    }

    fn text(&self, layer: &str) -> String {
        let arguments: Vec<String> = self
            .arguments
            .iter()
            .map(|word| format!("{word:?}"))
            .collect();
        let mut text = format!(
            "layers = [\"{layer}\"]\ngroup = \"{}\"\ngoal = \"{}\"\n{}\n[process]\narguments = [\"/probe\", {}]\n{}\n",
            self.group,
            self.goal,
            self.top,
            arguments.join(", "),
            self.process
        );
        // Writing to a String cannot fail.
        writeln!(text, "{}", self.tables).ok();
        text
    }
}

const CONTAINERS: [Container; 22] = [
    Container {
        group: "platform",
        goal: "ready",
        top: "roles = [\"observe\"]\n",
        // It says READY=1 and never WATCHDOG=1: on a machine that is busy the tests last longer than that is waited for.
        tables: "[health]\nnotify = true\ninterval = \"1h\"\n",
        ..Container::new("first", &["notify", "700"])
    },
    Container {
        group: "platform",
        goal: "finished",
        ..Container::new("setup", &["finish", "0"])
    },
    Container {
        goal: "ready",
        top: "network = \"host\"\nroot = \"revision\"\n",
        tables: "[health]\nhttp = { port = 8080, path = \"/health\" }\n[restart]\npolicy = \"always\"\ndelay = \"200ms\"\n",
        ..Container::new("web", &["serve", "8080"])
    },
    Container {
        top: "network = \"host\"\n",
        tables: "[health]\nhttp = { port = 8081, path = \"/health\" }\ninterval = \"1s\"\ntimeout = \"5s\"\nretries = 2\n\
                 [restart]\npolicy = \"always\"\ndelay = \"200ms\"\n",
        ..Container::new("ill", &["serve", "8081"])
    },
    Container {
        goal: "ready",
        top: "network = \"host\"\n",
        tables: "[health]\ncommand = [\"/probe\", \"apart\"]\n",
        ..Container::new("apart", &["sleep"])
    },
    Container::new("confined", &["facts"]),
    Container {
        top: "capabilities = [\"NET_BIND_SERVICE\", \"CHOWN\"]\nroot = \"boot\"\n",
        ..Container::new("widened", &["facts"])
    },
    Container {
        process: "environment = [\"PATH=/bin\", \"COLOUR=green blue\"]\nuser = \"1000:1001\"\ngroups = [7, 9]\nworking-directory = \"/srv/work\"\n",
        ..Container::new("someone", &["facts"])
    },
    Container {
        tables: "[restart]\npolicy = \"on-failure\"\ndelay = \"300ms\"\nmax-delay = \"10s\"\nmax-retries = 3\n",
        ..Container::new("crasher", &["crash", "50", "3"])
    },
    Container {
        tables: "[restart]\npolicy = \"no\"\n[limits]\nmemory-max = \"16MiB\"\n",
        ..Container::new("eater", &["eat"])
    },
    Container {
        tables: "[limits]\npids-max = 16\n",
        ..Container::new("threads", &["threads"])
    },
    Container {
        process: "stop-signal = \"SIGUSR1\"\n",
        ..Container::new("polite", &["polite"])
    },
    Container {
        process: "stop-grace = \"1s\"\n",
        ..Container::new("stubborn", &["stubborn"])
    },
    Container {
        tables: "[volumes.keep]\npath = \"/keep\"\nlifetime = \"permanent\"\n[volumes.rev]\npath = \"/rev\"\nlifetime = \"revision\"\n\
                 [volumes.boot]\npath = \"/boot\"\nlifetime = \"boot\"\n",
        ..Container::new("volumes", &["volumes", "/keep", "/rev", "/boot"])
    },
    Container {
        process: "user = \"1000:1001\"\n",
        tables: "[volumes.keep]\npath = \"/keep\"\nlifetime = \"permanent\"\n\
                 [health]\ncommand = [\"/probe\", \"background\"]\ninterval = \"1s\"\ntimeout = \"1s\"\nstart-period = \"1h\"\n",
        ..Container::new("owned-volume", &["volumes", "/keep"])
    },
    Container {
        top: "root = \"revision\"\n",
        tables: "[volumes.sized]\npath = \"/sized\"\nlifetime = \"permanent\"\nsize = \"1MiB\"\n\
                 [volumes.free]\npath = \"/free\"\nlifetime = \"revision\"\n\
                 [limits]\nroot-max = \"2MiB\"\nmemory-max = \"48MiB\"\npids-max = 64\nmemory-swap-max = \"64KiB\"\nio-read-max = \"50MiB\"\nio-writes-max = 2000\n\
                 [limits.unified]\n\"memory.oom.group\" = \"0\"\n",
        ..Container::new("filler", &["sleep"])
    },
    Container {
        tables: "[volumes.free]\npath = \"/free\"\nlifetime = \"revision\"\n\
                 [limits]\ncpu-max-percent = 20\nmemory-high = \"16MiB\"\nio-write-max = \"1MiB\"\n",
        ..Container::new("limited", &["sleep"])
    },
    Container {
        tables: "[volumes.free]\npath = \"/free\"\nlifetime = \"revision\"\n[limits]\nio-write-max = \"64KiB\"\n",
        ..Container::new("slowest", &["sleep"])
    },
    Container {
        tables: "[volumes.away]\npath = \"/astray\"\nlifetime = \"permanent\"\n",
        ..Container::new("astray", &["volumes", "/keep"])
    },
    Container {
        goal: "finished",
        ..Container::new("clock", &["finish", "0"])
    },
    Container::new("delicate", &["read", "/big"]),
    Container {
        top: "after = [\"clock\"]\n",
        ..Container::new("later", &["sleep"])
    },
];
