package disk

import "golang.org/x/sys/unix"

// IsMount reports whether something is mounted on an entry of d, a directory of the same
// filesystem too. It is false where that can't be told: the kernel says it from Linux 5.8 on.
func (d *Dir) IsMount(entry string) bool {
	at := d.hold()
	defer d.mu.RUnlock()
	var is unix.Statx_t
	err := retry(func() error {
		return unix.Statx(at.fd, entry, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &is)
	})
	return err == nil && is.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}
