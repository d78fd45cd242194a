//! Roots on their way from a hub to PID 1, which alone judges them: one at a time, each by the one before.
//!
//! PID 1 then tells the new one in a new configuration, and everything is asked again under it.

use crate::agent::Agent;
use crate::error::{Error, Peer};
use crate::hub::{Address, Connection};
use crate::tls::Stream;
use kedge_api::Signed;
use kedge_revision::Root;
use kedge_revision::bundle::Head;

/// A root that PID 1 refused is fetched again after so long, seconds.
const REFUSED_S: u64 = 3600;

impl Agent<'_> {
    /// Brings the root that follows, if the hub has one; whether it was brought.
    pub(crate) fn follow_roots(&mut self, hub: &Address, root: &Root) -> Result<bool, Error> {
        let newest = self.asking.state.as_ref().map_or(0, |state| state.root);
        let device = self.status().device();
        // PID 1 takes nothing in during a trial, which is judged under the roots that it began with.
        if newest <= root.version || device.trial.is_some() || device.busy {
            return Ok(false);
        }
        let mut connection = self.connect(hub)?;
        self.bring_root(&mut connection, root)
    }

    /// The same over a connection to somebody who is not believed yet: a hub whose key only the next root names.
    pub(crate) fn bring_root(
        &mut self,
        connection: &mut Connection<Stream>,
        root: &Root,
    ) -> Result<bool, Error> {
        let version = root.version.saturating_add(1);
        let now = self.seconds();
        if self
            .refused_root
            .is_some_and(|(of, until)| of == version && now < until)
        {
            return Ok(false);
        }
        let Signed {
            document,
            signatures,
        } = connection.root(version, &self.identity.product)?;
        let head = Head {
            revision: document.into_bytes(),
            signatures: signatures.into_bytes(),
            parameters: None,
        };
        match self.local.root(&head.encode()) {
            Ok(()) => Ok(true),
            Err(error @ Error::Refused { by: Peer::Init, .. }) => {
                self.refused_root = Some((version, now.saturating_add(REFUSED_S)));
                Err(error)
            }
            Err(error) => Err(error),
        }
    }
}
