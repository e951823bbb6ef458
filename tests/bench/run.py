"""`python -m tests.bench.run SUITE`: one suite, its table on stderr, its figures as the last line of stdout."""

from __future__ import annotations

import json
import sys
from importlib import import_module

SUITES = ("engine",)


def main(arguments: list[str]) -> int:
    wanted = arguments[0] if arguments else "all"
    if wanted != "all" and wanted not in SUITES:
        sys.stderr.write(f"there is no suite {wanted!r}; there are: {', '.join(SUITES)}, all\n")
        return 2
    for suite in SUITES if wanted == "all" else (wanted,):
        figures = import_module(f"tests.bench.{suite}").run()
        print(json.dumps({"suite": suite} | figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
