//! Guides that run: the commands of a Markdown file, in their order, as somebody types them who reads it.
//!
//! Each block of `sh` is run by one shell. What stands in a comment before it says otherwise:
//!
//! | comment | means |
//! |---|---|
//! | `<!-- test: runs on until "TEXT" -->` | another terminal: goes on in the background, and has come so far once it has said TEXT |
//! | `<!-- test: fails -->` | its last command fails |
//! | `<!-- test: left out, REASON -->` | it is not run |
//!
//! Blocks of other languages are shown and not run.

use anyhow::{Context, Result, bail, ensure};
use kedge_image_build::files;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How a block is run.
#[derive(Debug, Clone, PartialEq, Eq)]
enum How {
    Well,
    Fails,
    /// In the background, until it has said this.
    Until(String),
}

/// Commands of a guide.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    /// Where the first of them stands.
    line: usize,
    how: How,
    text: String,
}

/// The blocks to run. A comment that means nothing, or that no block follows, is a mistake.
fn blocks(guide: &str) -> Result<Vec<Block>> {
    let mut found = Vec::new();
    let mut how = None;
    let mut open: Option<(bool, Block)> = None;
    for (number, line) in guide.lines().enumerate() {
        if let Some((runs, block)) = &mut open {
            if line == "```" {
                if *runs {
                    found.push(block.clone());
                }
                open = None;
            } else {
                block.text.push_str(line);
                block.text.push('\n');
            }
        } else if let Some(language) = line.strip_prefix("```") {
            let said = how.take();
            ensure!(
                said.is_none() || language == "sh",
                "line {number}: a comment, and no commands"
            );
            let runs = language == "sh" && said != Some(None);
            let how = said.flatten().unwrap_or(How::Well);
            let (line, text) = (number + 2, String::new());
            open = Some((runs, Block { line, how, text }));
        } else if let Some(comment) = line.strip_prefix("<!-- test: ") {
            let comment = comment
                .strip_suffix(" -->")
                .context("a comment of one line")?;
            how = Some(meaning(comment).with_context(|| format!("line {}", number + 1))?);
        } else {
            ensure!(
                how.is_none() || line.is_empty(),
                "line {number}: a comment, and no commands"
            );
        }
    }
    ensure!(open.is_none() && how.is_none(), "it ends within a block");
    Ok(found)
}

/// What a comment says; none: the block is left out.
fn meaning(comment: &str) -> Result<Option<How>> {
    if comment == "fails" {
        return Ok(Some(How::Fails));
    }
    if let Some(reason) = comment.strip_prefix("left out, ") {
        ensure!(reason.len() > 5, "it must say why");
        return Ok(None);
    }
    let text = comment.strip_prefix("runs on until \"");
    let text = text.and_then(|text| text.strip_suffix('"'));
    let text = text.with_context(|| format!("`{comment}` means nothing"))?;
    ensure!(
        !text.is_empty() && !text.contains('\''),
        "{text:?} cannot be looked for"
    );
    Ok(Some(How::Until(text.to_owned())))
}

/// One script of all blocks, for bash.
fn script(name: &str, blocks: &[Block]) -> String {
    let mut script = String::from("set -eu -o pipefail\n");
    for Block { line, how, text } in blocks {
        script.push_str(&format!("echo '== {name}:{line}'\n"));
        script.push_str(&match how {
            How::Well => text.clone(),
            How::Fails => format!(
                "set +e\n( set -e\n{text})\nstatus=$?\nset -e\n\
                 if [ \"$status\" = 0 ]; then echo '{name}:{line} must fail'; exit 1; fi\n"
            ),
            How::Until(said) => format!(
                // What has ended may have said it right before.
                ": > \"$LOGS/{line}\"\n( {text}) < <(sleep 3600) > \"$LOGS/{line}\" 2>&1 &\n\
                 until grep -qF '{said}' \"$LOGS/{line}\"; do\n\
                 kill -0 $! || grep -qF '{said}' \"$LOGS/{line}\" || {{ \
                 cat \"$LOGS/{line}\"; echo '{name}:{line} has ended'; exit 1; }}\nsleep 0.2\ndone\n"
            ),
        });
    }
    script
}

