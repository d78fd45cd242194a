//! How SQLite goes about each statement that the hub has: none looks at all devices or events for the sake of one.
//!
//! Statements are found in the sources, as literals that begin with a verb of SQL: a new one is judged without being listed.

use super::open;
use rusqlite::Connection;
use std::path::Path;

/// Tables that grow with the fleet and its age.
const LARGE: [&str; 5] = ["devices", "events", "actions", "parameters", "enrolments"];

/// Statements that look at all there is on purpose: an operator's, or a start's.
const WHOLE: [&str; 3] = [
    // What revisions are needed, for `kedge collect` and once an hour.
    "SELECT previous, desired ->>",
    // From the newest on, as many as an operator asks for.
    "SELECT seq FROM events WHERE ?2 IS NULL",
    // The start; with an id it is another statement, below.
    "SELECT id, key, product, board, enrolled, revoked, tags,",
];

/// String literals of a source without its tests, as the compiler reads them.
fn literals(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]").next().unwrap();
    let mut found = Vec::new();
    for line in source.split_inclusive("\n\n") {
        let mut rest = line;
        while let Some(begin) = rest.find('"') {
            let mut literal = String::new();
            let mut letters = rest[begin + 1..].char_indices();
            let mut end = rest.len();
            while let Some((at, letter)) = letters.next() {
                match letter {
                    '"' => {
                        end = begin + 1 + at + 1;
                        break;
                    }
                    '\\' => match letters.next() {
                        // Goes on in the next line, behind its indentation.
                        Some((_, '\n')) => literal.push('\n'),
                        Some((_, escaped)) => literal.push(escaped),
                        None => break,
                    },
                    other => literal.push(other),
                }
            }
            let lines = literal.split('\n').map(str::trim_start);
            found.push(lines.collect::<String>());
            rest = &rest[end..];
        }
    }
    found
}

fn sources(directory: &Path, all: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let is_test = ["plans.rs", "tests.rs"]
                .iter()
                .any(|name| path.ends_with(name));
            if !is_test {
                all.push(std::fs::read_to_string(&path).unwrap());
            }
        }
    }
}

fn statements() -> Vec<String> {
    let mut all = Vec::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    sources(&source, &mut all);
    let verbs = ["SELECT ", "UPDATE ", "DELETE FROM ", "INSERT INTO "];
    let literals = all.iter().flat_map(|source| literals(source));
    literals
        .filter(|literal| verbs.iter().any(|verb| literal.starts_with(verb)))
        .collect()
}

/// What SQLite would do, step by step.
fn plan(database: &Connection, statement: &str) -> Vec<String> {
    let mut explained = database
        .prepare(&format!("EXPLAIN QUERY PLAN {statement}"))
        .unwrap_or_else(|error| panic!("{statement}: {error}"));
    // Nothing is bound: the plan is the same for all values.
    let mut rows = explained.raw_query();
    let mut steps = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        steps.push(row.get(3).unwrap());
    }
    steps
}

/// Whether a step looks at everything of a table that is large.
fn is_whole(step: &str) -> bool {
    LARGE.iter().any(|table| {
        let scan = format!("SCAN {table}");
        // All of one kind, of whichever device, with a look at each row.
        let kind = format!("SEARCH {table} USING INDEX events_by (by_device=?)");
        step == scan || step.starts_with(&format!("{scan} ")) || step == kind
    })
}

#[test]
fn no_statement_looks_at_all_rows_for_the_sake_of_one() {
    let data = tempfile::tempdir().unwrap();
    let database = open(data.path()).unwrap();
    let mut statements = statements();
    let device = |statement: &&String| statement.starts_with(WHOLE[2]);
    let device = statements.iter().find(device).unwrap();
    statements.push(format!("{device} WHERE id = ?1"));
    assert!(statements.len() > 50, "{statements:#?}");
    for statement in &statements {
        let steps = plan(&database, statement);
        let is_one = statement.ends_with("WHERE id = ?1");
        if !is_one && WHOLE.iter().any(|whole| statement.starts_with(whole)) {
            continue;
        }
        assert!(
            !steps.iter().any(|step| is_whole(step)),
            "{statement}: {steps:#?}"
        );
    }
}

#[test]
fn what_a_device_told_last_is_found_by_the_device() {
    let data = tempfile::tempdir().unwrap();
    let database = open(data.path()).unwrap();
    let statements = statements();
    let told = |statement: &&String| statement.starts_with("SELECT time, what FROM events");
    let told = statements.iter().find(told).unwrap();
    assert_eq!(
        plan(&database, told),
        ["SEARCH events USING INDEX events_told (device=? AND by_device=?)"]
    );
}
