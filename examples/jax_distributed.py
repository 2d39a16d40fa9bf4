"""Train over the devices of several processes with jax.distributed; killed, it goes on by itself.

On a TPU pod, under SLURM or Open MPI, jax finds its cluster: start the same line on every host.

    python examples/jax_distributed.py gs://bucket/run

Elsewhere say who is who. Two processes on one machine, two devices each:

    export XLA_FLAGS=--xla_force_host_platform_device_count=2 JAX_PLATFORMS=cpu
    python examples/jax_distributed.py run --coordinator 127.0.0.1:9911 --processes 2 --index 0 &
    python examples/jax_distributed.py run --coordinator 127.0.0.1:9911 --processes 2 --index 1
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import ckptstore

STEPS, ROWS, FEATURES, HIDDEN = 200, 64, 32, 256

parser = argparse.ArgumentParser()
parser.add_argument("run", help="a directory that all hosts share, or the URL of a bucket")
parser.add_argument("--coordinator")
parser.add_argument("--processes", type=int)
parser.add_argument("--index", type=int)
arguments = parser.parse_args()

jax.distributed.initialize(arguments.coordinator, arguments.processes, arguments.index)
mesh = Mesh(np.array(jax.devices()), ("data",))
optimizer = optax.adamw(optax.cosine_decay_schedule(1e-2, STEPS))


def begin(key):
    one, two = jax.random.split(key)
    params = {
        "in": jax.random.normal(one, (HIDDEN, FEATURES)) / 8,
        "out": jax.random.normal(two, (HIDDEN, FEATURES)) / 8,
        "bias": jnp.zeros(FEATURES),
    }
    return {"params": params, "opt_state": optimizer.init(params), "step": jnp.int32(0)}


def place(leaf):
    """Matrices by rows over all devices, and all else everywhere: for Adam's moments too."""
    return NamedSharding(mesh, PartitionSpec("data") if leaf.ndim == 2 else PartitionSpec())


places = jax.tree.map(place, jax.eval_shape(begin, jax.random.key(0)))


@jax.jit
def update(state):
    x = jax.random.normal(jax.random.fold_in(jax.random.key(1), state["step"]), (ROWS, FEATURES))

    def loss_of(params):
        hidden = jax.nn.gelu(x @ params["in"].T)
        return jnp.mean((hidden @ params["out"] + params["bias"] - x) ** 2)

    loss, grads = jax.value_and_grad(loss_of)(state["params"])
    updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, loss


with ckptstore.Manager(arguments.run, every=20, keep=ckptstore.keep_last(2)) as manager:
    preempted = manager.on_preemption()
    state = manager.load_or_init(
        lambda: jax.jit(begin, out_shardings=places)(jax.random.key(0)), sharding=places
    )
    ckptstore.in_step(state)
    print("begins at step", int(state["step"]), flush=True)
    for step in range(int(state["step"]) + 1, STEPS + 1):
        state, loss = update(state)
        stop = preempted.at(step)
        manager.save_async(step, state, force=stop or step == STEPS)
        if step % 20 == 0:
            print(f"step {step}: loss {float(loss)!r}", flush=True)
        if stop:
            break
