//! Users of an image: names become numbers through its own `/etc/passwd` (passwd(5)) and `/etc/group` (group(5)).

use super::units::UserText;
use kedge_revision::container::User;

/// The ids, if the text is numbers alone. A user without a group gets group 0, as container runtimes have it for one without an entry.
#[must_use]
pub fn numeric(text: &UserText) -> Option<User> {
    let uid = text.user.parse().ok()?;
    let gid = match &text.group {
        Some(group) => group.parse().ok()?,
        None => return None,
    };
    Some(User {
        uid,
        gid,
        groups: Vec::new(),
    })
}

/// The ids of a user, by number or name; its own group and further groups come from the files where the text names no group.
///
/// # Errors
/// A name that the files do not have, or an id over 65535; in words.
pub fn resolve(text: &UserText, passwd: &str, group: &str) -> Result<User, String> {
    if let Some(user) = numeric(text) {
        return Ok(user);
    }
    for name in [Some(&text.user), text.group.as_ref()]
        .into_iter()
        .flatten()
    {
        let is_number = name.bytes().all(|b| b.is_ascii_digit());
        if is_number && name.parse::<u16>().is_err() {
            return Err(format!("`{name}` is no id: ids are 0 to 65535"));
        }
    }
    let number = text.user.parse::<u16>().ok();
    let entry = passwd.lines().map(fields).find(|fields| match number {
        Some(number) => fields.get(2).and_then(|uid| uid.parse().ok()) == Some(number),
        None => fields.first() == Some(&text.user.as_str()),
    });
    let id = |fields: &[&str], at: usize| fields.get(at).and_then(|id| id.parse::<u16>().ok());
    let uid = match (number, &entry) {
        (Some(number), _) => number,
        (None, Some(fields)) => id(fields, 2)
            .ok_or_else(|| format!("user `{}` has no id from 0 to 65535", text.user))?,
        (None, None) => {
            return Err(format!(
                "the image's /etc/passwd has no user `{}`",
                text.user
            ));
        }
    };
    let gid = match &text.group {
        Some(name) => group_id(name, group)?,
        None => entry
            .as_ref()
            .and_then(|fields| id(fields, 3))
            .unwrap_or_default(),
    };
    let mut groups = Vec::new();
    if let (None, Some(name)) = (
        &text.group,
        entry.as_ref().and_then(|fields| fields.first()),
    ) {
        let lines = group.lines().map(fields);
        let member = |fields: &Vec<&str>| {
            fields
                .get(3)
                .is_some_and(|list| list.split(',').any(|user| user == *name))
        };
        groups = lines
            .filter(member)
            .filter_map(|fields| id(&fields, 2))
            .filter(|id| *id != gid)
            .collect();
        groups.sort_unstable();
        groups.dedup();
    }
    Ok(User { uid, gid, groups })
}

fn group_id(name: &str, group: &str) -> Result<u16, String> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let entry = group
        .lines()
        .map(fields)
        .find(|fields| fields.first() == Some(&name));
    let entry = entry.ok_or_else(|| format!("the image's /etc/group has no group `{name}`"))?;
    let id = entry.get(2).and_then(|id| id.parse().ok());
    id.ok_or_else(|| format!("group `{name}` has no id from 0 to 65535"))
}

fn fields(line: &str) -> Vec<&str> {
    line.trim_end().split(':').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nnginx:x:101:102::/var:/bin/false\nbig:x:70000:1::/:/\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:nginx,root\nweb:x:102:\nssl:x:9:nginx\n";

    fn ids(text: &str) -> Result<(u16, u16, Vec<u16>), String> {
        resolve(&text.parse()?, PASSWD, GROUP).map(|user| (user.uid, user.gid, user.groups))
    }

    #[test]
    fn names_and_numbers_resolve_as_in_container_runtimes() {
        assert_eq!(ids("nginx"), Ok((101, 102, vec![4, 9])));
        assert_eq!(ids("nginx:adm"), Ok((101, 4, vec![])));
        assert_eq!(ids("101"), Ok((101, 102, vec![4, 9])));
        assert_eq!(ids("4242"), Ok((4242, 0, vec![])));
        assert_eq!(ids("1000:1000"), Ok((1000, 1000, vec![])));
        assert_eq!(ids("0:web"), Ok((0, 102, vec![])));
    }

    #[test]
    fn what_does_not_resolve_is_named() {
        assert!(
            ids("nobody")
                .unwrap_err()
                .contains("/etc/passwd has no user `nobody`")
        );
        assert!(
            ids("root:none")
                .unwrap_err()
                .contains("/etc/group has no group `none`")
        );
        assert!(ids("big").unwrap_err().contains("65535"));
        for id in ["70000:0", "0:70000", "70000"] {
            let why = ids(id).unwrap_err();
            assert!(why.contains("`70000` is no id"), "{why}");
        }
    }
}
