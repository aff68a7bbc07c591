"""``python -m tests.fuzz``: many damaged inputs, a table of what came of them."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.runner import Outcome, make_only, run_shared

_SHOWN = 3  # numbers of cases per failure


def report(found: list[Outcome], seed: int, seconds: float) -> str:
    """A table by kind of damage, and the failures by what they have in common."""
    lines = [f"{len(found)} inputs, seed {seed}, {seconds:.0f} s", ""]
    for title, keys in (("subject", lambda o: [o.subject]), ("damage", lambda o: o.kinds)):
        lines.append(f"{title:24} inputs  exit 0  exit 1  exit 2  failed")
        groups: dict[str, list[Outcome]] = {}
        for outcome in found:
            for key in keys(outcome):
                groups.setdefault(key, []).append(outcome)
        for key, group in sorted(groups.items()):
            ends = Counter(o.status for o in group)
            wrong = sum(bool(o.wrong) for o in group)
            counts = "".join(f"{ends[status]:8}" for status in (0, 1, 2))
            lines.append(f"{key:24} {len(group):6}{counts}{wrong:8}")
        lines.append("")
    if found:
        slow = max(found, key=lambda o: o.seconds)
        large = max(found, key=lambda o: o.memory)
        lines.append(f"longest: {slow.seconds:.1f} s (number {slow.number})")
        lines.append(f"most memory: {large.memory:.0f} MiB (number {large.number})")
    kinds: dict[str, list[Outcome]] = {}
    for outcome in found:
        for text in dict.fromkeys(outcome.signatures):
            kinds.setdefault(text, []).append(outcome)
    lines.append(f"failed: {sum(bool(o.wrong) for o in found)}, kinds: {len(kinds)}")
    for text, group in sorted(kinds.items(), key=lambda item: -len(item[1])):
        lines += ["", f"{len(group)} x {text}"]
        for outcome in group[:_SHOWN]:
            lines.append(f"    {outcome.number}: {shlex.join(outcome.args)}")
            lines.append(f"        {outcome.subject}: {'; '.join(outcome.damage)}")
            lines.append(f"        {' | '.join(outcome.err.split(chr(10))[-4:])[:300]}")
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="number of inputs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--report", type=Path, help="also write the report there")
    parser.add_argument("--only", type=int, help="write this input to --out and stop")
    parser.add_argument("--out", type=Path, default=Path("fuzz-case"))
    given = parser.parse_args()
    if given.only is not None:
        case = make_only(given.seed, given.only, given.out)
        for kind, said in case.damage:
            print(f"{kind}: {said}".encode("utf-8", "backslashreplace").decode())
        print(f"cd {given.out} && relabel {shlex.join(case.args)}")
        return 0
    started = time.monotonic()
    found = run_shared(given.seed, given.first, given.count, given.jobs)
    text = report(found, given.seed, time.monotonic() - started)
    print(text)
    if given.report is not None:
        given.report.write_text(text + "\n", encoding="utf-8")
    return int(any(outcome.wrong for outcome in found))


if __name__ == "__main__":
    sys.exit(main())
