"""schemathesis reads the OpenAPI description and sends what it allows and what it does not: nothing may break."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from tests.unit.serve.conftest import runs

from picollm.cli.serve import make_service
from picollm.serve.app import make_app, post_paths
from picollm.serve.guard import Guard
from picollm.serve.run import host_names

schemathesis = pytest.importorskip("schemathesis", reason="just api installs it")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")

__all__ = ["runs"]
EXAMPLES = 200  # of each operation


@pytest.fixture(scope="session")
def described(runs: Path) -> Iterator[Any]:
    """The app behind its guard, as uvicorn has it."""
    service = make_service(runs / "base", runs, "cpu")
    object.__setattr__(service, "chats", True)
    app = make_app(service)
    guarded = Guard(app, hosts=host_names("testserver", 8008), posts=post_paths(app))
    yield schemathesis.openapi.from_asgi("/openapi.json", guarded)
    service.worker.close()


# Not what a description cannot say: that roles alternate, that a prompt fits, which plans may be asked for.
CHECKS = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance,
          schemathesis.checks.not_a_server_error]  # fmt: skip
OPERATIONS = ["POST /v1/chat/completions", "POST /v1/completions", "POST /tokenize", "POST /detokenize",
              "POST /api/plan",
              "GET /api/explain/{topic}", "GET /api/runs/{name}/metrics", "GET /api/runs", "GET /api/about",
              "GET /v1/models", "GET /health"]  # fmt: skip
ENDLESS = "GET /api/events"  # a stream


def operations(described: Any) -> dict[str, Any]:
    """By method and path."""
    found = [result.ok() for result in described.get_all_operations()]
    return {f"{one.method.upper()} {one.path}": one for one in found}


def test_the_description_names_these_operations_and_no_others(described: Any) -> None:
    assert set(operations(described)) == {*OPERATIONS, ENDLESS}


@pytest.mark.slow
@pytest.mark.row("W5")
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_every_operation_keeps_what_it_says(described: Any, operation: str, mode: str) -> None:
    """With what the description allows, and with what it does not."""
    one = operations(described)[operation]
    generation = getattr(schemathesis.GenerationMode, mode)
    try:
        cases = one.as_strategy(generation_mode=generation)
    except Exception as error:
        if mode == "NEGATIVE":
            pytest.skip(f"nothing to get wrong: {error}")
        raise

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=cases)
    def run(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    try:
        run()
    except Unsatisfiable:
        assert mode == "NEGATIVE"
