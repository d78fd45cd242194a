//! Operators' tokens, looked after on the hub's machine itself, while the hub runs or not: whoever may write its directory
//! may do this. A hub that runs asks its database whether a token is still there each time that it is shown.

use crate::error::Error;
use crate::{backup, clock, database, events, tokens};
use kedge_api::operator::{NewToken, Token};
use rusqlite::{Connection, TransactionBehavior};
use std::path::Path;

/// The database of a hub that is there.
fn open(data: &Path) -> Result<Connection, Error> {
    if !database::path(data).is_file() {
        return Err(Error::Spoilt {
            path: data.to_path_buf(),
            why: "holds no hub: `kedge-hub serve` makes one",
        });
    }
    backup::refuse_half(data)?;
    database::open_as_it_is(data)
}

/// Makes a new token that lasts so many seconds, or until it is ended.
///
/// # Errors
/// There is no hub in `data`, or its database refuses.
pub fn new_token(data: &Path, name: &str, lasts_s: Option<u32>) -> Result<String, Error> {
    let mut database = open(data)?;
    let made = tokens::make()?;
    let new = NewToken {
        name: name.to_owned(),
        lasts_s,
    };
    let change = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tokens::insert(&change, &made, &new)?;
    let text = format!("token {} for {name} was made on the hub's machine", made.id);
    tell(&change, &text)?;
    change.commit()?;
    Ok(made.token)
}

/// All tokens, without their secrets; those whose time is over, too.
///
/// # Errors
/// As [`new_token`].
pub fn list_tokens(data: &Path) -> Result<Vec<Token>, Error> {
    tokens::list(&open(data)?)
}

/// Ends a token; tells whose it was, if there was one.
///
/// # Errors
/// As [`new_token`].
pub fn end_token(data: &Path, id: &str) -> Result<Option<String>, Error> {
    let mut database = open(data)?;
    let change = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let Some(name) = tokens::end(&change, id)? else {
        return Ok(None);
    };
    let text = format!("token {id} of {name} was ended on the hub's machine");
    tell(&change, &text)?;
    change.commit()?;
    Ok(Some(name))
}

/// Writes down what people did to tokens.
fn tell(change: &Connection, text: &str) -> Result<(), Error> {
    let people = (clock::now(), events::By::People);
    events::insert_at(change, people, None, "token", text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_tokens_leaves_the_database_of_an_older_hub_as_it_is() {
        let data = tempfile::tempdir().unwrap();
        let older = database::newest() - 1;
        let connection = database::open(data.path()).unwrap();
        new_token(data.path(), "anna", None).unwrap();
        assert_eq!(list_tokens(data.path()).unwrap().len(), 1);
        connection
            .pragma_update(None, "user_version", older)
            .unwrap();
        let refused = list_tokens(data.path());
        assert!(matches!(refused, Err(Error::OlderDatabase { .. })));
        assert_eq!(database::refuse_newer(&connection).unwrap(), older);
    }
}
