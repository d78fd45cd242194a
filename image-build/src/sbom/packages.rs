//! Package databases of distributions, as text.

/// Whose packages they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ecosystem {
    /// dpkg(1).
    Debian,
    /// apk(8).
    Alpine,
    /// Python's, from wherever.
    Python,
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
    /// Its package URL (purl-spec, `deb`, `apk`, `pypi`, `cargo` and `generic`).
    #[must_use]
    pub fn purl(&self) -> String {
        let kind = match self.ecosystem {
            Ecosystem::Debian => "deb/debian",
            Ecosystem::Alpine => "apk/alpine",
            Ecosystem::Python => "pypi",
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
    // "want flag status": removed packages leave their paragraph behind.
    let is_installed = |paragraph: &&str| {
        field(paragraph, "Status").is_some_and(|status| status.ends_with(" installed"))
    };
    text.split("\n\n")
        .filter(is_installed)
        .filter_map(debian)
        .collect()
}

/// The package of a file of `/var/lib/dpkg/status.d`, which says nothing of its state.
#[must_use]
pub fn dpkg_files(text: &str) -> Vec<Package> {
    text.split("\n\n").filter_map(debian).collect()
}

fn debian(paragraph: &str) -> Option<Package> {
    Some(Package {
        ecosystem: Ecosystem::Debian,
        name: field(paragraph, "Package")?.to_owned(),
        version: field(paragraph, "Version")?.to_owned(),
        architecture: field(paragraph, "Architecture").unwrap_or("all").to_owned(),
        licence: None,
    })
}

/// A field of a paragraph as RFC 822 has them.
fn field<'a>(paragraph: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = paragraph.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::trim))
}

/// The package of a `METADATA` (Python packaging's core metadata): its head, before the description.
#[must_use]
pub fn wheel(text: &str) -> Option<Package> {
    let head = text.split("\n\n").next()?;
    // purl-spec and PEP 503 compare names in lower case and with dashes.
    let name = field(head, "Name")?.to_lowercase().replace(['_', '.'], "-");
    let licence = field(head, "License-Expression").or_else(|| field(head, "License"));
    Some(Package {
        ecosystem: Ecosystem::Python,
        name,
        version: field(head, "Version")?.to_owned(),
        architecture: String::new(),
        licence: licence.filter(|text| !text.is_empty()).map(str::to_owned),
    })
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
