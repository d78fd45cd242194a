//! Tests of board files: those that ship, and what is refused of others.

use super::*;

const GOOD: &str = include_str!("../../boards/qemu-x86-64.toml");
const U_BOOT: &str = include_str!("../../boards/qemu-arm64.toml");
const PC: &str = include_str!("../../boards/pc-x86-64.toml");

#[test]
fn every_shipped_board_is_good_and_named_as_its_file() {
    for (board, (file, _)) in all().unwrap().iter().zip(SHIPPED) {
        assert_eq!(&format!("{}.toml", board.name), file);
    }
}

#[test]
fn an_unknown_board_names_those_there_are() {
    let error = find("toaster").unwrap_err().to_string();
    assert_eq!(
        error,
        "there is no board toaster; there are: beaglebone-black, orange-pi-pc-plus, orange-pi-zero, pc-x86-64, qemu-arm64, qemu-armv7, qemu-mipsel, qemu-riscv64, qemu-x86-64, raspberry-pi-3, raspberry-pi-4-tryboot, raspberry-pi-4, visionfive-2\nhelp: boards are compiled into kedge: after adding board-support/boards/toaster.toml, build kedge again"
    );
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let text = GOOD.replace("[partitions]\n", "[partitions]\nswap = 64\n");
    let line = text
        .lines()
        .position(|line| line.starts_with("swap"))
        .unwrap()
        + 1;
    let error = parse("my.toml", &text).unwrap_err().to_string();
    assert!(error.starts_with(&format!("my.toml:{line}: ")), "{error}");
    assert!(error.contains("swap"), "{error}");
}

/// The tables of the boards that ship, in whatever way a header can be written.
#[test]
fn an_unknown_key_is_refused_in_every_table_with_its_line() {
    let mut seen = std::collections::BTreeSet::new();
    for (file, text) in SHIPPED {
        for (number, header) in text.lines().enumerate() {
            if !header.starts_with('[') {
                continue;
            }
            seen.insert(header);
            let mut lines: Vec<&str> = text.lines().collect();
            let remarked = format!("{header} # as it is");
            lines[number] = &remarked;
            lines.insert(number + 1, "toaster = 1");
            let error = parse(file, &lines.join("\n")).unwrap_err();
            let is_it = matches!(&error, Error::Syntax { line, problem, .. }
                if *line == number + 2 && problem.contains("toaster"));
            assert!(is_it, "{header} of {file}: {error}");
        }
    }
    for header in ["[kernel]", "[[firmware]]", "[budgets.own]", "[bootenv]"] {
        assert!(seen.contains(header), "{header} in {seen:?}");
    }
}

/// However a table is written.
#[test]
fn a_bad_value_is_found_by_its_line_under_every_kind_of_header() {
    for (from, to, key, at) in [
        (
            "[qemu]\n",
            "[qemu] # memory = 8\nmemory = 8\n",
            "qemu.memory",
            "memory = 8",
        ),
        (
            "[qemu]\n",
            "[ \"qemu\" ]\n\"memory\" = 8\n",
            "qemu.memory",
            "\"memory\" = 8",
        ),
        (
            "\n[kernel]\n",
            "\nled = \"a b\" # a led\n[kernel]\n",
            "led",
            "led = ",
        ),
    ] {
        // A key that is there twice would be refused as that.
        let twice = if key == "led" { "" } else { "memory = 256\n" };
        let text = GOOD.replacen(twice, "", 1).replace(from, to);
        let line = text.lines().position(|line| line.starts_with(at)).unwrap() + 1;
        let error = parse("my.toml", &text).unwrap_err();
        assert!(
            matches!(&error, Error::Value { key: found, line: at, .. } if *found == key && *at == line),
            "{error}, not {line}"
        );
    }
}

#[test]
fn values_that_cannot_work_are_refused_with_line_and_key() {
    let cases = [
        ("bootenv = 1", "bootenv = 0", "partitions.bootenv"),
        ("data = 512", "data = 255", "partitions.data"),
        ("slot-b = 64", "slot-b = 32", "partitions.slot-b"),
        ("cpu = \"qemu64\"", "cpu = \"max\"", "qemu.cpu"),
        ("memory = 256", "memory = 8", "qemu.memory"),
        (
            "console = \"ttyS0\"",
            "console = \"tty S0\"",
            "boot.console",
        ),
        ("console = \"ttyS0\"", "console = \"ttyS1\"", "boot.console"),
        ("common.config", "../common.config", "kernel.fragments"),
        (
            "initramfs = 1_600_000",
            "initramfs = 100_000_000",
            "budgets.initramfs",
        ),
        (
            "arguments = \"\"\"\nconsole=ttyS0 panic=1",
            "arguments = \"\"\"\nconsole=ttyS0 panic=0",
            "boot.arguments",
        ),
        (
            "arguments = \"\"\"\nconsole=ttyS0 panic=1",
            "arguments = \"\"\"\nconsole=ttyS0 kedge.slot=b panic=1",
            "boot.arguments",
        ),
    ];
    for (from, to, key) in cases {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD, "{from}");
        let error = parse("my.toml", &text).unwrap_err();
        let key_line = to.lines().next().unwrap();
        let line = text
            .lines()
            .position(|line| line.contains(key_line))
            .unwrap()
            + 1;
        assert!(
            matches!(&error, Error::Value { key: found, line: at, .. } if *found == key && *at == line),
            "{error}"
        );
    }
}

