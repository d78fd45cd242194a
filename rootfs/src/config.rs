//! What an image says about its process: the OCI image configuration with Docker's health check, as plain fields.
//!
//! Values are checked for what no kernel takes (NUL bytes, variables without `=`); whether the revision takes them is `kedge-revision`'s matter.

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The process of an image. Empty lists and `None` mean that the image does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageProcess {
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program if there is no entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`.
    pub user: Option<String>,
    /// Absolute path.
    pub working_dir: Option<String>,
    /// Name or number.
    pub stop_signal: Option<String>,
    /// How to ask whether it works.
    pub healthcheck: Option<Healthcheck>,
    /// `port/protocol`, sorted.
    pub exposed_ports: Vec<String>,
    /// Absolute paths, sorted.
    pub volumes: Vec<String>,
    /// Free text by name.
    pub labels: BTreeMap<String, String>,
}

/// Docker's health check; OCI reserves the field. Durations in nanoseconds, 0 means that the image does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", program, …]` or `["CMD-SHELL", command]`.
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: u64,
    /// For one check.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: u64,
    /// Grace after the start, in which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: u64,
    /// Between two checks during that.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: u64,
    /// Failures in a row until it counts as unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u64,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// The part that `oci-spec` does not know.
#[derive(Deserialize)]
struct Extension {
    #[serde(default)]
    config: Option<ExtensionConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ExtensionConfig {
    #[serde(default)]
    healthcheck: Option<Healthcheck>,
}

impl ImageProcess {
    /// Reads an OCI image configuration.
    ///
    /// # Errors
    /// [`Error::Document`] if it is none, [`Error::Process`] for a value that no kernel takes.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let document = |e: serde_json::Error| Error::Document {
            name: "the image configuration".to_owned(),
            why: e.to_string(),
        };
        let image: ImageConfiguration = serde_json::from_slice(json).map_err(document)?;
        let extension: Extension = serde_json::from_slice(json).map_err(document)?;
        let Some(config) = image.config() else {
            return Ok(Self::default());
        };
        let text = |s: &Option<String>| s.clone().filter(|s| !s.is_empty());
        let list = |l: &Option<Vec<String>>| {
            let mut list = l.clone().unwrap_or_default();
            list.sort();
            list
        };
        let process = Self {
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            cmd: config.cmd().clone().unwrap_or_default(),
            env: config.env().clone().unwrap_or_default(),
            user: text(config.user()),
            working_dir: text(config.working_dir()),
            stop_signal: text(config.stop_signal()),
            healthcheck: extension.config.and_then(|c| c.healthcheck),
            exposed_ports: list(config.exposed_ports()),
            volumes: list(config.volumes()),
            labels: config
                .labels()
                .clone()
                .unwrap_or_default()
                .into_iter()
                .collect(),
        };
        process.check()?;
        Ok(process)
    }

    /// Replaces what to run (the remedy for an image that does not say), then makes sure that there is something.
    ///
    /// # Errors
    /// [`Error::NoEntrypoint`] if there is not.
    pub fn with_command(mut self, command: Option<&[String]>) -> Result<Self, Error> {
        if let Some(command) = command {
            self.entrypoint = command.to_vec();
            self.cmd.clear();
        }
        match self.entrypoint.iter().chain(&self.cmd).next() {
            None => Err(Error::NoEntrypoint),
            Some(program) if program.is_empty() => Err(Error::Process {
                field: "Entrypoint",
                why: "the program's name is empty".to_owned(),
            }),
            Some(_) => Ok(self),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let single = |s: &Option<String>| s.clone().into_iter().collect::<Vec<_>>();
        let fields = [
            ("Entrypoint", self.entrypoint.clone()),
            ("Cmd", self.cmd.clone()),
            ("Env", self.env.clone()),
            ("User", single(&self.user)),
            ("WorkingDir", single(&self.working_dir)),
            ("StopSignal", single(&self.stop_signal)),
            ("Volumes", self.volumes.clone()),
        ];
        for (field, values) in fields {
            if let Some(value) = values.iter().find(|v| v.contains('\0')) {
                let why = format!("{value:?} contains a NUL byte");
                return Err(Error::Process { field, why });
            }
        }
        if let Some(variable) = self
            .env
            .iter()
            .find(|v| v.find('=').is_none_or(|at| at == 0))
        {
            let why = format!("{variable:?} is not NAME=value");
            return Err(Error::Process { field: "Env", why });
        }
        let paths = self.working_dir.iter().map(|p| ("WorkingDir", p));
        let paths = paths.chain(self.volumes.iter().map(|p| ("Volumes", p)));
        for (field, path) in paths {
            if !path.starts_with('/') || path.split('/').any(|c| c == "..") {
                let why = format!("{path:?} is no absolute path");
                return Err(Error::Process { field, why });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NGINX: &str = r#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/sbin:/bin","V=1"],
        "Entrypoint":["/entry.sh"],"Cmd":["nginx","-g","daemon off;"],"ExposedPorts":{"80/tcp":{}},"StopSignal":"SIGQUIT",
        "User":"","WorkingDir":"/srv","Volumes":{"/data":{}},"Labels":{"a":"b"},
        "Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":30000000000,"Retries":3}},
        "rootfs":{"type":"layers","diff_ids":[]}}"#;

    /// Another document would be refused at its first byte, and the fuzzer would never come to the rest.
    #[test]
    fn what_the_fuzzer_begins_with_is_read_to_its_end() {
        let seed = include_bytes!("../../tests/fuzz/corpus/image-config");
        // The first byte chooses the parser: 15 of 45 (`tests/fuzz/fuzz_targets/parsers.rs`).
        let (choice, json) = seed.split_first().unwrap();
        assert_eq!(choice % 45, 15);
        let process = ImageProcess::parse(json).unwrap();
        assert_eq!(process.user.as_deref(), Some("33:34"));
        assert_eq!(process.exposed_ports, ["53/udp", "80/tcp"]);
        assert_eq!(process.healthcheck.unwrap().start_period, 1_000_000_000);
    }

    #[test]
    fn fields_and_health_check() {
        let process = ImageProcess::parse(NGINX.as_bytes()).unwrap();
        assert_eq!(process.entrypoint, ["/entry.sh"]);
        assert_eq!(process.cmd.len(), 3);
        assert_eq!(process.exposed_ports, ["80/tcp"]);
        assert_eq!(process.volumes, ["/data"]);
        assert_eq!(process.user, None);
        assert_eq!(process.working_dir.as_deref(), Some("/srv"));
        let health = process.healthcheck.unwrap();
        assert_eq!(
            (health.interval, health.retries, health.timeout),
            (30_000_000_000, 3, 0)
        );
    }

    #[test]
    fn no_entrypoint() {
        let json =
            br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        let process = ImageProcess::parse(json).unwrap();
        let error = process.clone().with_command(None).unwrap_err();
        assert!(matches!(error, Error::NoEntrypoint));
        assert!(error.to_string().contains("--command"));
        let command = ["/bin/sh".to_owned()];
        assert_eq!(
            process.with_command(Some(&command)).unwrap().entrypoint,
            command
        );
    }

    #[test]
    fn unusable_values() {
        for (from, to, field) in [
            (r#""V=1""#, r#""V""#, "Env"),
            (r#""V=1""#, r#""V=\u0000""#, "Env"),
            (r#""/srv""#, r#""srv""#, "WorkingDir"),
            (r#""/data""#, r#""/../data""#, "Volumes"),
        ] {
            let json = NGINX.replace(from, to);
            let error = ImageProcess::parse(json.as_bytes()).unwrap_err();
            assert!(
                matches!(error, Error::Process { field: f, .. } if f == field),
                "{error}"
            );
        }
    }
}
