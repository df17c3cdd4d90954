"""Why some methods read no stored hidden states is said once for all that have the same reason."""

from __future__ import annotations

from autotune.study.features import _reasons


def test_methods_with_the_same_reason_share_a_line() -> None:
    alike = "trains something in all blocks"
    told = _reasons(
        {
            "full": f"method full {alike}",
            "ladder": "method ladder reads no tap",
            "lora": f"method lora {alike}",
            "x": "it rains",
        }
    )
    assert told == [f"methods full, lora, each of which {alike}", "method ladder reads no tap", "it rains"]
