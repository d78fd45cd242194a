//! From a request to what it asks for.

use super::api::{Action, Command, Earlier, LogQuery, Upload};
use super::connection::Call;
use super::exec::Exec;
use super::since::Since;
use super::{Head, Method, Refusal, Role};
use kedge_revision::ObjectId;

/// What a request asks for, if its peer may.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::Method`], [`Refusal::Forbidden`], [`Refusal::Malformed`].
pub(super) fn route(head: &Head<'_>, role: Role) -> Result<Call, Refusal> {
    let nothing = Refusal::NotFound("there is no such resource");
    let path = head.path.strip_prefix("/v1/").ok_or(nothing)?;
    let (call, method) = match path {
        "status" => (Call::Status, Method::Get),
        "logs" => (Call::Logs(query(head.query)?), Method::Get),
        "reboot" if role == Role::Update => (Call::Command(Command::RebootSoon), Method::Post),
        "reboot" => (Call::Command(Command::Reboot), Method::Post),
        "poweroff" => (Call::Command(Command::PowerOff), Method::Post),
        "logs/earlier" => (Call::Earlier(earlier(head.query)?), Method::Get),
        "history" => (Call::History, Method::Get),
        "usage" => (Call::Usage, Method::Get),
        "update/offer" => (upload(head, Upload::Offer), Method::Post),
        "update/root" => (upload(head, Upload::Root), Method::Post),
        "update/rollback" => (Call::Command(Command::RollBack), Method::Post),
        "update/apply" => (Call::Command(apply(head)?), Method::Post),
        "update/lock" => (Call::Command(lock(head)?), Method::Post),
        "update/unlock" => (Call::Command(Command::Unlock), Method::Post),
        other => match other.strip_prefix("update/objects/") {
            Some(hex) => {
                let id = object(hex).ok_or(nothing)?;
                let offset = value(head, "offset")?.map_or(Ok(0), number)?;
                (upload(head, Upload::Object { id, offset }), Method::Post)
            }
            None => container(other).ok_or(nothing)?,
        },
    };
    if head.method != method {
        return Err(Refusal::Method);
    }
    let locks = matches!(path, "update/lock" | "update/unlock");
    match (method, role) {
        (_, Role::Stick) if brings(&call) => Ok(call),
        (_, Role::Stick) => Err(Refusal::Forbidden),
        (_, Role::Operate | Role::Execute) => Ok(call),
        // A definition may say more than others should know.
        (Method::Get, _) if matches!(call, Call::Inspect(_)) => Err(Refusal::Forbidden),
        (Method::Get, _) => Ok(call),
        (_, Role::Lock) if locks => Ok(call),
        (_, Role::Update) if locks => Err(Refusal::Forbidden),
        (_, Role::Update) if path.starts_with("update/") || path == "reboot" => Ok(call),
        (Method::Post | Method::Other, Role::Observe | Role::Lock | Role::Update) => {
            Err(Refusal::Forbidden)
        }
    }
}

/// Which boot's logs, and from where on.
fn earlier(query: &str) -> Result<Earlier, Refusal> {
    let mut asked = Earlier {
        back: 1,
        from: None,
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("back", text)) => {
                asked.back = u32::try_from(number(text)?).unwrap_or(u32::MAX);
            }
            Some(("from", text)) => asked.from = Some(number(text)?),
            Some(_) | None => return Err(Refusal::Malformed("the query has an unknown key")),
        }
    }
    Ok(asked)
}

/// Whether it brings a revision or lets it be tried, whatever holds updates back left in peace.
const fn brings(call: &Call) -> bool {
    matches!(
        call,
        Call::Upload {
            what: Upload::Offer | Upload::Object { .. },
            ..
        } | Call::Command(Command::Apply { now: false, .. })
    )
}

fn upload(head: &Head<'_>, what: Upload) -> Call {
    Call::Upload {
        what,
        length: head.body,
    }
}

/// An object's or revision's id in a path or query: 64 hexadecimal digits.
fn object(hex: &str) -> Option<ObjectId> {
    format!("v1:{hex}").parse().ok()
}

/// The value of the one key that a query may hold.
fn value<'a>(head: &Head<'a>, only: &str) -> Result<Option<&'a str>, Refusal> {
    match head.query.split_once('=') {
        _ if head.query.is_empty() => Ok(None),
        Some((key, value)) if key == only => Ok(Some(value)),
        Some(_) | None => Err(Refusal::Malformed("the query has an unknown key")),
    }
}

fn lock(head: &Head<'_>) -> Result<Command, Refusal> {
    let needed = Refusal::Malformed("seconds are needed");
    let seconds = number(value(head, "seconds")?.ok_or(needed)?)?;
    if seconds == 0 {
        return Err(needed);
    }
    let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
    Ok(Command::Lock { seconds })
}

