//! Signing programs for UEFI: Authenticode, a PKCS #7 message in the program's own certificate table.
//!
//! What is hashed is the whole file but for its checksum, the entry of that table, and the table. A program that has
//! signatures keeps them, and gets one more: firmware is content with any that it trusts.
//!
//! Source: Microsoft, "Windows Authenticode Portable Executable Signature Format" (2008) and "PE Format"; UEFI Specification
//! 2.10, 32.2.2 (`WIN_CERTIFICATE`); RFC 5652 with the exception of RFC 2315, 9.3: the content's digest is that of what lies in
//! its outer SEQUENCE.

use super::Signer;
use super::program::{Program, u16_at, u32_at};
use anyhow::{Context, Result, ensure};
use cms::cert::{CertificateChoices, IssuerAndSerialNumber};
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{
    CertificateSet, EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo, SignerInfos,
};
use pkcs8::der::asn1::{Any, ObjectIdentifier, OctetString, SetOfVec};
use pkcs8::der::{Encode, Tag};
use pkcs8::spki::AlgorithmIdentifierOwned;
use sha2::{Digest, Sha256};
use std::ops::Range;
use x509_cert::attr::Attribute;

const SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
/// `SPC_INDIRECT_DATA_OBJID`.
const INDIRECT: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.4");
/// A sequence of `SPC_PE_IMAGE_DATAOBJ` (1.3.6.1.4.1.311.2.1.15) and of an `SpcPeImageData` without flags, whose link says
/// `<<<Obsolete>>>` in UTF-16, as the specification asks for.
const PE_IMAGE_DATA: [u8; 53] = *b"\x30\x33\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x02\x01\x0f\
    \x30\x25\x03\x01\x00\xa0\x20\xa2\x1e\x80\x1c\
    \0<\0<\0<\0O\0b\0s\0o\0l\0e\0t\0e\0>\0>\0>";

/// What the optional header of a program for a 64-bit machine begins with.
const PE32_PLUS: u16 = 0x20b;
/// Where the certificates' entry is in it.
const ENTRY: Range<usize> = 144..152;
/// Bytes before a certificate: its length, revision and type.
const CERTIFICATE_HEADER: u32 = 8;
/// `WIN_CERT_REVISION_2_0` and `WIN_CERT_TYPE_PKCS_SIGNED_DATA`.
const KIND: [u8; 4] = [0x00, 0x02, 0x02, 0x00];

/// Where the fields of a program are that matter to a signature.
#[derive(Debug)]
struct Fields {
    checksum: Range<usize>,
    /// Address and size of the certificate table.
    entry: Range<usize>,
    headers: usize,
    /// The sections' bytes in the file, in order.
    sections: Vec<Range<usize>>,
    /// The certificates; empty, and at the end, if there are none.
    table: Range<usize>,
}

/// The program with one more signature.
///
/// # Errors
/// It is no program for UEFI on a 64-bit machine, its certificates are not at its end or not where they may begin, or the key
/// cannot sign.
pub fn sign(mut program: Vec<u8>, signer: &Signer) -> Result<Vec<u8>> {
    let mut fields = fields(&program)?;
    ensure!(
        fields.table.end == program.len(),
        "its certificates end at byte {}, and it at byte {}",
        fields.table.end,
        program.len()
    );
    // What is filled up below is no part of them.
    let mut sections = fields.sections.iter();
    ensure!(
        sections.all(|section| section.end <= program.len()),
        "its sections are beyond its end"
    );
    // Certificates begin on a multiple of eight bytes, and those before them are signed.
    program.resize(program.len().next_multiple_of(8), 0);
    if fields.table.is_empty() {
        fields.table = program.len()..program.len();
    }
    ensure!(
        fields.table.start % 8 == 0,
        "its certificates begin at byte {}, which is no multiple of eight",
        fields.table.start
    );
    let hash = hash(&program, &fields).context("its sections are beyond its end")?;
    let message = message(hash, signer)?;
    let length = u32::try_from(message.len())?.saturating_add(CERTIFICATE_HEADER);
    program.extend(length.to_le_bytes());
    program.extend(KIND);
    program.extend(message);
    program.resize(program.len().next_multiple_of(8), 0);
    let start = u32::try_from(fields.table.start).context("it is too large")?;
    let size = u32::try_from(program.len())?.saturating_sub(start);
    put(
        &mut program,
        &fields.entry,
        &[start.to_le_bytes(), size.to_le_bytes()].concat(),
    );
    put(&mut program, &fields.checksum, &[0; 4]);
    let checksum = checksum(&program);
    put(&mut program, &fields.checksum, &checksum.to_le_bytes());
    Ok(program)
}

fn put(program: &mut [u8], place: &Range<usize>, bytes: &[u8]) {
    let places = program.get_mut(place.clone()).unwrap_or_default();
    places
        .iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
}

