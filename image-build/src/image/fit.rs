//! A script as an image tree (FIT), for a U-Boot that takes no legacy image: those that are built to check signatures.
//!
//! It is a flattened device tree with one image of the type `script`, which is the default one, and a checksum of it. Nothing is
//! signed: whoever can write the script can write the loader that would ask. Source: Devicetree Specification 0.4, chapter 5;
//! U-Boot `doc/usage/fit/source_file_format.rst`, `boot/image-board.c` (`image_locate_script`).

use kedge_board_support::record::crc32;

const MAGIC: u32 = 0xd00d_feed;
const HEADER: usize = 40;
/// No memory is reserved: the list is its end, two numbers of 64 bits.
const NONE_RESERVED: usize = 16;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const END: u32 = 9;
/// The version, and the oldest one that its readers may know.
const VERSION: [u32; 2] = [17, 16];

/// Wraps a script; `architecture` is U-Boot's name, `time` seconds since 1970.
pub(super) fn wrap(script: &[u8], architecture: &str, time: u32) -> Vec<u8> {
    let mut tree = Tree::default();
    tree.begin("");
    tree.text("description", "kedge");
    tree.number("timestamp", time);
    tree.begin("images");
    tree.text("default", "script");
    tree.begin("script");
    tree.text("description", "kedge");
    tree.property("data", script);
    tree.text("type", "script");
    tree.text("arch", architecture);
    tree.text("compression", "none");
    tree.begin("hash-1");
    tree.text("algo", "crc32");
    tree.number("value", crc32(script));
    for _ in ["hash-1", "script", "images", ""] {
        tree.token(END_NODE);
    }
    tree.token(END);
    tree.bytes()
}

#[derive(Default)]
struct Tree {
    nodes: Vec<u8>,
    /// Names of properties, each once, each ended by a zero.
    names: Vec<u8>,
}

impl Tree {
    fn token(&mut self, token: u32) {
        self.nodes.extend(token.to_be_bytes());
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.nodes.extend(bytes);
        self.nodes.resize(self.nodes.len().next_multiple_of(4), 0);
    }

    fn begin(&mut self, name: &str) {
        self.token(BEGIN_NODE);
        self.padded(&ended(name));
    }

    fn property(&mut self, name: &str, value: &[u8]) {
        let name = ended(name);
        let found = self.names.windows(name.len()).position(|at| at == name);
        let place = found.unwrap_or(self.names.len());
        if found.is_none() {
            self.names.extend(name);
        }
        for number in [PROPERTY, length(value.len()), length(place)] {
            self.token(number);
        }
        self.padded(value);
    }

    fn text(&mut self, name: &str, value: &str) {
        self.property(name, &ended(value));
    }

    fn number(&mut self, name: &str, value: u32) {
        self.property(name, &value.to_be_bytes());
    }

    fn bytes(&self) -> Vec<u8> {
        let nodes = HEADER.saturating_add(NONE_RESERVED);
        let names = nodes.saturating_add(self.nodes.len());
        let size = names.saturating_add(self.names.len());
        let [version, oldest] = VERSION;
        let fields = [
            MAGIC,
            length(size),
            length(nodes),
            length(names),
            length(HEADER),
            version,
            oldest,
            0,
            length(self.names.len()),
            length(self.nodes.len()),
        ];
        let mut bytes: Vec<u8> = fields
            .iter()
            .flat_map(|field| field.to_be_bytes())
            .collect();
        bytes.resize(nodes, 0);
        bytes.extend(&self.nodes);
        bytes.extend(&self.names);
        bytes
    }
}

fn ended(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree as lines, by the specification's chapter 5.4 and nothing of the above.
    fn lines(tree: &[u8]) -> Vec<String> {
        let number = |at: usize| u32::from_be_bytes(*tree[at..].first_chunk().unwrap());
        let place = |at: usize| number(at) as usize;
        let string = |at: usize| {
            let text = tree[at..].split(|byte| *byte == 0).next().unwrap();
            String::from_utf8(text.to_vec()).unwrap()
        };
        assert_eq!((number(0), place(4)), (0xd00d_feed, tree.len()));
        assert_eq!((number(20), number(24)), (17, 16));
        assert!(tree[place(16)..place(8)].iter().all(|byte| *byte == 0));
        let (mut at, mut lines) = (place(8), Vec::new());
        loop {
            let token = number(at);
            at += 4;
            match token {
                1 => {
                    lines.push(format!("{}/", string(at)));
                    at += (string(at).len() + 1).next_multiple_of(4);
                }
                2 => lines.push("}".to_owned()),
                3 => {
                    let (length, name) = (place(at), string(place(12) + place(at + 4)));
                    let value = &tree[at + 8..at + 8 + length];
                    lines.push(format!("{name}={}", value.escape_ascii()));
                    at += 8 + length.next_multiple_of(4);
                }
                9 => break,
                other => panic!("{other} at {at}"),
            }
        }
        assert_eq!(at, place(8) + place(36));
        lines
    }

    /// As `mkimage -f` 2023.01 makes it of the same source with `SOURCE_DATE_EPOCH=1790000000`, but for the order of properties.
    #[test]
    fn a_script_is_what_mkimage_makes() {
        let expected = [
            "/",
            r"description=kedge\x00",
            r"timestamp=j\xb1;\x80",
            "images/",
            r"default=script\x00",
            "script/",
            r"description=kedge\x00",
            r"data=echo hello\n",
            r"type=script\x00",
            r"arch=arm\x00",
            r"compression=none\x00",
            "hash-1/",
            r"algo=crc32\x00",
            r"value=\xd6\xe1\rQ",
            "}",
            "}",
            "}",
            "}",
        ];
        assert_eq!(
            lines(&wrap(b"echo hello\n", "arm", 1_790_000_000)),
            expected
        );
    }
}
