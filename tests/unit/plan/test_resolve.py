import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picollm.errors import CheckError, MissingError, OutOfMemoryError, UsageError
from picollm.plan import laws
from picollm.plan.facts import DataFacts
from picollm.plan.render import render
from picollm.plan.request import Interval, TrainRequest
from picollm.plan.resolve import resolve
from picollm.plan.trainplan import TrainPlan, same_run
from picollm.runtime.machine import GIB, Machine

H100 = Machine.gpus("h100", 8, cores=16)
CPU = Machine("cpu", "2 CPU cores", 1, 16 * GIB, 2, 4e10, "measured")
DATA = DataFacts("toy", "shards/toy", "f" * 64, "a" * 64, 4096, 10_000_000, 200_000)
SMALL = TrainRequest(
    depth=4, aspect_ratio=32.0, head_dim=32, max_seq_len=256, total_batch_size=4096, num_iterations=200
)


def plan_of(machine: Machine = CPU, data: DataFacts | None = DATA, **said: object) -> TrainPlan:
    return resolve(replace(SMALL, **said), machine, data)  # type: ignore[arg-type]


def codes(plan: TrainPlan) -> set[str]:
    return {warning.code for warning in plan.warnings}


# depth, its ratio, both neighbours' ratios, tokens per step, steps, tokens, lr scale, decay, warm-up, ramp,
# warm-down, FLOPs reached
GOLDEN = {
    (1e18, 32_768): (12, 11.96, 28.8, 5.4, 2**19, 2511, 1_316_487_168, 1.0, 0.2810, 40, 377, 1632, 1.00013e18),
    (1e19, 32_768): (18, 14.14, 26.9, 8.0, 2**20, 4375, 4_587_520_000, 1.4142, 0.1140, 40, 400, 2844, 1.00008e19),
    (4e19, 32_768): (24, 11.48, 18.7, 7.3, 2**20, 7989, 8_377_073_664, 1.4142, 0.0625, 40, 400, 5193, 4.00024e19),
    (1e18, 65_536): (10, 17.67, 43.0, 8.12, 2**19, 3070, 1_609_564_160, 1.0, 0.2298, 40, 400, 1996, 9.99995e17),
    (1e19, 65_536): (18, 11.47, 20.9, 6.7, 2**20, 3963, 4_155_506_688, 1.4142, 0.1259, 40, 400, 2576, 1.00002e19),
    (4e19, 65_536): (24, 10.10, 16.1, 6.5, 2**20, 7513, 7_877_951_488, 1.4142, 0.0664, 40, 400, 4883, 3.99981e19),
}


@pytest.mark.parametrize(("budget", "golden"), GOLDEN.items(), ids=str)
@pytest.mark.parametrize("machine", [H100, CPU], ids=["h100", "cpu"])
def test_a_budget_of_flops_gives_the_golden_plan_on_every_machine(
    budget: tuple[float, int], golden: tuple[float, ...], machine: Machine
) -> None:
    flops, vocab = budget
    depth, ratio, below, above, batch, steps, tokens, scale, decay, warmup, ramp, down, reached = golden
    plan = resolve(TrainRequest(target_flops=flops, vocab_size=vocab), machine, None)
    assert (plan.model.depth, plan.tokens_per_step, plan.steps, plan.tokens) == (depth, batch, steps, tokens)
    assert (plan.schedule.warmup, plan.schedule.ramp, plan.schedule.warmdown) == (warmup, ramp, down)
    assert plan.schedule.decay == pytest.approx(decay, abs=5e-5)
    assert laws.lr_scale(plan.tokens_per_step, plan.steps) == pytest.approx(scale, abs=5e-5)
    assert plan.flops == pytest.approx(reached, rel=5e-6)
    assert plan.ratio == pytest.approx(ratio, abs=6e-3)
    note = next(note for note in plan.notes if note.startswith("depth"))
    shown = [float(ratio) for ratio in re.findall(r"d\d+ ([0-9.]+)", note)]
    assert shown == pytest.approx([below, above], abs=0.11), note


def test_a_ratio_gives_the_golden_run_of_depth_24() -> None:
    plan = resolve(TrainRequest(depth=24, vocab_size=32_768, target_param_data_ratio=8.0), H100, None)
    assert (plan.steps, plan.tokens_per_step) == (5568, 2**20)
    assert plan.tokens == pytest.approx(5.84e9, rel=1e-3)
    assert plan.flops == pytest.approx(2.79e19, rel=1e-3)


