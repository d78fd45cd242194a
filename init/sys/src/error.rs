//! The error of every wrapper here: which operation, which errno. Callers add paths and context.

use std::fmt;

use rustix::io::Errno;

/// A failed system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error {
    /// The system call or ioctl, in the words of its man page.
    pub operation: &'static str,
    /// What the kernel answered.
    pub errno: Errno,
}

/// What every wrapper returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `operation`.
    #[must_use]
    pub const fn new(operation: &'static str, errno: Errno) -> Self {
        Self { operation, errno }
    }

    /// The errno of the last call of this thread into the C library.
    pub(crate) fn last(operation: &'static str) -> Self {
        let raw = std::io::Error::last_os_error().raw_os_error();
        Self::new(
            operation,
            Errno::from_raw_os_error(raw.unwrap_or(libc::EIO)),
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.errno)
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        error.errno.into()
    }
}

/// Names the operation of an error that came from rustix: `openat(…).during("openat")?`.
pub trait During<T> {
    /// The same result with the operation's name in its error.
    ///
    /// # Errors
    /// Those of `self`.
    fn during(self, operation: &'static str) -> Result<T>;
}

impl<T> During<T> for rustix::io::Result<T> {
    fn during(self, operation: &'static str) -> Result<T> {
        self.map_err(|errno| Error::new(operation, errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_operation() {
        let error: Result<()> = Err(Errno::NOENT).during("openat");
        assert_eq!(error, Err(Error::new("openat", Errno::NOENT)));
        let text = Error::new("openat", Errno::NOENT).to_string();
        assert!(text.starts_with("openat: "), "{text}");
    }
}
