# Every command typed more than twice. `uv run just` needs nothing installed but uv and Rust.
set shell := ["bash", "-euo", "pipefail", "-c"]
export OMP_NUM_THREADS := env("OMP_NUM_THREADS", num_cpus())
# Build scripts of the Rust border ask this interpreter for nothing but its version.
export PYO3_PYTHON := env("PYO3_PYTHON", "python")

# list the recipes
default:
    @just --list --unsorted

# environment and release build of the extension
setup:
    uv sync

# build the extension again after an edit of rustbpe/
build:
    uv sync --reinstall-package picollm-train

# Rust unit, crate and doc tests; Python tests; no GPU, no network
test: test-rust test-python

# the second walks every order of the loader's threads, with loom
test-rust:
    cargo test --locked --quiet
    cargo test --locked --quiet -p rustbpe-model

# a file's tests run in one process; one thread each, so that two workers fill two cores
test-python *ARGS:
    OMP_NUM_THREADS=1 python -m pytest -n auto --dist loadfile --ignore tests/page {{ ARGS }}

# property tests with ten times the examples
test-slow:
    HYPOTHESIS_PROFILE=thorough PROPTEST_CASES=2560 just test

# formatting, lints, types
check:
    cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
    ruff check
    ruff format --check
    mypy
    python dev/constraints.py --check

# generated documents and examples are current and run
docs:
    python dev/knobs.py --check
    cargo run --locked --quiet --example train_and_encode

# text → tokenizer → shards → 20 steps → chat, through the commands a user types
smoke:
    python -m pytest -m slow tests/flow

# the web page in a real browser; Chromium comes from the system, PICOLLM_SHOTS=FOLDER keeps pictures
page:
    uv run --group page python -m pytest tests/page

# schemathesis over the server's OpenAPI description
api:
    uv run --group api python -m pytest tests/api

# exactly what .ci/run calls
ci: test check docs smoke page

# N kills of a sharding process, failing calls, every way to make a set; `--json FILE` keeps its place
crash N="1000" *ARGS:
    python -m tests.campaigns.crash --kills {{ N }} {{ ARGS }}

# a kill before each call of the shard protocol, and each call failing: every point, twice; needs strace
crashpoints:
    python -m tests.campaigns.crashpoints

# malformed headers, sidecars and records, and flipped bits, N of each; DAMAGE_SEED replays
damage N="1000000":
    DAMAGE_CASES={{ N }} cargo test --locked --release --test damage -- --nocapture

# N random and mutated inputs for each of split, encode, decode and the tokenizer file, beside their twins
fuzz N="10000000" SEED="20261122":
    FUZZ_CASES={{ N }} FUZZ_SEED={{ SEED }} cargo test --locked --release --quiet --test fuzz -- --nocapture --test-threads=1 \
        | grep --line-buffered '^{'

# peak memory of sharding against its promise
memory:
    python -m tests.campaigns.memory

# kill and resume a training run N times; every float must be the same
soak N="200":
    python -m tests.campaigns.soak --cycles {{ N }}

# two ranks under torchrun: one is killed, stopped or given NaN, N times; the curve must be the same
ranks N="50":
    python -m tests.campaigns.ranks --count {{ N }}

# how well a million tokens teach depth 4, beside AdamW only and a plain GPT-2: 9 runs and a search, about 90 minutes
learn FOLDER="dev/records/learning" SEEDS="3":
    python -m tests.campaigns.learn {{ FOLDER }} --seeds {{ SEEDS }}

# how activations grow with the width after ten steps, 128 to 1,024: the bounds that let rates transfer
coords FOLDER="dev/records/transfer":
    python -m tests.campaigns.coords {{ FOLDER }}

# the best learning rate at depth 2, 4 and 6, and the floor of short runs; trials that are there are not made again
transfer FOLDER="dev/records/transfer":
    python -m tests.campaigns.transfer {{ FOLDER }}

# hostile clients against the server: oversize, slow and leaving ones, bodies gone wrong; PART of the full counts
hostile PART="1.0":
    python -m tests.campaigns.hostile --part {{ PART }}

# benches: just bench rust (criterion) | tok (beside peers) | worst | plan (predicted against actual) | startup | load, data
bench NAME="rust" *ARGS:
    {{ if NAME == "rust" { "cargo bench --locked" } else { "python -m tests.bench." + NAME } }} {{ ARGS }}

# rewrite constraints.txt from pyproject.toml
constraints:
    python dev/constraints.py

# rewrite docs/knobs.md and docs/run.schema.json from the knob registry
knobs:
    python dev/knobs.py

# rewrite tests/golden/cli; read the diff before you commit it
golden:
    python -m tests.unit.cli.golden

# reformat everything
fmt:
    cargo fmt --all
    ruff format
    ruff check --fix
