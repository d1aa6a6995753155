# make alone prints the targets.

GO      ?= go
BUILD   := .build
PROGRAM := $(BUILD)/go-dovecot-director
TOOL    := $(GO) tool -modfile=$(CURDIR)/.ci/tools.mod
RELEASE := $(GO) tool -modfile=$(CURDIR)/.ci/release.mod
MUTATE  := $(GO) tool -modfile=$(CURDIR)/.ci/mutation.mod
MODULES := . deploy/e2e

# The rooms whose tests have to cover them, beside ring; counting its loops would take the race detector two minutes.
COVERED := . ./store ./k8s

# What the program and its image may hold: licences that ask for no more than their text.
LICENCES := Apache-2.0,BSD-2-Clause,BSD-3-Clause,ISC,MIT

.DEFAULT_GOAL := help

.PHONY: help
help: ## Print this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: run
run: build ## Build the director, make its table in a SQLite file, and run it on testdata/endpoints.yaml and SQLite
	@$(PROGRAM) migrate --database-url sqlite:$(BUILD)/director.db
	@echo 'try in another terminal:'
	@echo '  curl -d '\''{"user":"ada@example.org"}'\'' localhost:8080/auth_passdb_lookup'
	@exec $(PROGRAM) serve --endpoints-file testdata/endpoints.yaml --database-url sqlite:$(BUILD)/director.db --drain-delay 0s

.PHONY: build
build: ## Build the program into .build
	@.ci/deps build
	@mkdir -p $(BUILD)
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o $(PROGRAM) ./cmd/go-dovecot-director

.PHONY: test
test: deps lint licences ## Run all tests: every room, real PostgreSQL, Dovecot 2.3 and 2.4, Prometheus
	@mkdir -p $(BUILD)
	$(GO) test -race -run '^$$' ./... >/dev/null # builds all at once; then one package at a time, as they load the machine
	$(GO) test -race -shuffle=on -p 1 -timeout 60m -coverprofile=$(BUILD)/cover.out $(COVERED)
	$(GO) test -race -shuffle=on -p 1 -timeout 60m $$($(GO) list ./... | grep -vxF "$$($(GO) list $(COVERED))")
	$(GO) test -coverprofile=$(BUILD)/ring.out ./ring
	@.ci/cover $(BUILD)/cover.out $(BUILD)/ring.out
	$(MAKE) e2e

.PHONY: e2e
e2e: deps ## Run the end-to-end tests alone; prints what users went through on Kubernetes
	@$(GO) build -race -o $(BUILD)/race/go-dovecot-director ./cmd/go-dovecot-director # without a network, tests cannot fetch modules
	cd deploy/e2e && $(GO) test -race -count=1 -timeout 60m .
	cd deploy/e2e && $(GO) test -count=1 -timeout 30m ./load
	cd deploy/e2e && $(GO) test -race -count=1 ./history ./program
	cd deploy/e2e/chaos && $(GO) test -race -count=1 -timeout 60m -exec ../netns.sh -chaos.most 3
	cd deploy/e2e/kubernetes && $(GO) test -race -count=1 -timeout 60m -exec ../netns.sh

.PHONY: chaos
chaos: deps ## Check the history of several directors under churn and all faults, in ten minutes; SEED=n repeats a run
	@$(GO) build -race -o $(BUILD)/race/go-dovecot-director ./cmd/go-dovecot-director
	cd deploy/e2e/chaos && $(GO) test -race -count=1 -timeout 60m -exec ../netns.sh -chaos.time 1m -chaos.fault 8s -chaos.pause 30s $(if $(SEED),-chaos.seed $(SEED))

.PHONY: deps
deps: ## Install what the tests need (Debian packages as root; otherwise say what is missing)
	@.ci/deps test

