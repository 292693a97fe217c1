# Two commands on a fresh machine: `make demo` and `make test`. The rest is for those who work on the code.
.DEFAULT_GOAL := help
.PHONY: help setup demo evidence evidence-aoq evidence-laps test quick lint bench clean
bin := .venv/bin

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

setup:  ## .venv with torch, the pinned packages and Horovod, proven by a two-rank sum
	@bash scripts/setup.sh

demo: setup  ## scenes -> stores -> two-rank training -> recalls -> .demo/run/report.html
	@bash scripts/demo.sh

evidence: setup  ## the README's ablation: nine training runs, most of an hour on two cores
	@bash scripts/evidence.sh

evidence-aoq: setup  ## the README's ablation of AOQ: 24 training runs, half an hour on two cores
	@bash scripts/evidence-aoq.sh

evidence-laps: setup  ## the README's comparison of LAPS: nine training runs, half an hour on two cores
	@bash scripts/evidence-laps.sh

test: setup lint  ## all tests
	$(bin)/pytest -n 2 --dist worksteal

quick: setup lint  ## the tests that take seconds
	$(bin)/pytest -n 2 --dist worksteal -m "not slow"

lint: setup  ## ruff and mypy, both silent
	@$(bin)/ruff check .
	@$(bin)/mypy

bench: setup  ## measured against peers, side by side
	@$(bin)/pip install --quiet --disable-pip-version-check --no-build-isolation --editable ".[test,bench]"
	$(bin)/python scripts/bench.py

clean:  ## what the demo and the benchmarks wrote
	rm -rf .demo .bench
