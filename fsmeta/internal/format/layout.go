package format

import "math"

// LayoutContent is the content of the layout file.
const LayoutContent = "{\"format\":\"fsmeta\",\"version\":2}\n"

var layoutMembers = []string{"format", "version"}

// ParseLayout reads the layout file of any version: members that are not known are read over.
// ok is false for a file that does not say that there is a store.
func ParseLayout(data []byte) (version int, ok bool) {
	r := newReader(data)
	format := ""
	r.object(layoutMembers, layoutMembers, true, func(name string) {
		switch name {
		case "format":
			format = r.string()
		case "version":
			version = int(min(r.number(), math.MaxInt32))
		}
	})
	if r.end() != nil || format != "fsmeta" {
		return 0, false
	}
	return version, true
}
