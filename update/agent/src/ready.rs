//! From an address to a hub that is known and that knows the device: time, authority, certificate.
//!
//! ```text
//! unjudged TLS ─▶ time (signed) ─▶ authority (signed) ─▶ judged TLS ─▶ enrolled ─▶ mutual TLS
//! ```
//! Each step believes only what the one before has made sure of; none believes the device's own clock.

use crate::agent::Agent;
use crate::asking::Asking;
use crate::error::{Error, Peer};
use crate::floor::Rising;
use crate::frames::{Level, Report};
use crate::hub::{Address, judge_authority};
use crate::kept::{Certificate, random};
use crate::tls;
use ed25519_dalek::SigningKey;
use kedge_api::Signed;
use kedge_api::device::Enrolled;
use kedge_revision::enrolment::{Enrolment, Provision};
use kedge_revision::fresh::{Fresh, Nonce};
use kedge_revision::signing::{Kind, PublicKey, SignatureSet};
use kedge_revision::{Name, Root};
use rustls::client::ClientConfig;
use rustls::pki_types::CertificateDer;
use std::sync::Arc;

/// The floor is written when it has risen by so much, seconds.
pub(crate) const WORTH_WRITING: u64 = 3600;

/// Claims that are not shown again: those of as many hubs.
const MOST_CLAIMS: usize = 8;

/// What a device says of itself.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) key: SigningKey,
    pub(crate) product: Name,
    pub(crate) board: Name,
}

impl Identity {
    /// Its public key, whose id is the device's.
    pub(crate) fn public(&self) -> PublicKey {
        PublicKey::from_bytes(self.key.verifying_key().to_bytes())
    }

    /// Whether a certificate, DER in hexadecimal, is for its key.
    fn is_certified_by(&self, certificate: &str) -> bool {
        // SubjectPublicKeyInfo of an ed25519 key (RFC 8410, section 4), up to the key.
        const ED25519: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
        let Some(der) = unhex(certificate).map(CertificateDer::from) else {
            return false;
        };
        webpki::EndEntityCert::try_from(&der).is_ok_and(|read| {
            let info = read.subject_public_key_info();
            info.strip_prefix(&ED25519) == Some(self.public().bytes().as_slice())
        })
    }

    /// A request to be taken in.
    fn enrolment(&self, root: u32, token: Option<String>) -> Result<Signed, Error> {
        let nonce = Nonce::from_bytes(random()?);
        let names = (self.product.clone(), self.board.clone());
        let request = Enrolment::new(self.public(), names, root, nonce, token);
        let not_made = |source| Error::Document {
            what: "our own enrolment",
            source,
        };
        let document = request.encode().map_err(not_made)?;
        let mut signatures = SignatureSet::default();
        signatures.sign(Kind::Enrolment, &document, &self.key);
        Signed::new(&document, &signatures).ok_or(Error::Protocol {
            doing: "enrol",
            what: "our own request",
        })
    }
}

/// What is known of the hub that is asked.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// A fresh answer has told the time since the agent began.
    timed: bool,
    /// Its authority, from this or an earlier run.
    authority: Option<Signed>,
    certificate: Option<Certificate>,
    /// Where the hub is that took the device in: nobody need tell it again.
    pub(crate) hub: Option<String>,
    /// Mutual TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Known {
    /// What an earlier run has kept.
    pub(crate) fn kept(agent: &Agent<'_>) -> Result<Self, Error> {
        let damaged = &mut |name: &str| {
            let text = format!("{name} is damaged, and is had anew");
            agent.say(Level::Warning, &text).ok();
        };
        let ours = |kept: &Certificate| agent.identity.is_certified_by(&kept.certificate);
        Ok(Self {
            authority: agent.kept.get("authority", damaged)?,
            certificate: agent.kept.get("certificate", damaged)?.filter(ours),
            hub: agent.kept.get("hub", damaged)?,
            ..Self::default()
        })
    }

    /// The hub may be another one, or have another authority: all is asked again.
    pub(crate) fn doubt(&mut self) {
        self.timed = false;
        self.tls = None;
    }
}