#[test]
fn a_led_is_a_word_for_the_kernel_and_a_module() {
    let shipped = all().unwrap();
    let with_led: Vec<&Board> = shipped.iter().filter(|board| board.led.is_some()).collect();
    assert_eq!(with_led.len(), 6);
    for board in with_led {
        let word = format!(" kedge.led={}", board.led.as_deref().unwrap());
        assert!(board.arguments().ends_with(&word), "{}", board.name);
        let modules = board.modules();
        for module in ["leds-gpio", "ledtrig-timer"] {
            assert!(modules.contains(&module), "{}: {modules:?}", board.name);
        }
    }
    let mut board = find("qemu-x86-64").unwrap();
    assert_eq!(board.arguments(), format!("{} gpt", board.boot.arguments));
    assert_eq!(board.modules(), board.kernel.modules);
    board.led = Some("x".to_owned());
    board.kernel.modules.push("ledtrig-timer".to_owned());
    assert_eq!(board.modules(), board.kernel.modules, "once");
    board.kernel.modules.clear();
    board.kernel.package = None;
    assert!(board.modules().is_empty(), "our own kernel has none");
}

#[test]
fn a_led_that_is_no_name_is_refused_with_its_line() {
    let with = |line: &str| GOOD.replace("\n[kernel]\n", &format!("\n{line}\n[kernel]\n"));
    assert!(parse("my.toml", &with("led = \"orangepi:red:status\"")).is_ok());
    for name in ["", "../ACT", "a b", "a;b", "$x"] {
        let error = parse("my.toml", &with(&format!("led = \"{name}\""))).unwrap_err();
        let line = GOOD.lines().position(|line| line == "[kernel]").unwrap() + 1;
        assert!(
            matches!(&error, Error::Value { key: "led", line: at, .. } if *at == line),
            "{name:?}: {error}"
        );
    }
    let error = parse("my.toml", &with("leds = \"ACT\"")).unwrap_err();
    assert!(error.to_string().contains("leds"), "{error}");
}

#[test]
fn the_led_counts_among_the_arguments() {
    let mut board = find("orange-pi-zero").unwrap();
    board.boot.arguments.push_str(&" y".repeat(230));
    assert!(board.boot.arguments.len() <= 512);
    let refused = check::check(&board).unwrap_err();
    assert_eq!(refused.key, "boot.arguments");
}

