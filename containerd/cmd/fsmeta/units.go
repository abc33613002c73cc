package main

import (
	"fmt"
	"time"

	"github.com/docker/go-units"
)

// future is the age of what is of a later time: the clock was wrong, or is.
const future = "future"

// skew is how much later than now a time may be, on a machine of which the clock is set now and then.
const skew = time.Minute

// age says in a few characters how long ago a time is: 5m, 3h, 12d.
func age(now, then time.Time) string {
	if then.IsZero() {
		return ""
	}
	switch d := max(0, now.Sub(then)); {
	case then.Sub(now) > skew:
		return future
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	default:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
}

// bytesOf says a size in a few characters: 4.5KiB.
func bytesOf(size int64) string { return units.BytesSize(float64(size)) }

// at says a time in full, with its age.
func at(now, then time.Time) string {
	ago := age(now, then) + " ago"
	if then.Sub(now) > skew {
		ago = "in the future"
	}
	return fmt.Sprintf("%s (%s)", then.UTC().Format("2006-01-02 15:04:05Z"), ago)
}
