"""Under which licence a backbone comes: read from what its source says of itself."""

from __future__ import annotations

import re
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import yaml

UNKNOWN = "unknown"
#: What the hub's front matter takes beside these is ``other`` with a name.
_HUB_IDS = (
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause",
    "cc", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0",
    "agpl-3.0", "mpl-2.0", "unlicense", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "gemma", "other", UNKNOWN,
)  # fmt: skip
_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "COPYING")
_FIRST_LINES = {
    r"Apache License": "apache-2.0",
    r"MIT License": "mit",
    r"GNU AFFERO GENERAL PUBLIC LICENSE": "agpl-3.0",
    r"GNU GENERAL PUBLIC LICENSE": "gpl",
    r"Mozilla Public License": "mpl-2.0",
}
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", flags=re.DOTALL)
_CARD = "README.md"
_HUB_SECONDS = 5.0
_MOST_BYTES = 2**20


@dataclass(frozen=True)
class Licence:
    """The licence's name as its source gives it (``unknown`` where it gives none), and in words where that was read."""

    name: str
    read_from: str

    @property
    def hub_id(self) -> str:
        """What the front matter of a model card may hold."""
        plain = self.name.strip().lower()
        return plain if plain in _HUB_IDS else "other"

    def __str__(self) -> str:
        return f"{self.name}: {self.read_from}" if self.name == UNKNOWN else f"{self.name} ({self.read_from})"


def licence_of(source: str | None) -> Licence:
    """The licence of a backbone: of its folder's card, else of the licence file in it; of a hub id of its card there.

    A hub that cannot be asked within seconds gives ``unknown`` with where to look; nothing is raised for it.
    """
    from sherl.backbones import resolve_source
    from sherl.errors import SherlError

    if source is None:
        return Licence(UNKNOWN, "the backbone was made in memory; look at where its weights come from")
    try:
        where = resolve_source(source)
    except SherlError:  # it lay here when the model was trained
        return Licence(UNKNOWN, f"look at {source}, which is not here now")
    if Path(where).is_dir():
        shown = "its model card" if where != source else f"the card in {source}"
        return _of_folder(Path(where), source, shown)
    return _of_hub(where)


def _of_folder(folder: Path, source: str, shown: str) -> Licence:
    named = _of_card(folder / _CARD)
    if named is not None:
        return Licence(named, f"by {shown}")
    for name in _FILES:
        if (folder / name).is_file():
            return Licence(_of_text(folder / name) or "other", f"by the file {name} of {source}")
    return Licence(
        UNKNOWN, f"look at where {source} comes from; it has neither a card with a licence nor a licence file"
    )


def _of_card(card: Path) -> str | None:
    """The licence that a card's front matter names; None without one."""
    try:
        return _of_words(card.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def _of_words(card: str) -> str | None:
    matter = _FRONT_MATTER.match(card)
    try:
        plain = yaml.safe_load(matter[1]) if matter else None
    except yaml.YAMLError:
        return None
    if not isinstance(plain, dict):
        return None
    named = plain.get("license_name") if plain.get("license") == "other" else plain.get("license")
    if isinstance(named, list):
        named = ", ".join(map(str, named))
    return str(named).strip() or None if named else None


def _of_text(file: Path) -> str | None:
    """Which of the common licences a text begins as."""
    try:
        head = file.read_text(encoding="utf-8", errors="replace")[:400]
    except OSError:
        return None
    return next((name for words, name in _FIRST_LINES.items() if re.search(words, head, re.IGNORECASE)), None)


def _of_hub(name: str) -> Licence:
    """By the card in the local cache, else by the hub's own: asked once, since a card waits for nobody."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HFValidationError

    unknown = Licence(UNKNOWN, f"look at https://huggingface.co/{name}")
    try:
        cached = try_to_load_from_cache(name, _CARD)
        url = hf_hub_url(name, _CARD)
    except HFValidationError:
        return unknown
    if isinstance(cached, str):
        named = _of_card(Path(cached))
    elif HF_HUB_OFFLINE:
        return unknown
    else:
        try:
            with urllib.request.urlopen(url, timeout=_HUB_SECONDS) as answer:
                named = _of_words(answer.read(_MOST_BYTES).decode("utf-8", errors="replace"))
        except (OSError, HTTPException):
            return unknown
    return Licence(named, f"by its card at https://huggingface.co/{name}") if named else unknown
