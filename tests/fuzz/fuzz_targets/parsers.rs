//! One fuzz binary for all parsers: the first byte of the input chooses which.
//!
//! What is asserted beside "does not panic": whatever is accepted is canonical, that is, encoding
//! it again gives the same bytes.
#![no_main]

mod network;
mod oci;
mod registry;

use kedge_board_support::loading::program::Program;
use kedge_board_support::slot;
use kedge_board_support::statement::{SECTION, Statement, section};
use kedge_image_build::bmap::Map;
use kedge_init::helpers::{disk, net, stage, stick};
use kedge_revision::bundle::{self, Event};
use kedge_revision::fresh::Fresh;
use kedge_revision::parameters::Parameters;
use kedge_revision::{Content, Product, Root, SignatureSet, json, verity};
use kedge_rootfs::{Bounds, Policy};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else {
        return;
    };
    match choice % 45 {
        0 => canonical(bytes, Root::parse(bytes).and_then(|root| root.encode())),
        1 => canonical(
            bytes,
            SignatureSet::parse(bytes).and_then(|set| set.encode()),
        ),
        2 => canonical(
            bytes,
            Parameters::parse(bytes).and_then(|values| values.encode()),
        ),
        3 => canonical(
            bytes,
            Product::parse(bytes).and_then(|product| product.encode()),
        ),
        4 => canonical(
            bytes,
            Content::parse(bytes).and_then(|content| json::encode("content", &content)),
        ),
        5 => canonical(
            bytes,
            json::parse::<Fresh>("fresh", Fresh::CAP, bytes).and_then(|fresh| fresh.encode()),
        ),
        6 => {
            let _ = json::parse::<kedge_revision::Envelope>("revision", 256 * 1024, bytes);
        }
        7 => tree(bytes),
        8 => {
            let _ = kedge_board_support::record::loader::choose(bytes, bytes);
            let _ = kedge_board_support::record::state::choose(bytes, bytes);
        }
        9 => {
            let _ = kedge_init::control::Head::parse(bytes);
        }
        10 => {
            let _ = kedge_init::log::KernelRecord::parse(bytes);
        }
        11 => {
            let _ = disk::Request::decode(bytes);
        }
        12 => {
            let _ = disk::Report::decode(bytes);
        }
        13 => {
            let _ = net::decode_configure(bytes);
        }
        14 => {
            let _ = net::Report::decode(bytes);
        }
        15 => {
            let _ = kedge_rootfs::ImageProcess::parse(bytes);
        }
        16 => {
            if let Ok(request) = stage::Request::decode(bytes) {
                assert_eq!(request.encode(), bytes);
            }
        }
        17 => {
            if let Ok(report) = stage::Report::decode(bytes) {
                assert_eq!(report.encode(), bytes);
            }
        }
        18 => {
            let _ = stage::Head::parse(bytes);
        }
        19 => slot(bytes),
        20 => whole_bundle(bytes),
        21 => layer(bytes),
        28 => {
            let _ = net::dhcp::message::Reply::from_packet(bytes);
            let _ = net::dhcp::message::Reply::parse(bytes);
            let _ = net::Standing::decode(bytes);
        }
        29 => kedge_hub::fuzzing::logs(bytes),
        30 => words(bytes, kedge_hub::fuzzing::query),
        31 => words(bytes, kedge_hub::fuzzing::claim),
        32 => compose(bytes),
        33 => {
            let conf = |_: &str, _: &str| Ok(String::from_utf8_lossy(bytes).into_owned());
            let _ = kedge_image_build::import::pantavisor::parse(bytes, "state", &conf);
        }
        34 => registry::reference(bytes),
        35 => registry::challenge(bytes),
        36 => registry::manifest(bytes),
        37 => {
            let _ = stick::choice::peek(bytes);
            if let Ok(look) = stick::Look::decode(bytes) {
                assert_eq!(look.encode(), bytes);
            }
            if let Ok(report) = stick::Report::decode(bytes) {
                let _ = report.encode();
            }
        }
        38 => {
            if let Ok(statement) = Statement::of(bytes) {
                let text = statement.to_string();
                let found = section(bytes, SECTION).unwrap_or_default();
                assert!(found.starts_with(text.as_bytes()));
            }
            if let Ok(program) = Program::parse(bytes) {
                let size = program.pages * 4096;
                assert!(program.entry < size);
                assert!(program.contents().all(|part| part.place.end <= size));
            }
        }
        39 => tryboot(bytes),
        40 => words(bytes, |text| {
            if let Ok(map) = Map::parse(text) {
                assert_eq!(Map::parse(&map.encode()).expect("own map"), map);
                let ends = map.ranges().iter().map(|range| map.bytes(range));
                ends.fold(0, |end, bytes| {
                    assert!(end <= bytes.start && bytes.start < bytes.end);
                    bytes.end
                });
                assert!(map.mapped() <= map.size());
            }
        }),
        41 => oci::config(bytes),
        42 => oci::seccomp(bytes),
        43 => command(bytes),
        44 => devices(bytes),
        other => network::parse(other - 22, bytes),
    }
});

