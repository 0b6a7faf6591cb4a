"""The page in a real browser: W1–W14 of the specification. Times are reported by the log, never asserted."""

import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from playwright import sync_api as playwright
from tests.page.conftest import Watched, shot, until
from tests.unit.serve.conftest import Live, started

from picollm.cli.serve import make_service


def send(watched: Watched, text: str, tokens: int, **settings: str) -> None:
    page = watched.page
    page.evaluate("document.querySelector('details').open = true")
    for name, value in {"max_tokens": str(tokens), **settings, "message": text}.items():
        page.fill(f"#{name}", value)
    page.click("#send")


def ask(watched: Watched, text: str, tokens: int = 12, **settings: str) -> str:
    """Send a message and wait for the end of the answer."""
    page = watched.page
    before = page.locator(".turn.assistant").count()
    send(watched, text, tokens, **settings)
    until(page, f"document.querySelectorAll('.turn.assistant').length > {before}")
    until(page, "document.getElementById('stop').hidden")
    return page.locator(".turn.assistant .text").last.text_content() or ""


@pytest.mark.row("W1")
def test_the_page_says_who_answers_and_asks_nobody_else(watched: Watched, live: Live) -> None:
    assert "base" in (watched.page.text_content("#about") or "")
    answer = ask(watched, "who are you?", seed="3")
    assert answer
    shot(watched.page, "chat")


