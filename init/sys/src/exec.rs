//! Becoming another program, without allocating between fork and exec.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use libc::c_char;
use rustix::fs::{CWD, OFlags, ResolveFlags};

use crate::open::open_how;
use crate::{Errno, Error};

/// A program's arguments and environment as the kernel takes them, built before the fork.
pub struct ExecImage {
    /// Paths to try in turn.
    candidates: Vec<CString>,
    /// The strings that the pointers below point into; never touched again.
    _strings: Vec<CString>,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
}

impl std::fmt::Debug for ExecImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecImage")
            .field("candidates", &self.candidates)
            .finish_non_exhaustive()
    }
}

impl ExecImage {
    /// For the program at `path`.
    #[must_use]
    pub fn new(path: CString, arguments: Vec<CString>, environment: Vec<CString>) -> Self {
        Self::with_candidates(vec![path], arguments, environment)
    }

    /// For the first of `candidates` that can be run.
    #[must_use]
    pub fn with_candidates(
        candidates: Vec<CString>,
        arguments: Vec<CString>,
        environment: Vec<CString>,
    ) -> Self {
        let pointers = |strings: &[CString]| {
            let mut list: Vec<*const c_char> = strings.iter().map(|text| text.as_ptr()).collect();
            list.push(ptr::null());
            list
        };
        let argument_pointers = pointers(&arguments);
        let environment_pointers = pointers(&environment);
        // Moving a CString moves its handle; the bytes that the pointers name stay where they are.
        let mut strings = arguments;
        strings.extend(environment);
        Self {
            candidates,
            _strings: strings,
            arguments: argument_pointers,
            environment: environment_pointers,
        }
    }

    /// Runs it in place of this process. Returns only if that fails, with the errno of the candidate
    /// that came nearest: one that may not be run (`EACCES`) counts more than one that is not there.
    ///
    /// Allocates nothing.
    pub fn exec(&self) -> Error {
        self.exec_each(|path| self.exec_path(path))
    }

    /// As [`ExecImage::exec`], for programs that somebody else names: `ELOOP` for one that is found through a magic link
    /// (`proc_pid_exe(5)`). In a container `/proc/self/exe` is the program that starts it, of the world outside. What the
    /// program's own first line or interpreter names, the kernel follows all the same, and a path can change before the
    /// exec: that nobody inside may write to that program does not depend on this.
    pub fn exec_within(&self) -> Error {
        self.exec_each(|path| {
            match open_how(CWD, path, OFlags::PATH, ResolveFlags::NO_MAGICLINKS) {
                Err(error) if error.errno == Errno::LOOP => Errno::LOOP,
                // What else is wrong with it, the exec says.
                _ => self.exec_path(path),
            }
        })
    }

    fn exec_each(&self, exec: impl Fn(&CStr) -> Errno) -> Error {
        let mut nearest = Errno::NOENT;
        for path in &self.candidates {
            let errno = exec(path);
            if errno == Errno::ACCESS {
                nearest = errno;
            } else if errno != Errno::NOENT && errno != Errno::NOTDIR {
                return Error::new("execve", errno);
            }
        }
        Error::new("execve", nearest)
    }

    fn exec_path(&self, path: &CStr) -> Errno {
        // SAFETY: `path` is NUL-terminated; both arrays end with a null pointer, and their other
        // pointers are to NUL-terminated strings that `_strings` owns as long as `self` lives.
        unsafe {
            libc::execve(
                path.as_ptr(),
                self.arguments.as_ptr(),
                self.environment.as_ptr(),
            )
        };
        Error::last("execve").errno
    }

    /// Runs the program that `file` is open on (`execveat(2)` with an empty path); the candidates
    /// are not looked at. Returns only if that fails. Allocates nothing.
    pub fn exec_file<Fd: AsFd>(&self, file: Fd) -> Error {
        // SAFETY: as in `exec_path`; the path is the empty string, and `file` is open.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                file.as_fd().as_raw_fd(),
                c"".as_ptr(),
                self.arguments.as_ptr(),
                self.environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        Error::last("execveat")
    }
}

