// Package traced runs a scenario of package workload in a process of its own, under a
// tracer that is asked before and after each system call on the scenario's files what is to
// become of it: it goes on, it fails with some error, or the process is killed.
//
// The tracer is one of our own, for strace counts the calls of each thread by itself, and
// the threads of a Go program are not what its goroutines are. It is for Linux on amd64.
package traced
