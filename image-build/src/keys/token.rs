//! Signing keys that never leave their token: a smart card, a USB key, an HSM, reached through its maker's library (PKCS#11
//! 3.0, OASIS). Ed25519 alone (`CKM_EDDSA`, section 2.3.14).
//!
//! A PIN is tried once. A token counts wrong ones and locks itself, so nothing here asks again, and what a token says of its
//! last try is heeded.

mod uri;

pub(crate) use uri::Uri;

use super::Passphrase;
use anyhow::{Context, Result, bail, ensure};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;
use kedge_revision::PublicKey;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The object identifier of Ed25519, in DER (RFC 8410, section 3).
const ED25519: [u8; 5] = [0x06, 0x03, 0x2b, 0x65, 0x70];
/// Most names of tokens or keys in an error.
const MOST_NAMES: usize = 8;

/// A token's key, ready to sign.
pub(super) struct TokenKey {
    session: Session,
    private: ObjectHandle,
    public: PublicKey,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenKey({})", self.public)
    }
}

impl TokenKey {
    /// Finds the key, with a PIN.
    ///
    /// # Errors
    /// The library, the token or the key is not there or is of another kind; the PIN is wrong. Each says which.
    pub(super) fn open(uri: &Uri, pin: &Passphrase) -> Result<Self> {
        let session = session(uri, pin, false)?;
        let private = private(&session, uri)?;
        let public = public(&session, private)?;
        Ok(Self {
            session,
            private,
            public,
        })
    }

    /// Makes a key in the token, which it will not leave.
    ///
    /// # Errors
    /// As [`TokenKey::open`]; one of that name is there.
    pub(super) fn make(uri: &Uri, pin: &Passphrase) -> Result<Self> {
        let label = uri.object.as_deref();
        let label = label.context("name the new key: object=NAME")?;
        let session = session(uri, pin, true)?;
        let same = [
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::Label(label.into()),
        ];
        let there = session
            .find_objects(&same)
            .map_err(failed("look for a key"))?;
        ensure!(
            there.is_empty(),
            "the token has a key {label:?} already; nothing was made"
        );
        // Both halves have the same id, by which tokens tell that they belong together.
        let id = match &uri.id {
            Some(id) => id.clone(),
            None => super::random::<8>()?.to_vec(),
        };
        let name = [
            Attribute::Token(true),
            Attribute::Label(label.into()),
            Attribute::Id(id),
        ];
        let mut public = name.to_vec();
        public.extend([
            Attribute::Private(false),
            Attribute::Verify(true),
            Attribute::EcParams(ED25519.to_vec()),
        ]);
        let mut private = name.to_vec();
        private.extend([
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
        ]);
        let made = session.generate_key_pair(&Mechanism::EccEdwardsKeyPairGen, &public, &private);
        let (public, private) = made.map_err(failed("make an Ed25519 key"))?;
        let public = point(&session, public)?.context("it does not tell the key that it made")?;
        Ok(Self {
            session,
            private,
            public,
        })
    }

    /// The public half.
    pub(super) const fn public(&self) -> PublicKey {
        self.public
    }

    /// The token's signature; not judged.
    ///
    /// # Errors
    /// The token refuses, or what it gives is no signature of Ed25519.
    pub(super) fn sign(&self, message: &[u8]) -> Result<[u8; 64]> {
        let scheme = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519));
        let signed = self.session.sign(&scheme, self.private, message);
        let signed = signed.map_err(failed("sign"))?;
        <[u8; 64]>::try_from(signed.as_slice())
            .ok()
            .with_context(|| format!("the token signs with {} bytes, not 64", signed.len()))
    }
}

/// What a call of the library's came to.
fn failed(doing: &'static str) -> impl Fn(Error) -> anyhow::Error {
    move |error| anyhow::Error::new(error).context(format!("the token does not {doing}"))
}

