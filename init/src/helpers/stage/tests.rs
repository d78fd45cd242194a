//! Conversations with the helper as PID 1 has them: a thread serves, the test speaks frames.

use super::fixture::{Device, INITRAMFS, KERNEL, draft, sealed};
use super::*;
use kedge_revision::parameters::Parameters;
use kedge_revision::revision::ObjectKind;
use kedge_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

/// How long the helper may take for an answer: it writes files and syncs them.
const PATIENCE: Timespec = Timespec {
    tv_sec: 60,
    tv_nsec: 0,
};

pub(super) struct Talk {
    socket: OwnedFd,
    /// Bytes that may be sent ahead.
    window: usize,
}

impl Talk {
    pub(super) fn send(&self, request: Request<'_>) {
        sock::send(&self.socket, &request.encode(), &[]).unwrap();
    }

    pub(super) fn receive(&self) -> Vec<u8> {
        // A helper that waits for what nobody sends is a fault, and not a test without an end.
        let mut list = [PollFd::new(&self.socket, PollFlags::IN)];
        let some = poll(&mut list, Some(&PATIENCE)).unwrap();
        assert_eq!(some, 1, "the helper says nothing");
        let mut buffer = vec![0; MAX_FRAME];
        let received = sock::receive(&self.socket, &mut buffer).unwrap();
        assert!(received.bytes > 0, "the helper has ended");
        buffer.truncate(received.bytes);
        buffer
    }

    /// Takes credit, or the answer.
    fn next(&mut self) -> Option<(u16, Value)> {
        let frame = self.receive();
        let report = Report::decode(&frame).unwrap();
        if let Report::Credit { bytes } = report {
            self.window += bytes as usize;
            return None;
        }
        let Report::Answer { status, body } = report else {
            panic!("{report:?}")
        };
        Some((status, serde_json::from_slice(body).unwrap()))
    }

    pub(super) fn answer(&mut self) -> (u16, Value) {
        loop {
            if let Some(answer) = self.next() {
                return answer;
            }
        }
    }

    /// Sends a body as PID 1 does, never beyond the window; an early answer ends it.
    pub(super) fn body(&mut self, body: Body, bytes: &[u8]) -> (u16, Value) {
        self.send(Request::Begin {
            body,
            length: bytes.len() as u64,
        });
        self.window = WINDOW;
        for piece in bytes.chunks(MAX_DATA) {
            while self.window < piece.len() {
                if let Some(answer) = self.next() {
                    return answer;
                }
            }
            self.window -= piece.len();
            self.send(Request::Data(piece));
        }
        self.answer()
    }

    fn object(&mut self, bytes: &[u8], offset: usize) -> (u16, Value) {
        let sealed = sealed(bytes);
        let body = [&sealed.tree[..], &bytes[offset..]].concat();
        let what = Body::Object {
            id: sealed.id,
            offset: offset as u64,
        };
        self.body(what, &body)
    }
}

/// Runs the helper on a device of which a revision with these layers is committed.
pub(super) fn talk(device: &Device, committed: ObjectId, speak: impl FnOnce(&mut Talk)) {
    let (own, other) = sock::pair(sock::Kind::Messages).unwrap();
    std::thread::scope(|scope| {
        let helper = scope.spawn(|| Stage::new(other.as_fd(), device.directory.path()).serve());
        let mut talk = Talk {
            socket: own,
            window: WINDOW,
        };
        talk.send(device.configure(committed));
        speak(&mut talk);
        drop(talk);
        helper.join().unwrap().unwrap();
    });
}

pub(super) fn noise(size: usize) -> Vec<u8> {
    (0..size)
        .map(|i| u8::try_from((i * 31 + i / 4096 * 7) % 251).unwrap())
        .collect()
}

#[test]
fn an_offer_is_taken_its_objects_arrive_and_it_is_there() {
    let device = Device::new();
    let committed = device.put(1, &[b"old layer"], "factory\n");
    let layer = noise(300_000);
    let (id, head) = device.offer(draft(2, &[b"old layer", &layer]), None);
    talk(&device, committed, |talk| {
        let (status, answer) = talk.body(Body::Offer, &head);
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["revision"], id.to_string());
        assert_eq!(answer["version"], "1.2");
        let layer_id = sealed(&layer).id;
        assert_eq!(
            answer["missing"],
            serde_json::json!([{"id": layer_id.to_string(), "size": 300_000, "have": 0}])
        );
        assert!(answer["needed-bytes"].as_u64().unwrap() > 300_000);
        let (status, answer) = talk.object(&layer, 0);
        assert_eq!((status, &answer["done"]), (200, &Value::from(300_000)));
        // It is there, and is no longer taken.
        assert_eq!(talk.object(&layer, 0).0, 409);
        let (_, answer) = talk.body(Body::Offer, &head);
        assert_eq!(answer["missing"], serde_json::json!([]));
    });
    assert!(device.store.is_committed(committed) && !device.store.is_committed(id));
    assert_eq!(
        device.store.revision(id).unwrap().0.len(),
        head.len() - 47 - signatures(&head)
    );
    let path = device.store.object_path(sealed(&layer).id);
    assert_eq!(std::fs::read(path).unwrap(), layer);
}

