//go:build linux

package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// operation is what is measured on both stores: a row, or several where they come from
// one measurement.
type operation struct {
	rows    []rowSpec
	measure func(*bench) ([]samples, error)
}

// rowSpec is a row's name and how many times faster than bbolt we are to be at least;
// 0 where nothing is promised.
type rowSpec struct {
	name   string
	target float64
}

func one(name string, target float64, measure func(*bench) ([]samples, error)) operation {
	return operation{[]rowSpec{{name, target}}, measure}
}

// operations returns everything that is measured against bbolt, in order.
func operations(z sizes) []operation {
	walk, long, big := thousands(z.walk), thousands(z.long), thousands(z.big)
	return []operation{
		one("read transaction with one GetInfo", 1.5, reading(z.walk, getInfoAlone)),
		one("GetInfo, in an open read transaction", 3, reading(z.walk, inside(getInfo))),
		one("GetSnapshot, on "+strconv.Itoa(layers)+" parents, in an open read transaction", 5, reading(z.walk, inside(getSnapshot))),
		one("WalkInfo, over "+walk+" snapshots", 5, reading(z.walk, inside(walkAll))),
		one("WalkInfo with a filter on a label, over "+walk+" snapshots", 0, reading(z.walk, inside(walkFiltered))),
		one("create, durable", 1.5, durable(nil, create)),
		one("commit, durable", 1.5, durable(create, commit)),
		one("remove, durable", 1.5, durable(create, remove)),
		one("update a label, durable", 1.5, durable(nil, update)),
		one(fmt.Sprintf("create and remove in turn, durable, for %v s, time of both", z.churn.Seconds()), 1.3, churning),
		one("create, durable, 4 writers at once", 2.5, concurrent(4)),
		one("create, durable, 16 writers at once", 4, concurrent(16)),
		{[]rowSpec{
			{"create, inside a long transaction", 1.5},
			{"commit, inside a long transaction", 1.5},
			{"remove, inside a long transaction", 1.5},
		}, insideLong},
		one("end of a long transaction, durable, with "+long+" creates", 0, endingLong),
		one("empty write transaction", 50, empty),
		one("open and first GetInfo, new process, "+big+" snapshots", 1, coldProcess),
		{[]rowSpec{
			{"read transaction beside a busy writer, with one GetInfo, median", 1},
			{"read transaction beside a busy writer, with one GetInfo, 99th percentile", 1},
		}, besideWriter},
	}
}

// chosen says which of the rows a pattern selects.
func (o operation) chosen(pattern *regexp.Regexp) []bool {
	chosen := make([]bool, len(o.rows))
	for i, row := range o.rows {
		chosen[i] = pattern.MatchString(row.name)
	}
	return chosen
}

// thousands returns n with a comma in front of every three digits.
func thousands(n int) string {
	digits := strconv.Itoa(n)
	var groups []string
	for len(digits) > 3 {
		groups = append([]string{digits[len(digits)-3:]}, groups...)
		digits = digits[:len(digits)-3]
	}
	return strings.Join(append([]string{digits}, groups...), ",")
}
