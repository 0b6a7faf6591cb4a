"""What each weight is. The optimizer's rule, the initial value and the stored dtype all go by role, never by shape."""

from enum import StrEnum

from torch import nn


class Role(StrEnum):
    """The kinds of weight; values are the keys of `OptimPlan.adamw`."""

    MATRIX = "matrix"
    UNEMBED = "unembed"
    EMBED = "embed"
    VALUE_EMBED = "value_embed"
    RESID_SCALE = "resid_scale"
    X0_SCALE = "x0_scale"
    BACKOUT_SCALE = "backout_scale"
    SMEAR = "smear"


NAMES = {
    "embed": Role.EMBED,
    "lm_head": Role.UNEMBED,
    "value_embeds": Role.VALUE_EMBED,
    "blocks": Role.MATRIX,
    "resid_scale": Role.RESID_SCALE,
    "x0_scale": Role.X0_SCALE,
    "backout_scale": Role.BACKOUT_SCALE,
    "smear_gate": Role.SMEAR,
    "smear_scale": Role.SMEAR,
}
TABLES = (Role.EMBED, Role.VALUE_EMBED)  # looked up, never multiplied


def role_of(name: str) -> Role:
    """The role of the parameter `name`. A name without a role is a bug in the model."""
    return NAMES[name.split(".")[0]]


def roles(model: nn.Module) -> dict[str, Role]:
    """Role by parameter name, in the order of the model."""
    return {name: role_of(name) for name, _ in model.named_parameters()}
