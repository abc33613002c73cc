# The commands of this repository. .ci/run, which runs all checks, uses the targets of this file.
#
#	make test                               in every module
#	make test MODULES=containerd            in one
#	make test MODULES=". containerd/storage"
#
# Each module is built as its users get it, with the versions in its own go.mod: see "Several modules" in
# .github/CONTRIBUTING.md.

export GOWORK := off

MODULES ?= $(shell find . -name go.mod -not -path '*/testdata/*' -exec dirname {} \; | sort)

staticcheck := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# each runs a command in each of the modules, and stops at the first that fails.
each = $(if $(strip $(MODULES)),,$(error MODULES names no module)) \
	@for module in $(MODULES); do \
		echo "== $$module"; \
		(cd "$$module" && $(1)) || exit 1; \
	done

.PHONY: help build test short race newest fuzz bench lint format vet staticcheck tidy verify \
	cross-darwin cross-freebsd crash check release

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

build: ## build every package
	$(call each,go build -o /dev/null ./...) # a module with one program would get that

test: ## run all tests; as root also those that mount, trace and cut power
	$(call each,go test $(TESTFLAGS) ./...)

short: ## run the tests of the library without the long ones
	@go test -short $(TESTFLAGS) ./...

# The tests that are about other processes and machines are left out: they take long, and
# what happens inside of one process is in the others. containerd's own program is left out, too.
race: ## run the tests under the race detector; needs a C compiler
	$(call each,all=$$(go list ./...) && \
		packages=$$(echo "$$all" | grep -v -e '/e2e$$' -e '/e2e/' -e '/crash/kill$$' -e '/crash/fault$$' -e '/crash/powercut$$' || true) && \
		{ [ -z "$$packages" ] || CGO_ENABLED=1 go test -race -timeout 20m $(TESTFLAGS) $$packages; })

newest: ## run the tests of the snapshotters with the containerd that the commands are made with
	@cd containerd && $(CURDIR)/.ci/beside newest ./overlay ./native ./plugin

fuzz: MODULES = . containerd/internal/peers
fuzz: ## give each fuzz test some new inputs
	$(call each,$(CURDIR)/.ci/fuzz $(INPUTS))

BENCHTIME ?= 1s
bench: ## measure every operation of the library; containerd/bench compares it with bbolt
	@go test -run '^$$' -bench . -benchtime $(BENCHTIME) ./...

lint: format vet staticcheck tidy cross-darwin cross-freebsd ## look for mistakes; changes nothing

format:
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "gofmt -w would change:"; echo "$$files"; exit 1; }

vet:
	$(call each,go vet ./...)

staticcheck:
	$(call each,go run $(staticcheck) ./...)

tidy:
	$(call each,go mod tidy -diff)

verify:
	$(call each,go mod verify)

cross-darwin cross-freebsd: cross-%:
	$(call each,if [ -z "$$(GOOS=$* go list ./... 2>/dev/null)" ]; then \
			echo "no package is for $*"; \
		else \
			GOOS=$* go build -o /dev/null ./... && GOOS=$* go vet ./...; \
		fi)

crash: MODULES = containerd/crash
crash: ## run the tests of kills, failing calls and power cuts; docs/crash-tests.md says how to run more of them
	$(call each,go test -count 1 $(TESTFLAGS) ./...)
	@cd containerd && go test -count 1 $(TESTFLAGS) -run 'Kill|Power|Full' ./internal/driver

check: ## run every check that there is, as CI does
	@.ci/run

release: ## tag a release of all modules, VERSION=v0.1.0, and publish nothing yet
	@.ci/release $(VERSION)
