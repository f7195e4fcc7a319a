"""What a job leaves behind: `result.json`, one per job, samples and not yet medians."""

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

NAME = "result.json"
OURS = "nydus-app"

Samples = dict[str, list[float]]
"""By the name of the row."""


@dataclass(kw_only=True)
class Reference:
    """Somebody beside ours. Equal keys stand for equal measurements; samples may lie in another job's result."""

    name: str
    key: str
    settings: dict[str, str] = field(default_factory=dict)
    samples: Samples = field(default_factory=dict)


@dataclass(kw_only=True)
class Result:
    settings: dict[str, str]
    ours: Samples = field(default_factory=dict)
    references: list[Reference] = field(default_factory=list)
    image: dict[str, int | str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    serves: str = ""  # type of the file system that ours mounted


def write_result(folder: str, result: Result) -> None:
    write_json(os.path.join(folder, NAME), asdict(result))


def read_result(path: str) -> Result:
    with open(path, encoding="utf-8") as f:
        data = json.load(f)
    references = [Reference(**r) for r in data.pop("references")]
    return Result(references=references, **data)


def write_json(path: str, data: Any) -> None:
    """Whole or not at all: a reader never meets half a file."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path + ".part", "w", encoding="utf-8") as f:
        json.dump(data, f, indent=1, ensure_ascii=False)
        f.write("\n")
    os.replace(path + ".part", path)
