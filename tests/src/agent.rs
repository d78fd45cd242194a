//! The agent as it runs on a device, on this machine: the real loop in a process of its own, and PID 1's side of it.
//!
//! | part | is |
//! |---|---|
//! | the agent | real: `kedge_agent::run` in a process (`test-helper agent`), its socket on standard input |
//! | what it keeps | real, in a folder |
//! | the control interface | real: `kedge_init::control::Connection` in the role that the agent's socket has, with PID 1's routes, bounds and answers |
//! | what takes revisions in | real: the stage helper in a process (`test-helper stage`), over its frames, with PID 1's credit |
//! | the log | real: `kedge_init::log::Journal` |
//! | trials | played: what is tried is judged again from the disk, and held or rolled back after a moment; there is no boot record, no slot, no container |
//! | the confinement | absent: no user of its own, no change of root. The machine's clock is not set |
//!
//! [`Device::audit`] says whether what the device stored is what was signed, and nothing else.

mod init;
mod stage;

pub use init::{PLAYED_MEMORY, State, Target};

use crate::releases::{CREATED, Fleet, Plan, Release};
use anyhow::{Context, Result, ensure};
use init::Init;
use kedge_agent::frames::{Configure, Order};
use kedge_agent::kept::Kept;
use kedge_init::control::{Call, Upload};
use kedge_revision::bundle::Head;
use kedge_revision::{Floor, KeyId, ObjectId, PublicKey, Timestamp};
use kedge_store::staging::measure_file;
use kedge_store::{Staging, Store};
use kedge_sys::sock;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long anything may take on a machine that does other things too. A hub leaves a connection that sends no whole request
/// after 15 to 35 seconds, and a device may have several of these in a row.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// See the module. The agent does not run at first.
#[derive(Debug)]
pub struct Device {
    folder: PathBuf,
    program: String,
    init: Arc<Init>,
    server: Option<JoinHandle<()>>,
    agent: Option<Running>,
    factory: Release,
}

#[derive(Debug)]
struct Running {
    child: Child,
    link: Arc<OwnedFd>,
    reader: JoinHandle<()>,
}

