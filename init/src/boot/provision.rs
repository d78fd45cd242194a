//! What a device was provisioned with: read where it is given, and as it was kept when it is given no more.
//!
//! Its values of parameters lie over the defaults of every revision, and below what a push or a hub gives.

use crate::boot::{DATA, files};
use crate::error::Error;
use kedge_revision::Name;
use kedge_revision::enrolment::Provision;
use kedge_revision::parameters::Parameters;
use std::collections::BTreeMap;
use std::path::Path;

/// Where QEMU shows what its `-fw_cfg name=opt/kedge/provision,file=…` gave (Linux `qemu_fw_cfg`).
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/kedge/provision/raw";

/// Where `kedge flash --provision` puts it. The disk helper removes it once a hub has taken the device in.
pub(crate) const ON_DISK: &str = "provision.json";

/// The document, not judged; none: nothing is given in this boot.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn given() -> Result<Option<String>, Error> {
    let found = match files::read_if_there(Path::new(FW_CFG), Provision::CAP)? {
        None => {
            let path = Path::new(DATA).join("device").join(ON_DISK);
            files::read_if_there(&path, Provision::CAP)?
        }
        found => found,
    };
    Ok(found.and_then(|bytes| String::from_utf8(bytes).ok()))
}

/// The values in a provisioning.
pub(crate) fn values_of(document: &str) -> BTreeMap<Name, String> {
    let provision = Provision::parse(document.as_bytes());
    provision.map_or_else(|_| BTreeMap::new(), |provision| provision.parameters)
}

/// The values: as they are given, else as they were kept in `data`. What is wrong with either is told where it is used.
pub(crate) fn values(data: &Path) -> BTreeMap<Name, String> {
    let given = given().ok().flatten();
    let given = given.map_or_else(BTreeMap::new, |document| values_of(&document));
    if !given.is_empty() {
        return given;
    }
    let path = data.join("device/parameters.json");
    let kept = files::read_if_there(&path, Parameters::CAP).ok().flatten();
    let kept = kept.and_then(|bytes| Parameters::parse(&bytes).ok());
    kept.map_or_else(BTreeMap::new, |kept| kept.values)
}
