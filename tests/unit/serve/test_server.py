"""OpenAI's own client talks to it; a stream says what the whole answer says; whoever leaves frees his place."""

import json
import math
from pathlib import Path

import openai
import pytest
import torch
from tests.unit.serve.conftest import Live, idle

from picollm.infer.engine import Engine
from picollm.serve.speech import StopStrings

ASK = [{"role": "user", "content": "who are you?"}]


@pytest.fixture
def client(live: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=30)


def test_the_official_client_streams_what_it_gets_whole(client: openai.OpenAI, live: Live) -> None:
    said = {"model": live.service.name, "messages": ASK, "seed": 7, "max_tokens": 24}
    whole = client.chat.completions.create(**said, logprobs=True, top_logprobs=3)
    chunks = list(client.chat.completions.create(**said, logprobs=True, top_logprobs=3, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content != ""
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    entries = [entry for chunk in chunks if (found := chunk.choices[0].logprobs) for entry in found.content or []]
    alone = whole.choices[0].logprobs.content
    assert [entry.logprob for entry in entries] == [entry.logprob for entry in alone]
    assert len(alone) == whole.usage.completion_tokens
    for entry in alone:
        assert len(entry.top_logprobs) == 3
        assert sum(math.exp(other.logprob) for other in entry.top_logprobs) <= 1 + 1e-6


def test_a_seed_gives_the_same_text_and_another_another(client: openai.OpenAI) -> None:
    def text(seed: int) -> str:
        answer = client.completions.create(model="any", prompt="ka", seed=seed, max_tokens=24)
        return answer.choices[0].text

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


def test_a_stop_string_ends_the_answer_and_is_never_shown(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="any", prompt="ka", seed=3, max_tokens=24, temperature=0).choices[0].text
    stop = whole[len(whole) // 2 :][:3]
    said = {"model": "any", "prompt": "ka", "seed": 3, "max_tokens": 24, "temperature": 0, "stop": [stop]}
    cut = client.completions.create(**said).choices[0]
    streamed = "".join(chunk.choices[0].text for chunk in client.completions.create(**said, stream=True))
    assert cut.text == streamed == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"


def test_stop_strings_hold_back_no_more_than_they_must() -> None:
    held = StopStrings(["aab"])
    assert [held.push(piece) for piece in ("a", "a", "a", "c")] == [
        ("", False),
        ("", False),
        ("a", False),
        ("aac", False),
    ]
    assert held.push("xaabx") == ("x", True)
    none = StopStrings([])
    assert none.push("all") == ("all", False)


def test_the_tokenizer_is_reachable_and_round_trips(live: Live) -> None:
    with live.client() as client:
        said = client.post("/tokenize", json={"text": "kana 🙂 é"}).json()
        assert said["count"] == len(said["tokens"])
        assert b"".join(bytes(token["bytes"]) for token in said["tokens"]).decode() == "kana 🙂 é"
        ids = [token["id"] for token in said["tokens"]]
        assert client.post("/detokenize", json={"ids": ids}).json()["text"] == "kana 🙂 é"
        assert client.post("/detokenize", json={"ids": [10**6]}).status_code == 400


def test_special_tokens_in_a_users_text_stay_text(live: Live) -> None:
    with live.client() as client:
        said = client.post("/tokenize", json={"text": "<|bos|>"}).json()
        assert said["count"] > 1 or said["tokens"][0]["id"] < live.service.tokenizer.specials["<|bos|>"]


@pytest.mark.row("W4")
def test_clients_that_leave_give_their_places_back(live: Live) -> None:
    body = {"prompt": "ka", "max_tokens": 60, "stream": True}
    with live.client() as client:
        for number in range(40):
            with client.stream("POST", "/v1/completions", json=body) as answer:
                if number % 2:
                    next(answer.iter_lines())
        idle(client)


@pytest.mark.row("W13")
def test_a_request_on_which_the_model_fails_is_the_only_one(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    head = live.service.worker.engine.model.head

    def broken(h: torch.Tensor) -> torch.Tensor:
        return head(h) * math.nan

    body = {"prompt": "ka", "max_tokens": 4}
    with live.client() as client:
        with monkeypatch.context() as patch:
            patch.setattr(live.service.worker.engine.model, "head", broken)
            assert client.post("/v1/completions", json=body).status_code == 500
            streamed = client.post("/v1/completions", json={**body, "stream": True}).text
            assert "server_error" in streamed
            assert streamed.endswith("data: [DONE]\n\n")
        assert client.post("/v1/completions", json=body).status_code == 200


@pytest.mark.row("W3")
def test_a_full_line_says_when_to_come_back(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    with live.client() as client:
        monkeypatch.setattr(live.service.worker.waiting, "maxsize", -1)
        monkeypatch.setattr(live.service.worker.waiting, "put_nowait", full)
        refused = client.post("/v1/completions", json={"prompt": "ka", "max_tokens": 4})
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "5"


def full(job: object) -> None:
    import queue

    raise queue.Full


def test_a_prompt_longer_than_the_context_is_refused_before_it_waits(live: Live) -> None:
    with live.client() as client:
        refused = client.post("/v1/completions", json={"prompt": "x" * 3000})
        assert refused.status_code == 400
        assert "context" in refused.json()["error"]["message"]


def test_a_base_model_does_not_chat(guarded: Live) -> None:
    with guarded.client(headers={"Authorization": f"Bearer {guarded.token}"}) as client:
        refused = client.post("/v1/chat/completions", json={"messages": ASK})
        assert refused.status_code == 400
        assert "base model" in refused.json()["error"]["message"]


def test_runs_and_their_logs_are_served_by_name_only(live: Live, runs: Path) -> None:
    with live.client() as client:
        [run] = client.get("/api/runs").json()["runs"]
        assert run["name"] == "base"
        lines = client.get("/api/runs/base/metrics").json()
        written = (runs / "base" / "metrics.jsonl").read_text().splitlines()
        assert lines["lines"] == [json.loads(line) for line in written]
        assert client.get("/api/runs/base/metrics", params={"since": lines["next"]}).json()["lines"] == []
        for name in ("..", "%2e%2e", "nobody", "..%2fbase", "base%2f..%2fbase"):
            assert client.get(f"/api/runs/{name}/metrics").status_code in (404, 405), name


def test_events_follow_a_log_while_it_grows(live: Live, runs: Path) -> None:
    growing = runs / "growing"
    growing.mkdir()
    log = growing / "metrics.jsonl"
    log.write_text('{"v": 1, "kind": "step", "step": 1, "loss": 5.0, "t": 0.1}\n')
    seen: list[dict[str, object]] = []
    with live.client() as client, client.stream("GET", "/api/events", params={"run": "growing"}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                seen += json.loads(line[6:])["lines"]
                if len(seen) == 1:
                    with log.open("a") as file:
                        file.write('{"v": 1, "kind": "step", "step": 2, "loss": 4.0, "t": 0.2}\n')
            if len(seen) == 2:
                break
    assert [one["step"] for one in seen] == [1, 2]


def test_plan_and_explain_are_the_commands_own_and_read_no_file(live: Live) -> None:
    words = ["--depth", "4", "--vocab-size", "65536", "--num-iterations", "5000", "--max-seq-len", "1024"]
    with live.client() as client:
        plan = client.post("/api/plan", json={"words": words}).json()
        assert plan["steps"] == 5000
        assert "W201" in [warning["code"] for warning in plan["warnings"]]
        assert client.get("/api/explain/depth").json()["topic"]
        assert client.get("/api/explain/nonsense").status_code == 404
        for word in ("--config", "--shards", "--runs-dir", "--resume"):
            assert client.post("/api/plan", json={"words": [word, "/etc/passwd"]}).status_code == 400


@pytest.mark.row("W8")
def test_the_page_brings_its_own_parts_and_forbids_all_others(live: Live) -> None:
    with live.client() as client:
        page = client.get("/")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        parts = [client.get(f"/page/{name}") for name in ("app.js", "style.css")]
        assert all(part.status_code == 200 for part in parts)
        assert sum(len(part.content) for part in [page, *parts]) < 120 * 1024
        script = parts[0].text
        for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http://evil"):
            assert unsafe not in script
        assert "https://" not in page.text + script
        assert client.get("/page/..%2fapp.py").status_code == 404


def test_greedy_text_is_that_of_the_engine(client: openai.OpenAI, live: Live) -> None:
    from picollm.infer.engine import Request
    from picollm.infer.sample import GREEDY

    tokenizer = live.service.tokenizer
    prompt = (tokenizer.specials["<|bos|>"], *tokenizer.encode("ka"))
    [answer] = Engine(live.service.worker.engine.model).complete([Request(prompt, GREEDY, 12)])
    expected = tokenizer.decode([token.id for token in answer.tokens])
    said = client.completions.create(model="any", prompt="ka", temperature=0, max_tokens=12, extra_body={"top_k": 1})
    assert said.choices[0].text == expected
