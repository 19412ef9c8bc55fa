"""Runs mutations in a process of its own: ``python -m tests.fuzz.child FOLDER KIND:FIRST_SEED:COUNT ...``.

A mutation passes if reading its file gives a result or an error of the project. Anything else, a warning about numbers
included, ends the process, and the last line of its output then says which kind and seed it was; so it does after a
crash of a library. Memory is limited, and so is the CPU time of a mutation (``LIMIT_S``).
"""

import faulthandler
import pickle
import resource
import signal
import sys
import warnings
from pathlib import Path

import numpy as np

from irl_vla.errors import IrlVlaError

from .targets import TARGETS

LIMIT_S = 30
MEMORY_BYTES = 6 * 2**30


def main(folder, jobs):
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.filterwarnings("error", category=RuntimeWarning, module="irl_vla")
    refused = passed = 0
    for job in jobs:
        kind, first, count = job.split(":")
        target = TARGETS[kind](folder)
        for seed in range(int(first), int(first) + int(count)):
            print(f"{kind}:{seed}:1", flush=True)
            signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
            try:
                target(np.random.default_rng([seed, len(kind)]))
                passed += 1
            except IrlVlaError as error:
                pickle.loads(pickle.dumps(error))  # errors travel between processes
                refused += 1
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
    print(f"{refused} refused, {passed} read", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
