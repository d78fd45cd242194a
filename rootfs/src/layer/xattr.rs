//! Which extended attributes an image may bring.
//!
//! Kept: `user.*`, `security.capability`, POSIX ACLs. Dropped with a note: what steers overlayfs (`trusted.*`, `user.overlay.*`), so that an
//! image cannot forge whiteouts or redirects into other layers, and labels of the machine that built it (`security.selinux`, IMA, EVM).

use crate::bounds::{Bounds, Limit, check, len};
use crate::error::EntryFault;

use super::path::Unclean;

pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Attributes that are kept, sorted by name, and the names of those that are not.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) kept: Xattrs,
    pub(crate) dropped: Vec<String>,
}

pub(crate) fn judge(
    given: &[(Vec<u8>, Vec<u8>)],
    bounds: &Bounds,
    at: &str,
) -> Result<Judged, Unclean> {
    let mut judged = Judged::default();
    let mut total = 0;
    for (name, value) in given {
        let text = String::from_utf8_lossy(name).into_owned();
        if name.is_empty() || name.contains(&0) || name.len() > 255 {
            return Err(EntryFault::Xattr(text).into());
        }
        check(
            len(value.len()),
            len(bounds.xattr_value),
            Limit::XattrValue,
            at,
        )?;
        total += name.len() + value.len();
        check(len(total), len(bounds.xattrs), Limit::Xattrs, at)?;
        if allowed(name) {
            judged.kept.push((name.clone(), value.clone()));
        } else {
            judged.dropped.push(text);
        }
    }
    judged.kept.sort();
    Ok(judged)
}

fn allowed(name: &[u8]) -> bool {
    let user = name
        .strip_prefix(b"user.")
        .is_some_and(|n| !n.is_empty() && !n.starts_with(b"overlay."));
    user || matches!(
        name,
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default"
    )
}
