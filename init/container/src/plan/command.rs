//! A command in a running container, decided before it starts: pure, no I/O.

use std::ffi::CString;

use kedge_sys::exec::{ExecImage, candidates};

use super::{Plan, PlanError, UserPlan, set_variable, text, texts};
use crate::exec::{Command, Input};

/// A command as the kernel takes it.
#[derive(Debug)]
pub(crate) struct Execution {
    pub(crate) image: ExecImage,
    /// What is executed, for errors.
    pub(crate) program: CString,
    pub(crate) user: UserPlan,
    pub(crate) directory: CString,
    pub(crate) input: Input,
    /// Whether Landlock is around it.
    pub(crate) fenced: bool,
}

impl Plan {
    /// Decides how a command is executed.
    ///
    /// # Errors
    /// No program, or a NUL.
    pub(crate) fn command(&self, command: &Command<'_>) -> Result<Execution, PlanError> {
        let arguments = texts(command.arguments)?;
        let program = arguments.first().ok_or(PlanError::NoProgram)?.clone();
        let mut environment = self.program.environment.clone();
        for variable in command.environment {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            set_variable(&mut environment, name, value)?;
        }
        let user = match command.user {
            None => self.user.clone(),
            Some(user) => UserPlan::new(user)?,
        };
        let directory = match command.working_directory {
            None => self.working_directory.clone(),
            Some(path) => text(path)?,
        };
        Ok(Execution {
            image: image_of(arguments, environment),
            program,
            user,
            directory,
            input: command.input,
            fenced: command.fenced,
        })
    }
}

pub(super) fn image_of(arguments: Vec<CString>, environment: Vec<CString>) -> ExecImage {
    let search = environment
        .iter()
        .find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="))
        .unwrap_or_default();
    let search = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(search);
    let program = arguments.first().map(CString::as_c_str).unwrap_or_default();
    let paths = candidates(program, search);
    ExecImage::with_candidates(paths, arguments, environment)
}
