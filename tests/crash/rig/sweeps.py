"""Trials of one command over the scene: run it under a plan, judge, finish it, judge again."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.crash.rig import oracle

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.rig.launcher import Done, Launcher
    from tests.crash.rig.scenes import Course, Scene, Verb
    from tests.crash.rig.tracer import Plan


class Sweep:
    """One verb with its undisturbed course."""

    def __init__(
        self,
        scene: Scene,
        verb: Verb,
        course: Course,
        launcher: Launcher,
        scratch: Path,
        *,
        mutant: str | None = None,
    ) -> None:
        self.scene, self.verb, self.course = scene, verb, course
        self.launcher, self.scratch, self.mutant = launcher, scratch, mutant
        self._count = 0

    def seen(self, plan: Plan) -> list[str]:
        """Return the names of the calls that an undisturbed run makes, in order."""
        return self.undisturbed(plan).seen

    def undisturbed(self, plan: Plan) -> Done:
        """Run the verb under the tracer without a fault."""
        root, out = self.prepare()
        done = self.run(root, out, plan._replace(action="count", at=0))
        assert done.code == 0, done
        self.clean()
        return done

    def prepare(self) -> tuple[Path, Path]:
        """Make a store to disturb and a place for output."""
        self._count += 1
        base = self.scratch / f"{self._count}"
        (base / "out").mkdir(parents=True)
        root = base / "store"
        if not self.verb.creates:
            self.scene.copy(root, self.verb)
        return root, base / "out"

    def run(self, root: Path, out: Path, plan: Plan, **options: object) -> Done:
        words = self.scene.words(self.verb, out)
        return self.launcher.run(
            root,
            *words,
            plan=plan,
            scope=[out],
            mutant=self.mutant,
            **options,  # type: ignore[arg-type]
        )

    def judge(self, root: Path, out: Path, *, rebuild: bool = False) -> None:
        """Judge what a fault left behind: store, output file."""
        course = self.course
        expected = oracle.Expectation(
            [course.before, course.after],
            damaged=self.verb.damages,
            may_lack_store=self.verb.creates,
        )
        oracle.judge(root, expected, rebuild_in=root.parent if rebuild else None)
        self.judge_output(out)

    def judge_output(self, out: Path) -> None:
        if self.verb.output is None:
            return
        path = out / self.verb.output
        if path.exists() and path.read_bytes() != self.course.output_bytes:
            raise oracle.BrokenPromiseError(f"{self.verb.output} is neither absent nor whole")

    def settle(self, root: Path, out: Path) -> None:
        oracle.settle(
            root,
            self.launcher,
            self.scene.words(self.verb, out),
            self.course.after,
            fresh_bytes=self.course.fresh_bytes,
            accepted=self.verb.again,
        )
        if self.verb.output:
            self.judge_output(out)
            assert (out / self.verb.output).exists()

    def clean(self) -> None:
        shutil.rmtree(self.scratch / f"{self._count}")