def test_a_depth_alone_means_twelve_tokens_per_parameter() -> None:
    plan = resolve(TrainRequest(depth=12, vocab_size=32_768), H100, None)
    assert (plan.steps, plan.tokens_per_step, plan.horizon) == (2520, 2**19, "target_param_data_ratio")
    assert plan.tokens == pytest.approx(laws.TOK_REF, rel=1e-5)
    assert plan.schedule.decay == pytest.approx(laws.DECAY_REF, rel=1e-5)


@pytest.mark.parametrize(("steps", "batch"), [(2520, 2**19), (5000, 2**20), (528, 2**18), (20, 2**15), (200, 2**17)])
def test_steps_alone_give_the_batch_in_closed_form_and_are_never_halved(steps: int, batch: int) -> None:
    assert plan_of(num_iterations=steps, total_batch_size=None).tokens_per_step == batch


def test_a_short_run_halves_its_batch_until_it_has_steps() -> None:
    plan = resolve(TrainRequest(target_flops=3e14, depth=4, vocab_size=4096), CPU, None)
    assert plan.tokens / plan.tokens_per_step >= laws.MIN_STEPS
    assert any("halved" in note for note in plan.notes)


@pytest.mark.parametrize(("depth", "bites"), [(2, True), (12, False)])
def test_the_decay_clamp_is_said_aloud_when_it_bites(depth: int, bites: bool) -> None:
    plan = resolve(TrainRequest(depth=depth, vocab_size=32_768), H100, None)
    assert (plan.schedule.decay * plan.optim.muon.lr == pytest.approx(0.01)) is bites
    assert any("the rule wanted" in note for note in plan.notes) is bites


@settings(max_examples=40)
@given(st.sampled_from([2, 4, 6, 12]), st.integers(1, 100_000), st.integers(14, 20))
def test_the_same_shape_batch_and_steps_get_the_same_rates_by_any_flag(depth: int, steps: int, power: int) -> None:
    common = {"depth": depth, "vocab_size": 4096, "total_batch_size": 2**power}
    by_steps = resolve(TrainRequest(num_iterations=steps, **common), H100, None)  # type: ignore[arg-type]
    by_flops = resolve(TrainRequest(target_flops=float(by_steps.flops), **common), H100, None)  # type: ignore[arg-type]
    by_ratio = resolve(TrainRequest(target_param_data_ratio=by_steps.ratio, **common), H100, None)  # type: ignore[arg-type]
    assert same_run(by_steps, by_flops) == same_run(by_steps, by_ratio) == []
    if by_steps.schedule.decay * by_steps.optim.muon.lr < 0.00999:
        kept = by_steps.schedule.decay * by_steps.tokens / by_steps.tokens_per_step**0.5
        assert kept == pytest.approx(laws.DECAY_REF * laws.TOK_REF / laws.GTOK_REF**0.5)


@given(st.floats(1e5, 1e13), st.floats(1.0, 10.0))
def test_more_tokens_never_shrink_the_batch(tokens: float, factor: float) -> None:
    assert laws.batch_for_tokens(tokens * factor) >= laws.batch_for_tokens(tokens)


def test_two_horizons_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"--num-iterations and --target-flops"):
        plan_of(target_flops=1e15)


def test_a_budget_for_more_than_64_layers_is_refused() -> None:
    with pytest.raises(UsageError, match="deeper than 64"):
        resolve(TrainRequest(target_flops=1e24), H100, None)


@pytest.mark.parametrize("ranks", [1, 2, 3, 6, 7, 8])
@pytest.mark.parametrize("rows", [None, 1, 3, 16])
def test_any_world_and_batch_cover_the_same_rows(ranks: int, rows: int | None) -> None:
    plan = plan_of(nproc=ranks, device_batch_size=rows)
    assert plan.rows_per_step == 16
    assert 0 <= plan.masked_rows < plan.ranks * plan.device_batch
    assert (plan.micro_steps - 1) * plan.ranks * plan.device_batch < plan.rows_per_step


def test_the_batch_is_the_product_and_a_wrong_product_is_shown() -> None:
    said = TrainRequest(device_batch_size=8, nproc=8, max_seq_len=1024, grad_accum=16, num_iterations=5000)
    plan = resolve(said, H100, None)
    assert (plan.tokens_per_step, plan.tokens, plan.micro_steps) == (1_048_576, 5_242_880_000, 16)
    with pytest.raises(UsageError, match="8 x 8 x 16 x 1024 = 1,048,576, not 524,288"):
        resolve(replace(said, total_batch_size=524_288), H100, None)


