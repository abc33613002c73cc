module github.com/fsmeta/fsmeta/containerd/crash

go 1.26

require (
	github.com/anishathalye/porcupine v1.3.1
	github.com/fsmeta/fsmeta v0.0.0
	github.com/hanwen/go-fuse/v2 v2.12.1
	golang.org/x/sys v0.37.0
)

require (
	github.com/gofrs/flock v0.13.0 // indirect
	github.com/google/renameio/v2 v2.0.0 // indirect
)

replace github.com/fsmeta/fsmeta => ../..
