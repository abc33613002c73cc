package main

import (
	"testing"
	"time"
)

func TestAge(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		-time.Hour: "future", -time.Second: "0s", 0: "0s", 59 * time.Second: "59s", 60 * time.Second: "1m", 59 * time.Minute: "59m", time.Hour: "1h",
		47 * time.Hour: "47h", 48 * time.Hour: "2d", 12 * 24 * time.Hour: "12d", 1000 * 24 * time.Hour: "1000d",
	} {
		if got := age(now, now.Add(-d)); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	if got, want := at(now, now.Add(time.Hour)), "2026-05-01 01:00:00Z (in the future)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := age(now, time.Time{}); got != "" {
		t.Errorf("of no time: %q", got)
	}
}

func TestBytes(t *testing.T) {
	for size, want := range map[int64]string{0: "0B", 1: "1B", 1023: "1023B", 1024: "1KiB", 1500: "1.465KiB", 4 << 20: "4MiB", 1 << 40: "1TiB"} {
		if got := bytesOf(size); got != want {
			t.Errorf("%d: %q, want %q", size, got, want)
		}
	}
}

func TestHasLabel(t *testing.T) {
	labels := map[string]string{"a": "1", "a=b": "c=d", "empty": ""}
	for wanted, want := range map[string]bool{"a": true, "a=1": true, "a=2": false, "b": false, "a=b": true, "a=b=c=d": true, "a=b=c": false, "empty": true, "empty=": true, "": false} {
		if got := hasLabel(labels, wanted); got != want {
			t.Errorf("%q: %v", wanted, got)
		}
	}
}
