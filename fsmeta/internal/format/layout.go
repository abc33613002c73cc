package format

import "math"

const layoutFormat = "fsmeta"

// LayoutContent is the content of the layout file.
const LayoutContent = "{\"format\":\"fsmeta\",\"version\":2}\n"

var layoutMembers = []string{"format", "version"}

// ParseLayout reads the layout file of any version: members that are not known are read over.
// ok is false for a file that does not say that there is a store.
func ParseLayout(data []byte) (version int, ok bool) {
	r := newReader(data)
	format := ""
	seen := r.object(layoutMembers, true, func(name string) {
		switch name {
		case "format":
			format = r.string()
		case "version":
			version = int(min(r.number(), math.MaxInt32))
		}
	})
	r.require(layoutMembers, seen, layoutMembers...)
	if r.end() != nil || format != layoutFormat {
		return 0, false
	}
	return version, true
}
