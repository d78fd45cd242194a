//! Tests of a suite's archive: a folder that apt reads as one, without a network, and what apt says.

use super::*;
use std::fs::File;

/// A folder of packages, and the archive that reads it.
struct Mirror {
    folder: tempfile::TempDir,
}

impl Mirror {
    /// Its list has this.
    fn new(stanzas: &str) -> Self {
        let mirror = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        files::make_folder(&mirror.path()).unwrap();
        mirror.list(stanzas);
        mirror
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mirror")
    }

    fn list(&self, stanzas: &str) {
        files::write(&self.path().join("Packages"), stanzas).unwrap();
    }

    fn archive(&self) -> Archive {
        let cache = Cache::at(&self.folder.path().join("cache")).unwrap();
        let source = format!("deb [trusted=yes] file:{} ./", self.path().display());
        Archive::open_source(&cache, &source).unwrap()
    }

    /// As if the lists were from an hour ago.
    fn grow_old(archive: &Archive) {
        let stamp = File::options()
            .append(true)
            .open(archive.folder.join("updated"))
            .unwrap();
        let then = SystemTime::now() - Duration::from_secs(3600);
        stamp.set_modified(then).unwrap();
    }
}

fn stanza(name: &str, version: &str) -> String {
    format!(
        "Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: none\nProvides: toast\n\
         Filename: ./{name}_{version}_amd64.deb\nSize: 5\nSHA256: {}\nDescription: none\n\n",
        "0".repeat(64)
    )
}

#[test]
fn a_package_that_the_suite_lacks_is_told_with_both_names() {
    let mirror = Mirror::new(&stanza("toaster", "1.0"));
    let archive = mirror.archive();
    assert_eq!(archive.package("toaster").unwrap().version, "1.0");
    let said = format!("{:#}", archive.package("grill").unwrap_err());
    assert!(
        said.starts_with("Debian trixie has no package grill: ")
            && said.contains("No packages found"),
        "{said}"
    );
    let said = archive.package("toast").unwrap_err().to_string();
    assert!(
        said.starts_with("Debian trixie has no package toast: it is a name for others"),
        "{said}"
    );
    // No word about the package: apt itself does not work.
    files::write(&archive.folder.join("sources.list"), "toast\n").unwrap();
    let said = format!("{:#}", archive.package("grill").unwrap_err());
    assert!(
        said.starts_with("cannot look for the package grill in Debian trixie: "),
        "{said}"
    );
}

#[test]
fn a_package_that_old_lists_lack_is_looked_for_in_new_ones() {
    let mirror = Mirror::new(&stanza("toaster", "1.0"));
    let archive = mirror.archive();
    mirror.list(&(stanza("toaster", "1.0") + &stanza("grill", "2.0")));
    Mirror::grow_old(&archive);
    assert_eq!(archive.package("grill").unwrap().version, "2.0");
    // And where there are none, the old ones say what they said.
    Mirror::grow_old(&archive);
    std::fs::remove_file(mirror.path().join("Packages")).unwrap();
    let said = archive.package("kettle").unwrap_err().to_string();
    assert_eq!(said, "Debian trixie has no package kettle");
}

#[test]
fn a_file_that_the_mirror_lacks_is_told_with_package_and_suite() {
    let mirror = Mirror::new(&stanza("toaster", "1.0"));
    let archive = mirror.archive();
    let package = archive.package("toaster").unwrap();
    let said = format!(
        "{:#}",
        archive
            .download(std::slice::from_ref(&package))
            .unwrap_err()
    );
    for part in [
        "cannot download toaster from Debian trixie",
        "toaster_1.0_amd64.deb",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!said.contains("moved on"), "{said}");
    // The mirror is down: it is the download that failed, not the lists.
    std::fs::remove_dir_all(mirror.path()).unwrap();
    let said = format!("{:#}", archive.download(&[package]).unwrap_err());
    assert!(
        said.starts_with("cannot download toaster from Debian trixie: "),
        "{said}"
    );
    assert!(said.contains("toaster=1.0"), "{said}");
}

#[test]
fn a_version_that_is_gone_is_told_with_the_one_that_is_there() {
    let mirror = Mirror::new(&(stanza("grill", "2.0") + &stanza("toaster", "1.0")));
    let archive = mirror.archive();
    let old = archive.package("toaster").unwrap();
    mirror.list(&stanza("toaster", "1.1"));
    let said = format!("{:#}", archive.download(&[old]).unwrap_err());
    assert!(
        said.starts_with(
            "Debian trixie has moved on: toaster 1.0 is gone, and 1.1 is there\nhelp: "
        ),
        "{said}"
    );
    assert!(
        said.contains("cannot download toaster from Debian trixie"),
        "{said}"
    );
    // Then it is found.
    assert_eq!(archive.package("toaster").unwrap().version, "1.1");
    let grill = Package {
        name: "grill".to_owned(),
        version: "2.0".to_owned(),
        architecture: HOST.to_owned(),
    };
    let said = archive.download(&[grill]).unwrap_err().to_string();
    assert!(
        said.contains("grill 2.0 is gone (Debian trixie has no package grill)"),
        "{said}"
    );
}

#[test]
fn the_mirror_is_that_of_the_main_suite() {
    let targets = "http://other/packages nodistro\nhttp://m/debian-security/ bookworm-security\nhttp://m/debian/ bookworm\n";
    assert_eq!(debian_uri(targets).as_deref(), Some("http://m/debian/"));
    assert_eq!(debian_uri(""), None);
}

#[test]
fn a_simulated_installation_is_read() {
    let text = "Reading package lists...\nInst zlib1g (1:1.3.dfsg-1 Debian:13.1/stable [amd64])\n\
                Inst libc6 (2.41-12 Debian:13.1/stable [amd64]) []\nConf libc6 (2.41-12 Debian:13.1/stable [amd64])\n";
    let names: Vec<String> = simulated(text).iter().map(Package::file_name).collect();
    assert_eq!(
        names,
        ["zlib1g_1%3a1.3.dfsg-1_amd64.deb", "libc6_2.41-12_amd64.deb"]
    );
}

#[test]
fn a_package_without_candidate_has_no_version() {
    assert_eq!(
        candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"),
        None
    );
    assert_eq!(
        candidate("x:\n  Installed: (none)\n  Candidate: 1.8.6-1\n").as_deref(),
        Some("1.8.6-1")
    );
}
