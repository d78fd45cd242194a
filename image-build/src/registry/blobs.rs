//! What was pulled, in the cache: blobs by their digest, whole; and those that were cut off, which are gone on with.
//!
//! `registry/blobs/sha256/` holds what was compared with its digest, `registry/partial/` what is still coming, and
//! `registry/images/` an OCI layout for each image, whose blobs are those of the first. All of it may be deleted.

use super::News;
use super::client::{Client, Failure, whole};
use super::manifest::{Descriptor, LARGEST};
use super::reference::Digest;
use crate::cache::Cache;
use crate::files;
use anyhow::{Context, Result, anyhow, ensure};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::Body;
use ureq::http::Response;

/// Attempts in a row that may bring nothing.
const MOST_ATTEMPTS: u32 = 6;
/// An attempt that brought so much counts as none: a link that breaks now and then still brings a large layer in the end.
const PROGRESS: u64 = 256 * 1024;
/// The first pause; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause that a registry may ask for. One that wants more is told of, and not waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// Bytes that are read at a time.
const PIECE: usize = 64 * 1024;

/// How often, and how long, a request that fails is made again.
struct Patience {
    left: u32,
    pause: Duration,
}

impl Patience {
    const fn new() -> Self {
        Self {
            left: MOST_ATTEMPTS - 1,
            pause: FIRST_PAUSE,
        }
    }

    /// Waits, or gives up.
    fn bear(&mut self, failure: Failure, news: &mut dyn FnMut(News<'_>)) -> Result<()> {
        let (error, after) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing { error, after } => (error, after),
        };
        if self.left == 0 {
            return Err(error.context(format!("given up after {MOST_ATTEMPTS} attempts in a row")));
        }
        let pause = after.map_or(self.pause, |after| after.max(self.pause));
        if pause > LONGEST_PAUSE {
            return Err(error.context(format!(
                "it wants to be asked again in {} s: run the same command then, what came already is kept",
                pause.as_secs()
            )));
        }
        news(News::Waiting { why: &error, pause });
        std::thread::sleep(pause);
        self.left = self.left.saturating_sub(1);
        self.pause = self.pause.saturating_mul(2);
        Ok(())
    }
}

/// The cache's folder of what was pulled.
#[derive(Debug)]
pub(super) struct Blobs {
    cache: Cache,
    whole: PathBuf,
    partial: PathBuf,
}

impl Blobs {
    pub(super) fn open(cache: &Cache) -> Result<Self> {
        Ok(Self {
            cache: cache.clone(),
            whole: cache.folder("registry/blobs/sha256")?,
            partial: cache.folder("registry/partial")?,
        })
    }

    /// A manifest that is here, compared with its digest.
    pub(super) fn manifest(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let path = self.whole.join(digest.hex());
        if !path.is_file() {
            return Ok(None);
        }
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut bytes = Vec::new();
        file.take(LARGEST.saturating_add(1))
            .read_to_end(&mut bytes)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok((Digest::of(&bytes) == *digest).then_some(bytes))
    }

