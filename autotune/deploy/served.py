"""What MLflow loads of a registered model: an export that answers for DataFrames, lists and single inputs.

MLflow imports this module by name (``loader_module``) and calls :func:`_load_pyfunc`. ``autotune.deploy`` and ``sherl`` travel
with the model, so it is kept light.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

from sherl.errors import DataError

if TYPE_CHECKING:
    from sherl.predictor import Predictor

BATCH_ROWS = 32


class Served:
    """Answers as :meth:`sherl.predictor.Predictor.predict` gives them, one dictionary a row.

    Rows are texts; for pairs two texts; for images a path that exists where this runs, or the bytes of an image file in
    base64 (a ``data:`` address too).
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Answers in the order of the rows. params: ``batch_size``, rows that are answered at once.

        Raises:
            MlflowException: a row is no text, pair or image (an HTTP server answers 400).
        """
        try:
            rows = self._rows(model_input)
            answers: list[dict[str, Any]] = self._predictor.predict(
                rows, batch_size=int((params or {}).get("batch_size", BATCH_ROWS))
            )
        except DataError as error:
            raise MlflowException(str(error), error_code=BAD_REQUEST) from error
        return answers

    def _rows(self, given: Any) -> list[Any]:
        task = self._predictor.model.task
        if hasattr(given, "columns"):  # a DataFrame, which is what a signature makes of everything
            table = given.to_numpy(dtype=object).tolist()
            wanted = 2 if task.pair else 1
            if table and len(table[0]) != wanted:
                raise DataError(
                    f"{wanted} column{'s are' if wanted > 1 else ' is'} needed ({'two texts' if task.pair else 'what is to be answered'}), "
                    f"{len(table[0])} were given."
                )
            rows = [tuple(row) if task.pair else row[0] for row in table]
        else:
            single = isinstance(given, str | bytes)
            rows = [given] if single else list(given)
        return [_picture(row, index) for index, row in enumerate(rows)] if task.image_size else rows


def _picture(given: Any, index: int) -> Any:
    """The bytes of an image that came as text; paths and all else as they are."""
    if not isinstance(given, str):
        return given
    text = given.partition(",")[2] if given.startswith("data:") else given
    if os.path.exists(given):  # False of what is too long for a path, where Path.exists raises
        return Path(given)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        shown = given if len(given) <= 60 else given[:57] + "..."
        raise DataError(
            f"images: index {index}: {shown!r} is neither a path that exists on the machine that answers nor base64 of an "
            f"image file ({error})."
        ) from error


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Served:
    """The export in ``path``. model_config: ``backbone`` (where it lies, if elsewhere now), ``device``, ``plugins``."""
    import sherl

    config = dict(model_config or {})
    for name in config.get("plugins") or ():
        importlib.import_module(name)
    return Served(sherl.load(path, backbone=config.get("backbone"), device=config.get("device")))
