"""How a text, or a pair of texts, becomes the one input of text-to-text: ``"rte sentence1: {text} sentence2: {pair}"``."""

from __future__ import annotations

import string
from collections.abc import Sequence

from sherl.data.encoded import Text

FIELDS = ("text", "pair")


def template_problems(template: str) -> list[str]:
    """What is wrong with a template, in words; nothing where it is sound."""
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        return [f"template {template!r} cannot be read ({error}); write {{text}} and {{pair}}, and {{{{ for a brace"]
    problems = []
    used = [name for _, name, _, _ in pieces if name is not None]
    unknown = sorted({name for name in used if name not in FIELDS})
    if unknown:
        problems.append(f"template names {unknown}; it may name {{text}} and {{pair}} only")
    if any(layout or conversion for _, _, layout, conversion in pieces):
        problems.append(f"template {template!r} formats a field; write {{text}} and {{pair}} as they are")
    if "text" not in used:
        problems.append(f"template {template!r} lacks {{text}}, so that the inputs would be without their text")
    return problems


def needs_pair(template: str) -> bool:
    """Whether a sound template holds ``{pair}``."""
    return any(name == "pair" for _, name, _, _ in string.Formatter().parse(template))


def filled(template: str, texts: Sequence[Text]) -> list[Text]:
    """The inputs of these texts; without a template the texts themselves."""
    if not template:
        return list(texts)
    return [
        template.format(text=text, pair="") if isinstance(text, str) else template.format(text=text[0], pair=text[1])
        for text in texts
    ]