impl Agent<'_> {
    /// Gets to mutual TLS with the hub, or says when to go on: a device that waits for its claim asks again.
    pub(crate) fn get_ready(&mut self, hub: &Address, root: &Root) -> Result<Option<u32>, Error> {
        if !self.known.timed {
            self.believe(hub, root)?;
        }
        if self.known.certificate.is_none() {
            let waits = self.enrol(hub, root)?;
            if waits.is_some() {
                return Ok(waits);
            }
        }
        if self.known.tls.is_none() {
            let certificate = self.known.certificate.as_ref();
            let der = certificate.and_then(|kept| unhex(&kept.certificate));
            let own = der.as_deref().map(|der| (&self.identity.key, der));
            let authority = self.authority(root)?;
            self.known.tls = Some(tls::judged(&self.clock, &authority, own)?);
        }
        self.renew(hub, root)?;
        self.keep_hub()?;
        Ok(None)
    }

    /// Keeps where the hub is, which has just been shown to be one: by the time that it signed, and a certificate.
    fn keep_hub(&mut self) -> Result<(), Error> {
        if self.known.hub.is_none()
            && let Some(url) = self.url().map(str::to_owned)
        {
            self.kept.put("hub", &url)?;
            self.known.hub = Some(url);
        }
        Ok(())
    }

    /// What a refusal of the hub's means for the certificate: one that has run out is renewed, one of a device that the
    /// hub does not know (it was restored from an older copy, or is another) is of no use.
    pub(crate) fn refused_by_hub(&mut self, kind: &str) -> Result<(), Error> {
        match kind {
            "certificate-expired" => {
                if let Some(kept) = &mut self.known.certificate {
                    kept.renew_after = kedge_revision::Timestamp::from_unix(0);
                }
            }
            // Where it has one: whoever does not take it in says nothing of what others gave it.
            "device-unknown" if self.known.certificate.is_some() => {
                self.kept.forget("certificate")?;
                self.known.certificate = None;
            }
            _ => {}
        }
        Ok(())
    }

    /// Learns the time and the authority.
    fn believe(&mut self, hub: &Address, root: &Root) -> Result<(), Error> {
        let mut unjudged = hub.connect(&tls::unjudged()?)?.unjudged();
        let fresh = match unjudged.time(self.device, root) {
            Err(unknown @ Error::Document { .. }) => {
                // The hub may have a key that only the next root names. If it has none, it is not the hub.
                return match self.bring_root(&mut unjudged, root) {
                    Err(refused @ Error::Refused { by: Peer::Init, .. }) => Err(refused),
                    Ok(_) | Err(_) => Err(unknown),
                };
            }
            fresh => fresh?,
        };
        self.take_time(&fresh)?;
        let (_, signed) = unjudged.authority(root)?;
        self.meet(signed)?;
        self.known.tls = None;
        self.known.timed = true;
        Ok(())
    }

    /// Meets a hub of this authority. A certificate that another one issued is none here, and is kept all the same: until
    /// this hub has taken the device in, it belongs to the other. That of several hubs may be one, under the signature
    /// of each.
    fn meet(&mut self, signed: Signed) -> Result<(), Error> {
        if self.known.authority.as_ref() == Some(&signed) {
            return Ok(());
        }
        let kept: Option<Signed> = self.kept.get("authority", &mut |_| {})?;
        if !is_same(self.known.authority.as_ref(), &signed) {
            self.known.certificate = None;
            if is_same(kept.as_ref(), &signed) {
                let ours = |kept: &Certificate| self.identity.is_certified_by(&kept.certificate);
                let certificate = self.kept.get("certificate", &mut |_| {})?;
                self.known.certificate = certificate.filter(ours);
            }
        }
        self.known.authority = Some(signed);
        Ok(())
    }

    /// The hub that is asked has taken the device in: it is the one from now on.
    pub(crate) fn move_in(&mut self) -> Result<(), Error> {
        // It may be another one, or have removed the device before.
        self.reporter.tell_again();
        let Some(authority) = &self.known.authority else {
            return Ok(());
        };
        let kept: Option<Signed> = self.kept.get("authority", &mut |_| {})?;
        if is_same(kept.as_ref(), authority) {
            return Ok(());
        }
        // Never with the authority of another.
        self.kept.forget("certificate")?;
        self.kept.put("authority", authority)?;
        self.kept.forget("hub")?;
        self.known.hub = None;
        self.asking = Asking::default();
        self.memory.move_in();
        self.kept.put("memory", &self.memory)
    }

    /// Takes the time of a fresh answer, unless it is before what is known to have passed.
    pub(crate) fn take_time(&mut self, fresh: &Fresh) -> Result<(), Error> {
        let unix = fresh.time.unix();
        let floor = self.time_floor();
        if unix < floor {
            return Err(Error::Protocol {
                doing: "ask for the time",
                what: "a time before what is known to have passed",
            });
        }
        self.clock.set(unix);
        self.tell(&Report::Clock { unix })
    }

    /// Remembers that it is later than the time of a fresh answer, which came from a hub whose certificate holds at that
    /// time.
    pub(crate) fn raise_floor(&mut self, fresh: &Fresh) -> Result<(), Error> {
        let (floor, now) = (self.time_floor(), self.seconds());
        let rising = self.rising.get_or_insert(Rising::new(floor));
        let risen = rising.reaches(fresh.time.unix(), now);
        if risen >= self.memory.time_floor.saturating_add(WORTH_WRITING) {
            rising.risen(risen, now);
            self.memory.time_floor = risen;
            self.kept.put("memory", &self.memory)?;
        }
        Ok(())
    }

    fn time_floor(&self) -> u64 {
        let created = self.configure.as_ref().and_then(|c| c.created);
        let created = created.map_or(0, kedge_revision::Timestamp::unix);
        self.memory.time_floor.max(created)
    }

    fn authority(&self, root: &Root) -> Result<Vec<Vec<u8>>, Error> {
        match &self.known.authority {
            Some(signed) => Ok(judge_authority(signed, root)?.certificates()),
            None => Ok(Vec::new()),
        }
    }

    /// Asks to be taken in; some: when to ask again.
    fn enrol(&mut self, hub: &Address, root: &Root) -> Result<Option<u32>, Error> {
        let provision = self.configure.as_ref().and_then(|c| c.provision.as_deref());
        let token = match provision.map(|text| Provision::parse(text.as_bytes())) {
            Some(Ok(provision)) => provision.token,
            Some(Err(error)) => {
                self.say(
                    Level::Error,
                    &format!("the provisioning is of no use: {error}"),
                )?;
                None
            }
            None => None,
        };
        let request = self.identity.enrolment(root.version, token)?;
        let config = tls::judged(&self.clock, &self.authority(root)?, None)?;
        let enrolled = hub.connect(&config)?.enrol(&request, false)?;
        match enrolled {
            Enrolled::Accepted { .. } => {
                self.move_in()?;
                self.known.certificate = self.keep_certificate("enrol", &enrolled)?;
                self.say(Level::Notice, "a hub has taken this device in")?;
                Ok(None)
            }
            Enrolled::Waiting {
                claim,
                retry_after_s,
            } => {
                // On the console, for whoever stands before it.
                let clean: String = claim
                    .chars()
                    .filter(|c| c.is_ascii_lowercase() || *c == '-')
                    .take(64)
                    .collect();
                if !self.claims.contains(&clean) {
                    self.say(
                        Level::Notice,
                        &format!("to take this device in: kedge claim {clean}"),
                    )?;
                    self.claims.truncate(MOST_CLAIMS - 1);
                    self.claims.insert(0, clean);
                }
                Ok(Some(retry_after_s.clamp(2, 600)))
            }
        }
    }

    /// Keeps the certificate of an answer, if it is one for this device: with any other it could never come back.
    fn keep_certificate(
        &self,
        doing: &'static str,
        enrolled: &Enrolled,
    ) -> Result<Option<Certificate>, Error> {
        if let Enrolled::Accepted { certificate, .. } = enrolled
            && !self.identity.is_certified_by(certificate)
        {
            return Err(Error::Protocol {
                doing,
                what: "a certificate that is not this device's",
            });
        }
        self.kept.keep_certificate(enrolled)
    }

    /// Renews the certificate when half of its time is over.
    fn renew(&mut self, hub: &Address, root: &Root) -> Result<(), Error> {
        let due = self.known.certificate.as_ref().is_some_and(|kept| {
            let now = self.clock.now().unwrap_or(0);
            now >= kept.renew_after.unix()
        });
        let (true, Some(config)) = (due, self.known.tls.clone()) else {
            return Ok(());
        };
        let request = self.identity.enrolment(root.version, None)?;
        let enrolled = hub.connect(&config)?.enrol(&request, true)?;
        if let Some(certificate) = self.keep_certificate("renew the certificate", &enrolled)? {
            self.known.certificate = Some(certificate);
            self.known.tls = None;
            let certificate = self.known.certificate.as_ref();
            let der = certificate.and_then(|kept| unhex(&kept.certificate));
            let own = der.as_deref().map(|der| (&self.identity.key, der));
            let authority = self.authority(root)?;
            self.known.tls = Some(tls::judged(&self.clock, &authority, own)?);
        }
        Ok(())
    }
}

fn is_same(authority: Option<&Signed>, other: &Signed) -> bool {
    authority.is_some_and(|authority| authority.document == other.document)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let nibble = |digit: u8| char::from(digit).to_digit(16);
    pairs
        .iter()
        .map(|[high, low]| u8::try_from(nibble(*high)? << 4 | nibble(*low)?).ok())
        .collect()
}
