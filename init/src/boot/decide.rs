//! What this boot is for: the boot record, the evidence of how the last run ended, and boot control's decision.
//!
//! The decision and its writes come before anything is mounted: a try is taken off first, so that whatever goes wrong
//! later has been counted. Only a lost state record waits for the store, from which it is made anew.

use super::disks::Own;
use super::tryboot::{self, TO_TRY};
use super::{Boot, disks, memory};
use crate::error::Error;
use crate::evidence;
use crate::last_resort::restart;
use kedge_board_support::Error as RecordError;
use kedge_board_support::control::{
    Backend, Cause, Control, Decision, Found, LoaderSays, Repair, Tryboot,
};
use kedge_board_support::record::State;
use kedge_sys::reboot::Ending;
use std::path::Path;

/// Finds the device's partitions, reads both records and decides.
///
/// # Errors
/// [`Error::MissingPartition`], [`Error::File`], [`Error::Memory`]. A lost state record is a problem that is noted.
pub(super) fn boot_record(boot: &mut Boot) -> Result<(), Error> {
    let memory = memory::disk_size()?;
    boot.from_memory = memory.is_some();
    let own = match memory {
        Some(size) => Own::Named(memory::attach(size)?),
        None => boot.arguments.disk.map_or(Own::Any, Own::Guid),
    };
    let found = disks::wait_for_partitions(&own)?;
    let (mut bootenv, records) = disks::open_record(&found.bootenv)?;
    boot.evidence = evidence::gather(Path::new("/root"), boot.arguments.says.watchdog);
    // Paths that outlive this phase are those under the changed root.
    boot.bootenv = found
        .bootenv
        .strip_prefix("/root")
        .ok()
        .map(|rest| Path::new("/").join(rest));
    let state = records.state().cloned();
    boot.loader = records.loader();
    boot.mirrored = records.loader_is_mirrored();
    // A disk in memory has no partitions of a firmware's.
    if !boot.from_memory
        && boot.arguments.slot.is_none()
        && let Some(said) = tryboot::said(Path::new("/root"))
    {
        let (class, devices) = (Path::new(disks::CLASS), Path::new(disks::DEVICES));
        let firmware = tryboot::open(class, devices, &found.bootenv, bootenv)?;
        boot.started_slot = firmware.started(said);
        boot.arguments.says = LoaderSays {
            watchdog: boot.arguments.says.watchdog,
            ..Tryboot::says(said.tried)
        };
        boot.counts = Tryboot.counts();
        (boot.loader, boot.mirrored) = (firmware.record, true);
        bootenv = firmware.bootenv;
    }
    boot.data_device = Some(found.data);
    boot.record = Some(bootenv);
    match state {
        Some(state) => decide(boot, state),
        None => {
            // It is made anew from the store, once that is mounted.
            boot.problems.push((
                "boot-record",
                Error::BootRecord {
                    which: "state record",
                },
            ));
            Ok(())
        }
    }
}

/// Lets boot control decide, and performs what it writes.
///
/// # Errors
/// [`Error::Record`] where a write failed and the decision depends on it, [`Error::Repair`].
pub(super) fn decide(boot: &mut Boot, state: State) -> Result<(), Error> {
    // A loader that does not say has nothing but its default.
    let slot = boot.started().unwrap_or_else(|| {
        let default = boot.loader.map(|loader| loader.default);
        default.unwrap_or(state.committed.slot)
    });
    let found = Found {
        loader: boot.loader,
        mirrored: boot.mirrored,
        state: Some(state),
        slot,
        cause: match boot.evidence.cause {
            evidence::Cause::Unknown => Cause::Unknown,
            evidence::Cause::Watchdog => Cause::Watchdog,
            evidence::Cause::Panic => Cause::Panic,
        },
        says: boot.arguments.says,
        counts: boot.counts,
    };
    // Only without a state, which is there.
    let Ok((control, writes, decision)) = Control::boot(found) else {
        return Err(Error::Slot);
    };
    boot.slot = Some(slot);
    boot.control = Some(control);
    boot.decision = decision;
    let written = match &mut boot.record {
        Some(record) => writes.iter().try_for_each(|write| record.perform(write)),
        None => Ok(()),
    };
    let counted = |boot: &Boot| match (&boot.record, &boot.control) {
        (Some(record), Some(control)) if decision == Decision::RebootToTry => {
            let kept = record.has_state(control.state())?;
            kept.then_some(()).ok_or(RecordError::StateLost)
        }
        // Of another try the loader has read back that it was counted.
        _ => Ok(()),
    };
    if let Err(source) = written.and_then(|()| counted(boot)) {
        boot.problems
            .push(("boot-record", Error::Record { source }));
        // What cannot be counted must not be tried for ever.
        if let Some(control) = &mut boot.control {
            boot.decision = control.unwritable(decision);
        }
    }
    match boot.decision {
        Decision::Reboot => restart("this slot is neither committed nor tried", Ending::Restart),
        Decision::RebootToTry => restart("the trial has a try left", TO_TRY),
        Decision::Committed | Decision::Try => Ok(()),
        // No failure of this phase: storage and trust come up, so that the device can be mended.
        Decision::Repair(repair) => {
            let why = match repair {
                Repair::Unsettled => "too many boots in a row did not hold their goals",
                Repair::CommittedSlotLost => "the committed slot does not load",
                Repair::RecordUnwritable => "the boot record cannot be written",
            };
            boot.problems.push(("boot-record", Error::Repair { why }));
            Ok(())
        }
    }
}
