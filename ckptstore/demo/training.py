"""The training run that the demonstration kills: a small classifier, in a process of its own."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import ckptstore

STEPS, WARMUP, BATCH, HIDDEN, PEAK_RATE = 240, 24, 128, 1024, 4e-3
SAVE_EVERY, KILL_AT = 20, 160
Line = dict[str, Any]


def train(run: str, log: Path, naive: bool) -> None:
    """Train from the newest checkpoint in ``run``, or from scratch, up to the last step."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax  # type: ignore[import-untyped, unused-ignore]
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16).astype(np.float32), labels.astype(np.int32)
    schedule = optax.warmup_cosine_decay_schedule(0.0, PEAK_RATE, WARMUP, STEPS)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))

    def fresh_state() -> dict[str, Any]:
        normal = np.random.default_rng(0).normal
        params = [
            {"w": jnp.float32(normal(0.0, (2 / n) ** 0.5, (n, m))), "b": jnp.zeros(m)}
            for n, m in ((images.shape[1], HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 10))
        ]
        state = {"params": params, "opt_state": optimizer.init(params), "step": 0}
        order = np.arange(len(images))
        return state | {"key": jax.random.key(0), "order": order, "position": len(order)}

    def loss_of(params: Any, x: Any, y: Any) -> Any:
        for layer in params[:-1]:
            x = jax.nn.relu(x @ layer["w"] + layer["b"])
        logits = x @ params[-1]["w"] + params[-1]["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def take_step(params: Any, opt_state: Any, key: Any, x: Any, y: Any) -> Any:
        x = x + jax.random.uniform(key, x.shape, minval=-0.15, maxval=0.15)
        loss, grads = jax.value_and_grad(loss_of)(params, x, y)
        rate = schedule(opt_state[1][2].count)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, rate, loss

    update = jax.jit(take_step)
    manager = ckptstore.Manager(run, every=SAVE_EVERY)
    state = manager.load_or_init(fresh_state)
    if naive:
        state["opt_state"] = optimizer.init(state["params"])

    with log.open("w", encoding="utf-8") as lines:
        while state["step"] < STEPS:
            state["key"], shuffle, noise = jax.random.split(state["key"], 3)
            if state["position"] + BATCH > len(images):  # A new epoch, in a new order.
                state["order"] = np.asarray(jax.random.permutation(shuffle, len(images)))
                state["position"] = 0
            rows = state["order"][state["position"] :][:BATCH]
            state["params"], state["opt_state"], rate, loss = update(
                state["params"], state["opt_state"], noise, images[rows], labels[rows]
            )
            state["position"] += BATCH
            state["step"] += 1
            line: Line = {"step": state["step"], "count": int(state["opt_state"][1][0].count)}
            for name, value in (("lr", float(rate)), ("loss", float(loss))):
                line |= {name: value, f"{name}_bits": struct.pack(">f", value).hex()}
            if state["step"] == STEPS:
                leaves = jax.tree.leaves((state["params"], state["opt_state"]))
                content = b"".join(np.asarray(leaf).tobytes() for leaf in leaves)
                line["digest"] = hashlib.sha256(content).hexdigest()
            print(json.dumps(line), file=lines, flush=True)
            manager.save(state["step"], state)