/// An event of the kernel's is read within its bounds; what a look at devices says is written as it is read.
fn devices(bytes: &[u8]) {
    use kedge_init::devices::{Found, uevent};
    if let Some(event) = uevent::parse(bytes) {
        assert!(!event.action.is_empty() && event.path.starts_with('/'));
        assert!(bytes.len() < uevent::MOST);
    }
    let mut seen = kedge_init::devices::seen::Seen::default();
    let (head, tail) = bytes.split_at(bytes.len() / 2);
    seen.take(head);
    seen.take(tail);
    for found in seen.found {
        assert_eq!(Found::parse(&found.line()), Some(found));
    }
}

/// What asks for a command is written as it is read; whatever its client sends is taken, bounded, and ends.
fn command(bytes: &[u8]) {
    use kedge_init::control::{Call, Connection, Exec, Role, Said, Since, Transport};
    if let Ok(exec) = Exec::parse(bytes) {
        let written = serde_json::to_vec(&exec).expect("plain data");
        assert_eq!(Exec::parse(&written), Ok(exec));
    }
    if let Ok(text) = core::str::from_utf8(bytes) {
        let _ = Since::parse(text);
    }
    let mut connection = Connection::new(Role::Operate, Transport::Serial);
    let asked = b"POST /v1/containers/a/exec HTTP/1.1\r\ncontent-length: 20\r\n\r\n{\"arguments\":[\"ls\"]}";
    connection.input(asked);
    assert!(matches!(connection.next_call(), Some(Call::Exec { .. })));
    connection.begin_exec();
    let mut rest = bytes;
    loop {
        let taken = connection.input(rest);
        rest = &rest[taken..];
        match connection.said() {
            Said::Input(input) => {
                assert!(!input.is_empty());
                let count = input.len();
                connection.took_input(count);
            }
            Said::End | Said::Window { .. } => {}
            Said::Nothing if rest.is_empty() => break,
            Said::Nothing => {}
            Said::Nonsense => break,
        }
    }
    assert!(connection.is_executing());
    connection.leave_exec();
    while connection.next_call().is_some() {
        connection.answer_done();
    }
}

/// A sector that is read as `autoboot.txt` is the one that would be written; a device tree's numbers are read as they are.
fn tryboot(bytes: &[u8]) {
    use kedge_board_support::autoboot::{Autoboot, Bootloader};
    let Some((slots, sector)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let Ok(autoboot) = Autoboot::new(4 << 20, slots.map(u32::from)) else {
        return;
    };
    if let Some(record) = autoboot.parse(sector) {
        assert_eq!(
            autoboot
                .sector(record.default)
                .as_ref()
                .map(|text| &text[..]),
            Some(sector)
        );
    }
    let (one, two) = bytes.split_at(bytes.len() / 2);
    if let Some(said) = Bootloader::parse(one, two) {
        assert_eq!(said.partition.to_be_bytes(), *two);
    }
}

/// Text, where it is any.
fn words(bytes: &[u8], parse: fn(&str)) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        parse(text);
    }
}