/// Bytes of a head's signatures.
fn signatures(head: &[u8]) -> usize {
    Head::parse(head).unwrap().signatures.len()
}

#[test]
fn a_bad_block_is_named_and_what_was_verified_stays() {
    let device = Device::new();
    let committed = device.put(1, &[], "factory\n");
    let layer = noise(40 * 4096);
    let (_, head) = device.offer(draft(2, &[&layer]), None);
    talk(&device, committed, |talk| {
        talk.body(Body::Offer, &head);
        let sealed = sealed(&layer);
        let mut body = [&sealed.tree[..], &layer].concat();
        body[sealed.tree.len() + 9 * 4096] ^= 1;
        let what = |offset| Body::Object {
            id: sealed.id,
            offset,
        };
        let (status, problem) = talk.body(what(0), &body);
        assert_eq!(status, 409);
        assert_eq!(problem["title"], "Conflict");
        assert_eq!(
            problem["detail"],
            format!("block 9 of {} is damaged", sealed.id)
        );
        let (_, answer) = talk.body(Body::Offer, &head);
        assert_eq!(answer["missing"][0]["have"], 9 * 4096);
        // Not from where it goes on: refused with the place.
        let (status, problem) = talk.object(&layer, 4096);
        assert_eq!(status, 409);
        assert!(problem["detail"].as_str().unwrap().contains("byte 36864"));
        // A request may bring a part, too.
        let part = [&sealed.tree[..], &layer[9 * 4096..20 * 4096 + 5]].concat();
        let (status, answer) = talk.body(what(9 * 4096), &part);
        assert_eq!((status, &answer["done"]), (200, &Value::from(20 * 4096)));
        let (status, answer) = talk.object(&layer, 20 * 4096);
        assert_eq!((status, &answer["done"]), (200, &Value::from(40 * 4096)));
    });
    assert!(device.store.object_path(sealed(&layer).id).exists());
}

#[test]
fn an_abort_keeps_what_is_verified() {
    let device = Device::new();
    let committed = device.put(1, &[], "factory\n");
    let layer = noise(10 * 4096);
    let (_, head) = device.offer(draft(2, &[&layer]), None);
    talk(&device, committed, |talk| {
        talk.body(Body::Offer, &head);
        let sealed = sealed(&layer);
        talk.send(Request::Begin {
            body: Body::Object {
                id: sealed.id,
                offset: 0,
            },
            length: (sealed.tree.len() + layer.len()) as u64,
        });
        talk.send(Request::Data(&sealed.tree));
        talk.send(Request::Data(&layer[..3 * 4096 + 1]));
        talk.send(Request::Abort);
        // Late bytes of what was aborted.
        talk.send(Request::Data(b"late"));
        let (_, answer) = talk.body(Body::Offer, &head);
        assert_eq!(answer["missing"][0]["have"], 3 * 4096);
    });
}

#[test]
fn what_is_not_for_this_device_is_refused_with_the_reason() {
    let device = Device::new();
    let committed = device.put(7, &[], "factory\n");
    let mut board = draft(8, &[]);
    board.board = "other".parse().unwrap();
    let mut product = draft(8, &[]);
    product.product = "other".parse().unwrap();
    let mut root = draft(8, &[]);
    root.root = 2;
    let mut tampered = device.offer(draft(8, &[]), None).1;
    let at = tampered
        .windows(5)
        .position(|five| five == b"quiet")
        .unwrap();
    tampered[at] = b'Q';
    let mut twin = draft(7, &[]);
    twin.version = "another".into();
    for (head, reason) in [
        (device.offer(board, None).1, "board"),
        (device.offer(product, None).1, "product"),
        (device.offer(root, None).1, "root version"),
        (tampered, "does not verify"),
        (
            device.offer(twin, None).1,
            "another revision 1.7 is committed",
        ),
    ] {
        talk(&device, committed, |talk| {
            let (status, problem) = talk.body(Body::Offer, &head);
            assert_eq!(status, 409, "{reason}");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(reason), "{detail}");
            let object = Body::Object {
                id: sealed(KERNEL).id,
                offset: 0,
            };
            assert_eq!(talk.body(object, KERNEL).0, 409);
        });
    }
    assert_eq!(device.store.revisions().unwrap(), [committed]);
}

