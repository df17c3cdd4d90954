"""YAML with line numbers: repeated keys are problems, and ``1e-3`` is a number as people expect."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from autotune.errors import ConfigError

KeyPath = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 wants a dot in ``1.0e-3`` and would read ``1e-3`` as text; YAML 1.2 and people do not."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class Document:
    """A YAML file as plain values, with the line of each key and the problems that its reading showed.

    ``values`` is the mapping at the top; ``lines`` gives the line (from 1) of each key path; items of lists are named
    ``[0]``, ``[1]``, …
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.values: dict[str, Any] = {}
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[str] = []
        loader = _Loader(_text(file))
        try:
            node = loader.get_single_node()
            if not isinstance(node, yaml.MappingNode):
                raise ConfigError(
                    "a mapping with the key 'methods' is expected at the top of the file", where=str(file)
                )
            self.values = self._plain(loader, node, (), ())
        except yaml.YAMLError as error:
            raise ConfigError(f"not readable as YAML: {' '.join(str(error).split())}", where=str(file)) from error
        finally:
            loader.dispose()

    def problem(self, path: KeyPath, text: str) -> None:
        """Notes a problem at a key."""
        self.problems.append(f"{self.at(path)}: {text}")

    def at(self, path: KeyPath) -> str:
        """A key path as messages name it, with its line: ``methods.sherl.insertion (line 12)``."""
        name = ".".join(path).replace(".[", "[") or "the file"
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return f"{name} (line {self.lines[path[:length]]})"
        return name

    def _plain(self, loader: _Loader, node: yaml.Node, path: KeyPath, above: tuple[yaml.Node, ...]) -> Any:
        if node in above:
            self.problem(path, "an alias that holds itself")
            return None
        above = (*above, node)
        if isinstance(node, yaml.MappingNode):
            self._report_repeated_keys(node, path)
            loader.flatten_mapping(node)  # the merge key, <<
            values = {}
            for key_node, value_node in node.value:
                key = str(key_node.value)
                self.lines.setdefault((*path, key), key_node.start_mark.line + 1)
                values[key] = self._plain(loader, value_node, (*path, key), above)
            return values
        if isinstance(node, yaml.SequenceNode):
            items = []
            for position, item in enumerate(node.value):
                place = (*path, f"[{position}]")
                self.lines.setdefault(place, item.start_mark.line + 1)
                items.append(self._plain(loader, item, place, above))
            return items
        value = loader.construct_object(node)
        return value if value is None or isinstance(value, bool | int | float | str) else str(node.value)

    def _report_repeated_keys(self, node: yaml.MappingNode, path: KeyPath) -> None:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem(path, "a key must be a word")
                continue
            line = key_node.start_mark.line + 1
            if key_node.value in seen and key_node.value != "<<":
                self.problems.append(
                    f"{'.'.join((*path, key_node.value))} (line {line}): given before in line {seen[key_node.value]}; a key is given once"
                )
            seen.setdefault(key_node.value, line)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", where=str(file)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not text in UTF-8 ({error.reason} at byte {error.start})", where=str(file)) from error
