"""What holds for every test: no network, the same random draws in every run, nothing learnt from another study."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What trials of other studies, or of other tests, taught the margin of this user is not to move what is predicted here.
os.environ["AUTOTUNE_PAIRS"] = ""

# Property tests draw the same examples in every run, so that a check that was green stays green on the same commit.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
