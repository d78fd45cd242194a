//! Requests to one registry, for one repository: where they go, who asks, and what an answer means.
//!
//! ureq carries them; redirects are followed here, since what goes along to whom is decided here: a login goes to the
//! registry itself and to the token server that it names, a token to the registry alone, and neither over a redirect to
//! somebody else.

use super::challenge::{self, Challenge};
use super::credentials::{self, Login};
use super::origin::{Origin, joined, query};
use super::reference::{Reference, shown};
use super::{Access, Insecure, tls};
use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use std::io::Read;
use std::time::Duration;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};
use zeroize::Zeroizing;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(15);
/// Longest silence of the other side.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest answer of a token server, and longest manifest: nobody sends four megabytes a byte at a time for good reasons.
const SHORT: Duration = Duration::from_secs(120);
/// Longest answer with a layer. It is asked for the rest then, so that a slow link gets there, and a trickle does not hold on.
const LONG: Duration = Duration::from_secs(30 * 60);
/// Redirects of one request; storage behind a registry takes one.
const MOST_REDIRECTS: usize = 5;
/// Most of a refusal that is read, and of a token's answer.
const LARGEST_ANSWER: u64 = 64 * 1024;

/// Why a request came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// The same may be good a little later.
    Passing {
        error: anyhow::Error,
        /// When the other side wants to be asked again.
        after: Option<Duration>,
    },
    /// It will not.
    Final(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Final(error)
    }
}