@pytest.mark.row("W2")
def test_the_first_token_shows_before_the_answer_ends(
    watched: Watched, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down(live, monkeypatch)
    page = watched.page
    page.evaluate("""() => {
        window.seen = new Set();
        new MutationObserver(() => {
            const text = [...document.querySelectorAll('.turn.assistant .text')].at(-1)?.textContent;
            if (text) window.seen.add(text);
        }).observe(document.getElementById('turns'), {subtree: true, childList: true, characterData: true});
    }""")
    ask(watched, "who are you?", 12, seed="3")
    assert page.evaluate("window.seen.size") >= 2


def slow_down(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model answers too fast to be stopped: give each token the time that a real one takes."""
    head = live.service.worker.engine.model.head

    def slow(h: object) -> object:
        time.sleep(0.05)
        return head(h)  # type: ignore[arg-type]

    monkeypatch.setattr(live.service.worker.engine.model, "head", slow)


@pytest.mark.row("W3")
def test_stop_keeps_what_was_said_and_frees_the_model(
    watched: Watched, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down(live, monkeypatch)
    page = watched.page
    send(watched, "who are you?", 60)
    until(page, "document.querySelector('.turn.assistant .text')?.textContent.length > 0")
    page.click("#stop")
    until(page, "document.getElementById('stop').hidden")
    assert page.text_content(".turn.assistant .text")
    with live.client() as client:
        for _ in range(300):
            if client.get("/health").json()["busy"] == 0:
                break
            time.sleep(0.1)
        assert client.get("/health").json()["busy"] == 0


@pytest.mark.row("W4")
def test_the_same_seed_gives_the_same_text_and_another_another(watched: Watched) -> None:
    def fresh(seed: str) -> str:
        watched.page.click("#new")
        return ask(watched, "who are you?", 20, seed=seed)

    assert fresh("5") == fresh("5")
    assert len({fresh(str(seed)) for seed in range(3)}) > 1


@pytest.mark.row("W5")
def test_editing_an_earlier_question_removes_what_followed_and_asks_again(watched: Watched) -> None:
    page = watched.page
    ask(watched, "one", seed="1")
    ask(watched, "two", seed="1")
    assert page.locator(".turn").count() == 4
    page.locator(".turn.user").first.get_by_text("Edit").click()
    assert page.locator(".turn").count() == 0
    assert page.input_value("#message") == "one"
    ask(watched, "three", seed="1")
    assert page.locator(".turn.user .text").all_text_contents() == ["three"]


@pytest.mark.row("W6")
def test_temperature_nought_says_what_the_terminal_says(watched: Watched, live: Live) -> None:
    from picollm.chat.repl import Talk
    from picollm.infer.engine import Engine
    from picollm.infer.sample import Sampling

    said = ask(watched, "who are you?", 16, temperature="0", top_k="1", seed="1")
    engine = Engine(live.service.worker.engine.model)
    talk = Talk(engine, live.service.tokenizer, True, Sampling(0.0, 1, 1.0, 0.0, 1), 16)
    assert said == "".join(talk.reply("who are you?"))


@pytest.mark.row("W7")
def test_alternatives_sum_to_one_and_a_chosen_one_comes_next(watched: Watched) -> None:
    page = watched.page
    page.click("#tab-tokens")
    page.fill("#text", "ka")
    page.click("#continue")
    until(page, "document.querySelectorAll('#written .token').length >= 8")
    page.locator("#written .token").nth(2).focus()
    said = page.locator("#odds td:nth-child(3)").all_text_contents()
    shares = [float(share.removesuffix(" %")) for share in said]
    assert len(shares) == 11
    assert sum(shares) == pytest.approx(100, abs=0.2)
    chosen = page.locator("#odds button").nth(1).text_content()
    kept = [page.locator("#written .token").nth(n).text_content() or "" for n in range(2)]
    shot(page, "tokens")
    with page.expect_request("**/v1/completions") as asked:
        page.locator("#odds button").nth(1).click()
    assert json.loads(asked.value.post_data or "{}")["prompt"] == "ka" + "".join(kept) + (chosen or "")
    until(page, "document.querySelectorAll('#written .token').length >= 4")


@pytest.mark.row("W8")
def test_emoji_round_trip_and_the_count_is_the_tokenizers(watched: Watched, live: Live) -> None:
    page = watched.page
    text = "naïve 🙂🙃 ka"
    page.click("#tab-tokens")
    page.fill("#text", text)
    count = len(live.service.tokenizer.encode(text))
    until(page, f"document.getElementById('count').textContent.startsWith('{count} tokens')")
    page.click("#tab-chat")
    ask(watched, text, seed="1")
    assert page.locator(".turn.user .text").last.text_content() == text


@pytest.mark.row("W9")
def test_a_curve_grows_while_its_run_writes_elsewhere(watched: Watched, runs: Path) -> None:
    page = watched.page
    run = runs / "elsewhere"
    run.mkdir(exist_ok=True)
    log = run / "metrics.jsonl"
    log.write_text("".join(line(step) for step in range(1, 4)))
    page.click("#tab-training")
    until(page, "[...document.getElementById('run').options].some(o => o.value === 'elsewhere')")
    page.select_option("#run", "elsewhere")
    until(page, "document.getElementById('curve').dataset.points === '3'")
    writer = threading.Thread(target=grow, args=(log,))
    writer.start()
    until(page, "document.getElementById('curve').dataset.points === '30'")
    writer.join()
    assert "step 30, loss 3" in (page.text_content("#state") or "")
    shot(page, "training")


def line(step: int) -> str:
    return json.dumps({"v": 1, "kind": "step", "step": step, "loss": 6 - step / 10, "t": step / 10}) + "\n"


def grow(log: Path) -> None:
    for step in range(4, 31):
        with log.open("a") as file:
            file.write(line(step))
        time.sleep(0.02)


@pytest.mark.row("W10")
def test_the_plan_is_the_commands_own(watched: Watched) -> None:
    page = watched.page
    page.click("#tab-plan")
    for name, value in (("device-batch-size", "8"), ("max-seq-len", "1024"), ("total-batch-size", "1048576"),
                        ("num-iterations", "5000"), ("depth", "4"), ("vocab-size", "65536")):  # fmt: skip
        page.fill(f"#knob-{name}", value)
    until(page, "document.getElementById('numbers').textContent.includes('= 1,048,576')")
    numbers = page.text_content("#numbers") or ""
    assert "W201" in numbers
    assert "5.24 B" in numbers
    assert "--depth 4" in (page.text_content("#command") or "")
    page.get_by_label("Explain Depth").click()
    until(page, "document.getElementById('why').textContent.includes('depth')")
    shot(page, "plan")


@pytest.mark.row("W11")
def test_markup_in_what_is_said_stays_text(watched: Watched) -> None:
    page = watched.page
    bait = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'
    page.route("**/v1/chat/completions", lambda route: route.fulfill(
        status=200, content_type="text/event-stream",
        body="data: " + json.dumps({"choices": [{"delta": {"content": bait}}]}) + "\n\ndata: [DONE]\n\n"))  # fmt: skip
    assert ask(watched, bait) == bait
    assert page.evaluate("window.hit") is None
    assert page.locator("main img, main script").count() == 0


@pytest.mark.row("W12")
def test_a_phone_and_a_keyboard_are_enough(watched: Watched) -> None:
    page = watched.page
    page.set_viewport_size({"width": 375, "height": 667})
    for name in ("chat", "tokens", "training", "plan"):
        page.click(f"#tab-{name}")
        until(page, f"!document.getElementById('{name}').hidden")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, name
    page.focus("#tab-plan")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-chat", "aria-selected") == "true"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "message"
    page.evaluate("document.querySelector('details').open = true")
    page.fill("#max_tokens", "8")
    page.focus("#message")
    page.keyboard.type("hello")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.turn.assistant') && document.getElementById('stop').hidden")
    shot(page, "phone")


def test_dark_and_light_are_both_readable(watched: Watched) -> None:
    page = watched.page
    found = {}
    colours = "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found[scheme] = page.evaluate(colours)
        ink, paper = (luminance(colour) for colour in found[scheme])
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 7, scheme
        shot(page, scheme)
    assert found["light"] != found["dark"]


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2.2)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_times_stand_beside_the_context_used(watched: Watched) -> None:
    ask(watched, "who are you?", 12, seed="1")
    said = watched.page.text_content("#gauge") or ""
    assert re.search(r"context \d+/\d+ · first token \d+ ms · \d+ tokens/s", said)


@pytest.mark.row("W14")
def test_health_answers_while_an_answer_is_written(
    watched: Watched, live: Live, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    slow_down(live, monkeypatch)
    page = watched.page
    send(watched, "who are you?", 60)
    until(page, "document.querySelector('.turn.assistant .text')?.textContent.length > 0")
    with live.client() as client:
        started = time.perf_counter()
        busy = client.get("/health").json()["busy"]
        record_property("health_ms", 1000 * (time.perf_counter() - started))
    assert busy == 1
    page.click("#stop")


@pytest.mark.row("W12")
def test_the_page_goes_on_when_its_server_comes_back(
    browser: playwright.Browser, live: Live, runs: Path, record_property: Callable[[str, object], None]
) -> None:
    first = contextmanager(started)(live.service, None)
    with first as server:
        port = int(server.url.rpartition(":")[2])
        page = browser.new_page()
        page.goto(server.url)
        until(page, "document.getElementById('about').textContent.includes('parameters')")
        run = runs / "outlasting"
        run.mkdir(exist_ok=True)
        log = run / "metrics.jsonl"
        log.write_text("".join(line(step) for step in range(1, 4)))
        page.click("#tab-training")
        until(page, "[...document.getElementById('run').options].some(o => o.value === 'outlasting')")
        page.select_option("#run", "outlasting")
        until(page, "document.getElementById('curve').dataset.points === '3'")
    until(page, "document.getElementById('about').textContent.includes('trying again')")
    grow(log)
    gone = time.perf_counter()
    with contextmanager(started)(live.service, None, port):
        until(page, "document.getElementById('about').textContent.includes('parameters')")
        until(page, "document.getElementById('curve').dataset.points === '30'")
        record_property("reconnected_s", time.perf_counter() - gone)
        page.click("#tab-chat")
        page.evaluate("document.querySelector('details').open = true")
        page.fill("#max_tokens", "8")
        page.fill("#message", "hello again")
        page.click("#send")
        until(page, "document.querySelector('.turn.assistant') && document.getElementById('stop').hidden")
        assert page.locator(".turn.error").count() == 0
        page.close()


def test_a_call_of_the_calculator_is_a_box_and_is_said_again(watched: Watched) -> None:
    page = watched.page
    deltas = [{"content": "it is "}, {"content": "", "parts": [{"type": "python", "text": "6*7"}]},
              {"content": "", "parts": [{"type": "output", "text": "42"}]}, {"content": " indeed"}]  # fmt: skip
    told = "".join(f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n" for delta in deltas)
    page.route("**/v1/chat/completions", lambda route: route.fulfill(
        status=200, content_type="text/event-stream", body=told + "data: [DONE]\n\n"))  # fmt: skip
    assert ask(watched, "what is 6 times 7?") == "it is 6*7= 42 indeed"
    assert page.locator(".call").all_text_contents() == ["6*7", "= 42"]
    shot(page, "calculator")
    with page.expect_request("**/v1/chat/completions") as asked:
        ask(watched, "again")
    messages = json.loads(asked.value.post_data or "{}")["messages"]
    assert [part["type"] for part in messages[1]["content"]] == ["text", "python", "output", "text"]


@pytest.mark.row("K46")
def test_two_models_answer_the_same_prompt_in_the_page(browser: playwright.Browser, live: Live, runs: Path) -> None:
    other = make_service(runs / "base", runs, "cpu")
    both = replace(live.service, beside=replace(other, name="another", chats=False))
    with contextmanager(started)(both, None) as server:
        page = browser.new_page()
        page.goto(server.url)
        until(page, "!document.getElementById('compare').hidden")
        page.check("#both")
        page.evaluate("document.querySelector('details').open = true")
        page.fill("#max_tokens", "8")
        page.fill("#message", "ka")
        page.click("#send")
        until(page, "document.querySelector('.beside')?.textContent.length > 0")
        until(page, "document.getElementById('stop').hidden")
        shot(page, "beside")
        with server.client() as client:
            assert [one["id"] for one in client.get("/v1/models").json()["data"]] == [both.name, "another"]
            assert client.get("/health").json()["busy"] == 0
        page.close()
    other.worker.close()
