# Two commands on a fresh machine: `make demo` and `make test`. The rest is for those who work on the code.
.DEFAULT_GOAL := help
.PHONY: help setup demo docs evidence evidence-aoq evidence-laps test quick soak lint image-test slurm-test bench scaling clean
bin := .venv/bin
# For two cores: a third of the time, a test waits for what it has started.
jobs ?= 3
pytest = $(bin)/pytest -n $(jobs) --dist worksteal

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

setup:  ## .venv with torch, the pinned packages and Horovod, proven by a two-rank sum
	@bash scripts/setup.sh

demo: setup  ## scenes -> stores -> two-rank training -> recalls -> .demo/run/report.html
	@bash scripts/demo.sh

evidence: setup  ## docs/evidence.md: UNITER and IAIS, nine training runs, most of an hour on two cores
	@bash scripts/evidence.sh

evidence-aoq: setup  ## docs/evidence.md: AOQ, 24 training runs, half an hour on two cores
	@bash scripts/evidence-aoq.sh

evidence-laps: setup  ## docs/evidence.md: LAPS, nine training runs, half an hour on two cores
	@bash scripts/evidence-laps.sh

test: setup lint  ## all tests
	$(pytest) -m "not soak and not cluster"

quick: setup lint  ## the tests that take seconds
	$(pytest) -m "not slow and not soak and not cluster"

soak: setup  ## faults at length: kills at 200 moments, a rank lost every 20 seconds; prints what it counted
	$(bin)/pytest -s -m soak tests/faults

lint: setup  ## ruff, mypy, hadolint and shellcheck, all silent
	@$(bin)/ruff check .
	@$(bin)/mypy
	@$(bin)/hadolint Dockerfile
	@git ls-files --cached --others --exclude-standard '*.sh' '*.sbatch' .ci/run | xargs $(bin)/shellcheck

image-test: setup  ## the CPU image, built with buildah, and the demo's training in it; outside `make test`
	@bash scripts/image_test.sh

slurm-test: setup  ## jobs on a real SLURM cluster of two nodes on this host, preempted and requeued; outside `make test`
	$(bin)/pytest -s -m cluster tests/cluster

bench: setup  ## measured against peers, side by side
	@$(bin)/pip install --quiet --disable-pip-version-check --no-build-isolation --editable ".[test,bench]"
	$(bin)/python scripts/bench.py

docs: setup  ## the documentation, with its reference of every setting and flag -> .site/index.html
	@$(bin)/pip install --quiet --disable-pip-version-check --no-build-isolation --editable ".[test,docs]"
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --quiet --strict --clean

scaling: setup  ## an update's time fitted on 1, 2 and 4 ranks and projected to 512 GPUs; wants a quiet machine
	$(bin)/python scripts/scaling.py
	cp .scaling/scaling.svg docs/pictures/scaling.svg

clean:  ## what the demo, the benchmarks and the documentation wrote
	rm -rf .demo .bench .scaling .site
