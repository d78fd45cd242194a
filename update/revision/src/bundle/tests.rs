//! Bundles that are whole, torn, out of order, over their bounds, and with something behind their end.

use super::*;
use crate::verity::{self, Sealed, tree_size};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Bytes without a period of a block's length.
fn sample(size: usize, seed: u8) -> Vec<u8> {
    (0..size)
        .map(|i| u8::try_from((i * 7 + i / 4096 * 13 + usize::from(seed)) % 251).unwrap())
        .collect()
}

fn seal(bytes: &[u8]) -> Sealed {
    let mut builder = verity::Builder::new();
    builder.update(bytes);
    builder.finish()
}

/// A revision of the documents' example, with these objects in place of its own.
fn revision(objects: &BTreeMap<ObjectId, Vec<u8>>) -> Vec<u8> {
    let list: Vec<String> = objects
        .iter()
        .map(|(id, bytes)| format!(r#""{id}":{{"size":{},"kind":"layer"}}"#, bytes.len()))
        .collect();
    let some = ObjectId::from_digest([7; 32]);
    format!(
        r#"{{"spec":"kedge.revision/1","product":"gateway","board":"qemu-x86-64","root":1,"counter":2,"floor":1,"tries":3,"created":"2026-11-22T10:00:00Z","version":"1","requires-updater":["slots"],"objects":{{{}}},"boot":{{"kernel":"{some}","initramfs":"{some}","arguments":""}},"content":{{}}}}"#,
        list.join(",")
    )
    .into_bytes()
}

fn objects(sizes: &[usize]) -> BTreeMap<ObjectId, Vec<u8>> {
    let bytes = sizes
        .iter()
        .zip(0_u8..)
        .map(|(size, seed)| sample(*size, seed));
    bytes.map(|bytes| (seal(&bytes).id, bytes)).collect()
}

fn head(objects: &BTreeMap<ObjectId, Vec<u8>>, parameters: Option<&[u8]>) -> Head {
    Head {
        revision: revision(objects),
        signatures: b"signatures".to_vec(),
        parameters: parameters.map(<[u8]>::to_vec),
    }
}

/// One section of an object.
fn part(kind: Kind, id: ObjectId, bytes: &[u8]) -> Vec<u8> {
    let mut section = Section::of_object(kind, id, bytes.len() as u64);
    section.extend_from_slice(bytes);
    section
}

/// The sections of a bundle, one by one.
fn sections(objects: &BTreeMap<ObjectId, Vec<u8>>) -> Vec<Vec<u8>> {
    let mut sections = vec![head(objects, None).encode()];
    for (id, bytes) in objects {
        sections.push(part(Kind::Tree, *id, &seal(bytes).tree));
        sections.push(part(Kind::Object, *id, bytes));
    }
    sections.push(END.to_vec());
    sections
}

fn bundle(objects: &BTreeMap<ObjectId, Vec<u8>>, parameters: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = head(objects, parameters).encode();
    bytes.extend(sections(objects).into_iter().skip(1).flatten());
    bytes
}

/// What a bundle holds.
#[derive(Debug, Default, PartialEq)]
struct Content {
    head: Head,
    trees: BTreeMap<ObjectId, Vec<u8>>,
    objects: BTreeMap<ObjectId, Vec<u8>>,
    ended: bool,
}

/// Takes a bundle apart in pieces of `piece` bytes.
fn read(bytes: &[u8], piece: usize) -> Result<Content, Error> {
    let mut parser = Parser::new();
    let mut content = Content::default();
    let mut current = None;
    for mut input in bytes.chunks(piece) {
        loop {
            match parser.next(&mut input)? {
                Event::More => break,
                Event::Head => content.head = parser.head().clone(),
                Event::Tree(id, length) => {
                    current = Some((Kind::Tree, id));
                    content.trees.insert(id, Vec::new());
                    assert_eq!(
                        length,
                        tree_size(parser.envelope().unwrap().objects[&id].size)
                    );
                }
                Event::Object(id, _) => {
                    current = Some((Kind::Object, id));
                    content.objects.insert(id, Vec::new());
                }
                Event::Bytes(bytes) => {
                    let (kind, id) = current.unwrap();
                    let all = if kind == Kind::Tree {
                        &mut content.trees
                    } else {
                        &mut content.objects
                    };
                    all.get_mut(&id).unwrap().extend_from_slice(bytes);
                }
                Event::End => content.ended = true,
            }
        }
    }
    parser.finish()?;
    Ok(content)
}

fn fault(bytes: &[u8]) -> Fault {
    match read(bytes, 1000) {
        Err(Error::Bundle(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bundle_comes_back_whatever_the_pieces() {
    let objects = objects(&[0, 1, 4096, 4097, 200_000]);
    for parameters in [None, Some(&b""[..]), Some(b"{}")] {
        let bytes = bundle(&objects, parameters);
        for piece in [1, 3, 16, 47, 4096, bytes.len()] {
            let content = read(&bytes, piece).unwrap();
            assert_eq!(content.head, head(&objects, parameters));
            assert_eq!(content.objects, objects);
            for (id, tree) in &content.trees {
                let size = content.objects[id].len() as u64;
                verity::Tree::open(*id, size, tree).unwrap();
            }
            assert!(content.ended);
        }
    }
}

#[test]
fn a_bundle_without_objects_ends_behind_its_head() {
    let none = BTreeMap::new();
    assert!(read(&bundle(&none, None), 7).unwrap().ended);
}

#[test]
fn every_torn_prefix_is_incomplete() {
    let bytes = bundle(&objects(&[0, 10, 5000]), Some(b"{}"));
    for length in 0..bytes.len() {
        assert!(
            matches!(fault(&bytes[..length]), Fault::Truncated(_)),
            "{length}"
        );
    }
}

#[test]
fn what_is_skipped_need_not_come() {
    let objects = objects(&[10, 5000]);
    let bytes = bundle(&objects, None);
    let mut parser = Parser::new();
    let (mut at, mut seen) = (0, 0);
    loop {
        let mut input = &bytes[at..(at + 20).min(bytes.len())];
        let before = input.len();
        let event = parser.next(&mut input).unwrap();
        at += before - input.len();
        match event {
            Event::Tree(..) | Event::Object(..) => {
                seen += 1;
                at += usize::try_from(parser.skip()).unwrap();
                assert_eq!(parser.skip(), 0);
            }
            Event::More | Event::Head => {}
            Event::Bytes(_) => panic!("it was to be skipped"),
            Event::End => break,
        }
    }
    parser.finish().unwrap();
    assert_eq!((at, seen), (bytes.len(), 4));
}

#[test]
fn wrong_first_bytes() {
    let mut bytes = bundle(&objects(&[1]), None);
    bytes[13] = b'2';
    assert_eq!(fault(&bytes), Fault::Magic);
    assert_eq!(fault(b"\x7fELF and so on, and so on"), Fault::Magic);
}

#[test]
fn unknown_kinds_and_padding_that_is_not_zero() {
    let bytes = bundle(&objects(&[1]), None);
    for kind in [0, 7, 255] {
        let mut bytes = bytes.clone();
        bytes[15] = kind;
        assert_eq!(fault(&bytes), Fault::UnknownKind(kind));
    }
    for at in 16..23 {
        let mut bytes = bytes.clone();
        bytes[at] = 1;
        assert_eq!(fault(&bytes), Fault::Padding(Kind::Revision));
    }
}

#[test]
fn sections_out_of_order_left_out_or_twice() {
    let objects = objects(&[10, 20, 5000]);
    let good = sections(&objects);
    let order = |after, found| Fault::Order { after, found };
    let joined = |sections: &[Vec<u8>]| fault(&sections.concat());

    let mut ended_early = good.clone();
    ended_early.drain(3..5);
    // The third object's tree is taken for the second's: its size gives it away, or its digest does.
    assert!(matches!(
        joined(&ended_early),
        Fault::Length { .. } | Fault::Object { .. }
    ));
    let mut no_last = good.clone();
    no_last.drain(5..7);
    assert_eq!(joined(&no_last), order(Some(Kind::Object), Kind::End));
    let mut swapped = good.clone();
    swapped.swap(1, 2);
    assert_eq!(
        joined(&swapped),
        order(Some(Kind::Signatures), Kind::Object)
    );
    let mut no_bytes = good.clone();
    no_bytes.remove(2);
    assert_eq!(joined(&no_bytes), order(Some(Kind::Tree), Kind::Tree));
    let mut twice = good.clone();
    twice.insert(7, good[6].clone());
    assert_eq!(joined(&twice), order(Some(Kind::Object), Kind::Object));
    let mut one_more = good.clone();
    one_more.insert(7, good[5].clone());
    assert_eq!(joined(&one_more), order(Some(Kind::Object), Kind::Tree));

    let late = Section {
        kind: Kind::Parameters,
        length: 0,
    };
    let mut parameters_late = good.clone();
    parameters_late.insert(3, late.encode().to_vec());
    assert_eq!(
        joined(&parameters_late),
        order(Some(Kind::Object), Kind::Parameters)
    );
    let mut parameters_first = MAGIC.to_vec();
    parameters_first.extend(late.encode());
    assert_eq!(fault(&parameters_first), order(None, Kind::Parameters));
}

#[test]
fn sections_over_their_caps_and_of_other_lengths() {
    let objects = objects(&[5000]);
    let caps = [
        (Kind::Revision, revision::CAP, Vec::new()),
        (Kind::Signatures, SignatureSet::CAP, revision(&objects)),
    ];
    for (kind, cap, before) in caps {
        let mut bytes = MAGIC.to_vec();
        if !before.is_empty() {
            bytes = head(&objects, None).encode();
            bytes.truncate(MAGIC.len() + HEADER + before.len());
        }
        let length = cap as u64 + 1;
        bytes.extend(Section { kind, length }.encode());
        let cap = cap as u64;
        assert_eq!(fault(&bytes), Fault::OverCap { kind, length, cap });
    }
    let mut bytes = head(&objects, None).encode();
    let length = u64::MAX;
    let kind = Kind::Parameters;
    bytes.extend(Section { kind, length }.encode());
    let cap = Parameters::CAP as u64;
    assert_eq!(fault(&bytes), Fault::OverCap { kind, length, cap });

    let good = sections(&objects);
    for (index, kind, expected) in [
        (1, Kind::Tree, 4096 + 32),
        (2, Kind::Object, 5000 + 32),
        (3, Kind::End, 0),
    ] {
        for found in [expected + 1, u64::MAX, expected.saturating_sub(1).max(1)] {
            let mut sections = good.clone();
            sections[index][8..16].copy_from_slice(&found.to_le_bytes());
            let expected = Fault::Length {
                kind,
                found,
                expected,
            };
            assert_eq!(fault(&sections.concat()), expected);
        }
    }
}

#[test]
fn another_objects_bytes_and_what_follows_the_end() {
    let objects = objects(&[10, 10]);
    let good = sections(&objects);
    let ids: Vec<ObjectId> = objects.keys().copied().collect();
    let mut wrong = good.clone();
    wrong.swap(1, 3);
    let expected = Fault::Object {
        kind: Kind::Tree,
        expected: ids[0],
        found: ids[1],
    };
    assert_eq!(fault(&wrong.concat()), expected);
    let mut bytes = good.concat();
    bytes.push(0);
    assert_eq!(fault(&bytes), Fault::Trailing);
}

#[test]
fn a_revision_that_is_none_is_refused_at_the_first_object() {
    let head = Head {
        revision: b"{}".to_vec(),
        ..Head::default()
    };
    let bytes = [head.encode(), END.to_vec()].concat();
    assert!(matches!(read(&bytes, 9), Err(Error::Json { .. })));
}

#[test]
fn a_head_alone() {
    let objects = objects(&[10]);
    for parameters in [None, Some(&b"{}"[..])] {
        let head = head(&objects, parameters);
        let bytes = head.encode();
        assert_eq!(Head::parse(&bytes).unwrap(), head);
        // A head without parameters is the beginning of one with them: that one prefix is whole, too.
        let shorter = bytes.len() - parameters.map_or(0, |p| HEADER + p.len());
        for length in (0..bytes.len()).filter(|length| *length != shorter) {
            assert!(matches!(
                Head::parse(&bytes[..length]),
                Err(Error::Bundle(Fault::Truncated(_)))
            ));
        }
        let followed = [bytes, END.to_vec()].concat();
        assert!(matches!(
            Head::parse(&followed),
            Err(Error::Bundle(Fault::Trailing))
        ));
    }
    let largest = Head {
        revision: vec![0; revision::CAP],
        signatures: vec![0; SignatureSet::CAP],
        parameters: Some(vec![0; Parameters::CAP]),
    };
    assert_eq!(largest.encode().len(), Head::CAP);
    assert_eq!(Head::parse(&largest.encode()).unwrap(), largest);
}

proptest! {
    #[test]
    fn bundles_round_trip(sizes in prop::collection::vec(0_usize..9000, 0..5), piece in 1_usize..5000) {
        let objects = objects(&sizes);
        let content = read(&bundle(&objects, Some(b"x")), piece).unwrap();
        prop_assert_eq!(content.objects, objects);
    }

    #[test]
    fn a_byte_that_is_changed_is_refused_or_is_content(at in 0_usize..3000, flip in 1_u8..=255) {
        let objects = objects(&[10, 300]);
        let mut bytes = bundle(&objects, None);
        let at = at % bytes.len();
        bytes[at] ^= flip;
        // Whatever is accepted is a bundle again, byte for byte.
        if let Ok(content) = read(&bytes, 64) {
            let mut again = content.head.encode();
            for (id, bytes) in &content.objects {
                again.extend(part(Kind::Tree, *id, &content.trees[id]));
                again.extend(part(Kind::Object, *id, bytes));
            }
            again.extend(END);
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn any_bytes_give_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200), magic: bool) {
        let mut all = if magic { MAGIC.to_vec() } else { Vec::new() };
        all.extend(bytes);
        prop_assert!(read(&all, 10).is_err());
    }
}
