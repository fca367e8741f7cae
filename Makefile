# The modules of this repository: the library itself, and what must not weigh on
# its go.mod.
MODULES := . examples e2e bench

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME ?= 20s

.PHONY: all test test-long lint fuzz fmt bench bench-quick bench-full

all: test lint

# Installs what the tests need where it can, then runs every test with the race detector,
# and those of the packages that have some which the detector would spoil (allocation
# counts, figures of processes) once more without it.
test:
	./scripts/install
	@set -e; for m in $(MODULES); do \
		echo "== $$m, race detector"; (cd $$m && go test -race -timeout 20m ./...); \
	done
	@echo "== without it"; go test -timeout 20m $$(grep -rl --include='*_test.go' --exclude-dir=examples --exclude-dir=e2e --exclude-dir=bench '^//go:build !race' . | xargs -n1 dirname | sort -u)
	@[ -n "$$HOLDFAST_SQLSERVER_DSN" ] || echo "Not run: the tests of SQL Server; HOLDFAST_SQLSERVER_DSN names a server"
	@[ -n "$$HOLDFAST_ORACLE_DSN" ] || echo "Not run: the tests of Oracle; HOLDFAST_ORACLE_DSN names a server"

# What takes longer: randomised tests a hundred times over, millions of sessions, and every fuzz
# target for minutes.
test-long:
	./scripts/install
	@set -e; for m in $(MODULES); do \
		echo "== $$m, long"; (cd $$m && HOLDFAST_LONG=1 go test -race -count=1 -timeout 120m ./...); \
	done
	$(MAKE) fuzz FUZZTIME=2m

lint:
	@set -e; for m in $(MODULES); do \
		echo "== lint $$m"; \
		(cd $$m && go vet ./... && go run $(STATICCHECK) ./... && go mod tidy -diff); \
	done
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "gofmt would change: $$unformatted"; exit 1; fi

# Every fuzz target of every package for FUZZTIME.
fuzz:
	@set -e; for pkg in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "== $$pkg $$target"; go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$pkg; \
		done; \
	done

fmt:
	gofmt -w .

# Holdfast side by side with others, measured on this machine, which should have
# nothing else to do: into bench/results/. About 25 minutes; -quick takes two, and
# -full measures every cell.
bench bench-quick bench-full:
	./scripts/install
	cd bench && go run . $(patsubst bench%,%,$@)
