"""One cluster for the tests of a worker."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from slurm.cluster import PROGRAMS, Cluster, namespaces, started


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running SLURM; the test is skipped where its packages or the right to a host name are missing."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        pytest.skip(f"not installed: {' '.join(absent)} (apt-get install slurmctld slurmd slurm-client munge)")
    space = namespaces()
    if space is None:
        pytest.skip("neither root nor user namespaces: nodes cannot have names of their own")
    with started(space) as cluster:
        yield cluster
