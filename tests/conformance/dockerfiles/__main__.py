"""Write the facts of all builds anew."""

import json
import tempfile
from pathlib import Path

from tests.conformance.dockerfiles import CASES, FACTS
from tests.support.build_cases import Maker


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        maker = Maker(Path(folder))
        lines = [json.dumps({"case": name, **maker.facts(CASES[name])}) for name in sorted(CASES)]
        maker.close()
    FACTS.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
