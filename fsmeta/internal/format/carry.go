package format

// CarriesOver reports whether t changes nothing and carries the names in it over from one
// journal to the next, since they lag.
func (t *Txn) CarriesOver() bool {
	if len(t.Changes) == 0 {
		return false
	}
	c := t.Changes[0] // all or none
	return c.After == nil && c.Before == nil || c.After != nil && c.After.Txn != t.Number
}