impl Failure {
    pub(super) const fn passing(error: anyhow::Error) -> Self {
        Self::Passing { error, after: None }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    reference: Reference,
    registry: Origin,
    insecure: Option<Insecure>,
    login: Option<Login>,
    /// The value of the field `Authorization` that the registry takes.
    authorization: Option<Zeroizing<String>>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<Zeroizing<String>>,
    access_token: Option<Zeroizing<String>>,
}

/// What registries say when they refuse (distribution specification 1.1, "Error Codes").
#[derive(Deserialize)]
struct Refusal {
    errors: Vec<RefusalText>,
}

#[derive(Deserialize)]
struct RefusalText {
    code: Option<String>,
    message: Option<String>,
}

impl Client {
    pub(super) fn new(reference: &Reference, access: &Access) -> Result<Self> {
        let scheme = if access.insecure == Some(Insecure::Http) {
            "http"
        } else {
            "https"
        };
        let registry = format!("{scheme}://{}", reference.address()).parse()?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("kedge/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .https_only(access.insecure != Some(Insecure::Http))
            .tls_config(tls::config(reference, access)?)
            .build();
        let login = match &access.login {
            Some(login) => Some(login.clone()),
            None => credentials::find(reference)?,
        };
        Ok(Self {
            agent: config.into(),
            reference: reference.clone(),
            registry,
            insecure: access.insecure,
            login,
            authorization: None,
        })
    }

    /// Asks for something of the repository, from a byte on; the answer has the status 200, 206 or, if there is nothing from
    /// that byte on, 416.
    pub(super) fn get(
        &mut self,
        what: &str,
        accept: &str,
        from: u64,
    ) -> Result<Response<Body>, Failure> {
        let target = format!(
            "{}/v2/{}/{what}",
            self.registry,
            self.reference.repository()
        );
        let mut answer = self.follow(&target, accept, from)?;
        if answer.status() == 401 {
            // Also if there was a token: they end after a few minutes, and a large layer takes longer.
            self.log_in(answer.headers())?;
            answer = self.follow(&target, accept, from)?;
        }
        match answer.status().as_u16() {
            200 | 206 => Ok(answer),
            416 if from > 0 => Ok(answer),
            _ => Err(self.refused(what, answer)),
        }
    }

    /// Sends a request, and sends it on to where it is told to.
    fn follow(&self, target: &str, accept: &str, from: u64) -> Result<Response<Body>, Failure> {
        let limit = if target.contains("/blobs/") {
            LONG
        } else {
            SHORT
        };
        let mut target = target.to_owned();
        for _ in 0..=MOST_REDIRECTS {
            let origin: Origin = target.parse()?;
            let request = self.agent.get(&target).header("accept", accept);
            let mut request = request.config().timeout_global(Some(limit)).build();
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            if let Some(authorization) = &self.authorization
                && origin == self.registry
            {
                request = request.header("authorization", authorization.as_str());
            }
            let answer = request
                .call()
                .map_err(|error| self.broken(&origin, error))?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let place = answer
                .headers()
                .get("location")
                .and_then(|place| place.to_str().ok());
            let place = place.with_context(|| format!("{origin} sends on to nowhere"))?;
            target = joined(&origin, place)?;
            let next: Origin = target.parse()?;
            if !next.is_encrypted() && self.insecure != Some(Insecure::Http) {
                return Err(Failure::Final(anyhow!(
                    "{origin} sends on to {next}, which is not encrypted"
                )));
            }
        }
        Err(Failure::Final(anyhow!(
            "{} sends on more than {MOST_REDIRECTS} times",
            self.registry
        )))
    }

    /// Does what the registry asks for before it answers.
    fn log_in(&mut self, headers: &HeaderMap) -> Result<(), Failure> {
        let registry = self.reference.registry().to_owned();
        let mut ways = Vec::new();
        for field in headers.get_all("www-authenticate") {
            let field = field
                .to_str()
                .ok()
                .with_context(|| format!("{registry} asks for a login in no text"))?;
            ways.extend(
                challenge::parse(field).with_context(|| format!("{registry} asks for a login"))?,
            );
        }
        for way in &ways {
            match way {
                Challenge::Bearer { realm, service } => {
                    let token = self.token(realm, service.as_deref())?;
                    self.authorization = Some(token);
                    return Ok(());
                }
                Challenge::Basic => {
                    let login = self.login.as_ref().with_context(|| {
                        format!(
                            "{registry} wants a login for {} (401)\nhelp: --username NAME --password-stdin, or log in with docker, podman or skopeo, whose logins Kedge reads",
                            self.reference.repository()
                        )
                    })?;
                    self.authorization = Some(login.basic());
                    return Ok(());
                }
                Challenge::Other(_) => {}
            }
        }
        let names: Vec<String> = ways
            .iter()
            .map(|way| match way {
                Challenge::Other(name) => shown(name),
                Challenge::Basic => "Basic".to_owned(),
                Challenge::Bearer { .. } => "Bearer".to_owned(),
            })
            .collect();
        Err(Failure::Final(anyhow!(
            "{registry} refuses (401) and offers no way to log in that Kedge knows, only: {}",
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        )))
    }

    /// A token to pull from this repository, and nothing else, whatever the registry proposes to ask for.
    fn token(&self, realm: &str, service: Option<&str>) -> Result<Zeroizing<String>, Failure> {
        let registry = self.reference.registry();
        let server: Origin = realm
            .parse()
            .with_context(|| format!("{registry} names a token server that has no address"))?;
        let is_own = self.insecure == Some(Insecure::Http) && server.has_host_of(&self.registry);
        if !server.is_encrypted() && !is_own {
            return Err(Failure::Final(anyhow!(
                "{registry} names the token server {server}, which is neither encrypted nor the registry itself: nothing was sent to it"
            )));
        }
        let mut target = realm.to_owned();
        let scope = format!("repository:{}:pull", self.reference.repository());
        query(&mut target, "scope", &scope);
        if let Some(service) = service {
            query(&mut target, "service", service);
        }
        let request = self.agent.get(&target).header("accept", "application/json");
        let mut request = request.config().timeout_global(Some(SHORT)).build();
        if let Some(login) = &self.login {
            request = request.header("authorization", login.basic().as_str());
        }
        let answer = request
            .call()
            .map_err(|error| self.broken(&server, error))?;
        let status = answer.status().as_u16();
        if passes(status) {
            let after = retry_after(answer.headers());
            let error = anyhow!("the token server {server} is busy ({status})");
            return Err(Failure::Passing { error, after });
        }
        if status != 200 {
            let who = self.login.as_ref().map_or_else(
                || "somebody without a login".to_owned(),
                |login| login.name().to_owned(),
            );
            return Err(Failure::Final(anyhow!(
                "the token server {server} gives {who} no token for {registry}/{} ({status})\nhelp: --username NAME --password-stdin, or log in with docker, podman or skopeo, whose logins Kedge reads",
                self.reference.repository()
            )));
        }
        let mut bytes = Zeroizing::new(Vec::new());
        let mut reader = answer.into_body().into_reader().take(LARGEST_ANSWER);
        reader.read_to_end(&mut bytes).map_err(|error| {
            Failure::passing(anyhow!(error).context(format!("the answer of {server} broke off")))
        })?;
        // What the parser says of a mistake may show a piece of the token.
        let token: Token = serde_json::from_slice(&bytes).map_err(|_| {
            anyhow!("the token server {server} answers with something else than a token")
        })?;
        let token = token
            .token
            .or(token.access_token)
            .filter(|token| !token.is_empty());
        let token =
            token.with_context(|| format!("the token server {server} answers without a token"))?;
        let printable = token.bytes().all(|byte| byte.is_ascii_graphic());
        if !printable {
            return Err(Failure::Final(anyhow!(
                "the token of {server} is no printable text"
            )));
        }
        let mut value = Zeroizing::new(String::with_capacity(token.len().saturating_add(7)));
        value.push_str("Bearer ");
        value.push_str(&token);
        Ok(value)
    }

    fn refused(&self, what: &str, answer: Response<Body>) -> Failure {
        let status = answer.status().as_u16();
        let after = retry_after(answer.headers());
        let said = said(answer);
        let registry = self.reference.registry();
        let error = anyhow!(
            "{registry} refuses {what} of {} ({status}{said}){}",
            self.reference.repository(),
            help(status, self.login.as_ref())
        );
        if passes(status) {
            return Failure::Passing { error, after };
        }
        Failure::Final(error)
    }

    /// A connection that failed, in words.
    fn broken(&self, origin: &Origin, error: ureq::Error) -> Failure {
        let host = format!("cannot ask {origin}");
        if let Some(help) = tls::explained(&error, self.insecure) {
            return Failure::Final(anyhow!("{host}: {help}"));
        }
        let passes = matches!(
            error,
            ureq::Error::Io(_)
                | ureq::Error::Timeout(_)
                | ureq::Error::ConnectionFailed
                | ureq::Error::Protocol(_)
        );
        let error = anyhow!(error).context(host);
        if passes {
            return Failure::passing(error);
        }
        Failure::Final(error)
    }
}

const fn passes(status: u16) -> bool {
    matches!(status, 429 | 500..=599)
}

/// Seconds only: dates are for caches, and a registry's clock is its own.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get("retry-after")?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

/// What a registry says of a refusal.
fn said(answer: Response<Body>) -> String {
    let mut bytes = Vec::new();
    let mut reader = answer.into_body().into_reader().take(LARGEST_ANSWER);
    if reader.read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    let Ok(refusal) = serde_json::from_slice::<Refusal>(&bytes) else {
        return String::new();
    };
    let Some(first) = refusal.errors.into_iter().next() else {
        return String::new();
    };
    let mut words = String::new();
    for text in [first.code, first.message].into_iter().flatten() {
        words.push_str(if words.is_empty() { " " } else { ": " });
        words.push_str(&shown(&text));
    }
    words
}

fn help(status: u16, login: Option<&Login>) -> String {
    match (status, login) {
        (401 | 403, Some(login)) => format!(
            "\nhelp: see whether the password of {} is right, and whether it may read this repository (many registries answer so for one that does not exist)",
            login.name()
        ),
        (401 | 403, None) => "\nhelp: --username NAME --password-stdin, or log in with docker, podman or skopeo, whose logins Kedge reads; many registries answer so for a repository that does not exist".to_owned(),
        (404, _) => "\nhelp: see whether repository and tag are written right".to_owned(),
        (429, _) => "\nhelp: wait, or log in: many registries give more to those whom they know".to_owned(),
        (500..=599, _) => "\nhelp: the registry, or a proxy before it, is busy or broken: try again later".to_owned(),
        (_, _) => String::new(),
    }
}

/// Reads a whole answer of at most so many bytes.
pub(super) fn whole(answer: Response<Body>, most: u64, what: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let stated = answer.body().content_length();
    if stated.is_some_and(|stated| stated > most) {
        return Err(too_long(what, most));
    }
    let mut reader = answer
        .into_body()
        .into_reader()
        .take(most.saturating_add(1));
    reader
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::passing(anyhow!(error).context(format!("{what} broke off"))))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= most) {
        return Ok(bytes);
    }
    Err(too_long(what, most))
}

fn too_long(what: &str, most: u64) -> Failure {
    Failure::Final(anyhow!(
        "{what} has more than {most} bytes, which it must not have"
    ))
}
