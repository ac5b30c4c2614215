from __future__ import annotations

from pathlib import Path

import pytest

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.sample import Sample
from hrt_mm.train.negatives import Negatives


class Numbers(Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Sample:
        return Sample(index, None, self.name(index))


def table(folder: Path, *rows: str) -> Path:
    file = folder / "negatives.tsv"
    file.write_text("\n".join(["sample\tnegative\tsample_name\tnegative_name", *rows]) + "\n")
    return file


def test_each_sample_brings_some_of_its_negatives_anew_each_epoch(tmp_path: Path) -> None:
    rows = [f"0\t{negative}\tsample 0\tsample {negative}" for negative in (1, 2, 3, 3, 4)]
    negatives = Negatives.read(table(tmp_path, *rows, "5\t1\tsample 5\tsample 1"), Numbers(), 2, seed=0)
    assert negatives.by_sample == {0: (1, 2, 3, 4), 5: (1,)}
    drawn = [tuple(negatives.beside((0,), epoch)) for epoch in range(20)]
    assert all(len(set(added)) == 2 for added in drawn)
    assert len(set(drawn)) > 3
    assert drawn == [tuple(negatives.beside((0,), epoch)) for epoch in range(20)]
    assert negatives.beside((2,), 0) == []
    # No sample is in a batch twice.
    assert sorted(negatives.beside((0, 1, 2, 5), 0)) in ([], [3], [4], [3, 4])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "0\t6\tsample 0\tsample 6",
            r"line 2: sample 6 \(sample 6\) is not in the training split, which has 6 samples",
        ),
        ("0\t1\tsample 0\tanother", r"line 2: sample 1 \(another\) is not in the training split"),
        ("x\t1\tsample 0\tsample 1", r"line 2: column 'sample' is 'x'; it must be the number"),
        ("-1\t1\tsample 0\tsample 1", r"sample -1"),
    ],
)
def test_tables_of_other_data_are_refused(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Negatives.read(table(tmp_path, row), Numbers(), 1, seed=0)


def test_an_empty_or_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task\.negatives .* has no rows"):
        Negatives.read(table(tmp_path), Numbers(), 1, seed=0)
    with pytest.raises(ConfigError, match=r"task\.negatives"):
        Negatives.read(tmp_path / "none.tsv", Numbers(), 1, seed=0)
