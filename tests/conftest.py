"""What holds for every test: no network, the same random draws in every run."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Property tests draw the same examples in every run, so that a check that was green stays green on the same commit.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
