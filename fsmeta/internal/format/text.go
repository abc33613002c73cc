package format

import (
	"hash/crc32"
	"strconv"
	"time"
	"unicode/utf8"
)

// The digits of a checksum and of the digest of names.
const (
	crcDigits   = 8
	namesDigits = 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }

// appendHex appends literal text and the low digits of n in lowercase hexadecimal.
func appendHex(b []byte, before string, n uint64, digits int) []byte {
	b = append(b, before...)
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[n>>shift&15])
	}
	return b
}

// parseHex is the inverse of appendHex. Of more than 16 digits it returns the last 16.
func parseHex[T string | []byte](s T, digits int) (n uint64, ok bool) {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case '0' <= c && c <= '9':
			n = n<<4 | uint64(c-'0')
		case 'a' <= c && c <= 'f':
			n = n<<4 | uint64(c-'a'+10)
		default:
			return 0, false
		}
	}
	return n, len(s) == digits
}

// parseTime reads a date-time of RFC 3339, YYYY-MM-DDTHH:MM:SS, a dot and 1 to 9 digits or
// nothing, Z or ±HH:MM. T and Z stand in either case. There is no second 60, and the year
// must be one of 0 to 9999 in UTC too. (time.Parse takes a single digit for an hour, and a comma
// for a dot.)
func parseTime(s string) (t time.Time, ok bool) {
	if len(s) < len("YYYY-MM-DDTHH:MM:SSZ") || s[10] != 'T' && s[10] != 't' {
		return time.Time{}, false
	}
	date, dateOK := fields(s[:10], "0000-00-00")
	clock, clockOK := fields(s[11:19], "00:00:00")
	nanos, zone := fraction(s[19:])
	offset, zoneOK := parseZone(zone)
	month := date[1]
	if !dateOK || !clockOK || !zoneOK || month < 1 || month > 12 || clock[0] > 23 || clock[1] > 59 || clock[2] > 59 {
		return time.Time{}, false
	}
	t = time.Date(date[0], time.Month(month), date[2], clock[0], clock[1], clock[2], nanos, time.UTC)
	if t.Day() != date[2] {
		return time.Time{}, false // there is no such day: Date has gone on to another
	}
	t = t.Add(-offset)
	return t, checkYear(t)
}

// fields returns the numbers in s, which has a digit for each 0 of form, and else the same bytes.
func fields(s, form string) (n [3]int, ok bool) {
	if len(s) != len(form) {
		return n, false
	}
	field := 0
	for i := range len(s) {
		digit := s[i] - '0'
		switch {
		case form[i] == '0' && digit <= 9:
			n[field] = n[field]*10 + int(digit)
		case form[i] != '0' && form[i] == s[i]:
			field++
		default:
			return n, false
		}
	}
	return n, true
}

// fraction reads a fraction of a second, if there is one, and returns nanoseconds and the
// rest, which is "" where the fraction has no digits or too many.
func fraction(s string) (nanos int, rest string) {
	if s[0] != '.' {
		return 0, s
	}
	rest = s[1:]
	unit := 1_000_000_000
	for ; rest != "" && '0' <= rest[0] && rest[0] <= '9'; rest = rest[1:] {
		if unit /= 10; unit == 0 {
			return 0, ""
		}
		nanos += unit * int(rest[0]-'0')
	}
	if len(rest) == len(s)-1 {
		return 0, ""
	}
	return nanos, rest
}

// parseZone reads what stands behind the seconds of a time.
func parseZone(s string) (offset time.Duration, ok bool) {
	if s == "Z" || s == "z" {
		return 0, true
	}
	if s == "" || s[0] != '+' && s[0] != '-' {
		return 0, false
	}
	n, ok := fields(s[1:], "00:00")
	offset = time.Duration(n[0])*time.Hour + time.Duration(n[1])*time.Minute
	if s[0] == '-' {
		offset = -offset
	}
	return offset, ok && n[0] <= 23 && n[1] <= 59
}

// checkYear reports whether a time can be written: its year has four digits.
func checkYear(t time.Time) bool {
	year := t.UTC().Year()
	return 0 <= year && year <= 9999
}

// appendText, appendNumber, appendInteger and appendTime append literal text, which
// is the name of a member and what stands around it, and its value.
func appendText(b []byte, before, s string) []byte {
	return appendString(append(b, before...), s)
}

func appendNumber(b []byte, before string, n uint64) []byte {
	return strconv.AppendUint(append(b, before...), n, 10)
}

func appendInteger(b []byte, before string, n int64) []byte {
	return strconv.AppendInt(append(b, before...), n, 10)
}

// The time is a string: RFC 3339 in UTC, up to nanoseconds, without zeros at the end of the
// fraction.
func appendTime(b []byte, before string, t time.Time) []byte {
	b = append(append(b, before...), '"')
	return append(t.UTC().AppendFormat(b, time.RFC3339Nano), '"')
}

// appendString appends s, valid UTF-8, as a JSON string. There is one form for each string,
// so that a search for it in an undecoded line finds it, and it is fit for a terminal: what
// does not print is escaped.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0 // of the part that is not yet appended
	for i := 0; i < len(s); {
		c := s[i]
		if ' ' <= c && c <= '~' && c != '"' && c != '\\' {
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case c == '"' || c == '\\':
			b = append(append(b, s[start:i]...), '\\', c)
			start = i + size
		case escaped(r):
			b = appendHex(append(b, s[start:i]...), `\u`, uint64(r), 4)
			start = i + size
		}
		i += size
	}
	return append(append(b, s[start:]...), '"')
}

// maxEscape is how many times longer than a string its JSON form can be, without the quotes.
const maxEscape = 6

// escaped reports whether a character is written as \uxxxx: controls, and the characters that
// turn or hide the text around them.
func escaped(r rune) bool {
	return r < ' ' || r > '~' && (r <= 0x9f || 0x200b <= r && r <= 0x200f || 0x2028 <= r && r <= 0x202e ||
		0x2060 <= r && r <= 0x206f || r == 0xfeff)
}
