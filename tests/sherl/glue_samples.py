"""GLUE's download in small: each file with the header, the columns and the oddities of the published one."""

from __future__ import annotations

from pathlib import Path

from sherl.data.glue import GLUE
from tests.sherl.data_samples import WORDS

HEADERS = {
    "sst2": "sentence\tlabel",
    "mrpc": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "stsb": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
    "mnli": "index\tpromptID\tpairID\tgenre\tb1\tb2\tp1\tp2\tsentence1\tsentence2\tlabel1\tgold_label",
    "qnli": "index\tquestion\tsentence\tlabel",
    "rte": "index\tsentence1\tsentence2\tlabel",
}


def words(number: int) -> str:
    """A text of its own for each number, with a lone quote as the real files have them."""
    digits = [WORDS[int(digit)] for digit in str(number)]
    return '"' + " ".join(digits) if number % 5 == 0 else " ".join(digits)


def line(name: str, n: int) -> str:
    """One line of a file; the label goes round the classes, ratings through 0.0 to 5.0."""
    one, two = words(1000 + n), words(9000 - n)
    names = GLUE.get(name).class_names
    index = n % len(names) if names else 0
    return {
        "cola": f"src\t{index}\t*\t{one}",
        "sst2": f"{one}\t{index}",
        "mrpc": f"{index}\t{n}\t{n + 5000}\t{one}\t{two}",
        "qqp": f"{n}\t{n}\t{n}\t{one}\t{two}\t{index}",
        "stsb": f"{n}\tg\tf\ty\to\ts\ts\t{one}\t{two}\t{(n % 51) / 10:.3f}",
        "mnli": f"{n}\tp\tp\tg\tb\tb\tp\tp\t{one}\t{two}\tx\t{names[index] if names else ''}",
        "qnli": f"{n}\t{one}\t{two}\t{names[index] if names else ''}",
        "rte": f"{n}\t{one}\t{two}\t{names[index] if names else ''}",
    }[name]


def write_glue(folder: Path, name: str, *, train: int = 60, dev: int = 40) -> Path:
    """FOLDER/RTE/train.tsv and dev.tsv and so on; returns FOLDER."""
    own = folder / GLUE.get(name).folder
    own.mkdir(parents=True)
    head = [HEADERS[name]] if name in HEADERS else []
    parts = {"train.tsv": range(train), "dev_matched.tsv" if name == "mnli" else "dev.tsv": range(train, train + dev)}
    for file, numbers in parts.items():
        lines = [*head, *(line(name, n) for n in numbers)]
        (own / file).write_bytes(("\n".join(lines) + "\n").encode())
    return folder
