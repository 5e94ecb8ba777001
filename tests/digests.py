"""Digests of what commands compute, to be held against each other before and after a change.

    python -m tests.digests --write before.json      # at the old commit
    python -m tests.digests --compare before.json    # at the new one, on the same machine

A digest is of the values of one column of one table of one run, so that a new column is no
difference and a changed one is named. Floats are compared to the last bit: another machine, device
or version may print others.
"""

import argparse
import contextlib
import hashlib
import io
import json
import pathlib
import sys
import tempfile

import polars as pl

from cgsv_jax.command import main as main_lib
from cgsv_jax.experiment.names import TABLES

_ANYWHERE = (
    "--dataset digits --clients 5 --rounds 4 --epochs 1 --hidden 8 --eval-rows 100 --seeds 2"
)
_SMALL = f"{_ANYWHERE} --partition power_law"

# name -> what follows `cgsv`; DATA stands for a folder of stored sets, and needs --data-dir.
RUNS = {
    **{f"method {name}": f"compare {_SMALL} --algorithms standalone,{name}"
       for name in TABLES.algorithms if name != "standalone"},
    "released": f"compare {_SMALL} --algorithms standalone,cgsv:released,rffl:released",
    "partitions": f"compare {_ANYWHERE} --partition uniform,class_imbalance,dirichlet"
    " --algorithms standalone,fedavg,cgsv",
    "cohort": f"run {_SMALL} --cohort 3",
    "cohort by reputation": f"run {_SMALL} --cohort 3 --cohort-by reputation",
    "dropout": f"compare {_SMALL} --algorithms standalone,cgsv,fedavg --dropout 0.3",
    "late": f"run {_SMALL} --late 2:2",
    "attacks": f"compare {_SMALL} --attack sign_flip:1,label_flip:1 --algorithms standalone,cgsv",
    "replays": f"run {_SMALL} --cohort 3 --attack free_rider_replay_delayed:1:2,free_rider_ace:1,"
    "sybils:2",
    "replication": f"run {_SMALL} --attack replication:3",
    "shapley": f"run {_SMALL} --contribution shapley",
    "validation game": f"run {_SMALL} --contribution shapley --game accuracy",
    "gtg": f"run {_SMALL} --contribution gtg_shapley",
    "removal": f"run {_SMALL} --rounds 14 --removal 0.9".replace("--rounds 4 ", ""),
    "adam": f"run {_SMALL} --optimizer adam --learning-rate 0.01",
    "momentum restarts": f"run {_SMALL} --optimizer momentum --optimizer-state restart",
    "scale": f"run {_SMALL} --reward scale --beta inf --beta-on max",
    "layout": f"run {_SMALL} --layout 2",
    "synthetic": f"run {_SMALL} --dataset synthetic".replace("--dataset digits ", ""),
    "network": f"run {_SMALL} --model tutorial_cnn --dataset mnist --data-dir DATA"
    " --rows-per-client 20".replace("--dataset digits ", "").replace("--hidden 8 ", ""),
    "text": "run --dataset mr --partition power_law --clients 3 --rounds 2 --epochs 1 --seeds 1"
    " --eval-rows 50 --data-dir DATA",
    "sweep": f"sweep {_ANYWHERE} --beta 0.5,2 --partition uniform,power_law",
    "search": f"sweep {_SMALL} --beta 0.5:2 --search random --trials 3 --judge validation",
}  # fmt: skip
# Files of a sweep, by the names that they had when digests were first written.
_OF_A_SWEEP = {"sweep": "sweep", "settings": "points"}
TABLES_OF = {"sweep": _OF_A_SWEEP, "search": _OF_A_SWEEP}


def digests(name, words, folder):
    """table.column -> digest of its values."""
    out = pathlib.Path(folder) / name.replace(" ", "-")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main_lib.main([*words, "--out", str(out), "--quiet"])
    if code:
        raise SystemExit(f"{name}: exit code {code}\n{said.getvalue()}")
    found = {}
    tables = {table: table for table in ("rounds", "clients", "summary")}
    for table, file in TABLES_OF.get(name, tables).items():
        frame = pl.read_parquet(out / f"{file}.parquet")
        for column in frame:
            content = column.to_frame().write_ipc(None).getvalue()
            found[f"{table}.{column.name}"] = hashlib.sha256(content).hexdigest()[:16]
    return found


def main(argv=None):
    """Writes the digests, or compares with those that were written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=pathlib.Path)
    parser.add_argument("--compare", type=pathlib.Path)
    parser.add_argument("--data-dir", help="folder of stored sets; without it these are left out")
    parser.add_argument("--only", help="names that hold this")
    asked = parser.parse_args(argv)
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, line in RUNS.items():
            if ("DATA" in line and not asked.data_dir) or (asked.only or "") not in name:
                continue
            words = line.replace("DATA", asked.data_dir or "").split()
            made[name] = digests(name, words, folder)
            print(f"{name}: {len(made[name])} columns", flush=True)
    if asked.write:
        asked.write.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
    if not asked.compare:
        return 0
    before = json.loads(asked.compare.read_text())
    before = {name: old for name, old in before.items() if (asked.only or "") in name}
    wrong = 0
    for name in sorted({*before, *made}):
        old, new = before.get(name, {}), made.get(name, {})
        differs = sorted(c for c in old if old[c] != new.get(c))
        wrong += bool(differs)
        print(f"{name}: {'equal' if not differs else 'differs in ' + ', '.join(differs)}")
    print(f"{len(before) - wrong} of {len(before)} equal")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
