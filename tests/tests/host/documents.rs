//! The examples that people copy from are good examples.

use anyhow::{Context, Result};
use kedge_image_build::project::container::ContainerText;
use kedge_image_build::project::manifest::Manifest;
use kedge_image_build::toolchain;
use kedge_revision::container::User;
use std::collections::BTreeMap;

fn example(name: &str) -> Result<String> {
    let path = toolchain::workspace()?
        .join("image-build/examples")
        .join(name);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

#[test]
fn host_the_example_of_a_project_is_accepted() -> Result<()> {
    let manifest: Manifest = toml::from_str(&example("kedge.toml")?)?;
    manifest.content(BTreeMap::new()).check()?;
    Ok(())
}

#[test]
fn host_the_example_of_a_container_is_accepted() -> Result<()> {
    let text: ContainerText = toml::from_str(&example("web.toml")?)?;
    let container = text.container(&|_| Ok(User::default()));
    let container = container.map_err(|wrong| anyhow::anyhow!("{wrong:?}"))?;
    container.check("containers.web")?;
    Ok(())
}
