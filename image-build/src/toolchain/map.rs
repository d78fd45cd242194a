//! What a program's bytes are spent on: the linker's map, read.
//!
//! LLD's map (`ld.lld --print-map`) has a line for each piece of an object that stands in the program, with address,
//! address, size and alignment in hexadecimal, and `object:(section)`. Every function and every table of data has a
//! section of its own, which is named by its symbol; texts that are alike are merged, and are nobody's.

use std::collections::BTreeMap;

/// Bytes of one symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// What it is called, demangled and without the hashes of Rust's crates; a section's or archive's name where there is
    /// no symbol.
    pub symbol: String,
    /// The crate that it is a function or table of; `C` for what no crate has, `merged` for texts and constants of all.
    pub owner: String,
    /// Bytes in the file.
    pub size: u64,
}

/// The pieces that a map lists; what takes no room in the file (`.bss`) and what is not a piece is passed over.
#[must_use]
pub fn pieces(map: &str) -> Vec<Piece> {
    map.lines().filter_map(piece).collect()
}

fn piece(line: &str) -> Option<Piece> {
    let mut words = line.split_ascii_whitespace();
    let (_, _, size) = (words.next()?, words.next()?, words.next()?);
    let size = u64::from_str_radix(size, 16).ok()?;
    let (object, section) = line.rsplit_once(":(")?;
    let section = section.strip_suffix(')')?;
    let kept = [
        ".text",
        ".rodata",
        ".data",
        ".eh_frame",
        ".init",
        ".fini",
        ".tdata",
    ];
    let kind = kept.into_iter().find(|kind| {
        let rest = section.strip_prefix(kind);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })?;
    if size == 0 {
        return None;
    }
    let name = section.strip_prefix(kind).unwrap_or_default();
    let name = name.trim_start_matches(".rel.ro").trim_start_matches('.');
    let (symbol, owner) = named(object, section, name);
    Some(Piece {
        symbol,
        owner,
        size,
    })
}

/// What a piece is called, and whose it is.
fn named(object: &str, section: &str, name: &str) -> (String, String) {
    if object.ends_with("<internal>") {
        return (section.to_owned(), "merged".to_owned());
    }
    // `.L__unnamed_…`, `.Lanon.…`: constants of the code that they were compiled with.
    let symbol = name
        .trim_start_matches("unlikely.")
        .trim_start_matches("hot.");
    if let Ok(found) = rustc_demangle::try_demangle(symbol) {
        let text = format!("{found:#}");
        let owner = first_crate(&text).unwrap_or("core").to_owned();
        return (text, owner);
    }
    let file = object.rsplit(['/', '(']).next().unwrap_or(object);
    let file = file.trim_end_matches(')');
    let symbol = if name.is_empty() { file } else { name };
    let owner =
        if name.contains("anon.") || name.contains("unnamed") || name.contains("switch.table") {
            "merged"
        } else if object.contains("libring") {
            "ring"
        } else {
            "C"
        };
    (format!("{file}: {symbol}"), owner.to_owned())
}

/// The crate of a path such as `<kedge_init::driver::Driver>::run` or `<&str as core::fmt::Debug>::fmt`: the first name that
/// `::` follows. None: a method of a slice or the like (`<[T]>::sort`), which is the core library's.
fn first_crate(path: &str) -> Option<&str> {
    let (before, _) = path.split_once("::")?;
    let is_no_name = |letter: char| !letter.is_ascii_alphanumeric() && letter != '_';
    before
        .rsplit(is_no_name)
        .next()
        .filter(|name| !name.is_empty())
}

/// Bytes by crate, the largest first.
#[must_use]
pub fn by_owner(pieces: &[Piece]) -> Vec<(String, u64)> {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for piece in pieces {
        let sum = sums.entry(&piece.owner).or_default();
        *sum = sum.saturating_add(piece.size);
    }
    let mut sums: Vec<_> = sums
        .into_iter()
        .map(|(owner, size)| (owner.to_owned(), size))
        .collect();
    sums.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "\
             VMA              LMA     Size Align Out     In      Symbol
         1000190          1000190     7f70    16 .rodata
         1000190          1000190        b     1         <internal>:(.rodata.str1.1)
         10001a0          10001a0       18    16         /x/libc.a(/x/o/b0/__libc_start_main.o):(.rodata..L__const.__init_libc.pfd)
         1001000          1001000      120    16         /d/init.init.1-cgu.0.rcgu.o:(.text._RNvMNtCs1234_10kedge_init6driverNtB2_6Driver3run)
         1001120          1001120       e0    16         /d/init.init.1-cgu.0.rcgu.o:(.text.unlikely._RNvNtCs1234_10kedge_init6driver4cold)
         1001120          1001120       e0     1                 _RNvNtCs1234_10kedge_init6driver4cold
         1001200          1001200       40    16         /d/libring-12.rlib(x.o):(.text)
         1002000          1002000     2000    16         /d/init.o:(.bss.big)
";

    #[test]
    fn pieces_have_an_owner_and_a_size() {
        let pieces = pieces(MAP);
        let found: Vec<_> = pieces
            .iter()
            .map(|piece| (piece.owner.as_str(), piece.symbol.as_str(), piece.size))
            .collect();
        assert_eq!(
            found,
            [
                ("merged", ".rodata.str1.1", 11),
                ("C", "__libc_start_main.o: L__const.__init_libc.pfd", 24),
                ("kedge_init", "<kedge_init::driver::Driver>::run", 288),
                ("kedge_init", "kedge_init::driver::cold", 224),
                ("ring", "x.o: x.o", 64),
            ]
        );
        assert_eq!(by_owner(&pieces)[0], ("kedge_init".to_owned(), 512));
    }

    #[test]
    fn the_first_crate_of_a_path_owns_it() {
        for (path, owner) in [
            ("kedge_init::boot::run", "kedge_init"),
            (
                "<kedge_sys::sock::Pair as core::ops::Drop>::drop",
                "kedge_sys",
            ),
            ("<&mut rustls::conn::X>::y", "rustls"),
            ("core::ptr::drop_in_place::<kedge_init::X>", "core"),
        ] {
            assert_eq!(first_crate(path), Some(owner));
        }
        assert_eq!(first_crate("<[u8]>::sort::<alloc::X>"), None);
    }
}
