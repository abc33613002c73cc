package format

import "time"

// Backup is the content of the file "backup" in a copy that a backup has made: the
// identifiers at which the copy goes on.
type Backup struct {
	Time time.Time // "time": when the backup was made
	From uint64    // "identifiersFrom": where the copy would go on
	To   uint64    // "identifiersTo": where it goes on once it is in use; From until then
}

// EncodeBackup returns the content of the file.
func EncodeBackup(b Backup) []byte {
	data := appendTime(nil, `{"time":`, b.Time)
	data = appendNumber(data, `,"identifiersFrom":`, b.From)
	data = appendNumber(data, `,"identifiersTo":`, b.To)
	return append(data, "}\n"...)
}

var backupMembers = []string{"time", "identifiersFrom", "identifiersTo"}

// DecodeBackup is the inverse of EncodeBackup. It takes no other members.
func DecodeBackup(data []byte) (b Backup, err error) {
	r := newReader(data)
	r.object(backupMembers, backupMembers, false, func(name string) {
		switch name {
		case "time":
			b.Time = r.time()
		case "identifiersFrom":
			b.From = r.positive()
		case "identifiersTo":
			b.To = r.positive()
		}
	})
	if b.To < b.From {
		r.fail("member \"identifiersTo\" is %d, below \"identifiersFrom\", %d", b.To, b.From)
	}
	if err := r.end(); err != nil {
		return Backup{}, err
	}
	return b, nil
}
