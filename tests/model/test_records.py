import json
from dataclasses import asdict

from scattervae.model.records import EpochRecord, read_records, write_records


def test_records_come_back_as_they_were(tmp_path):
    records = [EpochRecord(n, 0.1 * n, 1 / 3, -2e-17, 1e300, -0.0, 5e-3) for n in (1, 2, 3)]
    write_records(tmp_path / "training.jsonl", records)
    assert read_records(tmp_path / "training.jsonl") == tuple(records)
    lines = (tmp_path / "training.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [asdict(record) for record in records]