def test_heads_and_width_must_multiply_out() -> None:
    with pytest.raises(UsageError, match="8 heads x 128 = 1024, but hidden size is 768"):
        resolve(TrainRequest(depth=4, heads=8, head_dim=128, hidden_size=768), CPU, None)


def test_the_width_rounds_up_to_whole_heads_and_says_so() -> None:
    plan = resolve(TrainRequest(depth=5, aspect_ratio=50.0, head_dim=64), CPU, None)
    assert plan.model.width == 256
    assert "hidden 250 → 256 (rounded up to 4 heads x 64)" in plan.notes


def test_minutes_become_tokens_by_the_measured_rate_and_steps_stay_on_resume() -> None:
    said = replace(SMALL, num_iterations=None, max_minutes=2.0)
    guessed = resolve(said, CPU, DATA)
    measured = resolve(said, CPU, DATA, speed=3e10, depth=guessed.model.depth)
    assert measured.flops == pytest.approx(120 * 3e10, rel=0.01)
    assert measured.estimate.measured
    again = resolve(said, CPU.with_peak(1.0, "measured"), DATA, speed=measured.estimate.flops_per_second, depth=4)
    assert same_run(measured, again) == []
    assert again.name == measured.name
    with pytest.raises(UsageError, match="unknown"):
        resolve(said, replace(CPU, peak_flops=None), DATA)


def test_a_budget_is_minutes_at_a_price() -> None:
    by_money = resolve(TrainRequest(depth=12, budget=6.0, price_per_gpu_hour=3.0, nproc=8), H100, None)
    by_time = resolve(TrainRequest(depth=12, max_minutes=15.0, nproc=8), H100, None)
    assert by_money.steps == by_time.steps
    with pytest.raises(UsageError, match="needs a price"):
        resolve(TrainRequest(depth=12, budget=6.0), H100, None)


def test_no_shards_are_a_problem_that_a_plan_lists_and_train_raises() -> None:
    plan = plan_of(data=None, vocab_size=65_536)
    with pytest.raises(MissingError) as raised:
        plan.require()
    assert raised.value.hint == "picollm shard fineweb-edu"


def test_too_few_tokens_name_the_command_that_makes_enough() -> None:
    data = replace(DATA, vocab_size=65_536, train_tokens=100_000_000)
    with pytest.raises(MissingError) as raised:
        resolve(TrainRequest(target_flops=1e19, device_batch_size=1), H100, data).require()
    assert raised.value.hint == "picollm shard toy --tokens 4.2B"
    resolve(TrainRequest(target_flops=1e19, nproc=8, max_epochs=50.0), H100, data).require()


def test_a_plan_that_does_not_fit_offers_three_changes_that_do() -> None:
    machine = replace(H100, memory=40 * GIB)
    plan = resolve(TrainRequest(depth=24, vocab_size=65_536, device_batch_size=64, num_iterations=9), machine, None)
    with pytest.raises(OutOfMemoryError) as raised:
        replace(plan, problems=plan.problems[-1:]).require()
    ways = (raised.value.hint or "").removeprefix("fits: ").split("; ")
    assert len(ways) == 3
    words = ways[0].split()
    assert words[0] == "--device-batch-size"
    assert resolve(
        TrainRequest(depth=24, vocab_size=65_536, device_batch_size=int(words[1]), num_iterations=9), machine, None
    ).memory.fits


def test_a_vocabulary_other_than_the_shards_stops_training_only() -> None:
    plan = plan_of(vocab_size=8192)
    assert plan.model.vocab_size == 8192
    with pytest.raises(UsageError, match="8,192"):
        plan.require()
    with pytest.raises(UsageError, match="65,536"):
        plan_of(vocab_size=65_537)


def test_cadences_follow_the_length_of_the_run() -> None:
    assert (plan_of().eval_every, plan_of(num_iterations=10_000).eval_every, plan_of(num_iterations=3).eval_every) == (
        20,
        250,
        1,
    )
    assert plan_of().val_tokens == 2**14
    assert plan_of(num_iterations=2_000).val_tokens == 2**16
    assert plan_of(num_iterations=1_000_000).val_tokens == DATA.val_tokens
    assert plan_of().save_every == Interval(900.0, "seconds")


def test_a_plan_survives_json() -> None:
    plan = plan_of(stop_after=Interval.parse("30min"), save_every=Interval.parse("100"))
    assert TrainPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_the_name_is_the_request_without_what_may_change() -> None:
    assert plan_of().name == plan_of(nproc=2, device_batch_size=2, save_every=Interval(5, "steps"), keep=9).name
    assert plan_of().name != plan_of(seed=1).name
    assert plan_of().name != plan_of(data=replace(DATA, fingerprint="0" * 64)).name
    assert plan_of().name.startswith("train-")
    assert plan_of(name="mine").name == "mine"


