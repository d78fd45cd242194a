//! Lists the board files and the kernels' fragments as part of the program, so that adding one is adding a file.

use std::error::Error;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The constant, the folder and how the files of it end.
const LISTS: [(&str, &str, &str); 2] = [
    ("SHIPPED", "boards", "toml"),
    ("FRAGMENTS", "kernel", "config"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let mut text = String::new();
    for (constant, folder, ending) in LISTS {
        tell(&format!("cargo::rerun-if-changed={folder}"))?;
        writeln!(
            text,
            "/// The files of `board-support/{folder}`: name, text.\npub const {constant}: &[(&str, &str)] = &["
        )?;
        for name in names(&here.join(folder), ending)? {
            writeln!(
                text,
                "    ({name:?}, include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/{folder}/\", {name:?}))),"
            )?;
        }
        writeln!(text, "];")?;
    }
    let out = Path::new(&std::env::var("OUT_DIR")?).join("lists.rs");
    File::create(out)?.write_all(text.as_bytes())?;
    Ok(())
}

/// Cargo reads what a build script says.
fn tell(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}

/// Sorted, so that two builds are alike.
fn names(folder: &Path, ending: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new(ending))
            && let Some(name) = path.file_name().and_then(OsStr::to_str)
        {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}
