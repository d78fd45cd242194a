//! Queries against devices that differ in everything.

use super::*;
use crate::fleet::{Summary, Wanted};
use kedge_api::device::Target;
use kedge_revision::{Floor, ObjectId, PublicKey, Timestamp};
use proptest::prelude::*;

fn row() -> Row {
    let key = PublicKey::from_bytes([3; 32]);
    let (product, board) = ("gateway".parse().unwrap(), "qemu-arm64".parse().unwrap());
    let mut row = Row::new(key, product, board, Timestamp::from_unix(0));
    row.tags.insert("site".to_owned(), "berlin".to_owned());
    row.tags.insert("name".to_owned(), "north gate".to_owned());
    row.assign(Wanted {
        revision: ObjectId::from_digest([0xbb; 32]),
        retry: 0,
        download_only: false,
        now: false,
        window: None,
        rate: None,
    });
    row.report = Some(Summary {
        boot_id: String::new(),
        running: Some(Target {
            revision: ObjectId::from_digest([0xaa; 32]),
            version: "2026.11.1".to_owned(),
            parameters: 0,
            slot: "a".to_owned(),
        }),
        committed: None,
        floor: Floor::default(),
        phase: Phase::RolledBack {
            reason: "x".to_owned(),
        },
        failed: None,
        stale: false,
    });
    row
}

fn holds(text: &str) -> bool {
    let row = row();
    let subject = Subject {
        row: &row,
        online: true,
        seen_s: Some(299),
    };
    Query::parse(text)
        .unwrap_or_else(|misread| panic!("{text}: {misread}"))
        .holds(subject)
}

#[test]
fn each_key_is_looked_at() {
    for text in [
        "all",
        "online",
        "not revoked",
        "product=gateway",
        "board=qemu-arm64",
        "board != qemu-x86-64",
        "phase=rolled-back",
        "revision=aaaaaaaa",
        "revision!=v1:bbbbbbbb",
        "assigned=bbbbbbbbbb",
        "version=2026.11.1",
        "tag:site=berlin",
        "tag:floor!=2",
        "name=\"north gate\"",
        "seen<5m",
        "seen<1d",
        "seen>4m",
        "not seen<299s",
    ] {
        assert!(holds(text), "{text}");
    }
    assert!(!holds("id=00000000"));
    assert!(!holds("seen>5m"));
}

#[test]
fn and_binds_closer_than_or_and_not_closest() {
    assert!(holds("all or all and revoked"));
    assert!(!holds("(all or all) and revoked"));
    assert!(holds("not revoked and all"));
    assert!(!holds("not (revoked or all)"));
    assert!(holds("not not all"));
    assert!(holds("tag:site=berlin and revision!=bbbbbbbb and seen<5m"));
}

#[test]
fn a_misread_query_says_where_and_why() {
    for (text, at) in [
        ("", 0),
        ("product", 7),
        ("product=", 8),
        ("colour=red", 0),
        ("id=abc", 3),
        ("id=ABCDEF0123", 3),
        ("seen<5", 5),
        ("seen=5m", 4),
        ("all all", 4),
        ("(all", 4),
        ("all)", 3),
        ("name=\"x", 5),
        ("tag:=x", 0),
        ("all and", 7),
        ("name=a,b", 6),
        ("seen<99999999999999999999d", 5),
    ] {
        assert_eq!(
            Query::parse(text).map_err(|misread| misread.at),
            Err(at),
            "{text}"
        );
    }
    let deep = format!("{}all{}", "(".repeat(33), ")".repeat(33));
    assert_eq!(Query::parse(&deep).unwrap_err().at, 32);
    assert!(Query::parse(&"not ".repeat(33)).is_err());
    assert!(Query::parse(&" ".repeat(2049)).is_err());
}

proptest! {
    #[test]
    fn no_text_breaks_the_reader(text in "[a-z:=!<>()\" 0-9äß]{0,80}") {
        drop(Query::parse(&text));
    }
}