#[test]
fn the_floor_holds() {
    let device = Device::new();
    let committed = device.put(7, &[], "factory\n");
    let (_, head) = device.offer(draft(4, &[]), None);
    let keep = Keep::default();
    let take = |floor| offer::take(&device.store, &device.trust(committed, floor), &keep, &head);
    let refused = take(5).unwrap_err();
    assert_eq!(refused.status, 409);
    assert!(refused.detail.contains("floor 1.5"), "{}", refused.detail);
    // Older than what is committed, and not below the floor.
    take(4).unwrap();
}

/// Nobody knows what its slot holds, so that another one must be written: an update is what mends such a device.
#[test]
fn a_committed_revision_that_is_lost_does_not_stop_an_update() {
    let device = Device::new();
    let committed = device.put(1, &[], "factory\n");
    let path = device.store.revision_directory(committed);
    let document = path.join("revision.json");
    let (_, head) = device.offer(draft(2, &[]), None);
    let keep = Keep::default();
    let needed = || {
        let trust = device.trust(committed, 0);
        let (offer, _) = offer::take(&device.store, &trust, &keep, &head).unwrap();
        offer.missing.len()
    };
    assert_eq!(needed(), 0);
    // Signatures say who may run it, not what it is.
    std::fs::remove_file(path.join("revision.sig")).unwrap();
    kedge_store::durable::write(&path.join("revision.sig"), b"{}").unwrap();
    assert_eq!(needed(), 0);
    kedge_store::durable::write(&document, b"{}").unwrap();
    assert_eq!(needed(), 2);
    std::fs::remove_file(&document).unwrap();
    assert_eq!(needed(), 2);
}

#[test]
fn malformed_and_too_long_heads_are_refused() {
    let device = Device::new();
    let committed = device.put(1, &[], "factory\n");
    talk(&device, committed, |talk| {
        assert_eq!(talk.body(Body::Offer, b"PK\x03\x04").0, 400);
        assert_eq!(talk.body(Body::Offer, b"").0, 400);
        talk.send(Request::Begin {
            body: Body::Offer,
            length: Head::CAP as u64 + 1,
        });
        let (status, problem) = talk.answer();
        assert_eq!(
            (status, &problem["title"]),
            (413, &"Content Too Large".into())
        );
    });
}

#[test]
fn parameters_are_judged_and_kept() {
    let device = Device::new();
    let committed = device.put(1, &[], "factory\n");
    let values = |counter, name: &str, value: &str| {
        let values = BTreeMap::from([(name.parse().unwrap(), value.to_owned())]);
        Parameters::new(counter, values).encode().unwrap()
    };
    let good = values(3, "site", "42");
    let (id, head) = device.offer(draft(2, &[]), Some(&good));
    talk(&device, committed, |talk| {
        for (bad, reason) in [
            (values(3, "site", "x"), "decimal"),
            (values(3, "other", "1"), "not declared"),
            (values(0, "site", "1"), "counter 0"),
            (b"{}".to_vec(), "parameters"),
        ] {
            let (_, head) = device.offer(draft(2, &[]), Some(&bad));
            let (status, problem) = talk.body(Body::Offer, &head);
            let detail = problem["detail"].as_str().unwrap();
            assert!(status == 409 && detail.contains(reason), "{detail}");
        }
        assert_eq!(device.store.revisions().unwrap(), [committed]);
        assert_eq!(talk.body(Body::Offer, &head).0, 200);
        assert_eq!(talk.body(Body::Offer, &head).0, 200);
        let (_, other) = device.offer(draft(2, &[]), Some(&values(3, "site", "43")));
        assert_eq!(talk.body(Body::Offer, &other).0, 409);
    });
    let kept = device.store.parameters(id).unwrap();
    assert_eq!(kept, [(3, good)]);
}

