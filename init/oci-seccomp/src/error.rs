//! Why a filter is refused.

use std::fmt;

use oci_spec::runtime::LinuxSeccompAction;

use crate::{MAX_ERRNO, MAX_INSTRUCTIONS, MAX_MESSAGE, MAX_RULES};

/// Why [`compile`](crate::compile) refuses a configuration. A `place` is the first call of the rule
/// at fault, or `default`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// A condition is about an argument that no call has.
    Argument {
        /// The rule.
        place: String,
        /// The index that is above 5.
        index: usize,
    },
    /// An `errnoRet` that is no error number.
    Errno {
        /// The rule.
        place: String,
        /// The value that is above [`MAX_ERRNO`].
        value: u32,
    },
    /// An `errnoRet` that does not fit into a tracer's message.
    Message {
        /// The rule.
        place: String,
        /// The value that is above [`MAX_MESSAGE`].
        value: u32,
    },
    /// An `errnoRet` for an action that has no use for one.
    UnusedErrno {
        /// The rule.
        place: String,
        /// The action.
        action: LinuxSeccompAction,
    },
    /// A call is to be told to a listener, and `listenerPath` does not say where it is.
    NoListener,
    /// `listenerMetadata` without `listenerPath`.
    NoListenerForMetadata,
    /// More than [`MAX_RULES`] rules, counted once for each name and condition.
    TooManyRules,
    /// The filter would need more than [`MAX_INSTRUCTIONS`].
    TooLong,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument { place, index } => write!(
                f,
                "seccomp rule of {place:?}: there is no argument {index}, the last one is 5"
            ),
            Self::Errno { place, value } => write!(
                f,
                "seccomp rule of {place:?}: {value} is no error number, the last one is {MAX_ERRNO}"
            ),
            Self::Message { place, value } => write!(
                f,
                "seccomp rule of {place:?}: a tracer cannot be told {value}, only up to {MAX_MESSAGE}"
            ),
            Self::UnusedErrno { place, action } => {
                write!(f, "seccomp rule of {place:?}: {action} takes no errnoRet")
            }
            Self::NoListener => {
                write!(
                    f,
                    "seccomp: SCMP_ACT_NOTIFY is used, but no listenerPath is given"
                )
            }
            Self::NoListenerForMetadata => {
                write!(f, "seccomp: listenerMetadata is given, but no listenerPath")
            }
            Self::TooManyRules => write!(f, "seccomp: more than {MAX_RULES} rules"),
            Self::TooLong => write!(
                f,
                "seccomp: the rules need more than the {MAX_INSTRUCTIONS} instructions that Linux takes"
            ),
        }
    }
}

impl std::error::Error for Error {}
