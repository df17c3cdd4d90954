"""Which code computes a backbone's hidden states: the same weights under other code give other ones.

Libraries are told by their versions. Of other modules (a family brought from outside, a model of one's own) the files are
read: of those that the classes of the model, its configuration and its row come from, and of whatever these modules have in
their global names. What a function imports only when it is called is not seen.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

from sherl.backbones.backbone import Backbone
from sherl.errors import SpecError

# huggingface_hub fetches and checks, and computes nothing
_LEFT_TO_THE_CALLER = frozenset({"torch", "transformers", "huggingface_hub", "sherl", "autotune"})
_INSTALLED = frozenset({"site-packages", "dist-packages"})


def code_of(backbone: Backbone) -> dict[str, Any]:
    """What names the code of a backbone, as JSON: equal where the same code runs, in every process and on every machine.

    ``classes``, ``row``: digests of the class of every module by its path, and of what the family's row says. ``sources``: the
    digest of each file of code that belongs to no library, by the module's name. ``libraries``: versions of those that code
    was found in; torch and transformers, and sherl itself, are left to the caller.

    Raises:
        SpecError: a class or a function has no file that could be read, as it was typed into an interpreter, say.
    """
    model = backbone.model
    classes = {type(module) for module in model.modules()} | {type(backbone), type(backbone.config)}
    names = {name for one in classes for name in _modules_of_class(one)}
    names |= {name for module in model.modules() for value in vars(module).values() for name in _modules_of(value)}
    row = _in_words(backbone.layout, names)
    sources: dict[str, str] = {}
    libraries: dict[str, str] = {}
    _follow(names, sources, libraries)
    return {
        "classes": _digest([[path, _name_of(type(module))] for path, module in model.named_modules()]),
        "row": _digest(row),
        "sources": dict(sorted(sources.items())),
        "libraries": dict(sorted(libraries.items())),
    }


def _modules_of_class(cls: type) -> Iterator[str]:
    """Names of the modules that a class, those it inherits from, and their functions (they may have been exchanged) are of.

    Raises:
        SpecError: a class is of no module that is there.
    """
    for one in cls.__mro__:
        if one.__module__ not in sys.modules:
            raise _unreadable(f"class {one.__qualname__!r}", one.__module__, "no such module is loaded")
        yield one.__module__
        for value in vars(one).values():
            function = getattr(value, "fget", None) or getattr(value, "__func__", value)
            if isinstance(function, FunctionType):
                yield from (name for name in _homes(function) if name in sys.modules)


def _homes(function: FunctionType) -> set[str]:
    """A decorated function says that it is of the module of what it decorates; its global names are of its own."""
    return {str(function.__module__), str(function.__globals__.get("__name__"))}


def _modules_of(value: Any) -> Iterator[str]:
    """Of a function that hangs on a module or stands in a row.

    Raises:
        SpecError: it is of no module that is there.
    """
    value = value.__func__ if isinstance(value, MethodType) else value
    if isinstance(value, partial):
        for one in (value.func, *value.args, *value.keywords.values()):
            yield from _modules_of(one)
    elif isinstance(value, FunctionType):
        homes = [name for name in _homes(value) if name in sys.modules]
        if not homes:
            raise _unreadable(f"function {value.__qualname__!r}", value.__module__, "no such module is loaded")
        yield from homes


def _in_words(value: Any, names: set[str]) -> Any:
    """A row as JSON; ``names`` gets the modules that its classes and functions are of."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _in_words(one, names) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_in_words(one, names) for one in value]
    if isinstance(value, partial):
        return ["partial", *(_in_words(one, names) for one in (value.func, list(value.args), value.keywords))]
    if isinstance(value, FunctionType | type):
        names.update(_modules_of_class(value) if isinstance(value, type) else _modules_of(value))
        return _name_of(value)
    names.update(_modules_of_class(type(value)))
    if is_dataclass(value):
        inner = {field.name: _in_words(getattr(value, field.name), names) for field in fields(value)}
        return [_name_of(type(value)), inner]
    return [_name_of(type(value)), repr(value)]


def _follow(names: set[str], sources: dict[str, str], libraries: dict[str, str]) -> None:
    """Read the files of these modules and of what they use, as far as these are of no library."""
    seen: set[str] = set()
    left = set(names)
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        top = name.partition(".")[0]
        if top in _LEFT_TO_THE_CALLER or top in sys.stdlib_module_names:
            continue
        module = sys.modules[name]
        file = getattr(module, "__file__", None)
        if file is not None and not _INSTALLED.isdisjoint(Path(file).parts) and top in _distributions():
            libraries[top] = ", ".join(sorted(metadata.version(one) for one in set(_distributions()[top])))
            continue
        left |= {name.rpartition(".")[0]} & sys.modules.keys()  # what a package does when it is imported
        left |= _used_by(module)
        if file is None and hasattr(module, "__path__"):
            continue  # a folder without a file of its own
        try:
            sources[name] = hashlib.sha256(Path(str(file)).read_bytes()).hexdigest()[:32]
        except OSError as error:
            why = "it comes from no file" if file is None else str(error)
            raise _unreadable(f"module {name!r}", name, why) from error


def _used_by(module: ModuleType) -> set[str]:
    """Modules of a module's global names: they themselves, or what their values are made by."""
    found: set[str] = set()
    for value in list(vars(module).values()):
        kind = type(value)  # not isinstance, which asks stand-ins of other objects what they stand for
        if issubclass(kind, ModuleType):
            found.add(value.__name__)
        elif kind is FunctionType:
            found |= _homes(value)
        else:
            found.add(value.__module__ if issubclass(kind, type) else kind.__module__)
    return found & sys.modules.keys()


@cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def _name_of(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _unreadable(what: str, module: str, why: str) -> SpecError:
    return SpecError(
        f"Which code computes hidden states cannot be told: the {what} is of {module!r}, and {why}. Put it into a file that "
        "can be imported."
    )
