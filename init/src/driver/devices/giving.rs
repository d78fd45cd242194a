//! Gives containers the devices that are there, and takes from them those that are not.

use super::super::Driver;
use crate::devices::pace::{AGAIN_MS, CALM_MS};
use crate::devices::seen::Seen;
use crate::devices::{Found, Given, choose, lacks, mark_fresh, nodes, without};
use crate::driver::now_ms;
use crate::driver::unit::Unit;
use crate::log::Stream;
use crate::machine::{Event, Id};
use kedge_container::Unchanged;
use kedge_revision::device::DeviceRule;
use kedge_sys::bpf::device::Kind;

/// Devices that are named of those that are not given.
const NAMED: usize = 3;

impl Driver {
    /// Gives each container what a look has found, as far as it has come.
    pub(super) fn give_all(&mut self, seen: &mut Seen, ended: bool) {
        let fresh = mark_fresh(&mut seen.found, &self.devices.disks);
        let ids: Vec<Id> = self.machine.status().map(|status| status.id).collect();
        for id in ids {
            self.give_devices(id, seen, ended);
        }
        // What is compared is what two looks say at their ends.
        if ended && seen.listed {
            let blocks = seen.found.iter().filter(|one| one.kind() == Kind::Block);
            self.devices.disks = blocks.cloned().collect();
            if fresh {
                self.devices.pace.ask(now_ms().saturating_add(CALM_MS));
            }
        }
    }

    /// Gives a container what its rules name of what is there, and takes the rest from it.
    fn give_devices(&mut self, id: Id, seen: &Seen, ended: bool) {
        let Some(unit) = self.units.get_mut(id.index()) else {
            return;
        };
        let rules = &unit.definition.devices;
        let asks_for_serial = |rule: &DeviceRule| rule.serial.is_some();
        if rules.is_empty() || (!ended && rules.iter().any(asks_for_serial)) {
            return;
        }
        let known;
        let found: &[Found] = if seen.whole {
            &seen.found
        } else {
            known = seen.known(&unit.devices);
            &known
        };
        let chosen = choose(rules, found, &unit.devices);
        let refused = refused(unit, &chosen.refused);
        if refused != unit.refused_devices {
            unit.refused_devices.clone_from(&refused);
            if !refused.is_empty() {
                self.say(Stream::Warning, &refused);
            }
        }
        self.change_devices(id, chosen.given, Some(chosen.lacks));
    }

    /// Takes from all containers what was at this place, and what hung on it.
    pub(super) fn take_device(&mut self, place: &str) {
        let ids: Vec<Id> = self.machine.status().map(|status| status.id).collect();
        for id in ids {
            let Some(unit) = self.units.get(id.index()) else {
                continue;
            };
            if unit.devices.iter().any(|given| given.found.is_below(place)) {
                let left = without(&unit.devices, place);
                // That it lacks nothing any more, only a look can tell.
                let lacks = lacks(&unit.definition.devices, &left).then_some(true);
                self.change_devices(id, left, lacks);
            }
        }
    }

    /// Has a container have these devices and no others; `lacks`: whether one is missed, if that is known.
    fn change_devices(&mut self, id: Id, given: Vec<Given>, lacks: Option<bool>) {
        let Some(unit) = self.units.get_mut(id.index()) else {
            return;
        };
        let changed = (self.engine.as_ref())
            .zip(unit.plan.as_mut())
            .map(|(engine, plan)| {
                engine.change_devices(plan, nodes(&unit.definition.devices, &given))
            });
        let mut told = Vec::new();
        match changed {
            Some(Err(Unchanged::Judge(error))) => {
                // It may be able to open what it has lost. Its restart policy says what follows; what it has is judged anew
                // after the next look, and it is not started before.
                told.push((Stream::Error, format!("{} is killed: {error}", unit.name)));
                told.extend(self.kill_all(id).map(|text| (Stream::Error, text)));
                self.devices.pace.ask(now_ms().saturating_add(AGAIN_MS));
                self.tell(told);
                return self.step(Event::Devices { id, lacks: true });
            }
            Some(Err(Unchanged::Nodes(error))) => {
                let text = format!("{} does not see all of its devices: {error}", unit.name);
                told.push((Stream::Error, text));
            }
            Some(Ok(())) | None => {}
        }
        let has = |all: &[Given], one: &Given| {
            let mut all = all.iter();
            all.any(|given| given.name == one.name && given.found.is(&one.found))
        };
        for lost in unit.devices.iter().filter(|lost| !has(&given, lost)) {
            let text = format!("{}: /dev/{} has left", unit.name, lost.name);
            told.push((Stream::Notice, text));
        }
        for new in given.iter().filter(|new| !has(&unit.devices, new)) {
            let (major, minor) = new.found.number;
            let text = format!(
                "{}: /dev/{} is there ({} {major}:{minor})",
                unit.name, new.name, new.found.node
            );
            told.push((Stream::Notice, text));
        }
        unit.devices = given;
        self.tell(told);
        if let Some(lacks) = lacks {
            self.step(Event::Devices { id, lacks });
        }
    }

    fn tell(&mut self, told: Vec<(Stream, String)>) {
        for (stream, text) in told {
            self.say(stream, &text);
        }
    }
}

/// Devices that fit a container's rules and are not given, in one line.
fn refused(unit: &Unit, refused: &[(String, &'static str)]) -> String {
    let mut text = String::new();
    for (node, why) in refused.iter().take(NAMED) {
        let start = if text.is_empty() { "" } else { "; " };
        text.push_str(&format!(
            "{start}{}: {node} is not given: it {why}",
            unit.name
        ));
    }
    if let Some(more) = refused.len().checked_sub(NAMED).filter(|more| *more > 0) {
        text.push_str(&format!("; and {more} more"));
    }
    text
}
