module github.com/fsmeta/fsmeta

go 1.26

require (
	github.com/gofrs/flock v0.13.0
	github.com/google/renameio/v2 v2.0.0
	golang.org/x/sys v0.37.0
)
