//! Package databases of distributions, as text.

/// Whose packages they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ecosystem {
    /// dpkg(1).
    Debian,
    /// apk(8).
    Alpine,
    /// Crates of Rust.
    Cargo,
    /// The kernel.
    Linux,
}

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Whose it is.
    pub ecosystem: Ecosystem,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture; empty where it says nothing.
    pub architecture: String,
    /// Its licence as the database has it; dpkg's has none.
    pub licence: Option<String>,
}

impl Package {
    /// Its package URL (purl-spec, `deb`, `apk`, `cargo` and `generic`).
    #[must_use]
    pub fn purl(&self) -> String {
        let kind = match self.ecosystem {
            Ecosystem::Debian => "deb/debian",
            Ecosystem::Alpine => "apk/alpine",
            Ecosystem::Cargo => "cargo",
            Ecosystem::Linux => "generic",
        };
        let (name, version) = (percent(&self.name), percent(&self.version));
        let url = format!("pkg:{kind}/{name}@{version}");
        if self.architecture.is_empty() {
            url
        } else {
            format!("{url}?arch={}", percent(&self.architecture))
        }
    }
}

/// Everything but letters, digits and `.-_~` as `%` and two digits.
fn percent(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b".-_~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The installed packages of `/var/lib/dpkg/status`; paragraphs that are no package are passed over.
#[must_use]
pub fn dpkg(text: &str) -> Vec<Package> {
    let package = |paragraph: &str| {
        let field = |name: &str| {
            let mut lines = paragraph.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::trim))
        };
        // "want flag status": removed packages leave their paragraph behind.
        let installed = field("Status")?.ends_with(" installed");
        installed.then_some(())?;
        Some(Package {
            ecosystem: Ecosystem::Debian,
            name: field("Package")?.to_owned(),
            version: field("Version")?.to_owned(),
            architecture: field("Architecture").unwrap_or("all").to_owned(),
            licence: None,
        })
    };
    text.split("\n\n").filter_map(package).collect()
}

/// The packages of apk's `installed`: a letter, a colon and the value a line.
#[must_use]
pub fn apk(text: &str) -> Vec<Package> {
    let package = |paragraph: &str| {
        let field = |letter: &str| {
            let mut lines = paragraph.lines();
            lines.find_map(|line| {
                line.strip_prefix(letter)?
                    .strip_prefix(':')
                    .map(str::to_owned)
            })
        };
        Some(Package {
            ecosystem: Ecosystem::Alpine,
            name: field("P")?,
            version: field("V")?,
            architecture: field("A").unwrap_or_else(|| "noarch".to_owned()),
            licence: field("L"),
        })
    };
    text.split("\n\n").filter_map(package).collect()
}