#[test]
fn a_revision_without_parameters_goes_on_with_those_of_the_device() {
    let device = Device::new();
    let committed = device.put(1, &[], "factory\n");
    let values = BTreeMap::from([("site".parse().unwrap(), "42".to_owned())]);
    let good = Parameters::new(4, values).encode().unwrap();
    device.store.put_parameters(committed, 4, &good).unwrap();
    let (id, head) = device.offer(draft(2, &[]), None);
    let mut undeclared = draft(3, &[]);
    undeclared.content.parameters.clear();
    let (other, bare) = device.offer(undeclared, None);
    // A hub has given this one values of its own before.
    let own = BTreeMap::from([("site".parse().unwrap(), "7".to_owned())]);
    let own = Parameters::new(4, own).encode().unwrap();
    let (given, again) = device.offer(draft(4, &[]), Some(&own));
    let (_, without) = device.offer(draft(4, &[]), None);
    talk(&device, committed, |talk| {
        assert_eq!(talk.body(Body::Offer, &head).0, 200);
        assert_eq!(talk.body(Body::Offer, &bare).0, 200);
        assert_eq!(talk.body(Body::Offer, &again).0, 200);
        assert_eq!(talk.body(Body::Offer, &without).0, 200);
    });
    assert_eq!(device.store.parameters(given).unwrap(), [(4, own)]);
    assert_eq!(device.store.parameters(id).unwrap(), [(4, good)]);
    // What it no longer declares stays behind; the counter is the same, so that it can be tried with it.
    let none = Parameters::new(4, BTreeMap::new()).encode().unwrap();
    assert_eq!(device.store.parameters(other).unwrap(), [(4, none)]);
}

#[test]
fn new_parameters_replace_those_that_nobody_runs() {
    let device = Device::new();
    let committed = device.put(1, &[], "factory\n");
    let counters = || {
        let kept = device.store.parameters(committed).unwrap();
        let mut counters: Vec<u64> = kept.into_iter().map(|(counter, _)| counter).collect();
        counters.sort_unstable();
        counters
    };
    talk(&device, committed, |talk| {
        let mut give = |counter: u64, running| {
            talk.send(device.configure_with(committed, running));
            let values = BTreeMap::from([("site".parse().unwrap(), counter.to_string())]);
            let document = Parameters::new(counter, values).encode().unwrap();
            let (_, head) = device.offer(draft(1, &[]), Some(&document));
            assert_eq!(talk.body(Body::Offer, &head).0, 200, "{counter}");
        };
        give(5, [0, 0]);
        give(6, [5, 0]);
        give(7, [5, 6]);
        assert_eq!(counters(), [5, 6, 7]);
        for counter in 8..40 {
            give(counter, [5, 6]);
        }
        assert_eq!(counters(), [5, 6, 39]);
        give(40, [39, 0]);
    });
    assert_eq!(counters(), [39, 40]);
}

#[test]
fn what_boots_is_needed_only_if_it_differs() {
    let device = Device::new();
    let committed = device.put(1, &[], "factory\n");
    let missing = |head: &[u8]| {
        let trust = device.trust(committed, 0);
        let (offer, _) = offer::take(&device.store, &trust, &Keep::default(), head).unwrap();
        let missing = offer.missing.iter().map(|missing| missing.id);
        missing.collect::<Vec<_>>()
    };
    assert_eq!(missing(&device.offer(draft(2, &[]), None).1), []);
    let mut arguments = draft(3, &[]);
    arguments.boot.arguments = "loud".into();
    let mut both = vec![sealed(KERNEL).id, sealed(INITRAMFS).id];
    both.sort_unstable();
    let head = device.offer(arguments, None).1;
    assert_eq!(missing(&head), both);
    device.put_object(KERNEL, ObjectKind::Kernel);
    assert_eq!(missing(&head), [sealed(INITRAMFS).id]);
}

#[test]
fn content_is_judged_here_only_for_the_initramfs_that_runs() {
    let device = Device::new();
    let committed = device.put(1, &[], "factory\n");
    // As a newer init may have it: a word that this one does not know.
    let unknown = |mut draft: kedge_revision::revision::Draft| {
        draft.content.requires = vec!["fs-verity".into()];
        let (_, document) = draft.encode().unwrap();
        let text = String::from_utf8(document).unwrap();
        text.replace("\"fs-verity\"", "\"a-new-word\"").into_bytes()
    };
    let mut newer = draft(2, &[]);
    let sealed = sealed(b"a newer initramfs");
    let object = kedge_revision::revision::Object {
        size: sealed.size,
        kind: ObjectKind::Initramfs,
    };
    newer.objects.insert(sealed.id, object);
    newer.boot.initramfs = sealed.id;
    talk(&device, committed, |talk| {
        let (status, problem) = talk.body(Body::Offer, &device.head_of(&unknown(draft(2, &[]))));
        assert_eq!(status, 409);
        assert!(problem["detail"].as_str().unwrap().contains("a-new-word"));
        assert_eq!(
            talk.body(Body::Offer, &device.head_of(&unknown(newer))).0,
            200
        );
    });
}

