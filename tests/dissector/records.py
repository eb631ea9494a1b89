"""The records of peermux-core/vectors/records.json, one a line, for crypto.lua."""

import json
import pathlib

path = pathlib.Path(__file__).parent.parent.parent / "peermux-core" / "vectors" / "records.json"
for vector in json.loads(path.read_text(encoding="utf-8"))["vectors"]:
    records = vector["records"]
    following = [record["key"] for record in records[1:]] + [vector["last_key"]]
    for record, key in zip(records, following):
        last = 1 if record["end"] else (record["next_size"] or 1)
        flags = f"{int(record['key_update'])} {int(record['end'])}"
        print(vector["suite"], record["key"], record["n"], last, flags, key, record["bytes"])
