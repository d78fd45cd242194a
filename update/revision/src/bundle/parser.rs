//! Taking a bundle apart as its bytes come.

use super::{DIGEST, Fault, HEADER, Head, Kind, MAGIC, Section, as_u64};
use crate::error::Error;
use crate::id::ObjectId;
use crate::json;
use crate::parameters::Parameters;
use crate::revision::{self, Envelope};
use crate::signing::SignatureSet;
use crate::verity::tree_size;

/// What [`Parser::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// All input is used up.
    More,
    /// The head is complete: [`Parser::head`] and [`Parser::envelope`] have it.
    Head,
    /// The tree of an object begins, of so many bytes; they follow as [`Event::Bytes`].
    Tree(ObjectId, u64),
    /// An object begins, of so many bytes; they follow as [`Event::Bytes`].
    Object(ObjectId, u64),
    /// The next bytes of the tree or object.
    Bytes(&'a [u8]),
    /// The bundle is complete.
    End,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Magic,
    /// Before or in the header of a section.
    Header,
    /// In a document, of which so many bytes are to come.
    Document(Kind, u64),
    /// In the digest before so many bytes of a tree or an object.
    Digest(Kind, u64),
    /// In a tree or an object, of which so many bytes are to come.
    Bytes(Kind, u64),
    Ended,
}

