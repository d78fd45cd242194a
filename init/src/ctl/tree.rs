//! JSON that PID 1 has written, for a person: a line a value, indented by how deep it is. Pure.

use std::io::{Result, Write};

/// Writes it. What is no JSON comes out as something else, and safe for a terminal all the same as long as it has no
/// control characters, which JSON has not.
pub(super) fn tree(out: &mut dyn Write, json: &[u8]) -> Result<()> {
    let mut depth = 0_usize;
    // A value or a name that begins now stands on a line of its own.
    let mut begins = true;
    let mut any = false;
    let mut text = false;
    let mut escaped = false;
    for byte in json.iter().copied() {
        if text {
            match byte {
                b'"' if !escaped => text = false,
                _ => out.write_all(&[byte])?,
            }
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        match byte {
            b'{' | b'[' => {
                depth = depth.saturating_add(1);
                begins = true;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' => begins = true,
            b':' => out.write_all(b": ")?,
            _ => {
                if std::mem::take(&mut begins) {
                    if std::mem::replace(&mut any, true) {
                        out.write_all(b"\n")?;
                    }
                    (1..depth).try_for_each(|_| out.write_all(b"  "))?;
                }
                text = byte == b'"';
                if !text {
                    out.write_all(&[byte])?;
                }
            }
        }
    }
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_its_line() {
        let mut out = Vec::new();
        let json = br#"{"status":{"name":"web","pid":7,"waiting-for":[]},"layers":["v1:0","v1:1"],"text":"a \"b\", {c}\\"}"#;
        tree(&mut out, json).unwrap();
        let expected = "\
status: \n  name: web\n  pid: 7\n  waiting-for: \nlayers: \n  v1:0\n  v1:1\ntext: a \\\"b\\\", {c}\\\\\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
