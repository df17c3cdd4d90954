"""Shape annotations of tensors, e.g. ``Float[Tensor, "batch tokens width"]``.

They are jaxtyping's where it is installed (the test run checks them); on a machine without it they say nothing and
cost nothing, so that this library runs there too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
else:
    try:
        from jaxtyping import Bool, Float, Int
    except ModuleNotFoundError:

        class _Unchecked:
            def __class_getitem__(cls, item: Any) -> Any:
                return item[0] if isinstance(item, tuple) else item

        Bool = Float = Int = _Unchecked

__all__ = ["Bool", "Float", "Int"]
