"""The server as a process: it ends in order, says nothing of what it was told, and streams any bytes."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests.unit.serve.conftest import Live

from picollm.infer import engine
from picollm.infer.sample import Sampling

SECRET = "kumquat-7731"


def serving(runs: Path) -> tuple["subprocess.Popen[str]", str]:
    """`picollm serve` in a process of its own, and its address."""
    command = [sys.executable, "-m", "picollm.cli.main", "serve", "base", "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--runs-dir", str(runs)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, "http://" + process.stdout.readline().rpartition("http://")[2].strip()


@pytest.mark.slow
@pytest.mark.row("W11", "W12")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_is_ended_leaves_whole_events_and_no_prompt_behind(runs: Path, number: signal.Signals) -> None:
    process, address = serving(runs)
    body = {"prompt": f"{SECRET}\x1b[31m", "max_tokens": 40, "stream": True, "temperature": 2.0, "stop": ["\x00"]}
    events: list[str] = []
    with httpx.Client(base_url=address, timeout=60) as client:
        client.post("/tokenize", content=f'{{"text": "{SECRET}"')
        try:
            with client.stream("POST", "/v1/completions", json=body) as answer:
                for line in answer.iter_lines():
                    if not events:
                        process.send_signal(number)
                    if line:
                        events.append(line)
        except httpx.HTTPError:
            assert number is signal.SIGKILL
    out, err = process.communicate(timeout=60)
    assert events
    for event in events if number is signal.SIGTERM else events[:-1]:
        assert event == "data: [DONE]" or json.loads(event.removeprefix("data: "))
    if number is signal.SIGTERM:
        assert events[-1] == "data: [DONE]"
        assert process.returncode == -signal.SIGTERM  # a shell says 143
    assert SECRET not in out + err
    assert "Traceback" not in err


@pytest.mark.row("W10")
def test_a_stream_of_any_bytes_is_the_answer_in_pieces(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens drawn at random: half characters, broken ones, line breaks, quotes."""
    tokenizer, draw = live.service.tokenizer, random.Random(3)
    with live.client() as client:
        for _ in range(40):
            script = [draw.randrange(tokenizer.bos) if draw.random() < 0.5 else draw.randrange(256) for _ in range(40)]
            said = []
            for stream in (False, True):
                ids = iter(script)

                def next_one(logits: object, how: Sampling, position: int, ids: object = ids) -> int:
                    return next(ids)  # type: ignore[call-overload, no-any-return]

                monkeypatch.setattr(engine, "sample", next_one)
                answer = client.post("/v1/completions", json={"prompt": "ka", "max_tokens": 40, "stream": stream})
                assert answer.status_code == 200
                said.append(answer)
            whole = said[0].json()["choices"][0]["text"]
            events = [part.removeprefix("data: ") for part in said[1].text.split("\n\n") if part]
            assert events.pop() == "[DONE]"
            assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == whole
            assert whole == tokenizer.decode(script)
