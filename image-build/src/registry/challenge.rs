//! How a registry wants to be asked: the field `WWW-Authenticate` (RFC 9110, section 11; Bearer tokens as the registry of
//! Docker described them, "Token Authentication Specification").

use anyhow::{Context, Result, ensure};

/// Longest field that is read.
const LONGEST: usize = 8 * 1024;

/// One way of the several that a registry may offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// Name and password, at the registry itself.
    Basic,
    /// A token, from the server that it names.
    Bearer {
        /// The token server's address.
        realm: String,
        /// What the token is for, as that server calls it.
        service: Option<String>,
    },
    /// A way that is not known here, by its name.
    Other(String),
}

/// Reads a field.
///
/// # Errors
/// It is too long, or not of the form that the field has.
pub fn parse(field: &str) -> Result<Vec<Challenge>> {
    ensure!(
        field.len() <= LONGEST,
        "the field WWW-Authenticate has more than {LONGEST} bytes"
    );
    let mut scan = Scan { rest: field };
    let mut read: Vec<(String, Vec<(String, String)>)> = Vec::new();
    loop {
        scan.skip(&[' ', '\t', ',']);
        if scan.rest.is_empty() {
            break;
        }
        let word = scan
            .token()
            .context("the field WWW-Authenticate is malformed")?;
        scan.skip(&[' ', '\t']);
        if let (Some(rest), Some((_, parameters))) = (scan.rest.strip_prefix('='), read.last_mut())
        {
            scan.rest = rest;
            scan.skip(&[' ', '\t']);
            // What follows a scheme may also be one bare text, which ends with `=`; none of those that are known here has it.
            let value = if scan.rest.is_empty() || scan.rest.starts_with([',', '=']) {
                scan.skip(&['=']);
                String::new()
            } else {
                scan.value().with_context(|| {
                    format!("the field WWW-Authenticate: {word} has no proper value")
                })?
            };
            parameters.push((word.to_ascii_lowercase(), value));
        } else {
            read.push((word, Vec::new()));
        }
    }
    read.into_iter().map(meaning).collect()
}

fn meaning((scheme, parameters): (String, Vec<(String, String)>)) -> Result<Challenge> {
    let find = |wanted: &str| {
        let mut found = parameters.iter().filter(|(name, _)| name == wanted);
        found.next().map(|(_, value)| value.clone())
    };
    if scheme.eq_ignore_ascii_case("basic") {
        return Ok(Challenge::Basic);
    }
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Challenge::Bearer {
            realm: find("realm")
                .context("the field WWW-Authenticate asks for a token without a realm")?,
            service: find("service"),
        });
    }
    Ok(Challenge::Other(scheme))
}

struct Scan<'a> {
    rest: &'a str,
}

impl Scan<'_> {
    fn skip(&mut self, what: &[char]) {
        self.rest = self.rest.trim_start_matches(what);
    }

    /// One or more characters of a token.
    fn token(&mut self) -> Option<String> {
        let part = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/:".contains(c);
        let end = self
            .rest
            .find(|c: char| !part(c))
            .unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        (!token.is_empty()).then(|| token.to_owned())
    }

    /// A token, or a text in quotes.
    fn value(&mut self) -> Option<String> {
        let Some(inside) = self.rest.strip_prefix('"') else {
            return self.token();
        };
        let mut text = String::new();
        let mut characters = inside.char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '"' => {
                    self.rest = inside.get(at.saturating_add(1)..)?;
                    return Some(text);
                }
                '\\' => text.push(characters.next()?.1),
                c if c.is_control() && c != '\t' => return None,
                c => text.push(c),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(str::to_owned),
        }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        for (field, wanted) in [
            (
                r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#,
                vec![bearer("https://auth.example/token", Some("r.example"))],
            ),
            (r#"Basic realm="a, b = \"c\"""#, vec![Challenge::Basic]),
            (
                r#"Negotiate, basic realm=x, BEARER Realm="https://a/" , error="e""#,
                vec![
                    Challenge::Other("Negotiate".into()),
                    Challenge::Basic,
                    bearer("https://a/", None),
                ],
            ),
            (
                "Negotiate abcd==",
                vec![
                    Challenge::Other("Negotiate".into()),
                    Challenge::Other("abcd".into()),
                ],
            ),
            ("", vec![]),
        ] {
            let read = parse(field);
            if field.starts_with("Negotiate a") {
                // A bare text is no way that is known here, whatever it is taken for.
                assert!(
                    read.unwrap()
                        .iter()
                        .all(|one| matches!(one, Challenge::Other(_)))
                );
            } else {
                assert_eq!(read.unwrap(), wanted, "{field}");
            }
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for bad in [
            "Bearer service=\"x\"",
            "Bearer realm=\"x",
            "Bearer realm=\"x\\",
            "Bearer realm=\"x\r\ny\"",
            "\"Basic\"",
            &"B".repeat(LONGEST + 1),
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
