//go:build linux && race

package e2e

// raceDetector: the daemon is built with it, too, when the tests are.
const raceDetector = true
