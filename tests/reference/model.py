"""The network in float64, one row, one token, one head at a time. Weights by name; nothing shared with the real one."""

import numpy as np
from numpy.typing import NDArray

from picollm.model.config import ModelConfig

Array = NDArray[np.float64]
Weights = dict[str, Array]


def rms(x: Array, eps: float) -> Array:
    return x / np.sqrt((x * x).mean() + eps)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def turned(x: Array, position: int, base: float) -> Array:
    """Channel pairs (i, i + D/2) turned by position · base^(−2i/D)."""
    half = len(x) // 2
    out = np.empty_like(x)
    for i in range(half):
        angle = position * base ** (-2 * i / len(x))
        a, b = x[i], x[i + half]
        out[i] = a * np.cos(angle) - b * np.sin(angle)
        out[i + half] = b * np.cos(angle) + a * np.sin(angle)
    return out


def attention(config: ModelConfig, w: Weights, i: int, h: Array, ids: list[int], documents: list[int]) -> Array:
    """h (T, C) normed → (T, C)."""
    D, eps, at = config.head_dim, config.norm_eps, f"blocks.{i}.attn."
    q, k, v = (h @ w[f"{at}{name}.weight"].T for name in "qkv")
    if i in config.value_layers:
        gates = 3 * sigmoid(h[:, : config.ve_gate_channels] @ w[f"{at}ve_gate.weight"].T)
        v = v + np.repeat(gates, D, axis=1) * w[f"value_embeds.{i}.weight"][ids]
    window = config.windows[i]
    mixed = np.zeros_like(q)
    for head in range(config.heads):
        mine = slice(head * D, head * D + D)
        shared = head // (config.heads // config.kv_heads)
        theirs = slice(shared * D, shared * D + D)
        for t in range(len(ids)):
            query = config.qk_scale * rms(turned(q[t, mine], t, config.rope_base), eps)
            seen = [s for s in range(t + 1) if (window is None or t - s <= window) and documents[s] == documents[t]]
            keys = [config.qk_scale * rms(turned(k[s, theirs], s, config.rope_base), eps) for s in seen]
            scores = np.array([query @ key for key in keys]) / np.sqrt(D)
            share = np.exp(scores - scores.max())
            mixed[t, mine] = sum(p * v[s, theirs] for p, s in zip(share / share.sum(), seen, strict=True))
    return mixed @ w[f"{at}o.weight"].T


def logits(config: ModelConfig, w: Weights, ids: list[int], documents: list[int] | None = None) -> Array:
    """(T, V) for one row of ids. `documents`: contiguous runs of equal numbers."""
    T, eps, documents = len(ids), config.norm_eps, documents or [0] * len(ids)
    x0 = np.array([rms(w["embed.weight"][token], eps) for token in ids])
    if config.smear:
        gates = sigmoid(x0[:, : config.smear_channels] @ w["smear_gate.weight"].T)
        smeared = x0.copy()
        for t in range(1, T):
            if documents[t] == documents[t - 1]:
                smeared[t] += w["smear_scale"][0] * gates[t] * x0[t - 1]
        x0 = smeared
    x = middle = x0
    for i in range(config.depth):
        if config.resid_scales:
            x = w["resid_scale"][i] * x + w["x0_scale"][i] * x0
        x = x + attention(config, w, i, np.array([rms(row, eps) for row in x]), ids, documents)
        up = np.array([rms(row, eps) for row in x]) @ w[f"blocks.{i}.mlp.up.weight"].T
        x = x + np.maximum(up, 0) ** 2 @ w[f"blocks.{i}.mlp.down.weight"].T
        if i == min(config.depth // 2, config.depth - 2):
            middle = x
    if config.backout:
        x = x - w["backout_scale"][0] * middle
    z = np.array([rms(row, eps) for row in x]) @ w["lm_head.weight"][: config.vocab_size].T
    return z if config.softcap is None else config.softcap * np.tanh(z / config.softcap)


def nats(config: ModelConfig, w: Weights, ids: list[int], targets: list[int]) -> list[float]:
    """Negative log-likelihood of each target, 0 where it is −100."""
    found = []
    for row, target in zip(logits(config, w, ids), targets, strict=True):
        found.append(0.0 if target == -100 else float(np.log(np.exp(row).sum()) - row[target]))
    return found
