package format

import "math"

// LayoutContent is the content of the layout file.
const LayoutContent = "{\"format\":\"fsmeta\",\"version\":2}\n"

// layoutFormat is the member "format" of a layout file.
const layoutFormat = "fsmeta"

// versionMembers are those that every version of the format has in its layout file and its header.
var versionMembers = []string{"format", "version"}

// ParseLayout reads the layout file of any version: members that are not known are read over.
// ok is false for a file that does not say that there is a store.
func ParseLayout(data []byte) (version int, ok bool) { return parseVersion(data, layoutFormat) }

// HeaderVersion reads the version in the header of a journal of any version. ok is false where
// there is no such header, or one with a checksum that does not match.
func HeaderVersion(raw []byte) (version int, ok bool) {
	if body, crc, sealed := hexTail(raw, crcTailStart, crcTailEnd); sealed && checksum(body) != crc {
		return 0, false
	}
	return parseVersion(raw, journalFormat)
}

func parseVersion(data []byte, want string) (version int, ok bool) {
	r := newReader(data)
	format := ""
	r.object(versionMembers, versionMembers, true, func(name string) {
		switch name {
		case "format":
			format = r.string()
		case "version":
			version = int(min(r.number(), math.MaxInt32))
		}
	})
	if r.end() != nil || format != want {
		return 0, false
	}
	return version, true
}
