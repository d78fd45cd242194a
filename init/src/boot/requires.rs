//! What a revision requires of the kernel, compared with the one that runs.
//!
//! A word of `requires` that this software does not know refuses the whole content ([`Content::check`]). One that it knows
//! says nothing yet of the kernel, which may be another one than the builder thought of: a board's own, or one whose
//! arguments turn something off. A trial is refused for it at once and by name, instead of by a container that does not start.

use super::files;
use crate::error::Error;
use kedge_revision::Content;
use std::path::Path;

/// How it is seen that a kernel has something.
enum Sign {
    /// A file is there.
    File(&'static str),
    /// A file is there, and holds another number than 0.
    NotZero(&'static str),
}

/// Each word of [`Content::FEATURES`], what it stands for, and by what it is seen. Read only where a revision has the word.
const SIGNS: [(&str, &str, Sign); Content::FEATURES.len()] = [
    (
        "cgroup-v2",
        "control groups, version 2",
        Sign::File("/sys/fs/cgroup/cgroup.controllers"),
    ),
    // Linux `Documentation/ABI/testing/sysfs-fs-ext4`: there if ext4 was built with fs-verity.
    (
        "fs-verity",
        "fs-verity of ext4",
        Sign::File("/sys/fs/ext4/features/verity"),
    ),
    // Linux `Documentation/admin-guide/sysctl/user.rst`: absent without user namespaces, and 0 turns them off.
    (
        "user-namespaces",
        "user namespaces",
        Sign::NotZero("/proc/sys/user/max_user_namespaces"),
    ),
];

/// Whether the kernel that runs has all that the content requires.
///
/// # Errors
/// [`Error::Lacks`], of the first word that it lacks.
pub fn requires(content: &Content) -> Result<(), Error> {
    within(Path::new("/"), content)
}

fn within(root: &Path, content: &Content) -> Result<(), Error> {
    let wanted = |word: &str| content.requires.iter().any(|required| required == word);
    for (word, what, sign) in &SIGNS {
        if wanted(word) && !sign.is_seen(root) {
            return Err(Error::Lacks { word, what });
        }
    }
    Ok(())
}

impl Sign {
    fn is_seen(&self, root: &Path) -> bool {
        let in_root = |path: &str| root.join(path.trim_start_matches('/'));
        match self {
            Self::File(path) => in_root(path).exists(),
            Self::NotZero(path) => {
                files::read(&in_root(path), 64).is_ok_and(|bytes| bytes.trim_ascii() != b"0")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixture;
    use std::fs::File;
    use std::io::Write as _;

    /// The files of a kernel that has everything.
    const WHOLE: [(&str, &str); 3] = [
        ("sys/fs/cgroup/cgroup.controllers", "cpu memory\n"),
        ("sys/fs/ext4/features/verity", "supported\n"),
        ("proc/sys/user/max_user_namespaces", "127\n"),
    ];

    fn kernel(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut file = File::create(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
        root
    }

    fn requiring(words: &[&str]) -> Content {
        let mut content = fixture::content(&[], Vec::new());
        content.requires = words.iter().map(|&word| word.to_owned()).collect();
        content
    }

    #[test]
    fn every_word_has_a_sign() {
        assert_eq!(SIGNS.map(|(word, ..)| word), Content::FEATURES);
    }

    #[test]
    fn what_is_missing_is_named_and_only_where_it_is_required() {
        let all = requiring(&Content::FEATURES);
        assert!(within(kernel(&WHOLE).path(), &all).is_ok());
        for (index, (missing, _, _)) in SIGNS.iter().enumerate() {
            let mut files = WHOLE.to_vec();
            files.remove(index);
            let poorer = kernel(&files);
            let said = within(poorer.path(), &all).unwrap_err();
            assert!(matches!(said, Error::Lacks { word, .. } if word == *missing));
            let others: Vec<&str> = Content::FEATURES
                .into_iter()
                .filter(|word| word != missing)
                .collect();
            assert!(within(poorer.path(), &requiring(&others)).is_ok());
        }
    }

    #[test]
    fn no_user_namespace_at_all_is_none() {
        let mut files = WHOLE;
        files[2].1 = "0\n";
        let said = within(kernel(&files).path(), &requiring(&Content::FEATURES)).unwrap_err();
        assert_eq!(
            said.to_string(),
            "the revision requires user-namespaces, and this kernel has no user namespaces"
        );
    }
}
