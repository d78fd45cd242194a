//! Containers that hold updates back, as they ask over their control sockets; [`crate::lock`] decides.

use super::agent::LISTENER;
use super::sticks::LISTENER as STICKS;
use super::{Driver, now_ms};
use crate::control::{Problem, Refusal};
use crate::driver::clients::ClientId;
use crate::lock::{Answer, Event};

impl Driver {
    /// A container takes its lock, or lets it go.
    pub(super) fn lock(&mut self, client: ClientId, event: Event) {
        let now = now_ms();
        // What a container has sent before its end comes after it: nobody would let go of that.
        let unit = self
            .clients
            .listener(client)
            .and_then(|index| index.checked_sub(1))
            .and_then(|index| self.units.get(usize::from(index)))
            .filter(|unit| unit.running.is_some());
        let Some(unit) = unit else {
            if let Some(connection) = self.clients.connection(client) {
                let nobody = Refusal::Conflict("containers hold updates back, and nobody else");
                connection.answer_refused(nobody);
            }
            return;
        };
        let answer = self.update.locks.step(&unit.name, event, now);
        let Some(connection) = self.clients.connection(client) else {
            return;
        };
        match answer {
            Answer::Until(until) => {
                let left = until.saturating_sub(now) / 1000;
                let body = format!("{{\"seconds\":{left},\"until-ms\":{until}}}");
                connection.answer_bytes(200, "application/json", body.as_bytes());
            }
            Answer::Free => connection.answer_done(),
            Answer::Spent(until) => {
                let left = until.saturating_sub(now) / 1000;
                let refusal = Refusal::Conflict("");
                let detail = format!(
                    "updates were held back for a day; they can be again in {left} seconds"
                );
                let problem = Problem {
                    status: refusal.status(),
                    title: refusal.title().into(),
                    detail: detail.into(),
                };
                // Plain data in memory: it cannot fail.
                let body = kedge_revision::json::bytes(&problem);
                connection.answer_bytes(refusal.status(), "application/problem+json", &body);
            }
        }
    }

    /// Whether what this client wants to be tried must wait: the agent's and a stick's, not an operator's.
    pub(super) fn is_locked_for(&mut self, client: ClientId) -> bool {
        matches!(self.clients.listener(client), Some(LISTENER | STICKS))
            && self.update.locks.held().next().is_some()
    }
}
