"""Randomness that nothing but its own name decides: not the order of drawing, not the process, not anybody's seed."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from difnet import config
from difnet.maths.seeding import NETWORK, Purpose, generator
from difnet.workload import TaskStream
from difnet.workload.building import build

MASK = 2**64 - 1


def philox(key: tuple[int, int], counter: tuple[int, int, int, int]) -> list[int]:
    """Philox 4x64 with ten rounds, written from Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011)."""
    k0, k1 = key
    a, b, c, d = counter
    for _ in range(10):
        low_a, high_a = a * 0xD2E7470EE14C6C93 & MASK, a * 0xD2E7470EE14C6C93 >> 64
        low_c, high_c = c * 0xCA5A826395121157 & MASK, c * 0xCA5A826395121157 >> 64
        a, b, c, d = high_c ^ b ^ k0, low_c, high_a ^ d ^ k1, low_a
        k0, k1 = k0 + 0x9E3779B97F4A7C15 & MASK, k1 + 0xBB67AE8584CAA73B & MASK
    return [a, b, c, d]


@pytest.mark.parametrize(("seed", "agent", "block"), [(0, 0, 0), (7, 39, 12), (2**63 - 1, NETWORK, 2**40)])
def test_the_stream_is_philox_keyed_by_what_it_is_for(seed, agent, block):
    """Key (seed, agent and purpose), the block in the third word of the counter: recomputed by hand."""
    drawn = generator(seed, Purpose.TRAIN, agent, block).bit_generator.random_raw(8).tolist()
    key = seed, (agent << 8) | 2
    assert drawn == philox(key, (1, 0, block, 0)) + philox(key, (2, 0, block, 0))


def test_no_two_names_share_a_stream():
    """Seeds, purposes, agents and blocks, also large ones: all first draws differ."""
    names = list(itertools.product([0, 1, 2**62], Purpose, [0, 1, 255, 256, NETWORK], [0, 1, 255, 2**40]))
    assert len({generator(*name).bit_generator.random_raw() for name in names}) == len(names)


def test_what_was_drawn_before_does_not_matter():
    want = generator(3, Purpose.TRAIN, 5, 9).random(4)
    for other in range(5):
        generator(3, Purpose.TRAIN, 5, other).random(100 * other)
    assert (generator(3, Purpose.TRAIN, 5, 9).random(4) == want).all()


def test_another_process_draws_the_same():
    program = ("import json; from difnet.maths.seeding import *;"
               "print(json.dumps(generator(3, Purpose.VALIDATE, 5, 9).standard_normal(20).tolist()))")  # fmt: skip
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(there.stdout) == generator(3, Purpose.VALIDATE, 5, 9).standard_normal(20).tolist()


# --- what a run draws with it --------------------------------------------------------------------------------------


def workload(**settings):
    settings = {"model": {"name": "mlp", "hidden": [4]}, "tasks": 2, "shots": 3, "queries": 4} | settings
    return build(config.load(settings=settings), agents=3)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True))


def test_a_task_stream_may_be_read_in_any_order():
    """Tasks of a step are the same read in turn, at random or alone, within a block and across its border."""
    w = workload()
    assert w.block > 1
    stream = TaskStream(w, 1)
    in_turn = [stream(step) for step in range(2 * w.block + 3)]
    jumping = TaskStream(w, 1)
    for step in (2 * w.block + 1, 0, w.block, w.block - 1, 3, w.block, 2 * w.block):
        assert same(jumping(step), in_turn[step])
        assert same(TaskStream(w, 1)(step), in_turn[step])
    for one, other in itertools.combinations(in_turn, 2):
        assert not same(one, other)


def test_agents_draw_the_same_whoever_draws_first():
    w = workload()
    forth, back = [TaskStream(w, k) for k in range(3)], [TaskStream(w, k) for k in range(3)]
    one = [[forth[k](step) for k in (0, 1, 2)] for step in range(3)]
    other = [[back[k](step) for k in (2, 1, 0)][::-1] for step in range(3)]
    assert all(same(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))
    assert not any(same(a, b) for a, b in itertools.combinations(one[0], 2))


def test_validation_tasks_are_everybodys_and_nobodys_training_tasks():
    w = workload(eval_tasks=2, shots=3)
    assert same(w.validation_tasks(), w.validation_tasks())
    assert not same(w.validation_tasks(), workload(eval_tasks=2, seed=1).validation_tasks())
    assert w.validation_tasks().support[0].shape == (2, 3, 1)


def test_launch_models_are_common_or_each_agents_own():
    common, separate = workload(), workload(init="separate")
    assert torch.equal(common.first_launch_model(0), common.first_launch_model(2))
    firsts = [separate.first_launch_model(k) for k in range(3)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(firsts, 2))
    assert all(torch.equal(w, separate.first_launch_model(k)) for k, w in enumerate(firsts))
    assert not torch.equal(common.first_launch_model(0), workload(seed=1).first_launch_model(0))


def test_a_large_seed_is_as_good_as_any():
    w = workload(seed=2**63 - 1)
    assert w.first_launch_model(0).isfinite().all() and not same(TaskStream(w, 0)(0), TaskStream(workload(), 0)(0))


def test_nobody_touches_or_feels_the_global_generators():
    """Building, first launch models and draws: torch's and numpy's own generators are as before, and have no say."""
    def everything():
        w = workload(init="separate")
        tasks = [TaskStream(w, k)(40) for k in range(3)]
        return w.first_launch_model(1), tasks, w.validation_tasks()

    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()
    first, tasks, validation = everything()
    assert torch.equal(torch.get_rng_state(), before[0])
    after = np.random.get_state()
    assert after[2:] == before[1][2:] and (after[1] == before[1][1]).all()
    torch.manual_seed(6)
    np.random.seed(6)
    again, tasks_again, validation_again = everything()
    assert torch.equal(first, again) and same(validation, validation_again)
    assert all(same(a, b) for a, b in zip(tasks, tasks_again, strict=True))
