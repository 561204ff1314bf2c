# Cairn: build, try, test. Needs Go; `up`, `demo` and `test` need root on a Debian machine, since they run a real Kubernetes.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  = -s -w -X github.com/cairn-backup/cairn/internal/buildinfo.Version=$(VERSION)
IMAGE   ?= cairn/cairn-extension:$(VERSION)

# The same settings everywhere, so that nothing is compiled twice.
export CGO_ENABLED = 0
export GOFLAGS = -trimpath

.PHONY: build image demo up down test check unit cluster-test e2e bench generate

## build: the programs, into bin/
build:
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/cairn ./cmd/cairnd ./cmd/cairn-extension
	ln -sf cairn bin/az

## image: the extension's OCI image as a file, without Docker
image:
	mkdir -p dist
	go run ./cmd/cairn-image --name $(IMAGE) --output dist/cairn-extension.tar

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

## check: formatting, vet, generated files
check:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo 'not gofmt-ed:'; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	cd test/cluster && go vet ./...

## unit: all packages but the end-to-end tests; some start a real API server or Azurite
unit:
	go run ./test/setup
	go test $$(go list ./... | grep -v /test/e2e)

## cluster-test: the test cluster's own tests, and the CSI driver's conformance
cluster-test:
	cd test/cluster && go test -timeout 20m ./...

## e2e: the guide, the disaster, the kills, on real clusters
e2e:
	go test -count=1 -timeout 60m -v ./test/e2e/...

## bench: what is fast, and how fast
bench:
	go run ./bench

## generate: deep copies and custom resource definitions
generate:
	go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.23.0 object paths=./api/...
	go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.23.0 crd paths=./api/... output:crd:dir=config/crd
