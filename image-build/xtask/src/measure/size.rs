//! Sizes, of the product with one tiny container: what the system itself needs.
//!
//! `size.image` is what the disk image occupies: kernel, initramfs and an empty store; its holes are free.
//! `size.crate.…` and `size.symbol.…` say what the device binary is spent on, by the map that its linker has left.

use super::{Figure, subject};
use crate::project;
use anyhow::{Context, Result};
use kedge_board_support::boards::Board;
use kedge_image_build::toolchain::map::Piece;
use kedge_image_build::toolchain::{self, map};
use std::path::Path;

pub(super) fn measure(platform: &Path) -> Result<Vec<Figure>> {
    let folder = subject::fast_folder()?;
    let built = subject::build(folder.path(), platform, 1)?;
    let mut figures = vec![
        Figure::bytes(
            "size.device-binary",
            built.size("device-binary")?,
            Some(2_000_000),
        ),
        Figure::bytes(
            "size.device-binary-without-tls",
            without_tls(platform)?,
            Some(700_000),
        ),
        Figure::bytes("size.initramfs", built.size("initramfs")?, Some(1_000_000)),
        Figure::bytes("size.image", built.image_bytes, None),
    ];
    figures.extend(of_binary(built.board())?);
    Ok(figures)
}

/// What the device binary is spent on.
pub(super) fn of_binary(board: &Board) -> Result<Vec<Figure>> {
    Ok(spent(&toolchain::map_of_device(board, &["agent"])?))
}

/// Symbols that are listed.
const SYMBOLS: usize = 20;
/// Crates with fewer bytes are told in a sum.
const CRATE: u64 = 2_000;

/// What the bytes of a program are spent on.
fn spent(pieces: &[Piece]) -> Vec<Figure> {
    let (large, small): (Vec<_>, Vec<_>) = map::by_owner(pieces)
        .into_iter()
        .partition(|(_, size)| *size >= CRATE);
    let mut figures: Vec<Figure> = large
        .iter()
        .map(|(name, size)| Figure::bytes(&format!("size.crate.{name}"), *size, None))
        .collect();
    let rest = small.iter().map(|(_, size)| size).sum();
    figures.push(Figure::bytes("size.crate.others", rest, None));
    let mut largest: Vec<&Piece> = pieces.iter().collect();
    largest.sort_by_key(|piece| std::cmp::Reverse(piece.size));
    figures.extend(
        largest
            .into_iter()
            .take(SYMBOLS)
            .map(|piece| Figure::bytes(&format!("size.symbol.{}", piece.symbol), piece.size, None)),
    );
    figures
}

/// What is left of the device binary when nobody talks to a hub.
fn without_tls(platform: &Path) -> Result<u64> {
    let binary = toolchain::build_device(&project::board(platform)?, &[])?;
    let size =
        std::fs::metadata(&binary).with_context(|| format!("cannot see {}", binary.display()));
    Ok(size?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_crates_are_one_figure() {
        let piece = |owner: &str, symbol: &str, size| Piece {
            owner: owner.to_owned(),
            symbol: symbol.to_owned(),
            size,
        };
        let figures = spent(&[
            piece("a", "a::x", 100),
            piece("b", "b::y", 5_000),
            piece("c", "c::z", 200),
        ]);
        let names: Vec<&str> = figures.iter().map(|figure| figure.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "size.crate.b",
                "size.crate.others",
                "size.symbol.b::y",
                "size.symbol.c::z",
                "size.symbol.a::x"
            ]
        );
        assert_eq!(figures[1], Figure::bytes("size.crate.others", 300, None));
    }
}