#[test]
fn the_guides_board_is_one() {
    let guide = include_str!("../../../docs/guides/integrator.md");
    let (_, rest) = guide.split_once("```toml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let board = parse("field-gateway.toml", text).unwrap();
    assert_eq!(board.boot.backend, Backend::UBoot);
    assert_eq!(
        (board.name.as_str(), board.partitions.data),
        ("field-gateway", 1024)
    );
}

#[test]
fn arguments_over_several_lines_are_one_line_for_the_kernel() {
    let arguments = find("qemu-x86-64").unwrap().boot.arguments;
    let words: Vec<&str> = arguments.split(' ').collect();
    assert!(words.contains(&"panic=1") && words.contains(&"pstore.compress=none"));
    assert!(!words.contains(&""), "{arguments}");
    // Where a panic's text is and what the kernel must keep its hands off are one place.
    assert!(words.contains(&"memmap=8K$0x90000") && words.contains(&"ramoops.mem_size=0x2000"));
    assert!(words.contains(&"ramoops.mem_address=0x90000"));

    let arguments = find("qemu-arm64").unwrap().boot.arguments;
    let words: Vec<&str> = arguments.split(' ').collect();
    assert!(words.contains(&"panic=1") && words.contains(&"ramoops.record_size=0x2000"));
    assert!(!words.contains(&""), "{arguments}");
    assert!(words.contains(&"reserve_mem=8K:128M:oops"));
    assert!(words.contains(&"ramoops.mem_name=oops"));
}

#[test]
fn a_raspberry_pis_firmware_has_a_small_partition_and_no_emulation() {
    let shipped = |name| SHIPPED.iter().find(|(file, _)| *file == name).unwrap().1;
    let pi = shipped("raspberry-pi-4-tryboot.toml");
    let board = parse("pi.toml", pi).unwrap();
    assert_eq!(board.boot.backend, Backend::Tryboot);
    let (_, qemu) = U_BOOT.split_once("\n[qemu]\n").unwrap();
    let (qemu, _) = qemu.split_once("\n#").unwrap();
    let partition =
        "partition = { name = \"spl\", type = \"2E54B353-1271-4842-806F-E436D6AF6985\", size = 2 }";
    let cases = [
        (pi.replace("boot = 4\n", ""), "partitions.boot"),
        (pi.replace("boot = 4", "boot = 3"), "partitions.boot"),
        (format!("{pi}\n[qemu]\n{qemu}\n"), "qemu"),
        (
            pi.replace("slot = \"config.txt\"", "boot = \"config.txt\""),
            "firmware.boot",
        ),
        (
            pi.replace("slot = \"config.txt\"", partition),
            "firmware.partition",
        ),
        (
            pi.replace("\"arm64\"", "\"riscv64\"")
                .replace("aarch64-unknown-linux-musl", "riscv64gc-unknown-linux-musl"),
            "boot.backend",
        ),
    ];
    for (text, key) in cases {
        let error = parse("pi.toml", &text).unwrap_err();
        let is_it = matches!(&error, Error::Value { key: found, .. } if *found == key);
        assert!(is_it, "{error} instead of {key}");
    }
}

/// Erase blocks of no size, of a usual one, and of one that is too large for the partition.
const FLASH: [&str; 3] = [
    "[bootenv]\nerase-block = 65537\n[qemu]\n",
    "[bootenv]\nerase-block = 65536\n[qemu]\n",
    "[bootenv]\nerase-block = 1_048_576\n[qemu]\n",
];

#[test]
fn a_board_says_whether_its_record_lies_on_flash() {
    let good = parse("my.toml", GOOD).unwrap();
    assert_eq!(good.bootenv.layout(), Layout::Sectors);
    let flash = parse("my.toml", &GOOD.replace("[qemu]\n", FLASH[1])).unwrap();
    let block = EraseBlock::new(65536).unwrap();
    assert_eq!(flash.bootenv.layout(), Layout::EraseBlocks(block));
}

#[test]
fn what_a_backend_needs_is_demanded_and_what_it_cannot_use_is_refused() {
    let (u_boot, pc) = (U_BOOT, PC);
    let cases = [
        (
            GOOD,
            "bootenv = 1",
            "bootenv = 1\nboot = 16",
            "partitions.boot",
        ),
        (
            GOOD,
            "package = \"linux-image-cloud-amd64\"\n",
            "",
            "kernel.modules",
        ),
        (
            GOOD,
            "cpu = ",
            "firmware = \"/u-boot.bin\"\ncpu = ",
            "qemu.firmware",
        ),
        (u_boot, "boot = 16", "boot = 8", "partitions.boot"),
        (u_boot, "boot = 16\n", "", "partitions.boot"),
        (
            u_boot,
            "firmware = \"/usr",
            "firmware = \"usr",
            "qemu.firmware",
        ),
        (u_boot, "u-boot.bin\"", "u-boot.bin,x\"", "qemu.firmware"),
        (u_boot, "panic=1 oops", "panic=1 ${oops}", "boot.arguments"),
        (u_boot, "panic=1 oops", "panic=1 'oops'", "boot.arguments"),
        (u_boot, "\"u-boot-qemu\"", "\"-u\"", "qemu.packages"),
        (
            GOOD,
            "cpu = ",
            "firmware-option = \"kernel\"\ncpu = ",
            "qemu.firmware-option",
        ),
        (
            pc,
            "cpu = ",
            "firmware-option = \"kernel\"\ncpu = ",
            "qemu.firmware-option",
        ),
        (pc, "boot = 40", "boot = 32", "partitions.boot"),
        (pc, "boot = 40\n", "", "partitions.boot"),
        (pc, "firmware = \"/usr", "firmware = \"usr", "qemu.firmware"),
        (pc, "_VARS_4M.fd\"", "_VARS 4M.fd\"", "qemu.variables"),
        (
            pc,
            "secure-firmware = \"/usr",
            "secure-firmware = \"usr",
            "qemu.secure-firmware",
        ),
        (pc, "\"ovmf\"", "\"-o\"", "qemu.firmware-package"),
        (pc, "\"x86-64\"", "\"arm64\"", "boot.backend"),
        (GOOD, "[qemu]\n", FLASH[0], "bootenv.erase-block"),
        (u_boot, "[qemu]\n", FLASH[1], "bootenv.erase-block"),
        // Four copies and the text would be five MiB.
        (GOOD, "[qemu]\n", FLASH[2], "partitions.bootenv"),
    ];
    for (text, from, to, key) in cases {
        assert!(text.contains(from), "{from}");
        let error = parse("my.toml", &text.replace(from, to)).unwrap_err();
        assert!(
            matches!(&error, Error::Value { key: found, .. } if *found == key),
            "{to}: {error}"
        );
    }
}

/// What QEMU's machine lacks, and where the loader is then from.
#[test]
fn a_board_whose_loader_is_on_its_card_says_what_starts_it_in_qemu() {
    let shipped = |name| SHIPPED.iter().find(|(file, _)| *file == name).unwrap().1;
    let orange = shipped("orange-pi-pc-plus.toml");
    let rom = "boot-rom = 8_192\n";
    let loader = "loader = { file = \"u-boot.bin\", device-tree = \"bcm2710-rpi-3-b.dtb\" }\n";
    let qemu = "[qemu]\nprogram = \"q\"\npackages = [\"q\"]\nmachine = \"raspi3b\"\ncpu = \"cortex-a53\"\nmemory = 1024\n";
    let raspberry = format!("{}\n{qemu}{loader}", shipped("raspberry-pi-3.toml"));
    let board = parse("pi.toml", &raspberry).unwrap();
    assert!(board.qemu.unwrap().loader.is_some());
    let cases = [
        (orange.replace(rom, ""), "qemu.firmware"),
        (
            orange.replace(rom, &format!("{rom}firmware = \"/u-boot.bin\"\n")),
            "qemu.firmware",
        ),
        (
            orange.replace(rom, &format!("{rom}disk = \"virtio-blk-pci\"\n")),
            "qemu.disk",
        ),
        (orange.replace(rom, "boot-rom = 8_000\n"), "qemu.boot-rom"),
        (
            orange.replace(rom, &format!("{rom}console-port = 4\n")),
            "qemu.console-port",
        ),
        (orange.replace(rom, loader), "qemu.loader"),
        (raspberry.replace(loader, rom), "qemu.boot-rom"),
        (
            raspberry.replace(
                "file = \"u-boot.bin\", device",
                "file = \"u-boot.elf\", device",
            ),
            "qemu.loader",
        ),
        (
            U_BOOT.replace("[qemu]\n", &format!("[qemu]\n{rom}")),
            "qemu.firmware",
        ),
        (
            GOOD.replace("[qemu]\n", &format!("[qemu]\n{rom}")),
            "qemu.boot-rom",
        ),
        (
            GOOD.replace("[boot]\n", "[boot]\nscript = \"fit\"\n"),
            "boot.script",
        ),
    ];
    for (text, key) in cases {
        let error = parse("my.toml", &text).unwrap_err();
        let is_it = matches!(&error, Error::Value { key: found, .. } if *found == key);
        assert!(is_it, "{error} instead of {key}");
    }
}

/// These processors are reset by nothing else, and a panic before that is loaded stays.
#[test]
fn a_watchdog_that_resets_its_processor_is_loaded_first() {
    let mut seen = 0;
    for board in all().unwrap() {
        let driver = board.watchdog.driver.as_str();
        if ["sunxi_wdt", "bcm2835_wdt"].contains(&driver) {
            assert_eq!(board.modules().first(), Some(&driver), "{}", board.name);
            seen += 1;
        }
    }
    assert_eq!(seen, 5);
}

/// What a board with two kernels must say of the smaller, and what is nowhere but in a package.
#[test]
fn a_board_is_held_to_what_its_kernels_are() {
    let without = |text: &str, from: &str, to: &str| {
        let (before, rest) = text.split_once(from).unwrap();
        let (_, after) = rest.split_once(to).unwrap();
        format!("{before}{to}{after}")
    };
    let orange = include_str!("../../boards/orange-pi-zero.toml");
    for (text, wanted) in [
        (
            without(GOOD, "[budgets.own]\n", "[watchdog]\n"),
            "budgets.own",
        ),
        (
            without(orange, "package = \"linux-image", "fragments = "),
            "boot.device-trees",
        ),
    ] {
        let error = parse("my.toml", &text).unwrap_err();
        assert!(
            matches!(&error, Error::Value { key, .. } if *key == wanted),
            "{error}"
        );
    }
}

#[test]
fn a_missing_key_is_named() {
    let error = parse("my.toml", &GOOD.replace("machine = \"q35\"\n", ""))
        .unwrap_err()
        .to_string();
    assert!(error.contains("machine"), "{error}");
}

#[test]
fn a_huge_file_is_not_parsed() {
    let text = "#".repeat(CAP + 1);
    assert!(matches!(
        parse("my.toml", &text),
        Err(Error::TooLarge { .. })
    ));
}