fn apply(head: &Head<'_>) -> Result<Command, Refusal> {
    let (mut revision, mut parameters, mut now) = (None, 0, false);
    for pair in head.query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("revision", hex)) => revision = object(hex),
            Some(("parameters", text)) => parameters = number(text)?,
            Some(("now", text)) => now = number(text)? == 1,
            Some(_) | None => return Err(Refusal::Malformed("the query has an unknown key")),
        }
    }
    let revision = revision.ok_or(Refusal::Malformed("revision is not 64 digits"))?;
    Ok(Command::Apply {
        revision,
        parameters,
        now,
    })
}

/// What is asked of a container, and how.
fn container(path: &str) -> Option<(Call, Method)> {
    let path = path.strip_prefix("containers/")?;
    let Some((name, verb)) = path.split_once('/') else {
        return Some((Call::Inspect(path.parse().ok()?), Method::Get));
    };
    let name = name.parse().ok()?;
    let action = match verb {
        "start" => Action::Start,
        "stop" => Action::Stop,
        "restart" => Action::Restart,
        "exec" => {
            // What is executed is in the body.
            let exec = Exec::default();
            let container = name;
            return Some((Call::Exec { container, exec }, Method::Post));
        }
        _ => return None,
    };
    Some((
        Call::Command(Command::Container { name, action }),
        Method::Post,
    ))
}

fn query(text: &str) -> Result<LogQuery, Refusal> {
    let mut query = LogQuery::default();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "container" => {
                let name = value.parse();
                query.source = Some(name.map_err(|_| Refusal::Malformed("container is no name"))?);
            }
            "follow" => query.follow = value != "0",
            "since" => query.since = Some(Since::parse(value)?),
            "limit" => {
                let most = u32::try_from(number(value)?).unwrap_or(u32::MAX);
                query.limit = Some(most);
            }
            _ => return Err(Refusal::Malformed("the query has an unknown key")),
        }
    }
    Ok(query)
}

