//! Whether a device can run a revision: pure.

use crate::fleet::{Revision, Row};
use kedge_revision::Name;
use kedge_revision::parameters::Parameters;
use std::collections::BTreeMap;

/// Why it cannot, in words for whoever assigns it.
pub(crate) fn judge(
    row: &Row,
    revision: &Revision,
    values: &BTreeMap<Name, String>,
) -> Result<(), String> {
    if row.revoked {
        return Err("its certificate was revoked".to_owned());
    }
    if row.product != revision.product {
        return Err(format!(
            "it is product {}, the revision is for {}",
            row.product, revision.product
        ));
    }
    if row.board != revision.board {
        return Err(format!(
            "it is board {}, the revision is for {}",
            row.board, revision.board
        ));
    }
    if !row.floor().allows(revision.order) {
        return Err(format!(
            "the revision's place {} is below the device's floor {}: it can never run there again",
            revision.order,
            row.floor()
        ));
    }
    if !revision.is_complete() {
        return Err("the hub does not have all objects of the revision yet".to_owned());
    }
    fitting(revision, values).map(|_| ())
}

/// The values that a revision declares, each judged. Others stay at the hub, for revisions that declare them.
///
/// # Errors
/// In words, with the parameter's name and without its value.
pub(crate) fn fitting(
    revision: &Revision,
    values: &BTreeMap<Name, String>,
) -> Result<BTreeMap<Name, String>, String> {
    let Some(declared) = &revision.parameters else {
        return Ok(values.clone());
    };
    let kept: BTreeMap<_, _> = values
        .iter()
        .filter(|(name, _)| declared.contains_key(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Parameters::new(0, kept.clone())
        .check_sealed(declared)
        .map_err(|error| error.to_string())?;
    Ok(kept)
}
