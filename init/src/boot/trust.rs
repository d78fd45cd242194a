//! Which roots this device trusts, and which revision it is to run: read from disk, judged again.
//!
//! What an updater said it verified counts for nothing here. Roots form a chain from the one in
//! the initramfs; each next one is in `/data/roots/<version>.json` with `<version>.sig` beside it.
//! The committed revision is judged by the root that it names, a new one by the newest.

use crate::boot::{files, provision};
use crate::error::Error;
use kedge_board_support::record::state::Target;
use kedge_revision::parameters::Parameters;
use kedge_revision::revision::CAP;
use kedge_revision::{
    Content, Floor, Name, ObjectId, Policy, Product, Root, SignatureSet, Verified,
};
use kedge_store::Store;
use std::collections::BTreeMap;
use std::path::Path;

/// Where the initramfs keeps the identity it was built with.
const IDENTITY: &str = "/etc/kedge";
/// Longest chain that is followed: two signatures each, and far more rotations than a product sees.
const MOST_ROOTS: usize = 1024;

/// What the initramfs says about this device.
#[derive(Debug)]
pub struct Identity {
    /// Product, board, mode.
    pub product: Product,
    /// The trust root that was built in.
    pub root: Root,
}

fn document(path: &Path) -> impl Fn(kedge_revision::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Document {
        path: path.clone(),
        source,
    }
}

/// Reads the identity, before the initramfs is left behind.
///
/// # Errors
/// [`Error::File`], [`Error::Document`].
pub(crate) fn identity() -> Result<Identity, Error> {
    let at = |name: &str| Path::new(IDENTITY).join(name);
    let path = at("product.json");
    let product = Product::parse(&files::read(&path, Product::CAP)?).map_err(document(&path))?;
    let path = at("root.json");
    let bytes = files::read(&path, Root::CAP)?;
    let root = Root::parse(&bytes).map_err(document(&path))?;
    let signatures = at("root.sig");
    let set = SignatureSet::parse(&files::read(&signatures, SignatureSet::CAP)?)
        .map_err(document(&signatures))?;
    root.verify_self(&bytes, &set).map_err(document(&path))?;
    Ok(Identity { product, root })
}

/// Which roots may judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judges {
    /// Any of the chain: for what was committed under an older one.
    Any,
    /// The newest alone: for what is new.
    Newest,
}

/// Values of parameters by name: those of the device over the revision's defaults.
pub type Values = BTreeMap<Name, String>;

/// Every root that this device trusts, the oldest first.
#[derive(Debug)]
pub struct Roots(Vec<Root>);

