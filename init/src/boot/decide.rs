//! What this boot is for: the boot record, the evidence of how the last run ended, and boot control's decision.
//!
//! The decision and its writes come before anything is mounted: a try is taken off first, so that whatever goes wrong
//! later has been counted. Only a lost state record waits for the store, from which it is made anew.

use super::disks::{Own, RecordPlace};
use super::tryboot::{self, TO_TRY};
use super::{Boot, disks, memory};
use crate::error::Error;
use crate::evidence;
use crate::last_resort::restart;
use kedge_board_support::Error as RecordError;
use kedge_board_support::bootenv::Layout;
use kedge_board_support::control::{
    Backend, Cause, Control, Counts, Decision, Found, LoaderSays, Repair, Tryboot,
};
use kedge_board_support::record::State;
use kedge_sys::reboot::Ending;
use std::path::{Path, PathBuf};

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
    let place = |path: PathBuf| RecordPlace {
        path,
        // A disk in memory is no flash, whatever the board's own is.
        layout: if boot.from_memory {
            Layout::Sectors
        } else {
            boot.arguments.record
        },
    };
    let (mut bootenv, records) = place(found.bootenv.clone()).open()?;
    boot.evidence = evidence::gather(Path::new("/root"), boot.arguments.says.watchdog);
    // Paths that outlive this phase are those under the changed root.
    boot.bootenv = found
        .bootenv
        .strip_prefix("/root")
        .ok()
        .map(|rest| place(Path::new("/").join(rest)));
    let state = records.state().cloned();
    boot.loader = records.loader();
    boot.mirrored = records.loader_is_mirrored();
    // A disk in memory has no partitions of a firmware's.
    if !boot.from_memory
        && boot.arguments.slot.is_none()
        && let Some(said) = tryboot::said(Path::new("/root"))
    {
        let (class, devices) = (Path::new(disks::CLASS), Path::new(disks::DEVICES));
        let firmware = tryboot::open(class, devices, &found.bootenv, bootenv);
        let (started, doubt) = firmware.started(said, boot.arguments.written_to);
        boot.started_slot = started;
        // None of it ends the boot: what was started, and what should be, follows from the slot and the state.
        let told = firmware.problem.into_iter().chain(doubt);
        let told = told.map(|problem| ("boot-record", problem));
        boot.problems.extend(told);
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

/// Whether it is PID 1 that has counted the restart which follows. Then it is made only once the count is seen on the disk: a
/// card at its end takes writes and drops them, and nothing would end. Where the loader counts, it has read that back.
const fn counts_restart(decision: Decision, counts: Counts) -> bool {
    match (decision, counts) {
        (Decision::RebootToTry, _) | (Decision::Reboot, Counts::Device) => true,
        (Decision::Reboot, Counts::Loader) => false,
        (Decision::Committed | Decision::Try | Decision::Repair(_), _) => false,
    }
}

/// Lets boot control decide, and performs what it writes.
///
/// # Errors
/// [`Error::Record`] where a write failed and the decision depends on it, [`Error::Repair`].
pub(super) fn decide(boot: &mut Boot, state: State) -> Result<(), Error> {
    // A loader that does not say has nothing but its default. Firmware may have passed over it: then nothing is tried or
    // committed by what nobody knows.
    let slot = boot.started().unwrap_or_else(|| {
        let default = boot.loader.map(|loader| loader.default);
        let default = default.filter(|_| boot.counts == Counts::Loader);
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
    let mut done = 0;
    let written = match &mut boot.record {
        Some(record) => writes.iter().try_for_each(|write| {
            record.perform(write)?;
            done += 1;
            Ok(())
        }),
        None => Ok(()),
    };
    let counted = |boot: &Boot| match (&boot.record, &boot.control) {
        (Some(record), Some(control)) if counts_restart(decision, boot.counts) => {
            let kept = record.has_state(control.state())?;
            kept.then_some(()).ok_or(RecordError::StateLost)
        }
        _ => Ok(()),
    };
    let all = written.is_ok();
    if let Err(source) = written.and_then(|()| counted(boot)) {
        boot.problems
            .push(("boot-record", Error::Record { source }));
        // What cannot be counted must not be tried for ever.
        if let Some(control) = &mut boot.control {
            // Where all came back as written and was not there, none of it is believed.
            let failed = if all {
                &writes
            } else {
                writes.get(done..).unwrap_or_default()
            };
            boot.decision = control.unwritable(decision, failed);
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
                Repair::WordStuck => {
                    "the firmware starts this slot as a try again and again, and none is due"
                }
            };
            boot.problems.push(("boot-record", Error::Repair { why }));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_that_pid_1_counts_is_made_once_the_count_is_on_the_disk() {
        assert!(counts_restart(Decision::RebootToTry, Counts::Device));
        assert!(counts_restart(Decision::Reboot, Counts::Device));
        assert!(!counts_restart(Decision::Reboot, Counts::Loader));
        let repair = Decision::Repair(Repair::WordStuck);
        for decision in [Decision::Committed, Decision::Try, repair] {
            assert!(!counts_restart(decision, Counts::Device));
        }
    }
}