/// The paths that `execvp(3)` would try for `program` with this `PATH`: itself if it has a slash.
/// Empty elements of `PATH` (the working directory, by POSIX) are left out.
#[must_use]
pub fn candidates(program: &CStr, search: &OsStr) -> Vec<CString> {
    let name = program.to_bytes();
    if name.contains(&b'/') {
        return vec![program.to_owned()];
    }
    let directories = search.as_bytes().split(|byte| *byte == b':');
    directories
        .filter(|directory| !directory.is_empty() && !name.is_empty())
        .filter_map(|directory| CString::new([directory, b"/", name].concat()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clone::{Namespaces, spawn};
    use crate::process::{ExitStatus, wait_pidfd};

    fn exit_of(image: &ExecImage) -> ExitStatus {
        let child = spawn(Namespaces::NONE, None, || image.exec().errno.raw_os_error());
        wait_pidfd(child.expect("clone3").pidfd.as_fd()).expect("waitid")
    }

    #[test]
    fn a_program_that_somebody_else_names_is_not_ours() {
        let image =
            |path: &CStr| ExecImage::new(path.to_owned(), vec![c"true".to_owned()], Vec::new());
        let exit_of = |image: &ExecImage| {
            let child = spawn(Namespaces::NONE, None, || {
                image.exec_within().errno.raw_os_error()
            });
            wait_pidfd(child.expect("clone3").pidfd.as_fd()).expect("waitid")
        };
        assert_eq!(exit_of(&image(c"/bin/true")), ExitStatus::Exited(0));
        let refused = exit_of(&image(c"/proc/self/exe"));
        assert_eq!(refused, ExitStatus::Exited(Errno::LOOP.raw_os_error()));
        let missing = exit_of(&image(c"/nowhere"));
        assert_eq!(missing, ExitStatus::Exited(Errno::NOENT.raw_os_error()));
    }

    #[test]
    fn candidates_follow_the_search_path() {
        let found = candidates(c"sh", OsStr::new("/usr/bin::/bin"));
        assert_eq!(found, [c"/usr/bin/sh".to_owned(), c"/bin/sh".to_owned()]);
        let itself = candidates(c"./sh", OsStr::new("/bin"));
        assert_eq!(itself, [c"./sh".to_owned()]);
        assert!(candidates(c"", OsStr::new("/bin")).is_empty());
    }

    #[test]
    fn arguments_and_environment_arrive() {
        let image = ExecImage::with_candidates(
            candidates(c"sh", OsStr::new("/nowhere:/bin:/usr/bin")),
            vec![
                c"sh".into(),
                c"-c".into(),
                c"exit $((CODE + $1))".into(),
                c"sh".into(),
                c"2".into(),
            ],
            vec![c"CODE=40".into()],
        );
        assert_eq!(exit_of(&image), ExitStatus::Exited(42));
    }

    #[test]
    fn a_missing_and_a_forbidden_program_differ() {
        let missing = ExecImage::new(c"/nowhere/at-all".into(), vec![], vec![]);
        assert_eq!(exit_of(&missing), ExitStatus::Exited(libc::ENOENT));
        let both = ["/etc/passwd", "/nowhere"].map(|path| CString::new(path).expect("no NUL"));
        let forbidden = ExecImage::with_candidates(both.to_vec(), vec![c"x".into()], vec![]);
        assert_eq!(exit_of(&forbidden), ExitStatus::Exited(libc::EACCES));
    }

    #[test]
    fn an_open_file_is_run_without_its_path() {
        let shell = std::fs::File::open("/bin/true").expect("/bin/true");
        let image = ExecImage::new(c"".into(), vec![c"true".into()], vec![]);
        let child = spawn(Namespaces::NONE, None, || {
            image.exec_file(&shell).errno.raw_os_error()
        });
        let status = wait_pidfd(child.expect("clone3").pidfd.as_fd());
        assert_eq!(status, Ok(ExitStatus::Exited(0)));
    }
}
