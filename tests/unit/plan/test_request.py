import pytest

from picollm.errors import UsageError
from picollm.plan import config
from picollm.plan.knobs import KNOBS, Kind, find
from picollm.plan.presets import PRESETS
from picollm.plan.request import NAMES, Interval, TrainRequest, combine


def test_every_knob_is_a_field_of_the_request_and_back() -> None:
    assert sorted(NAMES) == sorted(knob.name for knob in KNOBS)


def test_every_knob_has_a_rule_and_a_reason() -> None:
    for knob in KNOBS:
        assert knob.rule, knob.name
        assert len(knob.why) > 20, knob.name
        assert bool(knob.choices) == (knob.kind is Kind.CHOICE), knob.name


def test_no_two_knobs_share_a_spelling() -> None:
    spellings = [word for knob in KNOBS for word in (knob.name, *knob.aliases, *knob.switches)]
    assert len(spellings) == len(set(spellings))


SPELLINGS = {
    "--block-size": "max_seq_len",
    "--layers": "depth",
    "--heads": "heads",
    "--hidden-size": "hidden_size",
    "--batch-size": "device_batch_size",
    "--grad-accum": "grad_accum",
    "--learning-rate": "learning_rate",
    "--max-steps": "num_iterations",
    "--save-steps": "save_every",
    "--bf16": "dtype",
    "--dataset-name": "dataset_name",
    "--nproc-per-node": "nproc",
}


@pytest.mark.parametrize(("spelling", "name"), SPELLINGS.items())
def test_every_spelling_of_the_course_resolves(spelling: str, name: str) -> None:
    knob = find(spelling)
    assert knob is not None
    assert knob.name == name


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [("100", 100, "steps"), ("500steps", 500, "steps"), ("15min", 900, "seconds"), ("20usd", 20, "usd")],
)
def test_an_interval_reads_and_writes(text: str, value: float, unit: str) -> None:
    interval = Interval.parse(text)
    assert interval == Interval(value, unit)
    assert Interval.parse(str(interval)) == interval


@pytest.mark.parametrize("text", ["", "0", "-3", "1.5steps", "5 apples"])
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Interval.parse(text)


def test_a_stronger_source_wins_and_silences_its_group() -> None:
    request = combine(
        ("flag", {"max_minutes": 3.0, "hidden_size": 96}, {"hidden_size": "--hidden-size"}),
        ("env", {"seed": 7, "max_minutes": 9.0}, {"seed": "PICOLLM_SEED"}),
        ("preset", dict(PRESETS["tiny"]), {}),
    )
    assert (request.max_minutes, request.num_iterations) == (3.0, None)
    assert (request.hidden_size, request.aspect_ratio, request.depth, request.seed) == (96, None, 2, 7)
    assert (request.origin("seed").source, request.origin("depth").source) == ("env", "preset")
    assert str(request.origin("hidden_size")) == "flag --hidden-size"


def test_two_horizons_in_one_source_are_named_as_they_were_said() -> None:
    words = {"num_iterations": "--max-steps", "target_flops": "--target-flops"}
    with pytest.raises(UsageError, match="--max-steps and --target-flops"):
        combine(("flag", {"target_flops": 1e18, "num_iterations": 10}, words))


def test_a_request_survives_json() -> None:
    request = TrainRequest(depth=4, save_every=Interval(900, "seconds"), smear=True)
    assert TrainRequest.from_json(request.to_json()) == request


def test_every_preset_is_a_request() -> None:
    for values in PRESETS.values():
        TrainRequest.from_json(values)


def test_a_request_survives_its_toml_file() -> None:
    said = TrainRequest(
        shards='odd "name"', depth=4, target_flops=1e19, smear=False, save_every=Interval(900, "seconds"), dtype="bf16"
    )
    assert TrainRequest.from_json(config.read(config.write(said.to_json()), "run.toml")) == said


def test_a_file_may_use_any_spelling_and_may_not_contradict_itself() -> None:
    assert config.read("bf16 = true\n[model]\nlayers = 4\n", "f") == {"dtype": "bf16", "depth": 4}
    with pytest.raises(UsageError, match="depth is said twice: 4 and 6"):
        config.read("layers = 4\ndepth = 6\n", "f")
    with pytest.raises(UsageError, match="f: "):
        config.read("layers = ", "f")
