//! Options of file systems that are longer than the kernel takes one: those of an overlay of several folders can be divided.
//!
//! Source: Linux `fs/fsopen.c` (`FSCONFIG_SET_STRING`), `Documentation/filesystems/overlayfs.rst`, "Multiple lower layers" and
//! "Data-only lower layers".

use std::ffi::CString;

use anyhow::{Result, bail, ensure};

use super::text;

/// The most bytes that the kernel takes of an option's value.
const LONGEST: usize = 255;

/// Options as the kernel takes them; without a value: flags.
type Options = Vec<(CString, Option<CString>)>;

/// Options of a file system of this kind, none of which is too long.
///
/// # Errors
/// The one that is, and cannot be divided.
pub(super) fn divided(kind: &str, options: &Options) -> Result<Options> {
    let mut all = Vec::new();
    for (key, value) in options {
        match value {
            Some(value) if value.as_bytes().len() > LONGEST => {
                if kind == "overlay" && key.as_c_str() == c"lowerdir" {
                    lower(value.as_bytes(), &mut all)?;
                } else {
                    bail!(
                        "options: {} has over {LONGEST} bytes, which the kernel does not take",
                        key.to_string_lossy()
                    );
                }
            }
            _ => all.push((key.clone(), value.clone())),
        }
    }
    Ok(all)
}

/// Each lower folder by an option of its own (Linux 6.8 and later). Colons divide them, two of them those of data alone; a
/// backslash takes its meaning from what follows.
fn lower(value: &[u8], all: &mut Options) -> Result<()> {
    let mut parts = vec![Vec::new()];
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b':' => {
                parts.push(Vec::new());
                continue;
            }
            b'\\' => bytes.next().unwrap_or(byte),
            other => other,
        };
        if let Some(last) = parts.last_mut() {
            last.push(*byte);
        }
    }
    let (mut any, mut gap, mut data) = (false, false, false);
    for part in parts {
        if part.is_empty() {
            ensure!(any && !gap, "options: lowerdir has an empty path");
            gap = true;
            continue;
        }
        ensure!(
            part.len() <= LONGEST,
            "options: a folder of lowerdir has over {LONGEST} bytes, which the kernel does not take"
        );
        ensure!(
            gap || !data,
            "options: lowerdir has a folder behind those of data alone"
        );
        data |= gap;
        let key = if data { c"datadir+" } else { c"lowerdir+" };
        let part = text("options", &String::from_utf8_lossy(&part))?;
        all.push((key.to_owned(), Some(part)));
        (any, gap) = (true, false);
    }
    ensure!(!gap, "options: lowerdir has an empty path");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(kind: &str, key: &str, value: &str) -> Result<Vec<String>> {
        let plain = |text: &str| CString::new(text).unwrap();
        let all = divided(kind, &vec![(plain(key), Some(plain(value)))])?;
        let joined = all.into_iter().map(|(key, value)| {
            let value = value.unwrap().into_string().unwrap();
            format!("{}={value}", key.to_string_lossy())
        });
        Ok(joined.collect())
    }

    #[test]
    fn many_lower_folders_are_handed_over_one_by_one() {
        // Short ones stay as they are: kernels before 6.8 know nothing else.
        let short = options("overlay", "lowerdir", "/a:/b").unwrap();
        assert_eq!(short, ["lowerdir=/a:/b"]);
        let long = "x".repeat(200);
        let value = format!(r"/a:/{long}:/b\:c\\d::/{long}::/e");
        let expected = [
            "lowerdir+=/a".to_owned(),
            format!("lowerdir+=/{long}"),
            r"lowerdir+=/b:c\d".to_owned(),
            format!("datadir+=/{long}"),
            "datadir+=/e".to_owned(),
        ];
        assert_eq!(options("overlay", "lowerdir", &value).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_divided_is_refused_with_the_limit() {
        let long = format!("/{}", "x".repeat(255));
        for (kind, key, value) in [
            ("overlay", "upperdir", long.clone()),
            ("tmpfs", "lowerdir", long.clone()),
            ("overlay", "lowerdir", format!("/a:{long}")),
        ] {
            let error = options(kind, key, &value).unwrap_err().to_string();
            assert!(error.contains("255 bytes"), "{error}");
        }
        let long = "x".repeat(255);
        for value in [
            format!(":{long}"),
            format!("{long}:"),
            format!("a:::{long}"),
            format!("a::b:{long}"),
        ] {
            options("overlay", "lowerdir", &value).unwrap_err();
        }
    }
}
