//! The part of a device's status that is about updates, and what it says of a trial. Pure.

use kedge_revision::ObjectId;
use serde::Deserialize;

/// As much of a device's status as whoever waits for a verdict needs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Status {
    /// Random for each boot.
    pub boot_id: String,
    /// What runs; absent while one takes another's place.
    pub revision: Option<Runs>,
    /// Whether what runs is judged yet.
    pub trial: Trial,
    /// See there; absent on a device that knows no updates.
    pub update: Update,
    /// Goals that are not met.
    pub goals_missing: Vec<MissingGoal>,
}

/// The revision that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Runs {
    /// Its id.
    pub id: ObjectId,
}

/// Whether what runs is judged yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Trial {
    /// It is committed.
    #[default]
    Committed,
    /// It is on trial.
    Trying {
        /// Boots that it has left after this one.
        tries_left: u8,
    },
}

/// A goal that is not met.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MissingGoal {
    /// Whose.
    pub container: String,
    /// Which.
    pub goal: String,
    /// Why not.
    pub reason: String,
}

/// The object `update` of a status.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Update {
    /// What runs unless a trial does.
    pub committed: Option<Place>,
    /// What is on trial.
    pub trial: Option<Place>,
    /// What was tried last and did not hold.
    pub failed: Option<Failed>,
    /// Below this nothing runs.
    pub floor: Option<String>,
    /// Boots in a row that have not come to rest.
    pub unsettled: Option<u64>,
    /// What is arriving.
    pub staging: Option<Staging>,
    /// Containers that hold updates back.
    pub locks: Vec<Lock>,
}

/// A container that holds updates back.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Lock {
    /// Its name.
    pub container: String,
    /// Until when, milliseconds since the boot.
    pub until_ms: u64,
}

/// A revision with its parameters, where it is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Place {
    /// The revision.
    pub revision: ObjectId,
    /// The counter of its parameters; 0 if nobody gave any.
    #[serde(default)]
    pub parameters: u64,
    /// The slot.
    #[serde(default)]
    pub slot: Option<String>,
}

/// A revision that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Failed {
    /// The revision.
    pub revision: ObjectId,
    /// The counter of its parameters.
    #[serde(default)]
    pub parameters: u64,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// What arrives.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Staging {
    /// What is being done, as `receiving` or `writing slot b`.
    pub phase: String,
    /// Bytes of bodies that have come.
    pub received: u64,
}

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The revision.
    pub revision: ObjectId,
    /// The counter of the parameters given with it. Whoever gives none leaves it to the device.
    pub parameters: Option<u64>,
}

impl Target {
    fn is(&self, revision: ObjectId, parameters: u64) -> bool {
        revision == self.revision && self.parameters.is_none_or(|given| given == parameters)
    }

    fn is_at(&self, place: Option<&Place>) -> bool {
        place.is_some_and(|place| self.is(place.revision, place.parameters))
    }

    /// Why this is what failed last, if it is.
    #[must_use]
    pub fn failure(&self, update: &Update) -> Option<String> {
        let failed = update.failed.as_ref()?;
        self.is(failed.revision, failed.parameters)
            .then(|| failed.reason.clone())
    }
}

/// Where a trial stands, by one status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stand {
    /// It is on trial.
    Trying,
    /// It was good.
    Committed,
    /// It was not, and why.
    Failed(String),
    /// It is not on trial, and neither committed nor the one that failed last.
    Absent,
}

impl Stand {
    /// What an `update` says of `target`.
    #[must_use]
    pub fn of(update: &Update, target: &Target) -> Self {
        if target.is_at(update.trial.as_ref()) {
            Self::Trying
        } else if target.is_at(update.committed.as_ref()) {
            Self::Committed
        } else if let Some(reason) = target.failure(update) {
            Self::Failed(reason)
        } else {
            Self::Absent
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> ObjectId {
        ObjectId::from_digest([byte; 32])
    }

    #[test]
    fn a_stand_needs_revision_and_parameters() {
        let target = |parameters| Target {
            revision: id(2),
            parameters,
        };
        let stand = |text: &str| {
            let text = text
                .replace("ONE", &id(1).to_string())
                .replace("TWO", &id(2).to_string());
            Stand::of(&serde_json::from_str(&text).unwrap(), &target(Some(7)))
        };
        let one = r#""committed":{"revision":"ONE","parameters":7,"slot":"a"}"#;
        let tried = format!(r#"{{{one},"trial":{{"revision":"TWO","parameters":7,"slot":"b"}}}}"#);
        assert_eq!(stand(&tried), Stand::Trying);
        let committed = r#"{"committed":{"revision":"TWO","parameters":7},"new-field":[]}"#;
        assert_eq!(stand(committed), Stand::Committed);
        let others = committed.replace('7', "6");
        assert_eq!(stand(&others), Stand::Absent);
        let text = others.replace("TWO", &id(2).to_string());
        let update = serde_json::from_str(&text).unwrap();
        assert_eq!(Stand::of(&update, &target(None)), Stand::Committed);
        let failed =
            format!(r#"{{{one},"failed":{{"revision":"TWO","parameters":7,"reason":"panic"}}}}"#);
        assert_eq!(stand(&failed), Stand::Failed("panic".into()));
        assert_eq!(stand("{}"), Stand::Absent);
    }
}
