"""The yardstick: Dif-MAML on a ring of processes as one would write it in an afternoon; imports nothing of difnet.

    python bench/bare_eager.py --agents 40 --iterations 100

Each agent takes an eager, second-order MAML gradient of the 1-40-40-1 network on 5 sinusoid tasks of 10 + 10 samples,
takes an Adam step, swaps states with its two neighbours over PUSH/PULL on ipc, and mixes with Metropolis weights. It
reports no progress, tests nothing, and does not notice a lost neighbour before WAIT_S.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile

import numpy as np
import torch
import zmq
from forked import forked, rate, timed
from torch.func import grad, vmap
from torch.nn.functional import mse_loss

WAIT_S = 60.0  # nobody waits longer for anybody
SHAPES = [(40, 1), (40,), (40, 40), (40,), (1, 40), (1,)]
SIZES = [40, 40, 1600, 40, 40, 1]


def loss(w, x, y):
    a, b, c, d, e, f = (part.view(shape) for part, shape in zip(w.split(SIZES), SHAPES, strict=True))
    return mse_loss(torch.relu(torch.relu(x @ a.T + b) @ c.T + d) @ e.T + f, y)


def outer_loss(w, sx, sy, qx, qy):
    return vmap(lambda sx, sy, qx, qy: loss(w - 0.01 * grad(loss)(w, sx, sy), qx, qy))(sx, sy, qx, qy).mean()


gradient = grad(outer_loss)


def draw(rng, tasks=5, samples=10):
    a, p = rng.uniform(0.1, 5.0, (tasks, 1, 1)), rng.uniform(0, np.pi, (tasks, 1, 1))
    support, query = rng.uniform(-5, 5, (2, tasks, samples, 1))
    return [torch.from_numpy(t).float() for x in (support, query) for t in (x, a * np.sin(x - p))]


class Ring:
    """One agent's sockets: it pulls from everybody, and pushes to the agents before and after it."""

    def __init__(self, k, agents, folder):
        self.context, self.k, self.early = zmq.Context(), k, {}
        self.neighbours = sorted({(k - 1) % agents, (k + 1) % agents})
        self.pull = self.context.socket(zmq.PULL)
        self.pull.bind(f"ipc://{folder}/{k}")
        self.pushes = [self.context.socket(zmq.PUSH) for _ in self.neighbours]
        for push, l in zip(self.pushes, self.neighbours, strict=True):
            push.setsockopt(zmq.SNDTIMEO, int(1000 * WAIT_S))
            push.connect(f"ipc://{folder}/{l}")

    def exchange(self, i, phi):
        """Tell both neighbours our state of round i, and hear theirs: {neighbour: state}."""
        for push in self.pushes:
            push.send_multipart([np.array([self.k, i]).tobytes(), phi])
        heard = {l: self.early.pop((l, i)) for l in self.neighbours if (l, i) in self.early}
        while len(heard) < len(self.neighbours):
            if not self.pull.poll(int(1000 * WAIT_S)):
                raise TimeoutError(f"agent {self.k}, round {i}: heard only {sorted(heard)} in {WAIT_S:.0f} s")
            header, body = self.pull.recv_multipart()
            l, j = np.frombuffer(header, int)
            (heard if j == i else self.early)[l if j == i else (l, j)] = np.frombuffer(body, phi.dtype)
        return heard


def learn(k, agents, iterations, folder, first, wait_for_start):
    rng, w = np.random.default_rng([0, k]), first.clone()
    optimizer, ring = torch.optim.Adam([w], lr=0.001), Ring(k, agents, folder)

    def iterate():
        for i in range(iterations):
            w.grad = gradient(w, *draw(rng))
            optimizer.step()
            heard = ring.exchange(i, w.numpy().copy())
            w.copy_((w + sum(torch.from_numpy(phi.copy()) for phi in heard.values())) / 3)

    wait_for_start()
    report = timed(iterate)
    ring.context.destroy(linger=int(1000 * WAIT_S))
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, default=40)
    parser.add_argument("--iterations", type=int, default=100)
    words = parser.parse_args()
    if words.agents < 3:
        parser.error("a ring has at least 3 agents")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = [torch.nn.Linear(*size) for size in ((1, 40), (40, 40), (40, 1))]
    first = torch.cat([p.detach().flatten() for layer in layers for p in layer.parameters()])
    folder = os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="bare-")
    try:
        gradient(
            first, *draw(np.random.default_rng(0))
        )  # what torch loads for it is loaded once, before the first fork
        reports = forked(words.agents, lambda k, wait: learn(k, words.agents, words.iterations, folder, first, wait))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"agents": words.agents, "iterations": words.iterations, **rate(words.iterations, reports)}))


if __name__ == "__main__":
    main()
