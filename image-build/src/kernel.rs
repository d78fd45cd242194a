//! Kernels: our own, built from Debian's source for what the promises are measured on, and Debian's, taken out of
//! its package for a quick start.
//!
//! Both come from the Debian suite that the board names. Nothing is installed on the machine but compilers.

mod distribution;
mod fragment;
mod own;

pub use distribution::{device_trees, distribution, is_signed, without_signature};
pub use fragment::{Fragment, Unmet};
pub use own::{own, own_if_cached};

use crate::files;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A kernel in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// What `uname -r` says on the device.
    pub version: String,
    /// The image that a loader starts.
    pub image: PathBuf,
    /// Decompressed modules in the order in which they are to be loaded; none for our own kernels.
    pub modules: Vec<PathBuf>,
    /// Likewise those that revisions with networks of containers' own need beside them.
    pub pool_modules: Vec<PathBuf>,
}

/// The file `kernel.json` of a cache entry: a kernel with paths relative to the entry.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Record {
    version: String,
    image: String,
    modules: Vec<String>,
    #[serde(default)]
    pool_modules: Vec<String>,
}

impl Record {
    fn write(&self, folder: &Path) -> Result<()> {
        let text =
            serde_json::to_string_pretty(self).context("cannot write a kernel's record as JSON")?;
        files::write(&folder.join("kernel.json"), text)
    }
}

fn load(folder: &Path) -> Result<Kernel> {
    let path = folder.join("kernel.json");
    let record: Record = serde_json::from_slice(&files::read(&path)?)
        .with_context(|| format!("cannot parse {}", path.display()))?;
    let paths = |names: &[String]| names.iter().map(|name| folder.join(name)).collect();
    Ok(Kernel {
        version: record.version,
        image: folder.join(record.image),
        modules: paths(&record.modules),
        pool_modules: paths(&record.pool_modules),
    })
}
