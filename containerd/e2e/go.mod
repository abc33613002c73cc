module github.com/fsmeta/fsmeta/containerd/e2e

go 1.26.6

require (
	github.com/fsmeta/fsmeta v0.0.0
	github.com/google/go-cmp v0.7.0
	github.com/moby/sys/mountinfo v0.7.2
	github.com/opencontainers/go-digest v1.0.0
	github.com/opencontainers/image-spec v1.1.1
	golang.org/x/sync v0.23.0
	golang.org/x/sys v0.49.0
)

require github.com/gofrs/flock v0.13.0 // indirect

replace github.com/fsmeta/fsmeta => ../..
