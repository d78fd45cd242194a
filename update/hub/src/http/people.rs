//! Who may come in: claims, join tokens, operators' tokens.

use super::devices::{check_tags, detailed};
use super::{answer, body};
use crate::error::{Error, Refusal};
use crate::hub::Hub;
use crate::tokens::{self, Operator};
use crate::{clock, enrol, events};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use kedge_api::operator::{Claim, NewJoinToken, NewToken, Page};
use std::sync::Arc;

type Answer = Result<Response, Refusal>;

/// Seconds of a year: nothing that lets devices in lasts longer.
const YEAR: u32 = 366 * 86_400;

/// All of a list that is short by its nature.
fn all<T: serde::Serialize>(items: Vec<T>) -> Answer {
    let page = Page {
        items,
        cursor: None,
    };
    answer::json(StatusCode::OK, &page)
}

/// `GET /v1/claims`
pub(super) async fn claims(_: Operator, State(hub): State<Arc<Hub>>) -> Answer {
    all(hub.claims.list(clock::unix()))
}

/// `POST /v1/claims`
pub(super) async fn claim(_: Operator, State(hub): State<Arc<Hub>>, body: Body) -> Answer {
    let claim: Claim = body::strict(body).await?;
    check_tags(&claim.tags)?;
    let id = enrol::claim(&hub, claim).await?;
    let device = hub.fleet.device(id).ok_or(Error::Stopping)?;
    answer::json(StatusCode::OK, &detailed(&hub, &device).await?)
}

/// `GET /v1/join-tokens`
pub(super) async fn join_tokens(_: Operator, State(hub): State<Arc<Hub>>) -> Answer {
    all(hub.readers.read(tokens::list_joins).await?)
}

/// `POST /v1/join-tokens`
pub(super) async fn new_join_token(
    operator: Operator,
    State(hub): State<Arc<Hub>>,
    body: Body,
) -> Answer {
    let new: NewJoinToken = body::strict(body).await?;
    check_tags(&new.tags)?;
    if !(1..=1_000_000).contains(&new.uses) || !(60..=YEAR).contains(&new.lasts_s) {
        return Err(Refusal::bad(
            "join-token",
            "uses is 1 to 1000000, and lasts-s is 60 seconds to a year",
        ));
    }
    if let Some(product) = &new.product {
        enrol::served(&hub, product)?;
    }
    let made = hub
        .writer
        .run(move |step| {
            let made = tokens::new_join(step, &new)?;
            let text = format!("{} made join token {}", operator.name, made.id);
            events::add(step, None, "join-token", text)?;
            Ok(made)
        })
        .await?;
    answer::json(StatusCode::CREATED, &made)
}

/// `DELETE /v1/join-tokens/ID`
pub(super) async fn end_join_token(
    operator: Operator,
    State(hub): State<Arc<Hub>>,
    Path(id): Path<String>,
) -> Answer {
    end(
        &hub,
        "DELETE FROM join_tokens WHERE id = ?1",
        "join token",
        id,
        operator,
    )
    .await
}

/// `GET /v1/tokens`
pub(super) async fn tokens(_: Operator, State(hub): State<Arc<Hub>>) -> Answer {
    all(hub.readers.read(tokens::list).await?)
}

/// `POST /v1/tokens`
pub(super) async fn new_token(
    operator: Operator,
    State(hub): State<Arc<Hub>>,
    body: Body,
) -> Answer {
    let new: NewToken = body::strict(body).await?;
    let printable = new.name.chars().all(|letter| !letter.is_control());
    if new.name.is_empty() || new.name.chars().count() > 64 || !printable {
        return Err(Refusal::bad(
            "name",
            "a name is 1 to 64 printable characters",
        ));
    }
    if new.lasts_s.is_some_and(|lasts| lasts < 60) {
        return Err(Refusal::bad("lasts-s", "a token lasts 60 seconds at least"));
    }
    let making = tokio::task::spawn_blocking(tokens::make);
    let made = making.await.map_err(|_| Error::Stopping)??;
    let made = hub
        .writer
        .run(move |step| {
            tokens::ends_in_time(step.database, &operator, &new)?;
            let token = tokens::insert(step.database, &made, &new)?;
            let text = format!(
                "{} made token {} for {}",
                operator.name, token.id, token.name
            );
            events::add(step, None, "token", text)?;
            Ok(token)
        })
        .await?;
    answer::json(StatusCode::CREATED, &made)
}

/// `DELETE /v1/tokens/ID`
pub(super) async fn end_token(
    operator: Operator,
    State(hub): State<Arc<Hub>>,
    Path(id): Path<String>,
) -> Answer {
    // To its end, also when whoever asked is gone meanwhile.
    let ending = tokio::spawn(async move {
        let statement = "DELETE FROM tokens WHERE id = ?1";
        let ended = end(&hub, statement, "token", id.clone(), operator).await;
        // Who read it before it was deleted is judging it now, and would keep it as known.
        let _nobody_judges = hub.tokens.hashing.lock().await;
        // Also where there is no row: one that was deleted may still be known.
        hub.tokens.forget(&id);
        ended
    });
    ending.await.map_err(|_| Error::Stopping)?
}

async fn end(
    hub: &Hub,
    statement: &'static str,
    what: &'static str,
    id: String,
    operator: Operator,
) -> Answer {
    hub.writer
        .run(move |step| {
            if step.database.execute(statement, [&id])? == 0 {
                return Err(Refusal::not_found(format!("there is no {what} {id}")));
            }
            let text = format!("{} ended {what} {id}", operator.name);
            events::add(step, None, "token", text)
        })
        .await?;
    Ok(answer::none(StatusCode::NO_CONTENT))
}