/// Takes a bundle apart as its bytes come, whatever the pieces.
///
/// ```text
/// Magic ─▶ Header ─▶ Document ─▶ Header …   sections 1 to 3
///            │ ├───▶ Digest ─▶ Bytes ─▶ Header …   sections 4 and 5
///            │ └───▶ Ended   section 6
///            └ Event::Head, once, before the first header that is no document's is worked
/// ```
/// It keeps the head and nothing of the rest. After an error it is of no further use.
#[derive(Debug)]
pub struct Parser {
    state: State,
    /// Magic, header or digest that has not come whole: at most 32 bytes.
    gathered: Vec<u8>,
    /// The section before this one.
    last: Option<Kind>,
    head: Head,
    head_alone: bool,
    envelope: Option<Envelope>,
    /// The object whose turn it is, if there is one left.
    turn: Option<(ObjectId, u64)>,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// Before the first byte.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: State::Magic,
            gathered: Vec::new(),
            last: None,
            head: Head {
                revision: Vec::new(),
                signatures: Vec::new(),
                parameters: None,
            },
            head_alone: false,
            envelope: None,
            turn: None,
        }
    }

    /// The documents; complete from [`Event::Head`] on.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// The revision, from [`Event::Head`] on. It is parsed and **not** judged.
    #[must_use]
    pub const fn envelope(&self) -> Option<&Envelope> {
        self.envelope.as_ref()
    }

    /// Takes bytes from the front of `input` until something is found, or all are used up.
    ///
    /// # Errors
    /// [`Error::Bundle`]; [`Error::Json`] or [`Error::NotCanonical`] if the revision is none.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Event<'a>, Error> {
        loop {
            match self.state {
                State::Magic => {
                    let Some(magic) = self.gather::<15>(input) else {
                        return Ok(Event::More);
                    };
                    if magic != MAGIC {
                        return Err(Error::Bundle(Fault::Magic));
                    }
                    self.go(State::Header);
                }
                State::Header => {
                    let Some(header) = self.gather::<HEADER>(input) else {
                        return Ok(Event::More);
                    };
                    if let Some(event) = self.section(Section::parse(&header)?)? {
                        return Ok(event);
                    }
                }
                State::Document(kind, left) => {
                    let bytes = take(input, left);
                    self.head.document(kind).extend_from_slice(bytes);
                    match left.saturating_sub(as_u64(bytes.len())) {
                        0 => self.go(State::Header),
                        left => {
                            self.state = State::Document(kind, left);
                            return Ok(Event::More);
                        }
                    }
                }
                State::Digest(kind, length) => {
                    let Some(digest) = self.gather::<DIGEST>(input) else {
                        return Ok(Event::More);
                    };
                    return self.object(kind, ObjectId::from_digest(digest), length);
                }
                State::Bytes(_, 0) => self.go(State::Header),
                State::Bytes(kind, left) => {
                    let bytes = take(input, left);
                    self.state = State::Bytes(kind, left.saturating_sub(as_u64(bytes.len())));
                    return Ok(if bytes.is_empty() {
                        Event::More
                    } else {
                        Event::Bytes(bytes)
                    });
                }
                State::Ended if input.is_empty() => return Ok(Event::More),
                State::Ended => return Err(Error::Bundle(Fault::Trailing)),
            }
        }
    }

    /// Passes over the bytes of the tree or object that has begun: the caller does, too, by seeking
    /// as far as this says, or has them elsewhere.
    pub fn skip(&mut self) -> u64 {
        match self.state {
            State::Bytes(_, left) => {
                self.go(State::Header);
                left
            }
            State::Magic
            | State::Header
            | State::Document(..)
            | State::Digest(..)
            | State::Ended => 0,
        }
    }

    /// Whether all came that has to.
    ///
    /// # Errors
    /// [`Fault::Truncated`].
    pub fn finish(&self) -> Result<(), Error> {
        match self.state {
            State::Ended => Ok(()),
            State::Magic
            | State::Header
            | State::Document(..)
            | State::Digest(..)
            | State::Bytes(..) => Err(Error::Bundle(Fault::Truncated(self.inside()))),
        }
    }

    /// Where the parser stands, in a word.
    const fn inside(&self) -> &'static str {
        match self.state {
            State::Magic => "its first bytes",
            State::Header => "the list of sections",
            State::Document(kind, _) | State::Digest(kind, _) | State::Bytes(kind, _) => {
                kind.word()
            }
            State::Ended => "nothing",
        }
    }

    fn go(&mut self, state: State) {
        self.state = state;
        self.gathered.clear();
    }

    /// `N` bytes, once they have all come.
    fn gather<const N: usize>(&mut self, input: &mut &[u8]) -> Option<[u8; N]> {
        let missing = N.saturating_sub(self.gathered.len());
        let bytes = take(input, as_u64(missing));
        self.gathered.extend_from_slice(bytes);
        self.gathered.as_slice().try_into().ok()
    }

    /// Judges a header by what came before it.
    fn section(&mut self, section: Section) -> Result<Option<Event<'static>>, Error> {
        let Section { kind, length } = section;
        let order = Err(Error::Bundle(Fault::Order {
            after: self.last,
            found: kind,
        }));
        let cap = match (self.last, kind) {
            (None, Kind::Revision) => revision::CAP,
            (Some(Kind::Revision), Kind::Signatures) => SignatureSet::CAP,
            (Some(Kind::Signatures), Kind::Parameters) => Parameters::CAP,
            (Some(Kind::Signatures | Kind::Parameters), Kind::Tree | Kind::End)
                if self.head_alone =>
            {
                return Err(Error::Bundle(Fault::Trailing));
            }
            // The header stays gathered, and is judged again once the head is known.
            (Some(Kind::Signatures | Kind::Parameters), Kind::Tree | Kind::End)
                if self.envelope.is_none() =>
            {
                let envelope = json::parse("revision", revision::CAP, &self.head.revision)?;
                self.set_turn(&envelope, None);
                self.envelope = Some(envelope);
                return Ok(Some(Event::Head));
            }
            (Some(Kind::Signatures | Kind::Parameters | Kind::Object), Kind::Tree) => {
                return match self.turn {
                    Some((_, size)) => self.begin(section, tree_size(size)),
                    None => order,
                };
            }
            (Some(Kind::Tree), Kind::Object) => {
                return match self.turn {
                    Some((_, size)) => self.begin(section, size),
                    None => order,
                };
            }
            (Some(Kind::Signatures | Kind::Parameters | Kind::Object), Kind::End)
                if self.turn.is_none() =>
            {
                exactly(section, 0)?;
                self.last = Some(kind);
                self.go(State::Ended);
                return Ok(Some(Event::End));
            }
            _ => return order,
        };
        let cap = as_u64(cap);
        if length > cap {
            return Err(Error::Bundle(Fault::OverCap { kind, length, cap }));
        }
        self.last = Some(kind);
        // A document without a byte is there, too.
        self.head.document(kind).clear();
        self.go(State::Document(kind, length));
        Ok(None)
    }

    /// A tree or an object of `size` bytes.
    fn begin(&mut self, section: Section, size: u64) -> Result<Option<Event<'static>>, Error> {
        exactly(section, size.saturating_add(as_u64(DIGEST)))?;
        self.last = Some(section.kind);
        self.go(State::Digest(section.kind, size));
        Ok(None)
    }

    fn object(
        &mut self,
        kind: Kind,
        found: ObjectId,
        length: u64,
    ) -> Result<Event<'static>, Error> {
        let expected = self.turn.map_or(found, |(id, _)| id);
        if found != expected {
            return Err(Error::Bundle(Fault::Object {
                kind,
                expected,
                found,
            }));
        }
        self.go(State::Bytes(kind, length));
        if kind == Kind::Tree {
            return Ok(Event::Tree(found, length));
        }
        if let Some(envelope) = self.envelope.take() {
            self.set_turn(&envelope, Some(found));
            self.envelope = Some(envelope);
        }
        Ok(Event::Object(found, length))
    }

    /// The object after `id`, or the first one.
    fn set_turn(&mut self, envelope: &Envelope, after: Option<ObjectId>) {
        let next = envelope.objects.iter().find(|(id, _)| after < Some(**id));
        self.turn = next.map(|(id, object)| (*id, object.size));
    }
}

/// At most `most` bytes from the front of `input`.
fn take<'a>(input: &mut &'a [u8], most: u64) -> &'a [u8] {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let (bytes, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    bytes
}

fn exactly(section: Section, expected: u64) -> Result<(), Error> {
    let Section { kind, length } = section;
    if length == expected {
        return Ok(());
    }
    Err(Error::Bundle(Fault::Length {
        kind,
        found: length,
        expected,
    }))
}

/// A head that stands alone.
pub(super) fn head(bytes: &[u8]) -> Result<Head, Error> {
    let mut parser = Parser::new();
    parser.head_alone = true;
    let mut rest = bytes;
    while !rest.is_empty() {
        parser.next(&mut rest)?;
    }
    let complete = matches!(parser.state, State::Header)
        && parser.gathered.is_empty()
        && matches!(parser.last, Some(Kind::Signatures | Kind::Parameters));
    if complete {
        Ok(parser.head)
    } else {
        Err(Error::Bundle(Fault::Truncated(parser.inside())))
    }
}