    /// Asks for a manifest until an answer comes, and keeps it.
    pub(super) fn fetch_manifest(
        &self,
        client: &mut Client,
        version: &str,
        news: &mut dyn FnMut(News<'_>),
    ) -> Result<(Vec<u8>, Option<String>)> {
        let mut patience = Patience::new();
        let what = format!("manifests/{version}");
        loop {
            match attempt_manifest(client, &what) {
                Ok((bytes, media_type)) => {
                    files::write(&self.whole.join(Digest::of(&bytes).hex()), &bytes)?;
                    return Ok((bytes, media_type));
                }
                Err(failure) => patience.bear(failure, news)?,
            }
        }
    }

    /// Sees to it that a blob is here, and returns its path. `client` is made when it is needed.
    pub(super) fn fetch(
        &self,
        client: &mut dyn FnMut() -> Result<Client>,
        kept: &mut Option<Client>,
        wanted: &Descriptor,
        news: &mut dyn FnMut(News<'_>),
    ) -> Result<PathBuf> {
        let path = self.whole.join(wanted.digest.hex());
        if self.has(&path, wanted)? {
            news(News::Bytes(wanted.size));
            return Ok(path);
        }
        let name = wanted.digest.hex().get(..16).unwrap_or_default();
        let _alone = self.cache.lock(&format!("registry-{name}"))?;
        if self.has(&path, wanted)? {
            news(News::Bytes(wanted.size));
            return Ok(path);
        }
        let client = match kept {
            Some(client) => client,
            None => kept.insert(client()?),
        };
        let partial = self.partial.join(wanted.digest.hex());
        let mut coming = Coming::open(&partial, wanted, news)?;
        let mut patience = Patience::new();
        while let Err(failure) = coming.attempt(client, news) {
            if coming.gains() {
                patience = Patience::new();
            }
            patience.bear(failure, news)?;
        }
        coming.finish(&path)?;
        Ok(path)
    }

    /// Whether a blob is here as it should be; one that was damaged since is pulled again.
    fn has(&self, path: &Path, wanted: &Descriptor) -> Result<bool> {
        if !path
            .metadata()
            .is_ok_and(|metadata| metadata.len() == wanted.size)
        {
            return Ok(false);
        }
        let mut file =
            File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(hash(&mut file, path)? == wanted.digest)
    }
}

fn hash(file: &mut File, path: &Path) -> Result<Digest> {
    let mut hash = Sha256::new();
    absorb(file, path, &mut hash)?;
    Ok(Digest::from_hash(&hash.finalize()))
}

fn absorb(file: &mut File, path: &Path, hash: &mut Sha256) -> Result<u64> {
    let mut buffer = vec![0; PIECE];
    let mut length = 0_u64;
    loop {
        let count = file
            .read(&mut buffer)
            .with_context(|| format!("cannot read {}", path.display()))?;
        if count == 0 {
            return Ok(length);
        }
        hash.update(buffer.get(..count).unwrap_or_default());
        length = length.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

fn attempt_manifest(client: &mut Client, what: &str) -> Result<(Vec<u8>, Option<String>), Failure> {
    let answer = client.get(what, super::manifest::ACCEPT, 0)?;
    let field = |name: &str| {
        let field = answer.headers().get(name);
        field
            .and_then(|field| field.to_str().ok())
            .map(str::to_owned)
    };
    let (media_type, stated) = (field("content-type"), field("docker-content-digest"));
    let bytes = whole(answer, LARGEST, what)?;
    let found = Digest::of(&bytes);
    let asked = what
        .strip_prefix("manifests/")
        .filter(|version| version.contains(':'));
    for wanted in [asked, stated.as_deref()].into_iter().flatten() {
        let wanted: Digest = wanted
            .parse()
            .context("the registry states another digest than SHA-256")?;
        if wanted != found {
            return Err(Failure::Final(anyhow!(
                "the registry sends a manifest with the digest {found} for {wanted}: it, or somebody before it, is not to be trusted"
            )));
        }
    }
    Ok((bytes, media_type))
}

/// A blob that comes, in a file that outlives this process.
struct Coming<'a> {
    wanted: &'a Descriptor,
    path: &'a Path,
    file: File,
    hash: Sha256,
    have: u64,
    /// The most that any attempt before the last one had.
    most: u64,
}

impl<'a> Coming<'a> {
    fn open(
        path: &'a Path,
        wanted: &'a Descriptor,
        news: &mut dyn FnMut(News<'_>),
    ) -> Result<Self> {
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let mut hash = Sha256::new();
        let have = absorb(&mut file, path, &mut hash)?;
        let mut coming = Self {
            wanted,
            path,
            file,
            hash,
            have,
            most: have,
        };
        if have > wanted.size {
            coming.again()?;
        } else if have > 0 {
            news(News::Bytes(have));
        }
        Ok(coming)
    }

    /// Whether the last attempt brought something new. What comes from the beginning each time, of a registry that cannot go
    /// on, does not count.
    fn gains(&mut self) -> bool {
        let gains = self.have.saturating_sub(self.most) >= PROGRESS;
        self.most = self.most.max(self.have);
        gains
    }

    /// From the beginning.
    fn again(&mut self) -> Result<()> {
        let wrong = || format!("cannot empty {}", self.path.display());
        self.file.set_len(0).with_context(wrong)?;
        self.file.seek(SeekFrom::Start(0)).with_context(wrong)?;
        self.hash = Sha256::new();
        self.have = 0;
        Ok(())
    }

    fn attempt(
        &mut self,
        client: &mut Client,
        news: &mut dyn FnMut(News<'_>),
    ) -> Result<(), Failure> {
        if self.have == self.wanted.size && self.wanted.size > 0 {
            return Ok(());
        }
        let what = format!("blobs/{}", self.wanted.digest);
        let answer = client.get(&what, "*/*", self.have)?;
        if self.have > 0 && !goes_on(&answer, self.have) {
            news(News::Back(self.have));
            self.again()?;
            if answer.status() != 200 {
                return Err(Failure::passing(anyhow!(
                    "the registry does not go on at the byte that was asked for"
                )));
            }
        }
        self.take(answer, news)
    }

    fn take(
        &mut self,
        answer: Response<Body>,
        news: &mut dyn FnMut(News<'_>),
    ) -> Result<(), Failure> {
        let digest = &self.wanted.digest;
        let left = self.wanted.size.saturating_sub(self.have);
        let stated = answer.body().content_length();
        if let Some(stated) = stated.filter(|stated| *stated != left) {
            return Err(Failure::Final(anyhow!(
                "the registry sends {stated} bytes of {digest}, and the manifest leaves {left}: one of them is wrong"
            )));
        }
        let mut reader = answer.into_body().into_reader();
        let mut buffer = vec![0; PIECE];
        // One byte too many is enough to see that there are too many; a connection is used again only after an answer's end.
        while self.have <= self.wanted.size {
            let count = reader.read(&mut buffer).map_err(|error| {
                Failure::passing(
                    anyhow!(error).context(format!("{digest} broke off after {} bytes", self.have)),
                )
            })?;
            let piece = buffer.get(..count).unwrap_or_default();
            if piece.is_empty() {
                if self.have == self.wanted.size {
                    return Ok(());
                }
                return Err(Failure::passing(anyhow!(
                    "{digest} ended after {} of {} bytes",
                    self.have,
                    self.wanted.size
                )));
            }
            let length = u64::try_from(count).unwrap_or(u64::MAX);
            if self.have.saturating_add(length) > self.wanted.size {
                break;
            }
            self.file
                .write_all(piece)
                .with_context(|| format!("cannot write {}", self.path.display()))?;
            self.hash.update(piece);
            self.have = self.have.saturating_add(length);
            news(News::Bytes(length));
        }
        self.again()?;
        Err(Failure::Final(anyhow!(
            "the registry sends more of {digest} than the {} bytes that the manifest states",
            self.wanted.size
        )))
    }

    /// Compares, and gives the blob its name.
    fn finish(self, path: &Path) -> Result<()> {
        let found = Digest::from_hash(&self.hash.finalize());
        let wanted = &self.wanted.digest;
        if found != *wanted {
            std::fs::remove_file(self.path)
                .with_context(|| format!("cannot remove {}", self.path.display()))?;
        }
        ensure!(
            found == *wanted,
            "what the registry sent as {wanted} is {found}: it is damaged, or somebody on the way is not to be trusted"
        );
        self.file
            .sync_all()
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        files::publish(self.path, path)
    }
}

/// Whether an answer begins with the byte that was asked for.
fn goes_on(answer: &Response<Body>, from: u64) -> bool {
    let range = answer
        .headers()
        .get("content-range")
        .and_then(|range| range.to_str().ok());
    answer.status() == 206
        && range.is_some_and(|range| range.starts_with(&format!("bytes {from}-")))
}