fn fields(program: &[u8]) -> Result<Fields> {
    let Program {
        optional, sections, ..
    } = Program::of(program)?;
    let field = |at| u32_at(program, optional.start.checked_add(at)?);
    ensure!(
        u16_at(program, optional.start) == Some(PE32_PLUS),
        "it is no program for a 64-bit machine"
    );
    // The fifth of the directories.
    ensure!(
        field(108).is_some_and(|count| count >= 5) && optional.len() >= ENTRY.end,
        "it has no directory for certificates"
    );
    let range = |place: Range<usize>| {
        let start = optional.start.checked_add(place.start)?;
        Some(start..start.checked_add(place.len())?)
    };
    let found = || {
        let size = usize::try_from(field(ENTRY.start.checked_add(4)?)?).ok()?;
        let at = usize::try_from(field(ENTRY.start)?).ok()?;
        let table = match size {
            0 => program.len()..program.len(),
            _ => at..at.checked_add(size)?,
        };
        let sections = sections.into_iter().map(|section| section.file);
        let mut sections: Vec<_> = sections.filter(|section| !section.is_empty()).collect();
        sections.sort_by_key(|section| section.start);
        Some(Fields {
            checksum: range(64..68)?,
            entry: range(ENTRY)?,
            headers: usize::try_from(field(60)?).ok()?,
            sections,
            table,
        })
    };
    found().context("its headers are cut off")
}

/// What a signature is of.
fn hash(program: &[u8], fields: &Fields) -> Option<[u8; 32]> {
    let mut hash = Sha256::new();
    hash.update(program.get(..fields.checksum.start)?);
    hash.update(program.get(fields.checksum.end..fields.entry.start)?);
    hash.update(program.get(fields.entry.end..fields.headers)?);
    let mut hashed = fields.headers;
    for section in &fields.sections {
        hash.update(program.get(section.clone())?);
        hashed = hashed.checked_add(section.len())?;
    }
    // What lies behind the sections, up to the certificates.
    hash.update(program.get(hashed..fields.table.start)?);
    Some(hash.finalize().into())
}

/// The signed message over a program's hash.
fn message(hash: [u8; 32], signer: &Signer) -> Result<Vec<u8>> {
    let sha_256 = AlgorithmIdentifierOwned {
        oid: SHA_256,
        parameters: Some(Any::null()),
    };
    let info = [sha_256.to_der()?, OctetString::new(hash)?.to_der()?].concat();
    let info = Any::new(Tag::Sequence, info)?.to_der()?;
    let content = [PE_IMAGE_DATA.to_vec(), info].concat();
    let digest: [u8; 32] = Sha256::digest(&content).into();
    let mut attributes = SetOfVec::new();
    for (oid, value) in [
        (CONTENT_TYPE, Any::encode_from(&INDIRECT)?),
        (
            MESSAGE_DIGEST,
            Any::encode_from(&OctetString::new(digest)?)?,
        ),
    ] {
        let values = SetOfVec::try_from(vec![value])?;
        attributes.insert(Attribute { oid, values })?;
    }
    let signature = signer.sign(&attributes.to_der()?)?;
    let certificate = signer.certificate().inner();
    let issued = &certificate.tbs_certificate;
    let info = SignerInfo {
        version: CmsVersion::V1,
        sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
            issuer: issued.issuer.clone(),
            serial_number: issued.serial_number.clone(),
        }),
        digest_alg: sha_256.clone(),
        signed_attrs: Some(attributes),
        signature_algorithm: AlgorithmIdentifierOwned {
            oid: RSA,
            parameters: Some(Any::null()),
        },
        signature: OctetString::new(signature)?,
        unsigned_attrs: None,
    };
    let certificate = CertificateChoices::Certificate(certificate.clone());
    let data = SignedData {
        version: CmsVersion::V1,
        digest_algorithms: SetOfVec::try_from(vec![sha_256])?,
        encap_content_info: EncapsulatedContentInfo {
            econtent_type: INDIRECT,
            econtent: Some(Any::new(Tag::Sequence, content)?),
        },
        certificates: Some(CertificateSet(SetOfVec::try_from(vec![certificate])?)),
        crls: None,
        signer_infos: SignerInfos(SetOfVec::try_from(vec![info])?),
    };
    let info = ContentInfo {
        content_type: SIGNED_DATA,
        content: Any::encode_from(&data)?,
    };
    Ok(info.to_der()?)
}

/// The sum of `CheckSumMappedFile`: 16-bit words with the carry added, then the file's length.
fn checksum(program: &[u8]) -> u32 {
    let mut sum = 0_u32;
    for pair in program.chunks(2) {
        let [low, high] = [pair.first(), pair.get(1)].map(|byte| byte.copied().unwrap_or_default());
        sum = sum.wrapping_add(u32::from(u16::from_le_bytes([low, high])));
        sum = (sum & 0xffff).wrapping_add(sum >> 16);
    }
    let length = u32::try_from(program.len()).unwrap_or(u32::MAX);
    sum.wrapping_add(length)
}

#[cfg(test)]
mod tests;
