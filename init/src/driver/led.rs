//! The LED that shows the device's state: the kernel's blinking, set up once a change.
//!
//! PID 1 blinks nothing itself and wakes for nothing: the kernel's trigger `timer` blinks, with `delay_on` and `delay_off`, and a
//! `delay_off` of 0 is a steady light, which takes no timer either. Where the kernel has no such trigger the LED is on while all
//! is well, and else dark.
//!
//! The one place beside the boot record that PID 1 writes to itself. These files are no disk: a write of them changes the
//! kernel's own variables, and whatever the LED's driver has to wait for (a bus, a firmware) is done by a worker of the
//! kernel's (`led_set_brightness_nosleep`, Linux `drivers/leds/led-core.c`). What waits is to take another trigger's place,
//! once a boot: for a grace period of RCU, and for that worker if it is at it (`led_trigger_set`, `led-triggers.c`); on a
//! Raspberry Pi 3 that is one message to its firmware, which is given up after a second.
//! Whatever fails is told once, and is no reason for anything.

use crate::condition::Light;
use crate::error::Error;
use kedge_board_support::led::LedName;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where the kernel has its LEDs (`Documentation/ABI/testing/sysfs-class-led`).
pub(super) const LEDS: &str = "/sys/class/leds";
/// As bright as it gets: the kernel takes its own highest value for a higher one.
const BRIGHT: &str = "255";

/// The LED.
#[derive(Debug)]
pub(crate) struct Led {
    folder: PathBuf,
    means: Means,
    /// That it is not there was told.
    missed: bool,
}

/// How it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    /// Nobody has tried yet.
    Unknown,
    /// The kernel blinks.
    Timer,
    /// It is on or off.
    Plain,
    /// It cannot be set, which was told.
    None,
}

/// `delay_on` and `delay_off`, milliseconds (Linux `drivers/leds/trigger/ledtrig-timer.c`).
const fn delays(light: Light) -> (&'static str, &'static str) {
    match light {
        Light::Steady => ("1000", "0"),
        Light::Slow => ("1000", "1000"),
        Light::Fast => ("100", "100"),
        Light::Flash => ("100", "1900"),
    }
}

impl Led {
    /// The LED of this name, among those in `leds`.
    pub(super) fn new(leds: &Path, name: &LedName) -> Self {
        Self {
            folder: leds.join(name.as_str()),
            means: Means::Unknown,
            missed: false,
        }
    }

    /// Lets it show that.
    ///
    /// # Errors
    /// [`Error::Io`], once: from then on nothing is tried any more. One that is not there may still come with its driver: that,
    /// too, is told once, and the next change looks again.
    pub(super) fn show(&mut self, light: Light) -> Result<(), Error> {
        if self.means == Means::Unknown {
            if let Err(source) = self.folder.symlink_metadata() {
                let told = core::mem::replace(&mut self.missed, true);
                let missing = Error::io("find", &self.folder)(source);
                return if told { Ok(()) } else { Err(missing) };
            }
            self.means = self.find_means();
        }
        let shown = match self.means {
            Means::Unknown | Means::None => Ok(()),
            Means::Timer => {
                let (on, off) = delays(light);
                self.write("delay_on", on)
                    .and_then(|()| self.write("delay_off", off))
            }
            Means::Plain => {
                let on = light == Light::Steady;
                self.write("brightness", if on { BRIGHT } else { "0" })
            }
        };
        self.judged(shown)
    }

    /// Puts it out: the device has ended, and nothing is written any more.
    pub(super) fn put_out(&mut self) {
        if self.means != Means::None {
            // This ends the blinking, too. There is nobody left to tell.
            self.write("brightness", "0").ok();
        }
    }

    fn judged(&mut self, shown: Result<(), Error>) -> Result<(), Error> {
        if shown.is_err() {
            self.means = Means::None;
        }
        shown
    }

    /// A kernel without the trigger refuses its name; one without triggers has no such file.
    fn find_means(&self) -> Means {
        if self.write("trigger", "timer").is_ok() {
            return Means::Timer;
        }
        // Whatever it showed until now (a card's reads, a heartbeat) ends.
        self.write("trigger", "none").ok();
        Means::Plain
    }

