//! The hub's own parsers of what strangers, devices and operators send, for the fuzz tests alone: each panics where what it
//! accepts is not what it should be.

use crate::{claims, logs, query};

/// A query: a mistake is said to be at a place of the text.
///
/// # Panics
/// It is said to be outside of it, or in the middle of a letter.
pub fn query(text: &str) {
    if let Err(misread) = query::Query::parse(text) {
        let too_long = misread.at == query::LONGEST;
        assert!(too_long || text.is_char_boundary(misread.at), "{misread}");
    }
}

/// What a device sends as logs: what is taken is whole lines, and those of a source are some of them.
///
/// # Panics
/// It is something else.
pub fn logs(compressed: &[u8]) {
    let Ok(lines) = logs::judged(compressed) else {
        return;
    };
    assert!(lines.len() <= logs::LINES + 1, "more than is kept");
    assert!(lines.last().is_none_or(|last| *last == b'\n'), "no line");
    let web = logs::of_source(&lines, "web");
    let all: Vec<&[u8]> = lines.split_inclusive(|byte| *byte == b'\n').collect();
    for line in web.split_inclusive(|byte| *byte == b'\n') {
        assert!(all.contains(&line), "a line that nobody sent");
    }
}

/// A claim's words, however they are spelt: spelling them again changes nothing.
///
/// # Panics
/// It does.
pub fn claim(text: &str) {
    let spelled = claims::spelled(text);
    assert_eq!(claims::spelled(&spelled), spelled, "from {text:?}");
}
