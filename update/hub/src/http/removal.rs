//! What an operator removes: devices, and what no device needs any more.

use super::{answer, body, devices};
use crate::collect::{self, Scope};
use crate::error::{Error, Refusal};
use crate::events;
use crate::fleet::Change;
use crate::hub::Hub;
use crate::rows;
use crate::tokens::Operator;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use kedge_api::operator::Collect;
use std::sync::Arc;

type Answer = Result<Response, Refusal>;

/// Most revisions of a board that may be kept for their newness alone.
const KEEP: usize = 1000;

/// `DELETE /v1/devices/ID`: its rows in one commit, then its logs. What happened stays among the events.
pub(super) async fn device(
    operator: Operator,
    State(hub): State<Arc<Hub>>,
    Path(device): Path<String>,
) -> Answer {
    let id = devices::find(&hub, &device)?.id();
    hub.writer
        .run(move |step| {
            let row = rows::device(step.database, id)?
                .ok_or_else(|| Refusal::not_found("the hub knows no such device"))?;
            rows::remove(step.database, id)?;
            let text = format!("{} removed {}", operator.name, row.name());
            events::add(step, Some(id), "removed", text)?;
            step.change(Change::Removed(id));
            Ok(())
        })
        .await?;
    let asked = Arc::clone(&hub);
    let removing = tokio::task::spawn_blocking(move || asked.logs.remove(id));
    removing.await.map_err(|_| Error::Stopping)??;
    Ok(answer::none(StatusCode::NO_CONTENT))
}

/// `POST /v1/collect`
pub(super) async fn collect(operator: Operator, State(hub): State<Arc<Hub>>, body: Body) -> Answer {
    let request: Collect = body::strict(body).await?;
    let keep = usize::try_from(request.keep).unwrap_or(usize::MAX);
    if !(1..=KEEP).contains(&keep) {
        return Err(Refusal::bad(
            "keep",
            "keep is 1 to 1000: of each product and board, so many of the newest revisions stay",
        ));
    }
    let scope = Scope::Unneeded { keep };
    let collected = if request.dry_run {
        collect::look(&hub, scope).await?
    } else {
        collect::run(&hub, scope, Some(operator.name)).await?
    };
    answer::json(StatusCode::OK, &collected)
}
