"""`python -m bench [NAME…]`: one line of JSON for each figure on stdout, everything else on stderr.

Names are modules of this folder, all of them if none is named. Missing a goal is no failure.
"""

import sys
import traceback
from importlib import import_module

import orjson

from bench.figure import figure

GROUPS = (
    "codec", "access", "pipeline", "database", "echo", "rest", "watch", "memory", "launch", "network", "rules",
    "upload", "machine", "objects", "object_servers", "object_lists",
)  # fmt: skip


def main(names: list[str]) -> int:
    if unknown := set(names) - set(GROUPS):
        sys.stderr.write(f"there is no {', '.join(sorted(unknown))}; there is {', '.join(GROUPS)}\n")
        return 2
    for name in names or GROUPS:
        sys.stderr.write(f"{name}\n")
        try:
            for each in import_module(f"bench.{name}").figures():
                say(each)
        except Exception as failure:
            traceback.print_exc()
            say(figure(name, None, "", "", None, None, reason=f"{type(failure).__name__}: {failure}"))
    return 0


def say(line: dict[str, object]) -> None:
    sys.stdout.write(orjson.dumps(line).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