/// Whatever was accepted must be exactly what encoding gives.
fn canonical(bytes: &[u8], encoded: Result<Vec<u8>, kedge_revision::Error>) {
    if let Ok(encoded) = encoded {
        assert_eq!(encoded, bytes, "an accepted document is not canonical");
    }
}

/// What is accepted, in whatever pieces, is a bundle again, byte for byte; a head alone likewise.
fn whole_bundle(bytes: &[u8]) {
    let piece = usize::from(bytes.last().copied().unwrap_or_default()) + 1;
    let mut parser = bundle::Parser::new();
    let mut again = Vec::new();
    for mut input in bytes.chunks(piece) {
        loop {
            let Ok(event) = parser.next(&mut input) else {
                return;
            };
            match event {
                Event::More => break,
                Event::Head => again = parser.head().encode(),
                Event::Tree(id, length) => {
                    again.extend(bundle::Section::of_object(bundle::Kind::Tree, id, length));
                }
                Event::Object(id, length) => {
                    again.extend(bundle::Section::of_object(bundle::Kind::Object, id, length));
                }
                Event::Bytes(bytes) => again.extend(bytes),
                Event::End => again.extend(bundle::END),
            }
        }
    }
    if parser.finish().is_ok() {
        assert_eq!(again, bytes, "an accepted bundle is not what it says");
    }
    if let Ok(head) = bundle::Head::parse(bytes) {
        assert_eq!(head.encode(), bytes, "an accepted head is not what it says");
    }
}

/// Whatever a slot is to hold is laid out without overlap and within the partition, or refused.
fn slot(bytes: &[u8]) {
    let Some((size, mut rest)) = bytes.split_first_chunk() else {
        return;
    };
    let mut files = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let (name, after) = after.split_at(after.len().min(9));
        rest = after;
        files.push(slot::File {
            name: std::str::from_utf8(name).unwrap_or("kernel"),
            length: u32::from_le_bytes(*length).into(),
        });
    }
    let size = u64::from(u32::from_le_bytes(*size)) * 64;
    let Ok(layout) = slot::Layout::new(size, 0, &files) else {
        return;
    };
    let mut end = slot::SECTOR as u64;
    for piece in layout.pieces() {
        let (offset, length) = match piece {
            slot::Piece::Bytes { offset, bytes } => (offset, bytes.len() as u64),
            slot::Piece::File { offset, number } => (offset, files[number].length),
        };
        assert!(offset >= end, "two pieces overlap");
        end = offset + length;
    }
    assert!(end <= size, "a piece is beyond the partition");
}

/// What is read of a compose file becomes files that are read back.
fn compose(bytes: &[u8]) {
    use kedge_image_build::import::compose::{Options, parse};
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let options = Options {
        variables: std::collections::BTreeMap::new(),
        profiles: Vec::new(),
        group: "app".parse().expect("a name"),
        source: "compose.yaml".to_owned(),
        read: &|name| Ok(Some(name.to_owned())),
    };
    if let Ok(compose) = parse(text, options) {
        for draft in compose.drafts {
            let text = draft.text();
            kedge_image_build::project::template::check(&text).expect("own file");
        }
    }
}

/// A layer is read to its end or refused; what it would write is thrown away.
fn layer(bytes: &[u8]) {
    let spool = std::env::temp_dir();
    let (bounds, policy) = (Bounds::default(), Policy::default());
    let _ = kedge_rootfs::normalise(bytes, bounds, policy, &spool, &mut std::io::sink());
}

/// A tree that is accepted for an id and a size must be the one that the bytes have.
fn tree(bytes: &[u8]) {
    let mut builder = verity::Builder::new();
    builder.update(bytes);
    let sealed = builder.finish();
    let tree = verity::Tree::open(sealed.id, sealed.size, &sealed.tree).expect("own tree");
    for (number, block) in bytes.chunks(verity::BLOCK).enumerate() {
        tree.check(number as u64, block).expect("own block");
    }
    // The input as a tree of some object: never accepted, unless it is the object's own.
    let size = bytes.len() as u64 * 128;
    if let Ok(tree) = verity::Tree::open(sealed.id, size, bytes) {
        assert_eq!(tree.blocks(), size.div_ceil(4096));
    }
}
