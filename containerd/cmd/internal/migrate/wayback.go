//go:build linux

package migrate

import (
	"fmt"
	"strings"
)

// WayBack returns the shell commands for the way back, with the paths of a migration that is
// complete. What is done already they leave alone, so they can be run again; and they can be
// pasted into a shell, which an error doesn't end.
func WayBack(o Options) string {
	m := &migration{Options: o}
	quoted := func(path string) string { return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'" }
	return fmt.Sprintf(strings.TrimSpace(`
(
set -e
content=%[1]s root=%[2]s old=%[3]s meta=%[4]s now=%[5]s before=%[6]s
if [ -e "$old.moved" ] && [ -e "$content" ]; then
  [ ! -e "$old" ] || mv "$old" "$old.since"    # the built-in snapshotter has begun anew
  (cd "$content" && ls -A | grep -vxFf "$old.moved" | xargs -r rm -r)    # made since
  mv "$content" "$old"
fi
if [ -e "$meta.imported" ]; then
  [ ! -e "$meta" ] || mv "$meta" "$meta.since"
  mv "$meta.imported" "$meta"
fi
[ ! -e "$before" ] || mv "$before" "$now"
[ -e "$content" ] || rm -rf "$root" "$old.moved"
)
`)+"\n", quoted(m.content()), quoted(m.Root), quoted(m.oldContent()), quoted(m.oldMeta()), quoted(m.metaFile()), quoted(m.backup()))
}
