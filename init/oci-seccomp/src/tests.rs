//! Filters are run by an interpreter, compared with the rules that they were compiled from, and loaded.

mod assembler;
mod kernel;
mod machine;
mod meaning;
mod profiles;
mod table;

use oci_spec::runtime::LinuxSeccomp;

use crate::architecture::{NATIVE, Target};
use crate::{Compiled, Error, compile};

/// The configuration that `text` is.
fn parsed(text: &str) -> LinuxSeccomp {
    serde_json::from_str(text).expect("a configuration")
}

/// What the configuration `text` becomes.
fn compiled(text: &str) -> Result<Compiled, Error> {
    compile(&parsed(text))
}

/// The three kinds of architectures: with wide arguments, with narrow ones, with the upper half first.
fn targets() -> [Target; 3] {
    let wide = Target {
        wide: true,
        big_endian: false,
        ..NATIVE
    };
    let narrow = Target {
        wide: false,
        x32: false,
        ..wide
    };
    let big = Target {
        big_endian: true,
        x32: false,
        ..wide
    };
    [wide, narrow, big]
}
