//go:build linux

package migrate

import (
	"fmt"
	"strings"
)

// WayBack returns the shell commands that the package comment gives for the way back, with
// the paths of a migration that is complete.
func WayBack(o Options) string {
	m := &migration{Options: o}
	return fmt.Sprintf(strings.TrimSpace(`
cd %[1]s && ls -A | grep -vxFf %[3]s.moved | xargs -r rm -r; cd /
[ ! -d %[3]s ] || rmdir %[3]s    # it must be empty
rm -f %[4]s    # if there is one: containerd has begun anew
mv %[1]s %[3]s
rm %[3]s.moved
mv %[5]s %[4]s
mv %[6]s %[7]s
rm -r %[2]s
`)+"\n", m.content(), m.Root, m.oldContent(), m.oldMeta(), m.retired(), m.backup(), m.metaFile())
}
