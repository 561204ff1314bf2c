# Cairn: build, try, test. Needs Go; `up`, `demo` and `test` need root on a Debian machine, since they run a real Kubernetes.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  = -s -w -X github.com/cairn-backup/cairn/internal/buildinfo.Version=$(VERSION)
IMAGE   ?= cairn/cairn-extension:$(VERSION)
CONTROLLER_GEN = go tool controller-gen

# The same settings everywhere, so that nothing is compiled twice.
export CGO_ENABLED = 0
export GOFLAGS = -trimpath -buildvcs=false

.PHONY: build image demo up down test setup check unit cluster-test e2e bench generate
.NOTPARALLEL:

## build: the programs, into bin/
build:
	go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/cairn ./cmd/cairnd ./cmd/cairn-extension
	ln -sf cairn bin/az

## image: the extension's OCI image as a file, without Docker
image:
	mkdir -p dist
	go run ./cmd/cairn-image --name $(IMAGE) --version $(VERSION) --output dist/cairn-extension.tar

## demo: see the guide happen on a real cluster
demo:
	@go run ./test/playground demo

## up: start the playground; `source .up/env` to use it
up:
	@go run ./test/playground up

## down: end playground and demo, and remove every trace of them
down:
	@go run ./test/playground down

## test: everything
test: check unit cluster-test e2e

## setup: what the tests need on a new machine; some take it from .cache
setup:
	go run ./test/setup

## check: formatting, vet, generated files
check:
	@unformatted=$$(gofmt -l *.go api bench cmd config internal test) && test -z "$$unformatted" || { echo "not gofmt-ed: $$unformatted"; exit 1; }
	go vet ./...
	cd test/cluster && go vet ./...
	@rm -rf .cache/generated && mkdir -p .cache/generated
	$(CONTROLLER_GEN) object paths=./api/... output:object:dir=.cache/generated
	$(CONTROLLER_GEN) crd paths=./api/... output:crd:dir=.cache/generated/crd
	diff .cache/generated/zz_generated.deepcopy.go api/v1alpha1/zz_generated.deepcopy.go
	diff -r .cache/generated/crd config/crd

## unit: all packages but the end-to-end tests; some start a real API server, Azurite or PostgreSQL. The service's on both of its databases, but for two years of policies
unit: setup
	packages=$$(go list ./...) && go test $$(echo "$$packages" | grep -v /test/e2e)
	CAIRN_TEST_ENGINE=PostgreSQL go test -skip TwoYears ./internal/service ./internal/daemon ./internal/armserver ./test/compat

## cluster-test: the test cluster's own tests, and the CSI driver's conformance
cluster-test: setup
	cd test/cluster && go test -timeout 20m ./...

## e2e: the guide, the disaster, the kills, on real clusters
e2e: setup
	go test -count=1 -timeout 45m -v ./test/e2e/...

## bench: what is fast, and how fast
bench: setup
	go run ./bench

## generate: deep copies and custom resource definitions
generate:
	$(CONTROLLER_GEN) object paths=./api/...
	$(CONTROLLER_GEN) crd paths=./api/... output:crd:dir=config/crd
