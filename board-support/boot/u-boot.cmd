# Kedge's boot script for an unmodified U-Boot: which slot starts, and what a trial costs.
#
# Above this text the image's maker writes lines from the board's file:
#   setenv kedge_arguments "..."   kernel arguments before the revision's own
#   setenv kedge_start ...         what starts a kernel: booti, bootz
#   setenv kedge_tree ...          the slot's file with the device tree, if the board has one; of several the one that U-Boot's
#                                  ${fdtfile} names
#   setenv kernel_addr_r ...       and the other two addresses, where U-Boot's own leave too little room, or where it lacks
#                                  `setexpr`: kedge_text is then four bytes behind the address of the initramfs
#   setenv kedge_one ...           the sectors of the record's two copies, and kedge_two
# U-Boot finds the script as /boot.scr of the partition that is marked bootable and gives it the disk in ${devtype} and
# ${devnum}, and addresses in ${kernel_addr_r}, ${ramdisk_addr_r} and ${fdt_addr_r}. The disk's sectors have 512 bytes (0x200).
#
# The loader record is a U-Boot environment of 4 KiB (0x1000 bytes, 8 sectors) with slot_ok, slot_try and try_left, twice in
# the raw partition `bootenv`. Only these three keys are read and written: what else U-Boot's environment holds is its own.
# Debian's U-Boot for some processors lacks `setexpr`: it is asked only where no line above has set kedge_text.
# try_left has one digit.
#
# What the kernel is told:
#   kedge.slot=a             the slot that it comes from, always
#   kedge.try=N              it is on trial, with N tries left after this one
#   kedge.failed=b           the trial of that slot has no tries left; this is the default
#   kedge.record=unwritable  the try could not be taken off, so the trial was not started; this is the default

# --- the disk. Loading from a partition names it, reading sectors does not: that goes to the one that was chosen last, or to
# the first there is, such as a soldered one beside the card.
${devtype} dev ${devnum}

# --- the record: the first copy if it is whole, else the second. Without any, slot a is the default, and nothing is
# written: the system rebuilds it from what it knows itself.
setenv kedge_record lost
for kedge_copy in ${kedge_one} ${kedge_two}; do
  if test ${kedge_record} = lost; then
    if ${devtype} read ${kernel_addr_r} ${kedge_copy} 8; then
      if env import -c ${kernel_addr_r} 1000 slot_ok slot_try try_left; then
        if test "${slot_ok}" = a || test "${slot_ok}" = b; then setenv kedge_record ${kedge_copy}; fi
      fi
    fi
  fi
done
if test ${kedge_record} = lost; then
  echo "kedge: both copies of the loader record are damaged"
  setenv slot_ok a
  setenv slot_try
  setenv try_left
fi

# --- the slot. The try is taken off, and is on disk in both copies, before the trial gets to run. The copy that was read is
# written last, so that one is whole whenever the power goes, were the other one damaged before. A disk that takes no
# writes would try for ever: then the default starts.
setenv kedge_slot ${slot_ok}
setenv kedge_word
if test -n "${slot_try}"; then
  if test "${try_left}" -gt 0; then
    # One less, of a digit; what is none leaves no further try.
    setenv kedge_left 0
    setenv kedge_less 0
    for kedge_digit in 1 2 3 4 5 6 7 8 9; do
      if test "${try_left}" = ${kedge_digit}; then setenv kedge_left ${kedge_less}; fi
      setenv kedge_less ${kedge_digit}
    done
    setenv try_left ${kedge_left}
    setenv kedge_written no
    setenv kedge_first ${kedge_two}
    if test ${kedge_record} = ${kedge_two}; then setenv kedge_first ${kedge_one}; fi
    env export -c -s 1000 ${kernel_addr_r} slot_ok slot_try try_left
    if ${devtype} write ${kernel_addr_r} ${kedge_first} 8 && ${devtype} write ${kernel_addr_r} ${kedge_record} 8; then
      setenv kedge_written yes
      for kedge_copy in ${kedge_one} ${kedge_two}; do
        mw.l ${ramdisk_addr_r} 0 400
        ${devtype} read ${ramdisk_addr_r} ${kedge_copy} 8
        if cmp.b ${kernel_addr_r} ${ramdisk_addr_r} 1000; then true; else setenv kedge_written no; fi
      done
    fi
    if test ${kedge_written} = yes; then
      setenv kedge_slot ${slot_try}
      setenv kedge_word kedge.try=${try_left}
    else
      setenv kedge_word kedge.record=unwritable
    fi
  else
    setenv kedge_word kedge.failed=${slot_try}
  fi
fi
echo "kedge: default ${slot_ok}, trial ${slot_try}, tries left ${try_left}; slot ${kedge_slot} ${kedge_word}"

# --- the start. A slot that does not load gives way, to the default first; what was said of the slot is not said of
# another one. cmdline.txt is plain text: put behind `arg=` (61 72 67 3d), and before zeros, it is one line of an environment,
# which ends at the first zero of those 0x2000 bytes. A slot without the
# board's device tree gets the one that U-Boot has itself; one whose tree is there and cannot be read does not load.
if test ${slot_ok} = a; then setenv kedge_other b; else setenv kedge_other a; fi
setenv kedge_last
for kedge_next in ${kedge_slot} ${slot_ok} ${kedge_other}; do
  if test "${kedge_next}" != "${kedge_last}"; then
    setenv kedge_last ${kedge_next}
    setenv kedge_loaded no
    if part number ${devtype} ${devnum} slot-${kedge_next} kedge_part; then
      setenv kedge_from "${devtype} ${devnum}:${kedge_part}"
      mw.l ${ramdisk_addr_r} 0 800
      mw.l ${ramdisk_addr_r} 3d677261
      if test -z "${kedge_text}"; then setexpr kedge_text ${ramdisk_addr_r} + 4; fi
      if load ${kedge_from} ${kedge_text} cmdline.txt; then
        if env import -t ${ramdisk_addr_r} 2000 arg && load ${kedge_from} ${kernel_addr_r} kernel; then
          setenv kedge_loaded yes
          setenv kedge_fdt ${fdtcontroladdr}
          if test -n "${kedge_tree}"; then
            if test -e ${kedge_from} ${kedge_tree}; then
              setenv kedge_fdt ${fdt_addr_r}
              if load ${kedge_from} ${fdt_addr_r} ${kedge_tree}; then true; else setenv kedge_loaded no; fi
            fi
          fi
          if load ${kedge_from} ${ramdisk_addr_r} initramfs; then true; else setenv kedge_loaded no; fi
        fi
      fi
    fi
    if test ${kedge_loaded} = yes; then
      setenv bootargs "${kedge_arguments} kedge.slot=${kedge_next} ${kedge_word} ${arg}"
      echo "kedge: starting slot ${kedge_next}"
      ${kedge_start} ${kernel_addr_r} ${ramdisk_addr_r}:${filesize} ${kedge_fdt}
    fi
    echo "kedge: slot ${kedge_next} cannot be started"
    setenv kedge_word
  fi
done

# Not back to U-Boot's other ways: whatever else it finds to boot is not this system.
echo "kedge: no slot can be started; once more in 5 s"
sleep 5
reset