/// A library, initialized once in a process: the standard allows no more.
fn library(path: &Path) -> Result<Pkcs11> {
    static LOADED: Mutex<BTreeMap<PathBuf, Pkcs11>> = Mutex::new(BTreeMap::new());
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = loaded.get(path) {
        return Ok(library.clone());
    }
    ensure!(
        path.is_file(),
        "there is no PKCS#11 module {}; it comes with the token's software, as in Debian's softhsm2, opensc-pkcs11, ykcs11",
        path.display()
    );
    let library =
        Pkcs11::new(path).with_context(|| format!("{} is no PKCS#11 module", path.display()))?;
    library
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .with_context(|| format!("the PKCS#11 module {} does not start", path.display()))?;
    loaded.insert(path.to_owned(), library.clone());
    Ok(library)
}

/// The one token that the name means.
fn token(library: &Pkcs11, uri: &Uri) -> Result<(Slot, TokenInfo)> {
    let slots = library.get_slots_with_initialized_token();
    let slots = slots.map_err(failed("list its slots"))?;
    let (mut found, mut names) = (Vec::new(), Vec::new());
    for slot in slots {
        let info = library
            .get_token_info(slot)
            .map_err(failed("tell its name"))?;
        names.push(format!(
            "token={} serial={}",
            info.label(),
            info.serial_number()
        ));
        let is = |wanted: &Option<String>, has: &str| {
            wanted
                .as_deref()
                .is_none_or(|wanted| wanted == has.trim_end())
        };
        if is(&uri.token, info.label())
            && is(&uri.serial, info.serial_number())
            && is(&uri.manufacturer, info.manufacturer_id())
            && is(&uri.model, info.model())
        {
            found.push((slot, info));
        }
    }
    match (found.pop(), found.is_empty()) {
        (Some(token), true) => Ok(token),
        (None, _) if names.is_empty() => bail!("there is no token: is it plugged in?"),
        (None, _) => bail!("no token has that name; there are: {}", listed(&names)),
        (Some(_), false) => bail!(
            "more than one token has that name; there are: {}",
            listed(&names)
        ),
    }
}

fn listed(names: &[String]) -> String {
    let mut shown: Vec<&str> = names.iter().take(MOST_NAMES).map(String::as_str).collect();
    if names.len() > MOST_NAMES {
        shown.push("…");
    }
    shown.join(", ")
}

/// A session in which the token's user is logged in.
fn session(uri: &Uri, pin: &Passphrase, writes: bool) -> Result<Session> {
    let library = library(uri.module()?)?;
    let (slot, info) = token(&library, uri)?;
    let session = if writes {
        library.open_rw_session(slot)
    } else {
        library.open_ro_session(slot)
    };
    let session = session.map_err(failed("open a session"))?;
    let state = session
        .get_session_info()
        .map_err(failed("tell its state"))?;
    let state = state.session_state();
    // A second key of the same token: the login is the process's.
    if matches!(state, SessionState::RoUser | SessionState::RwUser) {
        return Ok(session);
    }
    let name = info.label().to_owned();
    ensure!(
        !info.user_pin_locked(),
        "the token {name} is locked: too many PINs were wrong"
    );
    ensure!(
        !info.user_pin_final_try(),
        "the token {name} locks itself with the next wrong PIN; log in once with its own software, so that kedge does not do it"
    );
    let pin = match &uri.pin_source {
        Some(path) => Passphrase::File(path.clone()).existing(""),
        None if info.protected_authentication_path() => {
            return logged_in(session, &name, None);
        }
        None => pin.existing(&format!("the token {name} (its PIN)")),
    };
    let pin = AuthPin::new(pin?.as_str().into());
    logged_in(session, &name, Some(&pin))
}

fn logged_in(session: Session, name: &str, pin: Option<&AuthPin>) -> Result<Session> {
    let why = match session.login(UserType::User, pin) {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => return Ok(session),
        Err(Error::Pkcs11(
            RvError::PinIncorrect | RvError::PinLenRange | RvError::PinInvalid,
            _,
        )) => "the PIN is wrong; it was tried once, and the token counts that",
        Err(Error::Pkcs11(RvError::PinLocked, _)) => "it is locked: too many PINs were wrong",
        Err(Error::Pkcs11(RvError::UserPinNotInitialized, _)) => "it has no user's PIN yet",
        Err(error) => return Err(failed("log its user in")(error)),
    };
    bail!("the token {name}: {why}")
}