#[test]
fn what_does_not_fit_is_refused_with_the_bytes_missing_and_garbage_goes_first() {
    let device = Device::new();
    let committed = device.put(1, &[b"kept"], "factory\n");
    device.put(2, &[b"garbage"], "bundle\n");
    let mut huge = draft(3, &[]);
    let object = kedge_revision::revision::Object {
        size: 1 << 50,
        kind: ObjectKind::Layer,
    };
    huge.objects.insert(sealed(b"huge").id, object);
    let (id, head) = device.offer(huge, None);
    talk(&device, committed, |talk| {
        let (status, problem) = talk.body(Body::Offer, &head);
        assert_eq!(
            (status, &problem["title"]),
            (507, &"Insufficient Storage".into())
        );
        assert!(problem["detail"].as_str().unwrap().contains("are missing"));
        // What is neither committed nor offered went before it was refused.
        assert_eq!(device.store.objects().unwrap(), [sealed(b"kept").id]);
        device.put(2, &[b"garbage"], "bundle\n");
        talk.send(Request::Collect(Ids::new(&[*committed.digest()])));
        let collected = talk.receive();
        let expected = Report::Collected {
            objects: 1,
            bytes: 7,
        };
        assert_eq!(Report::decode(&collected).unwrap(), expected);
        assert_eq!(device.store.objects().unwrap(), [sealed(b"kept").id]);
    });
    assert!(!device.store.revisions().unwrap().contains(&id));
}

#[test]
fn a_collection_leaves_what_an_offer_in_progress_needs() {
    let device = Device::new();
    let committed = device.put(1, &[], "factory\n");
    let (one, two) = (noise(9000), noise(20_000));
    let (id, head) = device.offer(draft(2, &[&one, &two]), None);
    talk(&device, committed, |talk| {
        talk.body(Body::Offer, &head);
        assert_eq!(talk.object(&one, 0).0, 200);
        let two = sealed(&two);
        let what = Body::Object {
            id: two.id,
            offset: 0,
        };
        assert_eq!(talk.body(what, &two.tree).0, 200);
        talk.send(Request::Collect(Ids::new(&[])));
        let collected = talk.receive();
        let expected = Report::Collected {
            objects: 0,
            bytes: 0,
        };
        assert_eq!(Report::decode(&collected).unwrap(), expected);
    });
    let mut there = vec![committed, id];
    there.sort_unstable();
    assert_eq!(device.store.revisions().unwrap(), there);
    assert!(device.store.object_path(sealed(&one).id).exists());
    assert_eq!(
        std::fs::read_dir(device.directory.path().join("staging"))
            .unwrap()
            .count(),
        2
    );
}

/// `draft`, with a slot statement of these bytes.
fn stated(counter: u64, statement: &[u8]) -> kedge_revision::revision::Draft {
    let mut draft = draft(counter, &[]);
    let sealed = sealed(statement);
    let object = kedge_revision::revision::Object {
        size: sealed.size,
        kind: ObjectKind::Statement,
    };
    draft.objects.insert(sealed.id, object);
    draft.boot.statement = Some(sealed.id);
    draft
}

#[test]
fn secure_boot_refuses_an_offer_that_its_loader_would_not_start() {
    let device = Device::new();
    let put = |draft| {
        let (id, document, signatures) = device.sign(draft);
        let store = &device.store;
        store
            .put_revision(id, &document, &signatures, "factory\n")
            .unwrap();
        id
    };
    let (signed, plain) = (put(stated(1, b"one")), put(draft(2, &[])));
    let (_, with) = device.offer(stated(3, b"three"), None);
    let (_, without) = device.offer(draft(4, &[]), None);
    for (committed, on, head, expected) in [
        (signed, true, &without, 409),
        (signed, true, &with, 200),
        // Nobody verifies, or nobody says so.
        (signed, false, &without, 200),
        // The loader has no key of its owner's, or what runs is lost.
        (plain, true, &without, 200),
        (ObjectId::from_digest([9; 32]), true, &without, 200),
    ] {
        talk(&device, committed, |talk| {
            let mut configure = device.configure(committed);
            if let Request::Configure { secure_boot, .. } = &mut configure {
                *secure_boot = on;
            }
            talk.send(configure);
            let (status, answer) = talk.body(Body::Offer, head);
            assert_eq!(status, expected, "{committed}, {on}: {answer}");
            if status == 409 {
                let detail = answer["detail"].as_str().unwrap();
                assert!(detail.contains("no statement for Secure Boot"), "{detail}");
                assert!(detail.contains("[secure-boot]"), "{detail}");
            }
        });
    }
}
