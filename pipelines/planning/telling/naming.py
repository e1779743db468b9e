"""What a pool is called: after its stages and its device, so that the same plan has the same names, and a change of one pool renames no
other. Pure."""

import re
from collections import Counter
from collections.abc import Sequence

from pipelines.planning.solving.columns import Column

OUTSIDE = re.compile(r"[^\w\-]+")
ALL = "all"


def pool_names(columns: Sequence[Column], stages: Sequence[str]) -> Sequence[str]:
    """In the order of the columns. Several with the same stages on the same type of device are told apart by their parts and batches."""
    plain = [_plain(column, stages) for column in columns]
    seen = Counter(plain)
    return [
        name if seen[name] == 1 else f"{name}-{round(1 / column.fraction)}-{'-'.join(map(str, dict.fromkeys(column.rows)))}"
        for name, column in zip(plain, columns, strict=True)
    ]


def _plain(column: Column, stages: Sequence[str]) -> str:
    return OUTSIDE.sub("-", f"{_hosted(column.stages, stages)}-{column.device}".lower()).strip("-")


def _hosted(hosted: Sequence[str], stages: Sequence[str]) -> str:
    if len(hosted) > 1 and set(hosted) == set(stages):
        return ALL
    model = hosted[0].rpartition(".")[0]
    if len(hosted) > 1 and set(hosted) == {stage for stage in stages if stage.rpartition(".")[0] == model}:
        return model
    return "-".join(short_name(stage, stages) for stage in hosted)


def short_name(stage: str, stages: Sequence[str]) -> str:
    """The part alone where one model has it."""
    part = stage.rpartition(".")[2]
    return part if sum(other.rpartition(".")[2] == part for other in stages) == 1 else stage