/// How a process ended; none: it goes on.
fn wait(child: &mut Child, patience: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + patience;
    while Instant::now() < end {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(None)
}

/// A guide in a folder of its own.
#[derive(Debug)]
pub struct Guide {
    path: PathBuf,
    folder: tempfile::TempDir,
    /// Under which names programs are found, and where they are.
    programs: Vec<(&'static str, PathBuf)>,
    instead: Vec<(String, String)>,
}

impl Guide {
    /// The guide of that path in the project, for these programs, which it finds under these names.
    ///
    /// # Errors
    /// There is no place for it.
    pub fn new(path: &str, programs: &[(&'static str, &str)]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("kedge-guide-").tempdir()?;
        let path = kedge_image_build::toolchain::workspace()?.join(path);
        Ok(Self {
            path,
            folder,
            programs: programs
                .iter()
                .map(|(name, path)| (*name, PathBuf::from(path)))
                .collect(),
            instead: Vec::new(),
        })
    }

    /// Puts something in the place of what its readers have, like the number of a port that is free here.
    #[must_use]
    pub fn with(mut self, from: &str, to: &str) -> Self {
        self.instead.push((from.to_owned(), to.to_owned()));
        self
    }

    /// Where its commands begin.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs all of it.
    ///
    /// # Errors
    /// A command that should not fails, or none that should; or it takes longer than this. What was said goes along.
    pub fn run(self, patience: Duration) -> Result<()> {
        let name = self.path.file_name().and_then(|name| name.to_str());
        let name = name.context("a guide has a name")?;
        let mut text = files::read_text(&self.path)?;
        for (from, to) in &self.instead {
            ensure!(text.contains(from), "no {from} in {name}");
            text = text.replace(from, to);
        }
        let blocks = blocks(&text).with_context(|| name.to_owned())?;
        ensure!(!blocks.is_empty(), "{name} has no commands");
        let (work, logs) = (self.folder().join("work"), self.folder().join("logs"));
        let bin = self.folder().join("bin");
        for folder in [&work, &logs, &bin] {
            files::make_folder(folder)?;
        }
        for (name, program) in &self.programs {
            std::os::unix::fs::symlink(program, bin.join(name))?;
        }
        let file = self.folder().join("script");
        files::write(&file, script(name, &blocks))?;
        let said = logs.join("said");
        let out = std::fs::File::create(&said)?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut child = Command::new("bash")
            .arg(&file)
            .current_dir(&work)
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("LOGS", &logs)
            .env("HOME", &work)
            .env("XDG_CONFIG_HOME", self.folder().join("config"))
            .env(
                "KEDGE_CACHE",
                kedge_image_build::cache::Cache::open()?.root(),
            )
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .context("cannot start bash")?;
        let status = wait(&mut child, patience)?;
        // What goes on in the background ends with it.
        let group = format!("-{}", child.id());
        Command::new("kill")
            .args(["-TERM", "--", &group])
            .output()
            .ok();
        child.wait().ok();
        if status.is_some_and(|status| status.success()) {
            return Ok(());
        }
        let mut all = files::read_text(&said)?;
        for log in files::list(&logs)? {
            if log != said {
                all.push_str(&format!(
                    "\n-- {}\n{}",
                    log.display(),
                    files::read_text(&log)?
                ));
            }
        }
        match status {
            Some(status) => bail!("{name}: {status}\n{all}"),
            None => bail!("{name} takes longer than {patience:?}\n{all}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUIDE: &str = "# A guide\n\n```sh\na\nb\n```\n\n<!-- test: fails -->\n```sh\nc\n```\n\
        <!-- test: left out, it needs a card -->\n\n```sh\nd\n```\n```toml\ne = 1\n```\n\
        <!-- test: runs on until \"up\" -->\n```sh\nf\n```\n";

    #[test]
    fn commands_are_found_with_what_is_said_of_them() {
        let found = blocks(GUIDE).unwrap();
        let is: Vec<_> = found
            .iter()
            .map(|block| (block.line, &block.how, block.text.as_str()))
            .collect();
        let up = How::Until("up".to_owned());
        assert_eq!(
            is,
            [
                (4, &How::Well, "a\nb\n"),
                (10, &How::Fails, "c\n"),
                (22, &up, "f\n")
            ]
        );
    }

    #[test]
    fn a_comment_that_means_nothing_is_a_mistake() {
        for (from, to) in [
            ("test: fails", "test: may fail"),
            ("left out, it needs a card", "left out, "),
            ("until \"up\"", "until up"),
            ("```sh\nf\n```\n", ""),
            ("```sh\nf\n```\n", "text\n"),
            ("```sh\nf\n```\n", "```toml\nf\n```\n"),
            ("f\n```\n", "f\n"),
        ] {
            let guide = GUIDE.replace(from, to);
            assert_ne!(guide, GUIDE, "{from}");
            blocks(&guide).unwrap_err();
        }
    }

    fn play(text: &str) -> Result<()> {
        let guide = Guide::new("README.md", &[])?;
        let path = guide.folder().join("guide.md");
        files::write(&path, text)?;
        Guide { path, ..guide }.run(Duration::from_secs(60))
    }

    #[test]
    fn commands_are_run_and_judged() {
        let text = "```sh\nmkdir a\ncd a\n```\n<!-- test: fails -->\n```sh\ntrue\nls nothing\n```\n\
            <!-- test: runs on until \"so far\" -->\n```sh\necho so far\nsleep 50\n```\n```sh\npwd | grep '/a$'\n```\n";
        play(text).unwrap();
        let cases = [
            ("ls nothing", "true", "must fail"),
            ("sleep 50\n", "exit 3\n", ""),
            ("echo so far", "echo no further; exit 4", "has ended"),
            ("grep '/a$'", "grep '/b$'", "exit status: 1"),
        ];
        for (from, to, words) in cases {
            let outcome = play(&text.replace(from, to)).map_err(|error| error.to_string());
            match outcome {
                Ok(()) => assert_eq!(words, "", "{to}"),
                Err(error) => assert!(!words.is_empty() && error.contains(words), "{error}"),
            }
        }
    }
}
