"""How a text, or a pair of texts, becomes the one input of text-to-text: ``"rte sentence1: {text} sentence2: {pair}"``."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

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


def fitted(tokenizer: Any, template: str, texts: Sequence[Text], max_length: int | None) -> tuple[list[Text], int]:
    """The inputs of these texts, and how many were shortened to ``max_length`` tokens.

    It is the texts that are shortened, from their ends, of a pair the longer one first: the template's own words stay, as
    an instruction's last ones ("Answer:") matter most. Without a template the tokenizer's own cut does.
    """
    rows = filled(template, texts)
    if not template or max_length is None or not rows:
        return rows, 0
    lengths = list(map(len, tokenizer(rows, verbose=False)["input_ids"]))
    long = [row for row, length in enumerate(lengths) if length > max_length]
    for row in long:
        rows[row] = _shortened(tokenizer, template, texts[row], max_length)
    return rows, len(long)


def _shortened(tokenizer: Any, template: str, text: Text, max_length: int) -> Text:
    parts = [text] if isinstance(text, str) else list(text)
    while True:
        (row,) = filled(template, [parts[0] if len(parts) == 1 else tuple(parts)])
        over = len(tokenizer(row, verbose=False)["input_ids"]) - max_length
        spans = [_spans(tokenizer, part) for part in parts]
        counts = sorted(map(len, spans))
        if over <= 0 or counts[-1] == 0:  # where the template alone is too long, the tokenizer cuts it
            return row
        longest = max(range(len(parts)), key=lambda part: len(spans[part]))
        ahead = over if len(parts) == 1 else counts[-1] - counts[0]
        kept = max(0, len(spans[longest]) - min(over, ahead or -(-over // 2)))
        # a letter of several tokens goes whole, else nothing would
        end = min(spans[longest][kept - 1][1], spans[longest][kept][0]) if kept else 0
        parts[longest] = parts[longest][:end]


def _spans(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """Where the tokens of a text lie in it; those of no letters are left out."""
    made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return [(begin, end) for begin, end in made if end > begin]
