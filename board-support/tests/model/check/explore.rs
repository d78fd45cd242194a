//! Goes everywhere, once, breadth first, so that a counterexample is as short as it can be.

use super::device::{Device, Label, Setup};
use super::node::Node;
use super::planted::Place;
use super::rules::{Invariant, Violation};
use core::fmt;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// A run without a violation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Visited {
    pub states: usize,
    pub transitions: usize,
    /// Most steps in a row that nobody chose: boots and crashes on the way to repair mode.
    pub longest: usize,
    /// Rows of writes, with their flushes.
    pub places: BTreeMap<Place, u8>,
}

/// A run that found one.
#[derive(Debug)]
pub(crate) struct Counterexample {
    pub violation: Violation,
    pub trace: Vec<Label>,
    pub states: usize,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { invariant, detail } = &self.violation;
        writeln!(f, "{invariant:?}, after {} states: {detail}", self.states)?;
        for (step, picture) in &self.trace {
            match picture {
                0 => writeln!(f, "  {step}")?,
                picture => writeln!(f, "  {step}, cut: {picture}")?,
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Graph {
    ids: HashMap<Box<[u8]>, u32>,
    /// How each node was first reached.
    parents: Vec<(u32, Label)>,
    /// Steps that nobody chose.
    forced: Vec<(u32, u32)>,
}

impl Graph {
    fn add(&mut self, node: &Node, from: (u32, Label)) -> (u32, bool) {
        let next = u32::try_from(self.parents.len()).unwrap();
        let id = *self
            .ids
            .entry(node.key().into_boxed_slice())
            .or_insert(next);
        if id == next {
            self.parents.push(from);
        }
        (id, id == next)
    }

    fn trace(&self, mut id: u32) -> Vec<Label> {
        let mut trace = Vec::new();
        while id != 0 {
            let (parent, label) = self.parents[id as usize];
            trace.push(label);
            id = parent;
        }
        trace.reverse();
        trace
    }

    /// The longest row of forced steps, or a node on a circle of them.
    fn longest(&self) -> Result<usize, u32> {
        let count = self.parents.len();
        let (mut after, mut before) = (vec![Vec::new(); count], vec![0_u32; count]);
        for (from, to) in &self.forced {
            after[*from as usize].push(*to);
            before[*to as usize] += 1;
        }
        let mut ready: Vec<usize> = (0..count).filter(|id| before[*id] == 0).collect();
        let mut length = vec![0_usize; count];
        let mut done = 0;
        while let Some(id) = ready.pop() {
            done += 1;
            for next in &after[id] {
                let next = *next as usize;
                length[next] = length[next].max(length[id] + 1);
                before[next] -= 1;
                if before[next] == 0 {
                    ready.push(next);
                }
            }
        }
        if done == count {
            return Ok(length.into_iter().max().unwrap_or_default());
        }
        Err(self.on_circle(&after, &before))
    }

    /// Of what was not sorted, some only follows a circle: going back far enough ends on it.
    fn on_circle(&self, after: &[Vec<u32>], before: &[u32]) -> u32 {
        let mut back = vec![None; before.len()];
        for (from, nexts) in after
            .iter()
            .enumerate()
            .filter(|(from, _)| before[*from] > 0)
        {
            for next in nexts {
                back[*next as usize] = Some(from);
            }
        }
        let mut at = before
            .iter()
            .position(|count| *count > 0)
            .unwrap_or_default();
        for _ in 0..before.len() {
            at = back[at].unwrap_or(at);
        }
        u32::try_from(at).unwrap()
    }
}

/// Visits every node that `setup` reaches.
pub(crate) fn explore(setup: Setup) -> Result<Visited, Box<Counterexample>> {
    let device = Device {
        setup,
        places: RefCell::default(),
    };
    let mut graph = Graph::default();
    let mut transitions = 0;
    let first = Node::first(setup.home, setup.kit.counts_itself());
    graph.add(&first, (0, ("", 0)));
    let mut queue = VecDeque::from([(0, first)]);
    while let Some((from, node)) = queue.pop_front() {
        let nexts = device.after(&node).map_err(|violation| {
            Box::new(Counterexample {
                violation,
                trace: graph.trace(from),
                states: graph.parents.len(),
            })
        })?;
        for after in nexts {
            transitions += 1;
            let (id, new) = graph.add(&after.node, (from, after.label));
            if after.forced {
                graph.forced.push((from, id));
            }
            if new {
                queue.push_back((id, after.node));
            }
        }
    }
    let longest = graph.longest().map_err(|id| {
        Box::new(Counterexample {
            violation: Violation {
                invariant: Invariant::NoLoop,
                detail: "a circle of boots and crashes begins here".to_owned(),
            },
            trace: graph.trace(id),
            states: graph.parents.len(),
        })
    })?;
    Ok(Visited {
        states: graph.parents.len(),
        transitions,
        longest,
        places: device.places.into_inner(),
    })
}
