"""Processes for tests: forks of one server that has imported what takes long, and has done nothing else."""

from __future__ import annotations

import multiprocessing

forkserver = multiprocessing.get_context("forkserver")
# Preloading is a setting of the one server that all contexts share, so it is made here once.
forkserver.set_forkserver_preload(["hrt_mm.train.loop", "hrt_mm.config", "hrt_modalities.text.corpus", "torch._dynamo"])