impl Roots {
    /// Follows the chain in `directory` from the built-in root on, up to the first that is absent.
    ///
    /// A root that does not verify ends the chain: the roots before it stay trusted, and the
    /// problem is told.
    pub(crate) fn load(first: Root, directory: &Path) -> (Self, Option<Error>) {
        let mut roots = vec![first];
        let problem = loop {
            let Some(newest) = roots.last() else {
                break None;
            };
            if roots.len() > MOST_ROOTS {
                break None;
            }
            match next(newest, directory) {
                Ok(Some(root)) => roots.push(root),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        (Self(roots), problem)
    }

    /// The newest: what judges a new revision.
    #[must_use]
    pub fn newest(&self) -> Option<&Root> {
        self.0.last()
    }

    /// Judges a revision by the root that it names, which must be one of the `judges`.
    ///
    /// # Errors
    /// [`Error::Document`] with the newest root's reason.
    pub(crate) fn verify(
        &self,
        judges: Judges,
        path: &Path,
        bytes: &[u8],
        signatures: &SignatureSet,
        policy: &Policy<'_>,
    ) -> Result<Verified, Error> {
        let mut refused = None;
        // The newest first: nearly always the right one, and its reason is the one worth telling.
        let most = match judges {
            Judges::Any => self.0.len(),
            Judges::Newest => 1,
        };
        for root in self.0.iter().rev().take(most) {
            match Verified::verify(bytes, signatures, root, policy) {
                Ok(verified) => return Ok(verified),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(Error::Document {
            path: path.to_path_buf(),
            source: refused.unwrap_or(kedge_revision::Error::Threshold {
                role: "release",
                valid: 0,
                threshold: 1,
            }),
        })
    }
}

/// The root that follows `newest`, if there is one.
fn next(newest: &Root, directory: &Path) -> Result<Option<Root>, Error> {
    let version = newest.version.saturating_add(1);
    let path = directory.join(format!("{version}.json"));
    let Some(bytes) = files::read_if_there(&path, Root::CAP)? else {
        return Ok(None);
    };
    let signatures = directory.join(format!("{version}.sig"));
    let set = SignatureSet::parse(&files::read(&signatures, SignatureSet::CAP)?)
        .map_err(document(&signatures))?;
    newest
        .replace(&bytes, &set)
        .map(Some)
        .map_err(document(&path))
}

/// Reads and judges the revision `id`.
///
/// # Errors
/// [`Error::File`], [`Error::Document`]; [`Error::Object`] if the bytes are another revision's.
pub(crate) fn revision(
    store: &Store,
    id: ObjectId,
    roots: &Roots,
    judges: Judges,
    product: &Product,
    floor: Floor,
) -> Result<Verified, Error> {
    let directory = store.revision_directory(id);
    let path = directory.join("revision.json");
    let bytes = files::read(&path, CAP)?;
    let signatures = directory.join("revision.sig");
    let set = SignatureSet::parse(&files::read(&signatures, SignatureSet::CAP)?)
        .map_err(document(&signatures))?;
    let verified = roots.verify(judges, &path, &bytes, &set, &Policy { product, floor })?;
    if verified.id() == id {
        Ok(verified)
    } else {
        Err(Error::Object {
            id,
            why: "is not the revision that stands under its name",
        })
    }
}

/// The values of a revision's parameters: the document that its target names, over what the device was
/// provisioned with, over the declared defaults.
///
/// # Errors
/// [`Error::File`], [`Error::Document`]; [`Error::Parameters`] if the document is another counter's.
pub(crate) fn parameters(
    store: &Store,
    target: Target,
    content: &Content,
) -> Result<Values, Error> {
    let defaults = content.parameters.iter();
    let mut values: Values = defaults
        .filter_map(|(name, parameter)| Some((name.clone(), parameter.default.clone()?)))
        .collect();
    for (name, value) in provision::values(store.data()) {
        let declared = content.parameters.get(&name);
        // It was written before this revision was made: what does not fit is no fault of the revision's.
        if declared.is_some_and(|parameter| parameter.accepts(&value, "provision").is_ok()) {
            values.insert(name, value);
        }
    }
    if target.parameters == 0 {
        return Ok(values);
    }
    let path = store.parameters_path(target.revision, target.parameters);
    let bytes = files::read(&path, Parameters::CAP)?;
    let given = Parameters::parse(&bytes).map_err(document(&path))?;
    given.check(&content.parameters).map_err(document(&path))?;
    if given.counter != target.parameters {
        return Err(Error::Parameters {
            wanted: target.parameters,
            found: given.counter,
        });
    }
    values.extend(given.values);
    Ok(values)
}

/// What this device goes on with when both copies of its state record are lost.
#[derive(Debug)]
pub(crate) struct Remembered {
    /// The revision that it has committed last, or, where none is marked so, the newest that it may run.
    pub(crate) revision: Verified,
    /// Counter of the parameters that it had then, which are there; 0: none.
    pub(crate) parameters: u64,
    /// The highest floor of all that it has committed and that allow this one.
    pub(crate) floor: Floor,
}

/// What the store remembers; none: nothing that may run.
pub(crate) fn remembered(store: &Store, roots: &Roots, product: &Product) -> Option<Remembered> {
    let read = |id| revision(store, id, roots, Judges::Any, product, Floor::default()).ok();
    let known: Vec<Verified> = store
        .revisions()
        .unwrap_or_default()
        .into_iter()
        .filter_map(read)
        .collect();
    let floors: Vec<Floor> = known
        .iter()
        .filter(|verified| store.is_committed(verified.id()))
        .map(|verified| verified.envelope().floor())
        .collect();
    let last = known.into_iter().max_by_key(|verified| {
        let mark = store.mark(verified.id());
        let number = mark.map(|mark| mark.number);
        (number, verified.envelope().order())
    })?;
    let (order, own) = (last.envelope().order(), last.envelope().floor());
    let floor = floors
        .into_iter()
        .filter(|floor| floor.allows(order))
        .fold(own, Floor::max);
    let mark = store.mark(last.id()).unwrap_or_default();
    let there = store.parameters_path(last.id(), mark.parameters).is_file();
    Some(Remembered {
        parameters: if there { mark.parameters } else { 0 },
        revision: last,
        floor,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::helpers::stage::fixture::Device;

    #[test]
    fn a_lost_record_falls_back_to_what_was_committed() {
        let device = Device::new();
        let root = Root::parse(&device.root).unwrap();
        let product = Product::parse(&device.product).unwrap();
        let (roots, _) = Roots::load(root, device.directory.path());
        let found = || remembered(&device.store, &roots, &product);
        let newest = || found().map(|found| found.revision.id());
        assert_eq!(newest(), None);
        let [first, second, third] = [1, 2, 3].map(|counter| device.put(counter, &[], "bundle\n"));
        assert_eq!(newest(), Some(third));
        device.store.mark_committed(first, 0).unwrap();
        assert_eq!(newest(), Some(first));
        device.store.mark_committed(third, 0).unwrap();
        assert_eq!(newest(), Some(third));
        // It was gone back from.
        device.store.mark_committed(second, 4).unwrap();
        assert_eq!(newest(), Some(second));
        // Values that are not there any more are none.
        assert_eq!(found().unwrap().parameters, 0);
        device.store.put_parameters(second, 4, b"values").unwrap();
        assert_eq!(found().unwrap().parameters, 4);
    }
}
