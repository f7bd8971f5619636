# gabion: build, check and test. `make help` lists the targets.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
PKG         := ./...
FUZZTIME    ?= 20s
BENCH       ?= .
VERSION     := $(shell git describe --tags --always --dirty 2>/dev/null)

# The packages whose tests use rapid, which alone know its flags.
RAPID = go list -f '{{.ImportPath}} {{.TestImports}} {{.XTestImports}}' $(PKG) | awk '/pgregory.net.rapid/{print $$1}'

.DEFAULT_GOAL := build

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build ./bin/gabion
	go build -trimpath -ldflags "-X main.version=$(VERSION)" -o bin/gabion ./cmd/gabion

.PHONY: test
test: setup check ## what CI runs: checks, every test, the decoders fuzzed briefly
	go test -timeout 14m $(PKG)
	FUZZTIME=3000x .ci/fuzz

.PHONY: test-race
test-race: setup ## every test under the race detector
	go test -race -timeout 30m $(PKG)

.PHONY: test-long
test-long: setup check ## hours: the race detector, long random runs, every decoder fuzzed
	GABION_LONG=1 go test -race -timeout 4h -count 1 $(PKG)
	go test -timeout 4h -count 1 $$($(RAPID)) -rapid.checks=5000
	FUZZTIME=5m .ci/fuzz

.PHONY: check
check: ## gofmt, go vet, staticcheck, the shape of the tree
	@out=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); [ -z "$$out" ] || { echo "not gofmt-ed:"; echo "$$out"; exit 1; }
	go vet $(PKG)
	go run $(STATICCHECK) $(PKG)
	go test -count 1 ./tests/arch

.PHONY: bench
bench: ## Go benchmarks of every layer (BENCH=regexp chooses)
	go test -run '^$$' -bench '$(BENCH)' -benchmem $(PKG)

.PHONY: fuzz
fuzz: ## fuzz every decoder for FUZZTIME (default 20s) each
	FUZZTIME=$(FUZZTIME) .ci/fuzz

.PHONY: setup
setup: ## install or name the tools that the tests use
	@.ci/setup

.PHONY: clean
clean: ## remove what build made
	rm -rf bin