impl Device {
    /// A device of the fleet's product in `folder`, with revision 1 committed, that is told of these hubs.
    /// `program` is `test-helper`.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn new(program: &str, folder: &Path, fleet: &Fleet, hubs: &[String]) -> Result<Self> {
        let factory = Plan::new(1, 5000).make(&fleet.keys)?;
        let data = folder.join("data");
        let store = Store::open(&data)?;
        put(&store, &factory)?;
        std::fs::create_dir_all(folder.join("state")).context("no state")?;
        let product = fleet.product()?;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).context("no text");
        let configure = Configure {
            hubs: hubs.to_vec(),
            product: text(product.encode()?)?,
            root: text(fleet.root.encode()?)?,
            boot_id: "boot-1".to_owned(),
            created: Some(Timestamp::from_unix(CREATED)),
            repair: false,
            provision: None,
        };
        let floor = Floor {
            root: 1,
            counter: 1,
        };
        let state = State::new((factory.id, 0), floor);
        let trust = (product, fleet.root.clone(), configure);
        let init = Init::new(trust, (program.to_owned(), data), state);
        let init = Arc::new(init);
        let listener = UnixListener::bind(folder.join("control.sock")).context("no socket")?;
        listener.set_nonblocking(true).context("no socket")?;
        let server = std::thread::spawn({
            let init = Arc::clone(&init);
            move || init.serve(&listener)
        });
        Ok(Self {
            folder: folder.to_owned(),
            program: program.to_owned(),
            init,
            server: Some(server),
            agent: None,
            factory,
        })
    }

    /// Gives it something to join with; told to an agent that starts from now on.
    pub fn provision(&self, provision: String) {
        self.configured(|configure| configure.provision = Some(provision));
    }

    /// Changes what agents are told from now on.
    pub fn configured(&self, change: impl FnOnce(&mut Configure)) {
        let configure = self.init.configure.lock();
        change(&mut configure.unwrap_or_else(PoisonError::into_inner));
    }

    /// Starts the agent.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&mut self) -> Result<()> {
        self.start_silently()?;
        self.configure();
        Ok(())
    }

    /// Tells the agent what it is configured with.
    pub fn configure(&self) {
        let configure = self.init.configure.lock();
        let configure = configure.unwrap_or_else(PoisonError::into_inner).clone();
        self.init.order(&Order::Configure(Box::new(configure)));
    }

    /// Starts the agent, and tells it nothing yet.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_silently(&mut self) -> Result<()> {
        self.kill();
        let (own, other) = sock::pair(sock::Kind::Messages)?;
        let child = Command::new(&self.program)
            .arg("agent")
            .args([self.state_folder(), self.folder.join("control.sock")])
            .stdin(other)
            .spawn()
            .context("cannot start the agent")?;
        let link = Arc::new(own);
        let set = |link| {
            *self
                .init
                .link
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = link;
        };
        set(Some(Arc::clone(&link)));
        let reader = std::thread::spawn({
            let (init, link) = (Arc::clone(&self.init), Arc::clone(&link));
            move || init.hear(&link)
        });
        self.agent = Some(Running {
            child,
            link,
            reader,
        });
        Ok(())
    }

    /// Ends the agent as a crash would.
    pub fn kill(&mut self) {
        let Some(mut running) = self.agent.take() else {
            return;
        };
        // It may have ended itself.
        running.child.kill().ok();
        running.child.wait().ok();
        *self
            .init
            .link
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
        drop(running.link);
        // A panic in it has shown itself already.
        running.reader.join().ok();
    }

    /// Whether the agent runs.
    pub fn runs(&mut self) -> bool {
        let child = self.agent.as_mut().map(|running| &mut running.child);
        child.is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// What PID 1 knows.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.init.state()
    }

    /// Whether the agent has said something with these words.
    #[must_use]
    pub fn has_said(&self, words: &str) -> bool {
        self.state().said.iter().any(|line| line.contains(words))
    }

    /// Where the agent went on with objects, in order; what begins is left out.
    #[must_use]
    pub fn offsets(&self) -> Vec<u64> {
        let state = self.state();
        let offset = |call: &Call| {
            if let Call::Upload {
                what: Upload::Object { offset, .. },
                ..
            } = call
            {
                Some(*offset)
            } else {
                None
            }
        };
        let offsets = state.asked.iter().filter_map(|(_, call)| offset(call));
        offsets.filter(|offset| *offset > 0).collect()
    }

    /// What the agent keeps.
    #[must_use]
    pub fn kept(&self) -> Kept {
        Kept::new(&self.state_folder())
    }

    /// Where it keeps it.
    #[must_use]
    pub fn state_folder(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Where its store is.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.init.data
    }

    /// Its id.
    ///
    /// # Errors
    /// Its key cannot be read.
    pub fn id(&self) -> Result<KeyId> {
        let key = self.kept().key()?;
        Ok(PublicKey::from_bytes(key.verifying_key().to_bytes()).id())
    }

    /// The most memory that the agent has had, bytes (`VmHWM`, proc(5)).
    ///
    /// # Errors
    /// It does not run.
    pub fn peak(&self) -> Result<u64> {
        let running = self.agent.as_ref().context("no agent runs")?;
        let path = format!("/proc/{}/status", running.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kib.context("no VmHWM")?.trim().parse::<u64>()? * 1024)
    }

    /// Waits until something is so.
    ///
    /// # Errors
    /// It does not become so; what the agent has said goes along.
    pub fn until(&self, what: &str, is: impl Fn(&Self) -> bool) -> Result<()> {
        self.until_within(PATIENCE, what, is)
    }

    /// The same, with another patience.
    ///
    /// # Errors
    /// It does not become so; what the agent has said goes along.
    pub fn until_within(
        &self,
        patience: Duration,
        what: &str,
        is: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        while !is(self) {
            let said = || self.state().said.join("\n  ");
            ensure!(
                start.elapsed() < patience,
                "{what} did not come; the agent said:\n  {}",
                said()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Waits until a revision is committed.
    ///
    /// # Errors
    /// It is not.
    pub fn until_committed(&self, id: ObjectId) -> Result<()> {
        self.until("the commit", |device| device.state().committed.0 == id)
    }

    /// Whether everything that the device has is of these releases (and of the one that it was born with) and whole:
    /// each object has the bytes that its name says, each revision is signed.
    ///
    /// # Errors
    /// Something else is there.
    pub fn audit(&self, releases: &[&Release]) -> Result<()> {
        let releases = [releases, &[&self.factory]].concat();
        let known: BTreeSet<_> = releases.iter().map(|release| release.id).collect();
        let signed: BTreeSet<_> = releases.iter().flat_map(|one| one.objects.keys()).collect();
        let store = Store::at(self.data());
        for id in store.revisions()? {
            ensure!(known.contains(&id), "revision {id} was never released");
            self.init.load(id, Floor::default())?;
        }
        for id in store.objects()? {
            ensure!(signed.contains(&id), "object {id} was never released");
            let found = measure_file(&store.object_path(id))?.id;
            ensure!(found == id, "{id} holds what is {found}");
        }
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.kill();
        self.init.stop.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            // A panic in it has shown itself already.
            server.join().ok();
        }
    }
}

/// Puts a whole release into a store, as an image is born with one.
fn put(store: &Store, release: &Release) -> Result<()> {
    let head = Head::parse(&release.head)?;
    store.put_revision(release.id, &head.revision, &head.signatures, "factory")?;
    for (id, object) in store.objects_of(release.id)? {
        let (sealed, bytes) = release.objects.get(&id).context("no such object")?;
        let mut staging = Staging::begin(store, id, object, &sealed.tree)?;
        staging.write(bytes)?;
        staging.finish()?;
    }
    Ok(())
}
