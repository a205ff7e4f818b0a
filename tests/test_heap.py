"""The heap's settings, seen from the outside: page faults of a process that takes and frees large arrays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mlx_persona import heap

pytestmark = pytest.mark.skipif(heap._glibc() is None, reason="not glibc")

# 40 times 32 MB: 8,192 pages each, which a heap that gives them back takes anew each time.
_SCRIPT = """
import resource
import mlx_persona.backend
import mlx.core as mx
from mlx_persona import heap
one = mx.ones((8 * 2**20,))
mx.eval(one)
def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        mx.eval(one + 1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def resident():
    return int(open("/proc/self/statm").read().split()[1])
faults(2)
first = faults(40)
kept = resident()
heap.give_back()
print(first, kept - resident())
"""


def _faults_and_given_back(**variables: str) -> tuple[int, int]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], env={**plain, **variables}, capture_output=True, text=True, check=True
    )
    first, pages = done.stdout.split()
    return int(first), int(pages)


def test_what_is_freed_is_kept_until_it_is_given_back() -> None:
    faults, pages = _faults_and_given_back()
    assert faults < 8192
    assert pages > 4096


def test_the_environment_of_the_user_wins() -> None:
    # A threshold of 1 MB: every array is mapped and given back on its own.
    faults, pages = _faults_and_given_back(MALLOC_MMAP_THRESHOLD_=str(2**20))
    assert faults > 20 * 8192
    assert pages < 4096