fn number(value: &str) -> Result<u64, Refusal> {
    let bad = Refusal::Malformed("a value of the query is no number");
    value.parse().map_err(|_| bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str, role: Role) -> Result<Call, u16> {
        let head = format!("{line} HTTP/1.1\r\n\r\n");
        let head = Head::parse(head.as_bytes()).unwrap();
        route(&head, role).map_err(Refusal::status)
    }

    #[test]
    fn logs_of_earlier_boots() {
        use Role::{Observe, Operate};
        let earlier = |back, from| Ok(Call::Earlier(Earlier { back, from }));
        assert_eq!(ask("GET /v1/logs/earlier", Observe), earlier(1, None));
        let place = "GET /v1/logs/earlier?back=3&from=4294967300";
        assert_eq!(ask(place, Observe), earlier(3, Some(4_294_967_300)));
        assert_eq!(ask("GET /v1/logs/earlier?back=-1", Observe), Err(400));
        assert_eq!(ask("GET /v1/logs/earlier?boot=1", Observe), Err(400));
        assert_eq!(ask("POST /v1/logs/earlier", Operate), Err(405));
    }

    #[test]
    fn every_resource_and_its_neighbours() {
        use Role::{Observe, Operate, Update};
        assert_eq!(ask("GET /v1/status", Observe), Ok(Call::Status));
        assert_eq!(ask("POST /v1/status", Operate), Err(405));
        assert_eq!(ask("DELETE /v1/status", Operate), Err(405));
        assert_eq!(ask("GET /v1/reboot", Operate), Err(405));
        assert_eq!(ask("POST /v1/reboot", Observe), Err(403));
        assert_eq!(
            ask("POST /v1/reboot", Operate),
            Ok(Call::Command(Command::Reboot))
        );
        assert_eq!(
            ask("POST /v1/containers/web/restart", Operate),
            Ok(Call::Command(Command::Container {
                name: "web".parse().unwrap(),
                action: Action::Restart,
            }))
        );
        let hex = "ab".repeat(32);
        let id = format!("v1:{hex}").parse().unwrap();
        assert_eq!(
            ask(
                &format!("POST /v1/update/objects/{hex}?offset=4096"),
                Operate
            ),
            Ok(Call::Upload {
                what: Upload::Object { id, offset: 4096 },
                length: 0
            })
        );
        assert_eq!(
            ask(
                &format!("POST /v1/update/apply?revision={hex}&parameters=7"),
                Operate
            ),
            Ok(Call::Command(Command::Apply {
                revision: id,
                parameters: 7,
                now: false
            }))
        );
        assert_eq!(ask("POST /v1/update/offer", Observe), Err(403));
        assert_eq!(ask("POST /v1/update/rollback", Observe), Err(403));
        assert_eq!(ask("GET /v1/history", Observe), Ok(Call::History));
        assert_eq!(ask("POST /v1/update/apply", Operate), Err(400));
        assert_eq!(
            ask("POST /v1/reboot", Update),
            Ok(Call::Command(Command::RebootSoon))
        );
        assert!(ask("POST /v1/update/rollback", Update).is_ok());
        for path in ["poweroff", "containers/web/stop"] {
            assert_eq!(ask(&format!("POST /v1/{path}"), Update), Err(403), "{path}");
        }
        assert_eq!(ask("POST /v1/update/objects/abc", Operate), Err(404));
        for path in [
            "/",
            "/v2/status",
            "/v1/containers/..",
            "/v1/containers/../start",
            "/v1/containers/web/exec/1",
        ] {
            assert_eq!(ask(&format!("POST {path}"), Operate), Err(404), "{path}");
        }
    }

    #[test]
    fn what_a_container_is_and_runs_is_the_operators() {
        use Role::{Execute, Lock, Observe, Operate, Stick, Update};
        let web: kedge_revision::Name = "web".parse().unwrap();
        for role in [Operate, Execute] {
            let inspected = ask("GET /v1/containers/web", role);
            assert_eq!(inspected, Ok(Call::Inspect(web.clone())));
            let asked = ask("POST /v1/containers/web/exec", role);
            assert!(matches!(asked, Ok(Call::Exec { container, .. }) if container == web));
            assert_eq!(ask("POST /v1/containers/web", role), Err(405));
            assert_eq!(ask("GET /v1/containers/web/exec", role), Err(405));
            assert!(ask("POST /v1/reboot", role).is_ok());
        }
        for role in [Observe, Lock, Update, Stick] {
            assert_eq!(ask("GET /v1/containers/web", role), Err(403));
            assert_eq!(ask("POST /v1/containers/web/exec", role), Err(403));
        }
        assert_eq!(ask("GET /v1/usage", Observe), Ok(Call::Usage));
        assert_eq!(ask("GET /v1/usage", Stick), Err(403));
    }

    #[test]
    fn a_stick_brings_revisions_and_nothing_else() {
        let hex = "ab".repeat(32);
        let stick = |target: &str| ask(&format!("POST /v1/update/{target}"), Role::Stick);
        assert!(stick("offer").is_ok() && stick(&format!("objects/{hex}")).is_ok());
        assert!(stick(&format!("apply?revision={hex}")).is_ok());
        for never in [
            "root",
            "rollback",
            "unlock",
            "lock?seconds=1",
            &format!("apply?revision={hex}&now=1"),
        ] {
            assert_eq!(stick(never), Err(403), "{never}");
        }
        for never in ["POST /v1/reboot", "GET /v1/status", "GET /v1/logs"] {
            assert_eq!(ask(never, Role::Stick), Err(403), "{never}");
        }
    }

    #[test]
    fn a_lock_is_for_those_who_may() {
        use Role::{Observe, Operate, Update};
        let hex = "ab".repeat(32);
        let revision = format!("v1:{hex}").parse().unwrap();
        assert_eq!(
            ask(
                &format!("POST /v1/update/apply?revision={hex}&now=1"),
                Update
            ),
            Ok(Call::Command(Command::Apply {
                revision,
                parameters: 0,
                now: true
            }))
        );
        let held = Ok(Call::Command(Command::Lock { seconds: 60 }));
        assert_eq!(ask("POST /v1/update/lock?seconds=60", Role::Lock), held);
        assert_eq!(ask("POST /v1/update/lock?seconds=60", Operate), held);
        assert!(ask("POST /v1/update/unlock", Role::Lock).is_ok());
        for role in [Observe, Update] {
            assert_eq!(ask("POST /v1/update/lock?seconds=60", role), Err(403));
            assert_eq!(ask("POST /v1/update/unlock", role), Err(403));
        }
        for path in ["update/apply?revision=1", "update/rollback", "reboot"] {
            let held = ask(&format!("POST /v1/{path}"), Role::Lock);
            assert!(matches!(held, Err(400 | 403)), "{path}: {held:?}");
        }
        for bad in ["", "?seconds=0", "?seconds=-1", "?hours=1", "?seconds="] {
            assert_eq!(
                ask(&format!("POST /v1/update/lock{bad}"), Operate),
                Err(400)
            );
        }
    }

    #[test]
    fn queries() {
        let ask = |query: &str| ask(&format!("GET /v1/logs?{query}"), Role::Observe);
        assert_eq!(
            ask("container=kernel&follow=1&since=7&limit=3"),
            Ok(Call::Logs(LogQuery {
                source: Some("kernel".parse().unwrap()),
                follow: true,
                since: Some(Since::Sequence(7)),
                limit: Some(3),
            }))
        );
        assert!(ask("since=10m&follow=1").is_ok());
        assert_eq!(ask(""), Ok(Call::Logs(LogQuery::default())));
        for bad in [
            "since=x",
            "limit=-1",
            "container=..",
            "colour=red",
            "since=",
        ] {
            assert_eq!(ask(bad), Err(400), "{bad}");
        }
    }
}
