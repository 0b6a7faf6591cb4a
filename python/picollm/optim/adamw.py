"""AdamW: decoupled decay, then a bias-corrected step. A plain rule on tensors; arithmetic in fp32 at least."""

from torch import Tensor
from torch.optim.adamw import adamw

from picollm.plan.rates import AdamWGroup


def adamw_(
    param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: Tensor, lr: float, group: AdamWGroup
) -> None:
    """One step. param, both moments and `step` (0-D fp32, applied steps so far) are updated; lr is that of this step.

    torch's fused kernel reads and writes each tensor once: on a CPU the difference is a factor of four.
    """
    adamw(
        [param],
        [grad],
        [exp_avg],
        [exp_avg_sq],
        [],
        [step],
        fused=True,
        amsgrad=False,
        beta1=group.beta1,
        beta2=group.beta2,
        lr=lr,
        weight_decay=group.decay,
        eps=group.eps,
        maximize=False,
    )
