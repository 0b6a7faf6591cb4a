"""Several requests in one batch say what each says alone; a call of the calculator travels as a part of its own."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from tests.unit.serve.conftest import Live
from tests.unit.serve.test_server import ASK, idle

from picollm.infer import engine
from picollm.infer.sample import Sampling
from picollm.serve.worker import Worker


def body(seed: int) -> dict[str, Any]:
    return {"prompt": "who are you? "[: 2 + seed], "seed": seed, "max_tokens": 8 + 4 * seed, "temperature": 1.0}


def test_requests_answered_together_say_what_each_says_alone(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(seed: int) -> str:
        with live.client() as client:
            return str(client.post("/v1/completions", json=body(seed)).json()["choices"][0]["text"])

    alone = [said(seed) for seed in range(10)]
    sizes: list[int] = []
    step = engine.Batch.step

    def counted(self: engine.Batch) -> None:
        sizes.append(len(self.live))
        step(self)

    monkeypatch.setattr(engine.Batch, "step", counted)
    with ThreadPoolExecutor(10) as pool:
        for _ in range(3):
            assert list(pool.map(said, range(10))) == alone
    assert max(sizes) > 1


def test_more_requests_than_the_batch_holds_wait_their_turn(live: Live) -> None:
    with ThreadPoolExecutor(30) as pool, live.client() as client:
        statuses = list(
            pool.map(lambda seed: client.post("/v1/completions", json=body(seed % 5)).status_code, range(30))
        )
        assert statuses == [200] * 30
        idle(client)


def test_a_model_that_fails_in_a_batch_fails_its_requests_and_no_later_ones(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no memory left")

    with live.client() as client:
        with monkeypatch.context() as patch:
            patch.setattr(engine.Batch, "join", broken)
            failed = client.post("/v1/completions", json=body(1))
            assert (failed.status_code, failed.json()["error"]["type"]) == (500, "server_error")
        assert client.post("/v1/completions", json=body(1)).status_code == 200


def test_closing_tells_everybody_and_ends_the_thread(live: Live) -> None:
    worker = Worker(live.service.worker.engine)
    worker.close()
    assert not worker.thread.is_alive()


@pytest.fixture
def scripted(live: Live, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the model say so, special tokens by name between «»; interjected tokens are not its to choose."""
    tokenizer = live.service.tokenizer

    def say(text: str) -> None:
        ids: list[int] = []
        for number, piece in enumerate(text.replace("»", "«").split("«")):
            ids += [tokenizer.specials[f"<|{piece}|>"]] if number % 2 else tokenizer.encode(piece)
        script = iter(ids)

        def next_one(logits: object, how: Sampling, position: int) -> int:
            return next(script)

        monkeypatch.setattr(engine, "sample", next_one)

    return say


SUM = "it is «python_start»6*7«python_end» indeed«assistant_end»"


def test_a_call_of_the_calculator_is_told_apart_from_the_words(live: Live, scripted: Callable[[str], None]) -> None:
    scripted(SUM)
    with live.client() as client:
        message = client.post("/v1/chat/completions", json={"messages": ASK}).json()["choices"][0]["message"]
    assert message["content"] == "it is  indeed"
    assert message["parts"] == [{"type": "text", "text": "it is "}, {"type": "python", "text": "6*7"},
                                {"type": "output", "text": "42"}, {"type": "text", "text": " indeed"}]  # fmt: skip


def test_a_stream_tells_a_call_as_it_comes(live: Live, scripted: Callable[[str], None]) -> None:
    scripted(SUM)
    client = openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=30)
    chunks = list(client.chat.completions.create(model="any", messages=ASK, stream=True, logprobs=True))  # type: ignore
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "it is  indeed"
    parts = [part for chunk in chunks for part in getattr(chunk.choices[0].delta, "parts", [])]
    said = {kind: "".join(part["text"] for part in parts if part["type"] == kind) for kind in ("python", "output")}
    assert said == {"python": "6*7", "output": "42"}


def test_what_was_called_may_be_said_again_in_the_next_request(live: Live) -> None:
    parts = [{"type": "text", "text": "it is "}, {"type": "python", "text": "6*7"}, {"type": "output", "text": "42"}]
    messages = [*ASK, {"role": "assistant", "content": parts}, *ASK]
    with live.client() as client:
        assert ask(client, messages, 200)
        assert "calls" not in ask(client, [{"role": "user", "content": parts}], 400)
        ask(client, [{"role": "user", "content": []}], 400)
        ask(client, [{"role": "user", "content": [{"type": "image_url"}]}], 400)


def ask(client: httpx.Client, messages: list[Any], expected: int) -> str:
    answer = client.post("/v1/chat/completions", content=json.dumps({"messages": messages, "max_tokens": 2}),
                         headers={"Content-Type": "application/json"})  # fmt: skip
    assert answer.status_code == expected, answer.text
    return answer.text
