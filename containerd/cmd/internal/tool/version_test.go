package tool

import (
	"runtime/debug"
	"testing"
)

// The version is found in this order: what the linker was told, the module's, the revision.
func TestVersion(t *testing.T) {
	revision := []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}}
	for _, c := range []struct {
		told, module string
		settings     []debug.BuildSetting
		want         string
	}{
		{"v9", "v1", revision, "v9"},
		{"", "v1", revision, "v1"},
		{"", "(devel)", revision, "(devel) abc"},
		{"", "(devel)", nil, "(devel)"},
		{"", "", nil, "(devel)"},
	} {
		info := &debug.BuildInfo{Main: debug.Module{Version: c.module}, Settings: c.settings}
		if got := versionOf(c.told, info); got != c.want {
			t.Errorf("of %+v the version is %q", c, got)
		}
	}
	if got := versionOf("", nil); got != "(devel)" {
		t.Errorf("of nothing the version is %q", got)
	}
}