    fn write(&self, name: &str, value: &str) -> Result<(), Error> {
        let path = self.folder.join(name);
        let opened = OpenOptions::new().write(true).truncate(true).open(&path);
        opened
            .and_then(|mut file| file.write_all(value.as_bytes()))
            .map_err(Error::io("write", &path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use tempfile::TempDir;

    /// A folder with an LED that has these files, as the kernel's has them.
    fn led(files: &[&str]) -> (TempDir, Led) {
        let leds = TempDir::new().unwrap();
        let name = LedName::parse("orangepi:green:pwr").unwrap();
        let folder = leds.path().join(name.as_str());
        fs::create_dir(&folder).unwrap();
        for file in files {
            File::create(folder.join(file)).unwrap();
        }
        let led = Led::new(leds.path(), &name);
        (leds, led)
    }

    fn read(led: &Led, name: &str) -> String {
        fs::read_to_string(led.folder.join(name)).unwrap()
    }

    #[test]
    fn the_kernel_blinks() {
        let files = ["trigger", "delay_on", "delay_off", "brightness"];
        let (_leds, mut led) = led(&files);
        for (light, on, off) in [
            (Light::Slow, "1000", "1000"),
            (Light::Fast, "100", "100"),
            (Light::Flash, "100", "1900"),
            (Light::Steady, "1000", "0"),
        ] {
            led.show(light).unwrap();
            assert_eq!(
                (read(&led, "delay_on"), read(&led, "delay_off")),
                (on.into(), off.into())
            );
        }
        assert_eq!(read(&led, "trigger"), "timer");
        assert_eq!(read(&led, "brightness"), "");
        led.put_out();
        assert_eq!(read(&led, "brightness"), "0");
    }

    #[test]
    fn the_trigger_is_set_once() {
        let (_leds, mut led) = led(&["trigger", "delay_on", "delay_off"]);
        led.show(Light::Slow).unwrap();
        fs::remove_file(led.folder.join("trigger")).unwrap();
        led.show(Light::Fast).unwrap();
        assert_eq!(read(&led, "delay_on"), "100");
    }

    #[test]
    fn without_the_trigger_it_is_on_while_all_is_well() {
        for files in [["brightness", "brightness"], ["brightness", "other"]] {
            let (_leds, mut led) = led(&files);
            for (light, value) in [
                (Light::Slow, "0"),
                (Light::Steady, "255"),
                (Light::Fast, "0"),
                (Light::Steady, "255"),
                (Light::Flash, "0"),
            ] {
                led.show(light).unwrap();
                assert_eq!(read(&led, "brightness"), value);
            }
        }
    }

    #[test]
    fn one_that_is_not_there_is_told_once() {
        let leds = TempDir::new().unwrap();
        let mut led = Led::new(leds.path(), &LedName::parse("ACT").unwrap());
        let told = led.show(Light::Slow).unwrap_err().to_string();
        assert!(told.contains("ACT"), "{told}");
        led.show(Light::Steady).unwrap();
        led.put_out();
        assert!(!leds.path().join("ACT").exists());
    }

    #[test]
    fn one_that_comes_late_is_lit_by_the_next_change() {
        let (_leds, mut led) = led(&[]);
        fs::remove_dir(&led.folder).unwrap();
        led.show(Light::Slow).unwrap_err();
        fs::create_dir(&led.folder).unwrap();
        File::create(led.folder.join("brightness")).unwrap();
        led.show(Light::Steady).unwrap();
        assert_eq!(read(&led, "brightness"), "255");
    }

    #[test]
    fn one_that_goes_is_told_once() {
        let (_leds, mut led) = led(&["trigger", "delay_on", "delay_off"]);
        led.show(Light::Slow).unwrap();
        fs::remove_dir_all(&led.folder).unwrap();
        led.show(Light::Fast).unwrap_err();
        led.show(Light::Steady).unwrap();
    }
}
