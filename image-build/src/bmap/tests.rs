//! Tests of block maps: what is written is read, and what does not add up is refused.

use super::*;

fn map() -> Map {
    let range = |first, last, byte: u8| Range {
        first,
        last,
        sum: [byte; 32],
    };
    Map::new(
        40_000,
        4096,
        vec![range(0, 2, 1), range(4, 4, 0xab), range(9, 9, 3)],
    )
    .unwrap()
}

/// The map with something else in it, and its own checksum set right again.
fn changed(from: &str, to: &str) -> String {
    let text = map().encode();
    assert!(text.contains(from), "{from}");
    let text = text.replacen(from, to, 1);
    let own = text
        .split("<BmapFileChecksum> ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let text = own.map_or(text.clone(), |own| text.replacen(own, ZEROS, 1));
    let sum = hex(&Sha256::digest(text.as_bytes()));
    text.replacen(ZEROS, &sum, 1)
}

fn refused(text: &str) -> String {
    format!("{:#}", Map::parse(text).unwrap_err())
}

#[test]
fn a_map_comes_back() {
    let map = map();
    let text = map.encode();
    assert_eq!(Map::parse(&text).unwrap(), map);
    assert_eq!(Map::parse(&text).unwrap().encode(), text);
    assert!(text.contains("<Range chksum=\"0101") && text.contains("> 0-2 </Range>"));
    assert!(text.contains("> 4 </Range>") && text.contains("<MappedBlocksCount> 5 <"));
    // The last block is a part of one.
    let [_, _, last] = map.ranges() else { panic!() };
    assert_eq!(map.bytes(last), 36_864..40_000);
    assert_eq!(map.mapped(), 4 * 4096 + 3136);
}

/// Each with what it is changed to, and what is said of that.
const NOT_ADDING_UP: &[(&str, &str, &str)] = &[
    ("> 4 <", "> 2 <", "range 2, 2-2, begins before block 3"),
    ("> 4 <", "> 5-4 <", "range 2, 5-4, is empty"),
    (
        "> 9 <",
        "> 9-10 <",
        "range 3, 9-10, is outside the image of 10 blocks",
    ),
    ("> 9 <", "> 9-18446744073709551615 <", "outside the image"),
    (
        "> 9 <",
        "> 9-18446744073709551616 <",
        "range 3 is no blocks",
    ),
    ("> 9 <", "> +9 <", "range 3 is no blocks"),
    ("> 9 <", "> <Range> 9 </Range> <", "<Range> holds a tag"),
    (
        "chksum=\"abab",
        "chksum=\"xbab",
        "range 2, 4-4, has no SHA-256",
    ),
    ("chksum=\"abab", "chksum=\"ab", "has no SHA-256"),
    (" chksum=", " sum=", "has no SHA-256"),
    ("> 40000 <", "> 0 <", "an image of no bytes"),
    ("> 40000 <", "> 36864 <", "outside the image of 9 blocks"),
    ("> 40000 <", "> -1 <", "<ImageSize> is no number: -1"),
    (
        "<BlockSize> 4096",
        "<BlockSize> 4095",
        "blocks of 4095 bytes",
    ),
    ("<BlockSize> 4096", "<BlockSize> 256", "blocks of 256 bytes"),
    (
        "<BlockSize> 4096",
        "<BlockSize> 9223372036854775808",
        "blocks of 9223372036854775808",
    ),
    (
        "<BlocksCount> 10",
        "<BlocksCount> 11",
        "BlocksCount is 11, and the rest of it says 10",
    ),
    (
        "<MappedBlocksCount> 5",
        "<MappedBlocksCount> 4",
        "MappedBlocksCount is 4",
    ),
    ("sha256", "sha1", "of the type sha1"),
    ("version=\"2.0\"", "version=\"1.4\"", "of version 1.4"),
    ("version=\"2.0\"", "", "says no version"),
    ("<BlockSize> 4096 </BlockSize>", "", "no <BlockSize>"),
    (
        "<BlockSize>",
        "<BlockSize> 4096 </BlockSize><BlockSize>",
        "<BlockSize> has no place here",
    ),
    (
        "<BlockMap>",
        "<BlockMap></BlockMap><BlockMap>",
        "<BlockMap> has no place here, or stands twice",
    ),
    (
        "<BlockSize>",
        "<Other> 1 </Other><BlockSize>",
        "<Other> has no place here",
    ),
    ("</bmap>", "</bmap> <bmap>", "something stands behind"),
    ("</bmap>", "", "it ends in the middle"),
    (
        "<bmap version=\"2.0\">",
        "<other>",
        "it is no block map: it begins with <other>",
    ),
];

#[test]
fn what_does_not_add_up_is_refused() {
    for (from, to, said) in NOT_ADDING_UP {
        let said_really = refused(&changed(from, to));
        assert!(said_really.contains(said), "{from} → {to}: {said_really}");
    }
}

/// Entities that double with each line, and a file of the machine: neither is looked at.
#[test]
fn an_entity_bomb_is_refused() {
    let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]>\n<bmap version";
    let said = refused(&changed("<bmap version", bomb));
    assert!(said.contains("it declares something"), "{said}");
    let said = refused(&changed("> 40000 <", "> &a; <"));
    assert!(said.contains("<ImageSize> has an entity"), "{said}");
    let said = refused(&changed("> 40000 <", "> <![CDATA[1]]> <"));
    assert!(said.contains("holds a tag"), "{said}");
}

#[test]
fn a_byte_that_changed_is_found() {
    let text = map().encode();
    let said = refused(&text.replace("chksum=\"abab", "chksum=\"abac"));
    assert!(said.contains("it is damaged"), "{said}");
    let said = refused(&" ".repeat(CAP + 1));
    assert!(said.contains("at most 8388608 are read"), "{said}");
    for end in 0..text.len() - 1 {
        Map::parse(&text[..end]).unwrap_err();
    }
}