/// The one private key that the name means.
fn private(session: &Session, uri: &Uri) -> Result<ObjectHandle> {
    ensure!(
        uri.object.is_some() || uri.id.is_some(),
        "the name means a token, and no key of it: add object=NAME or id=%…"
    );
    let all = [Attribute::Class(ObjectClass::PRIVATE_KEY)];
    let mut wanted = all.to_vec();
    wanted.extend(
        uri.object
            .as_ref()
            .map(|label| Attribute::Label(label.as_bytes().to_vec())),
    );
    wanted.extend(uri.id.clone().map(Attribute::Id));
    let found = session
        .find_objects(&wanted)
        .map_err(failed("look for the key"))?;
    let [key] = found[..] else {
        let there = session
            .find_objects(&all)
            .map_err(failed("list its keys"))?;
        let names: Vec<String> = there.iter().map(|key| label(session, *key)).collect();
        ensure!(
            !names.is_empty(),
            "the token has no key that its user may use"
        );
        let many = if found.is_empty() {
            "no key"
        } else {
            "more than one key"
        };
        bail!(
            "{many} of the token has that name; there are: {}",
            listed(&names)
        );
    };
    let kind = session.get_attributes(key, &[AttributeType::KeyType]);
    let kind = kind.map_err(failed("tell the key's kind"))?;
    match kind[..] {
        [Attribute::KeyType(KeyType::EC_EDWARDS)] => Ok(key),
        [Attribute::KeyType(other)] => bail!("the key is {other}, not of Ed25519 (CKK_EC_EDWARDS)"),
        _ => bail!("the token does not tell the key's kind"),
    }
}

fn label(session: &Session, key: ObjectHandle) -> String {
    let attributes = session
        .get_attributes(key, &[AttributeType::Label])
        .unwrap_or_default();
    match attributes.first() {
        Some(Attribute::Label(label)) => {
            String::from_utf8_lossy(label).replace(char::is_control, " ")
        }
        Some(_) | None => "(without a label)".to_owned(),
    }
}

/// The public half of a private key: an object of its own, of the same id, or said by the private one.
fn public(session: &Session, private: ObjectHandle) -> Result<PublicKey> {
    if let Some(public) = point(session, private)? {
        return Ok(public);
    }
    let id = session.get_attributes(private, &[AttributeType::Id]);
    let id = id.map_err(failed("tell the key's id"))?;
    let mut same = vec![Attribute::Class(ObjectClass::PUBLIC_KEY)];
    same.extend(id);
    for object in session
        .find_objects(&same)
        .map_err(failed("look for the public key"))?
    {
        if let Some(public) = point(session, object)? {
            return Ok(public);
        }
    }
    bail!(
        "the token has the private half of the key alone; kedge needs to know the public one beside it"
    )
}

/// An object's point, if it has one: 32 bytes, as they are or as an octet string in DER (PKCS#11 3.0, section 2.3.5).
fn point(session: &Session, object: ObjectHandle) -> Result<Option<PublicKey>> {
    let Ok(attributes) = session.get_attributes(object, &[AttributeType::EcPoint]) else {
        return Ok(None);
    };
    let Some(Attribute::EcPoint(bytes)) = attributes.first() else {
        return Ok(None);
    };
    let raw = bytes
        .strip_prefix(&[0x04, 0x20])
        .filter(|raw| raw.len() == 32);
    let raw = <[u8; 32]>::try_from(raw.unwrap_or(bytes)).ok();
    let public = PublicKey::from_bytes(raw.with_context(|| {
        format!(
            "the key has a point of {} bytes: it is not of Ed25519",
            bytes.len()
        )
    })?);
    public.check().context("the token's key is of no use")?;
    Ok(Some(public))
}