.PHONY: lint
lint: ## Check the code, that of the end-to-end tests too: gofumpt, vet, fix, staticcheck, deadcode
	@out=$$($(TOOL) gofumpt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofumpt would change:"; echo "$$out"; exit 1; }
	@set -e; for module in $(MODULES); do echo "lint $$module"; cd $(CURDIR)/$$module; \
		$(GO) vet ./...; \
		$(GO) fix -diff ./...; \
		$(TOOL) staticcheck -checks inherit,-ST1000 ./...; \
		out=$$($(TOOL) deadcode -test ./...); test -z "$$out" || { echo "$$out"; exit 1; }; \
	done

.PHONY: licences
licences: ## Check the licences of all that is linked into the program
	@mkdir -p $(BUILD)
	@$(RELEASE) go-licenses check --allowed_licenses=$(LICENCES) ./cmd/go-dovecot-director 2>$(BUILD)/licences.log || { cat $(BUILD)/licences.log; exit 1; }

.PHONY: sbom
sbom: build ## Write what is linked into the program to .build/sbom.json, as CycloneDX
	@$(RELEASE) cyclonedx-gomod bin -json -std -noserial -notimestamp -output $(BUILD)/sbom.json $(PROGRAM)
	@echo $(BUILD)/sbom.json

.PHONY: vuln
vuln: ## Look for known vulnerabilities (needs the network)
	$(TOOL) govulncheck ./...

.PHONY: bench
bench: build ## Measure lookups against a null handler and pgbench, and the parts; a quarter of an hour or more, a picture in .build/bench.svg
	@.ci/deps bench
	@$(GO) build -o $(BUILD)/loadgen ./cmd/loadgen
	@$(BUILD)/loadgen bench --director $(PROGRAM) --picture $(BUILD)/bench.svg
	$(GO) test -run '^$$' -bench . -benchmem . ./http ./http/status ./ring
	$(GO) test -run '^$$' -bench . -benchtime 1x ./ring/sim

.PHONY: logins
logins: deps ## Measure IMAP logins per second through real proxies, against Dovecot's own Director
	cd deploy/e2e && $(GO) test -run '^$$' -bench Logins -benchtime 5x -timeout 20m ./logins

.PHONY: overload
overload: deps ## Offer up to four times the lookups that can be answered, and open 10,000 idle connections; three minutes
	cd deploy/e2e && $(GO) test -run TestIdleConnections -bench Overload -benchtime 1x -count=1 -v ./load

.PHONY: soak
soak: deps ## Watch two directors for 20 minutes while everything around them changes
	cd deploy/e2e && $(GO) test -run TestSoak -soak 20m -count=1 -v -timeout 40m ./load

.PHONY: ring-sweep
ring-sweep: ## Check the ring at every member count: balance and movement to 200, building to 1000
	$(GO) test -timeout 60m -run 'TestBalanceAndMovement|TestAnyNumberOfMembers' -v ./ring -sweep

.PHONY: mutants
mutants: ## Change the policy and the ring in one place each, and see that a test fails (half an hour); .ci/mutants.md explains those that live
	@.ci/mutants $(MUTATE) gremlins

.PHONY: fuzz
fuzz: ## Run every fuzz target for half a minute
	@.ci/fuzz 30s

.PHONY: verify
verify: ## Rewrite golden files, the generated parts of the README and the operator's rules; fail if they change
	$(GO) test -run 'TestPolicyTable|TestTable|TestReadmeSettings|TestReadmeMetrics|TestReadmeSimulations' . ./ring/sim ./cmd/go-dovecot-director -update
	cd deploy/e2e && $(GO) test -count=1 -run TestManifestsForThePrometheusOperator . -update
	git diff --exit-code -- testdata README.md deploy/kustomize

.PHONY: picture
picture: deps ## Take the README's picture of a simulation, with Chromium
	cd deploy/e2e && $(GO) test -count=1 -run TestPicture -picture $(CURDIR)/testdata/simulate.png .

.PHONY: screenshots
screenshots: deps ## Take the README's pictures of the status page, with Chromium
	cd deploy/e2e && $(GO) test -count=1 -run TestStatusPicture -screenshots $(CURDIR)/testdata .

.PHONY: clean
clean: ## Remove what was built
	rm -rf $(BUILD)