def test_what_may_change_on_resume_is_the_same_run_and_the_rest_is_listed() -> None:
    assert same_run(plan_of(), plan_of(nproc=2, workers=3, eval_every=7, compile="on")) == []
    assert same_run(plan_of(), plan_of(machine=H100)) == []  # the dtype followed the device
    assert same_run(plan_of(), plan_of(seed=3)) == ["seed: 1337, now 3"]
    changed = [line.split(":")[0] for line in same_run(plan_of(), plan_of(learning_rate=0.01, packing="concat"))]
    assert changed == ["schedule.decay", "optim.muon", "optim.adamw", "packing"]


def test_epochs_and_an_extreme_ratio_are_warned_of() -> None:
    plan = plan_of(data=replace(DATA, train_tokens=300_000))
    assert {"W201", "W401", "W404"} <= codes(plan)
    assert "W401" not in codes(plan_of())


def test_a_long_warm_up_and_an_idle_gpu_are_warned_of() -> None:
    assert "W402" in codes(plan_of(num_iterations=100, warmup_steps=40))
    assert "W305" in codes(plan_of(machine=H100))
    assert "W305" not in codes(plan_of(machine=H100, nproc=8))


def test_a_run_of_weeks_is_warned_of() -> None:
    data = replace(DATA, vocab_size=65_536, train_tokens=10**10)
    plan = resolve(TrainRequest(target_flops=1e19), replace(CPU, memory=32 * GIB), data)
    assert "W407" in codes(plan)
    assert "W301" not in codes(plan)  # a CPU has blocks for windows
    assert plan.problems == ()


def test_an_under_deep_model_is_shown_its_balanced_twin() -> None:
    plan = resolve(TrainRequest(depth=2, hidden_size=2048), H100, None)
    assert "14 x 768 (99 M against 101 M in matrices)" in str(next(w for w in plan.warnings if w.code == "W203"))
    narrow = resolve(TrainRequest(depth=6, heads=24), H100, None)
    assert "6 heads x 64 is the same width" in str(next(w for w in narrow.warnings if w.code == "W202"))


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="cuda"):
        plan_of(device="cuda")


@pytest.mark.parametrize(
    "said",
    [
        {"depth": 0},
        {"max_seq_len": 0},
        {"kv_heads": 0},
        {"num_iterations": -1},
        {"learning_rate": float("nan")},
        {"total_batch_size": 0},
        {"warmdown_ratio": 1.5},
        {"weight_decay": -0.1},
        {"name": "../elsewhere"},
        {"name": ".hidden"},
        {"keep": 0},
    ],
    ids=str,
)
def test_a_number_that_no_run_can_have_is_refused(said: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        plan_of(**said)


@settings(max_examples=150)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "depth": st.integers(-1, 80),
            "max_seq_len": st.integers(0, 5000),
            "heads": st.integers(1, 20),
            "hidden_size": st.integers(1, 3000),
            "vocab_size": st.integers(200, 70_000),
            "window_pattern": st.sampled_from(["L", "SSSL", "S", "X"]),
            "num_iterations": st.integers(0, 10**6),
            "target_flops": st.floats(1.0, 1e30),
            "total_batch_size": st.integers(1, 10**7),
            "device_batch_size": st.integers(1, 100),
            "grad_accum": st.integers(1, 100),
            "nproc": st.integers(1, 9),
            "warmup_steps": st.integers(0, 100),
            "warmdown_ratio": st.floats(0, 1),
        },
    ),
    st.sampled_from([CPU, H100]),
    st.sampled_from([None, DATA]),
)
def test_every_request_gives_a_plan_that_survives_json_or_a_usage_error(
    said: dict[str, object], machine: Machine, data: DataFacts | None
) -> None:
    try:
        plan = resolve(TrainRequest(**said), machine, data)  # type: ignore[arg-type]
    except UsageError:
        return
    assert TrainPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert plan.tokens == plan.steps * plan.rows_per_step * plan.seq_len
    assert render(plan).startswith(" 1 data")


def test_a_damaged_plan_is_refused() -> None:
    whole = plan_of().to_json()
    for damaged in ({}, whole | {"extra": 1}, whole | {"schedule": {"steps": 0}}, whole | {"model": 3}):
        with pytest.raises(CheckError):
            TrainPlan.from_json(damaged)
