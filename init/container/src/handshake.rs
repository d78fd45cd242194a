//! The one message from parent to child: the mounts that only the parent can make.
//!
//! The child waits for it; that it came also says that the id maps are written. Nothing here
//! allocates on the child's side.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kedge_sys::rustix::io::IoSliceMut;
use kedge_sys::rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg,
};
use kedge_sys::sock::{self, MAX_DESCRIPTORS};
use kedge_sys::{Errno, rustix};

/// Mounts beside the volumes: root, devices, sysfs or hosts (never both), sockets, resolv.conf.
const OTHERS: usize = 5;

/// The most volumes of a container: their mounts travel in one message.
pub(crate) const MAX_VOLUMES: usize = MAX_DESCRIPTORS - OTHERS;
// What no container can be started with is refused before it is signed.
const _: () = assert!(MAX_VOLUMES == kedge_revision::Container::MAX_VOLUMES);
const _: () = assert!(kedge_sys::privilege::MAX_GROUPS == kedge_revision::Container::MAX_GROUPS);

/// Bits of the message's one byte: which of the mounts that not every container has are in it.
const SYSFS: u8 = 1;
const SOCKETS: u8 = 2;
const RESOLV_CONF: u8 = 4;
const HOSTS: u8 = 8;

/// The mounts of a container, not attached to anything. The child takes them in this order.
#[derive(Debug)]
pub(crate) struct Mounts {
    pub(crate) root: OwnedFd,
    pub(crate) devices: OwnedFd,
    /// The device's own, for a container with the device's network: it cannot mount one itself.
    pub(crate) sysfs: Option<OwnedFd>,
    pub(crate) sockets: Option<OwnedFd>,
    pub(crate) resolv_conf: Option<OwnedFd>,
    pub(crate) hosts: Option<OwnedFd>,
    pub(crate) volumes: Vec<OwnedFd>,
}

impl Mounts {
    /// Sends them.
    pub(crate) fn send(&self, socket: &OwnedFd) -> Result<(), Errno> {
        let mut list: [BorrowedFd<'_>; MAX_DESCRIPTORS] = [self.root.as_fd(); MAX_DESCRIPTORS];
        let optional = [
            (&self.sysfs, SYSFS),
            (&self.sockets, SOCKETS),
            (&self.resolv_conf, RESOLV_CONF),
            (&self.hosts, HOSTS),
        ];
        let present = optional.iter().filter(|(mount, _)| mount.is_some());
        let bits = present.fold(0, |bits, (_, bit)| bits | bit);
        let all = [&self.root, &self.devices]
            .into_iter()
            .chain(optional.into_iter().filter_map(|(mount, _)| mount.as_ref()))
            .chain(&self.volumes);
        let mut count = 0_usize;
        for (place, mount) in list.iter_mut().zip(all) {
            *place = mount.as_fd();
            count = count.saturating_add(1);
        }
        let sent = sock::send(socket, &[bits], list.get(..count).unwrap_or_default());
        sent.map(drop).map_err(|error| error.errno)
    }
}

/// The mounts as they arrive in the child.
#[derive(Debug)]
pub(crate) struct Arrived {
    mounts: [Option<OwnedFd>; MAX_DESCRIPTORS],
    next: usize,
    bits: u8,
}

impl Arrived {
    /// Waits for the message.
    pub(crate) fn receive(socket: &OwnedFd) -> Result<Self, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut payload = [0_u8; 1];
        let mut parts = [IoSliceMut::new(&mut payload)];
        let message = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        // The parent gave up, and is about to kill us.
        if message.bytes == 0 {
            return Err(Errno::CANCELED);
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Errno::MFILE);
        }
        let mut mounts = [const { None }; MAX_DESCRIPTORS];
        let mut places = mounts.iter_mut();
        for ancillary in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
                for (place, mount) in places.by_ref().zip(rights) {
                    *place = Some(mount);
                }
            }
        }
        let [bits] = payload;
        Ok(Self {
            mounts,
            next: 0,
            bits,
        })
    }

    /// The device's sysfs, if the container has the device's network.
    pub(crate) fn take_sysfs(&mut self) -> Result<Option<OwnedFd>, Errno> {
        self.take_if(SYSFS)
    }

    /// The directory of sockets, if the container has any.
    pub(crate) fn take_sockets(&mut self) -> Result<Option<OwnedFd>, Errno> {
        self.take_if(SOCKETS)
    }

    /// The file for `/etc/resolv.conf`, if there is one.
    pub(crate) fn take_resolv_conf(&mut self) -> Result<Option<OwnedFd>, Errno> {
        self.take_if(RESOLV_CONF)
    }

    /// The file for `/etc/hosts`, of a container in a pool.
    pub(crate) fn take_hosts(&mut self) -> Result<Option<OwnedFd>, Errno> {
        self.take_if(HOSTS)
    }

    fn take_if(&mut self, bit: u8) -> Result<Option<OwnedFd>, Errno> {
        if self.bits & bit == 0 {
            return Ok(None);
        }
        self.take().map(Some)
    }

    /// The next mount.
    pub(crate) fn take(&mut self) -> Result<OwnedFd, Errno> {
        let mount = self.mounts.get_mut(self.next).and_then(Option::take);
        self.next = self.next.saturating_add(1);
        mount.ok_or(Errno::BADMSG)
    }
}
