"""How long a plan takes on a machine: FLOPs over what the devices are assumed or measured to give."""

from dataclasses import replace

from picollm.model.config import ModelConfig
from picollm.model.counts import flops_per_token
from picollm.plan.horizon import Horizon
from picollm.plan.measured import Measured
from picollm.plan.request import TrainRequest
from picollm.plan.trainplan import Estimate, TrainPlan
from picollm.runtime.machine import Machine

TERA = 1e12
MFU_CPU = 0.40  # share of a measured matmul rate that small models reach; judgement, until measured
MFU_SHALLOW, MFU_DEEP = (12, 0.40), (24, 0.50)  # H100 class, bf16, linear between; judgement
MFU_BY_NAME = {"a100": 0.48, "4090": 0.35}  # judgement


def assumed_mfu(machine: Machine, depth: int) -> float:
    """The share of the peak that training is assumed to reach."""
    if machine.device == "cpu":
        return MFU_CPU
    for word, share in MFU_BY_NAME.items():
        if word in machine.name.lower():
            return share
    (low, at_low), (high, at_high) = MFU_SHALLOW, MFU_DEEP
    part = min(1.0, max(0.0, (depth - low) / (high - low)))
    return at_low + part * (at_high - at_low)


def flop_rate(machine: Machine, config: ModelConfig, ranks: int) -> float:
    """FLOP/s that `ranks` devices are assumed to give together; 0 where the peak is unknown."""
    if machine.peak_flops is None:
        return 0.0
    devices = 1 if machine.device == "cpu" else ranks  # processes on a CPU share its peak
    return devices * machine.peak_flops * assumed_mfu(machine, config.depth)


def estimate_of(
    request: TrainRequest, machine: Machine, config: ModelConfig, horizon: Horizon, ranks: int, speed: float | None
) -> Estimate:
    """Time of the whole run: from --step-time, else a measured rate, else an assumed one."""
    flops, price = horizon.tokens * flops_per_token(config), request.price_per_gpu_hour or 0.0
    text = f"{flops:.3g}".replace("e+", "e")
    if request.step_time is not None:
        seconds = request.step_time * horizon.steps
        return Estimate(flops / seconds, True, seconds, f"{horizon.steps:,} x {request.step_time:g} s", price)
    if speed is not None:
        return Estimate(speed, True, flops / speed, f"{text} FLOPs / {speed:.3g} FLOP/s measured", price)
    rate = flop_rate(machine, config, ranks)
    if not rate:
        return Estimate(0.0, False, 0.0, f"rate of {machine.name} unknown", price)
    share = 100 * assumed_mfu(machine, config.depth)
    peak = (machine.peak_flops or 0.0) / TERA
    figure = f"{peak:,.0f} TF" if peak >= 10 else f"{1000 * peak:,.0f} GF"
    devices = "" if machine.device == "cpu" else f"{ranks} x "
    return Estimate(rate, False, flops / rate, f"{text} FLOPs / ({devices}{figure} x {share:.0f} % assumed)", price)


def validations(plan: TrainPlan) -> int:
    """How often a run validates: at step 0, at each cadence, at the end."""
    return 1 + -(-plan.steps // plan.eval_every)


def with_measured(plan: TrainPlan, measured: Measured) -> TrainPlan:
    """The plan with what was measured in place of what was assumed: time, rate, memory. Its warnings stay."""
    training, validating = plan.steps * measured.step, validations(plan) * measured.validation_seconds
    seconds = training + validating
    source = (
        f"{plan.steps:,} x {measured.step:.3g} s + {validations(plan)} x {measured.validation_seconds:.3g} s measured"
    )
    estimate = Estimate(plan.flops / seconds, True, seconds, source, plan.estimate.price)
    return replace(
        plan, estimate=estimate, memory=replace(plan.memory, measured=measured.peak_memory), measured=measured
    )
