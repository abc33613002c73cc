package format

import (
	"hash/crc32"
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

// appendHex appends the low digits of n in lowercase hexadecimal.
func appendHex(b []byte, n uint64, digits int) []byte {
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		b = append(b, hexLower[n>>shift&15])
	}
	return b
}

// isHex reports whether s consists of lowercase hexadecimal digits.
func isHex[T string | []byte](s T) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// parseHex is the inverse of appendHex, for at most 16 digits.
func parseHex[T string | []byte](s T) (n uint64, ok bool) {
	for i := 0; i < len(s); i++ {
		digit := s[i] - '0'
		if digit > 9 {
			digit = s[i] - 'a' + 10
		}
		n = n<<4 | uint64(digit&15)
	}
	return n, isHex(s)
}

// appendString appends s, valid UTF-8, as a JSON string. There is one form for each string,
// so that a search for it in an undecoded line finds it, and it is fit for a terminal: what
// does not print is escaped.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0 // of the part that is not yet appended
	for i := 0; i < len(s); {
		c := s[i]
		if ' ' <= c && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case c == '"' || c == '\\':
			b = append(append(b, s[start:i]...), '\\', c)
			start = i + size
		case escaped(r):
			b = append(append(b, s[start:i]...), '\\', 'u')
			b = appendHex(b, uint64(r), 4)
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
	switch {
	case r < ' ', 0x7f <= r && r <= 0x9f,
		0x200b <= r && r <= 0x200f, 0x2028 <= r && r <= 0x202e, 0x2060 <= r && r <= 0x206f, r == 0xfeff:
		return true
	}
	return false
}

// appendTime appends a time as a JSON string: RFC 3339 in UTC, up to nanoseconds, without
// zeros at the end of the fraction.
func appendTime(b []byte, t time.Time) []byte {
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, time.RFC3339Nano)
	return append(b, '"')
}

// timeForm is for error messages.
const timeForm = "a time such as 2026-03-01T12:00:00.5Z"

// parseTime reads a date-time of RFC 3339, YYYY-MM-DDTHH:MM:SS, a dot and 1 to 9 digits or
// nothing, Z or ±HH:MM. T and Z stand in either case. There is no second 60, and the year
// must be one of 0 to 9999 in UTC too. (time.Parse takes a single digit for an hour, and a comma
// for a dot.)
func parseTime(s string) (t time.Time, ok bool) {
	if len(s) < len("YYYY-MM-DDTHH:MM:SSZ") ||
		s[4] != '-' || s[7] != '-' || s[10] != 'T' && s[10] != 't' || s[13] != ':' || s[16] != ':' {
		return time.Time{}, false
	}
	month, day := digits(s[5:7]), digits(s[8:10])
	hour, minute, second := digits(s[11:13]), digits(s[14:16]), digits(s[17:19])
	year := 100*digits(s[:2]) + digits(s[2:4])
	nanos, zone := fraction(s[19:])
	offset, zoneOK := parseZone(zone)
	if digits(s[:2]) < 0 || digits(s[2:4]) < 0 || nanos < 0 || !zoneOK ||
		month < 1 || month > 12 || uint(hour) > 23 || uint(minute) > 59 || uint(second) > 59 {
		return time.Time{}, false
	}
	t = time.Date(year, time.Month(month), day, hour, minute, second, nanos, time.UTC)
	if t.Day() != day {
		return time.Time{}, false // there is no such day: Date has gone on to another
	}
	t = t.Add(-offset)
	return t, checkYear(t)
}

// digits returns the number that two digits say, -1 for anything else.
func digits(s string) int {
	tens, ones := s[0]-'0', s[1]-'0'
	if tens > 9 || ones > 9 {
		return -1
	}
	return int(tens)*10 + int(ones)
}

// fraction reads a fraction of a second, if there is one, and returns nanoseconds and the rest.
func fraction(s string) (nanos int, rest string) {
	if s[0] != '.' {
		return 0, s
	}
	n := 1
	for ; n < len(s) && '0' <= s[n] && s[n] <= '9'; n++ {
		if n > 9 {
			return -1, ""
		}
		nanos = nanos*10 + int(s[n]-'0')
	}
	if n == 1 {
		return -1, ""
	}
	for i := n; i <= 9; i++ {
		nanos *= 10
	}
	return nanos, s[n:]
}

// parseZone reads what stands behind the seconds of a time.
func parseZone(s string) (offset time.Duration, ok bool) {
	if s == "Z" || s == "z" {
		return 0, true
	}
	if len(s) != len("+HH:MM") || s[0] != '+' && s[0] != '-' || s[3] != ':' {
		return 0, false
	}
	hours, minutes := digits(s[1:3]), digits(s[4:6])
	offset = time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute
	if s[0] == '-' {
		offset = -offset
	}
	return offset, uint(hours) <= 23 && uint(minutes) <= 59
}

// checkYear reports whether a time can be written: its year has four digits.
func checkYear(t time.Time) bool {
	year := t.UTC().Year()
	return 0 <= year && year <= 9999
}
