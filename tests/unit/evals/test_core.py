"""The CORE bundle as it is published: read where it lies, asked as others ask it, scored as chance would."""

import json
import random
import zipfile
from pathlib import Path

import pytest
import torch

from picollm.errors import CheckError, MissingError
from picollm.evals.core import Bundle, examples, question, questions
from picollm.evals.exam import Result, mean_centred
from picollm.evals.questions import Question, Score, right, score
from picollm.model.config import shape
from picollm.model.init import build

BOS = 256
TASKS = """icl_tasks:
- label: letters
  dataset_uri: world/letters.jsonl
  num_fewshot: [2]
  icl_task_type: multiple_choice
  continuation_delimiter: "\\nAnswer: "
- label: who
  dataset_uri: world/who.jsonl
  num_fewshot: [0]
  icl_task_type: schema
- label: say
  dataset_uri: world/say.jsonl
  num_fewshot: [1]
  icl_task_type: language_modeling
"""
BASELINES = "Eval Task,Random baseline\nletters,50\nwho,50\nsay,0\n"


def encode(text: str) -> list[int]:
    return list(text.encode())


def written(root: Path, **changed: str) -> Path:
    """A bundle of three small tasks."""
    data = root / "eval_data" / "world"
    data.mkdir(parents=True)
    (root / "core.yaml").write_text(TASKS)
    (root / "eval_meta_data.csv").write_text(BASELINES)
    letters = [{"query": f"q{n}", "choices": ["yes", "no"], "gold": n % 2} for n in range(20)]
    who = [{"context_options": [f"Ann {n}", f"Bob {n}"], "continuation": "left.", "gold": n % 2} for n in range(6)]
    say = [{"context": f" count {n} ", "continuation": str(n)} for n in range(6)]
    for name, items in (("letters", letters), ("who", who), ("say", say)):
        text = changed.get(name, "".join(json.dumps(item) + "\n" for item in items))
        (data / f"{name}.jsonl").write_text(text)
    return root


def spelled(ids: tuple[int, ...]) -> str:
    return bytes(i for i in ids if i != BOS).decode()


def test_each_kind_is_written_out_and_cut_where_the_answers_begin(tmp_path: Path) -> None:
    bundle = Bundle(written(tmp_path))
    letters, who, say = bundle.tasks
    items = bundle.items(letters)
    asked = question(letters, items, 3, encode, BOS)
    before = examples(letters, items, 3)
    assert asked.prefix[0] == BOS
    assert spelled(asked.prefix) == before + items[3]["query"] + "\nAnswer: "
    assert [spelled(end) for end in asked.ends] == ["yes", "no"]
    assert asked.scored == (3, 2)
    assert asked.gold == items[3]["gold"]
    assert before.count("\n\n") == 2
    assert items[3]["query"] + "\n" not in before

    items = bundle.items(who)
    asked = question(who, items, 0, encode, BOS)
    tail = " left." if items[0]["context_options"][0][-1] != items[0]["context_options"][1][-1] else None
    assert [spelled(end)[-asked.scored[0] :] for end in asked.ends] == [spelled(asked.ends[0])[-asked.scored[0] :]] * 2
    assert spelled(asked.ends[0]).endswith(tail or " left.")

    items = bundle.items(say)
    asked = question(say, items, 2, encode, BOS)
    assert spelled(asked.prefix).endswith(items[2]["context"].strip())
    assert spelled(asked.ends[0]) == " " + items[2]["continuation"]
    assert asked.scored == (len(asked.ends[0]),)


def test_items_and_shots_are_drawn_as_the_public_harnesses_draw_them(tmp_path: Path) -> None:
    bundle = Bundle(written(tmp_path))
    letters = bundle.tasks[0]
    order = list(range(20))
    random.Random(1337).shuffle(order)
    items = bundle.items(letters)
    assert [item["query"] for item in items] == [f"q{n}" for n in order]
    shots = random.Random(1234 + 5).sample([i for i in range(20) if i != 5], 2)
    assert examples(letters, items, 5) == "".join(
        f"{items[i]['query']}\nAnswer: {items[i]['choices'][items[i]['gold']]}\n\n" for i in shots
    )


def test_a_zip_and_a_folder_around_it_give_the_same_questions(tmp_path: Path) -> None:
    root = written(tmp_path / "eval_bundle")
    with zipfile.ZipFile(tmp_path / "eval_bundle.zip", "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(tmp_path))
    plain, zipped = Bundle(root), Bundle(tmp_path / "eval_bundle.zip")
    around = Bundle(tmp_path)
    assert plain.tasks == zipped.tasks == around.tasks
    for task in plain.tasks:
        assert questions(plain, task, encode, BOS, 3) == questions(zipped, task, encode, BOS, 3)


@pytest.mark.row("E4")
def test_a_bundle_that_names_files_outside_itself_reaches_none(tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_text('{"context": "a", "continuation": "b"}\n' * 3)
    root = written(tmp_path / "bundle")
    (root / "core.yaml").write_text(TASKS.replace("world/say.jsonl", "../../secret.jsonl"))
    bundle = Bundle(root)
    with pytest.raises(CheckError, match="outside"):
        bundle.items(bundle.tasks[2])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("letters", '{"query": "q", "choices": ["a", "b"], "gold": 2}\n'),
        ("letters", "not json\n"),
        ("who", '{"context_options": "ab"}\n'),
        ("say", ""),
        ("say", '["a"]\n'),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, name: str, text: str) -> None:
    bundle = Bundle(written(tmp_path, **{name: text}))
    [task] = [task for task in bundle.tasks if task.name == name]
    with pytest.raises(CheckError, match=f"{name}.jsonl"):
        bundle.items(task)


def test_no_bundle_and_a_broken_zip_are_said(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no CORE bundle"):
        Bundle(tmp_path)
    (tmp_path / "eval_bundle.zip").write_bytes(b"PK")
    with pytest.raises(CheckError, match="zip"):
        Bundle(tmp_path)


def test_random_answers_score_what_chance_gives_on_the_real_bundle(shared: Path) -> None:
    """Each task's expected centred score follows from how many choices its items have; CORE is their mean."""
    bundle = Bundle(shared / "data" / "core_eval")
    assert len(bundle.tasks) == 22
    chance = random.Random(7)
    results, expected = [], []
    for task in bundle.tasks:
        asked, whole = questions(bundle, task, encode, BOS, 200)
        hits = sum(right(each, guesses(each, chance)) for each in asked)
        results.append(Result(task.name, hits, len(asked), whole, task.baseline, task.shots))
        odds = sum(1 / len(each.ends) if len(each.ends) > 1 else 0.0 for each in asked) / len(asked)
        expected.append((odds - task.baseline) / (1 - task.baseline))
    mean, error = mean_centred(results)
    assert abs(mean - sum(expected) / len(expected)) < 3 * error


def guesses(asked: Question, chance: random.Random) -> list[Score]:
    return [Score(chance.random(), False) for _ in asked.ends]


def test_a_model_that_copies_is_right_where_copying_is_the_answer(tmp_path: Path) -> None:
    """Known behaviour: an untrained model finds every token equally likely, so the shorter end never wins by length."""
    bundle = Bundle(written(tmp_path))
    model = build(shape(2, 320, 64, "L"), seed=1, device="cpu").eval()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    asked, _ = questions(bundle, bundle.tasks[0], encode, BOS, 10)
    found = score(model, asked)
    for scores in found:
        assert [s.nats for s in scores] == pytest.approx([torch.log(torch.tensor(320.0)).item()] * 2, rel=1e-5)
