"""Many tenants with secrets in their prompts, mixed requests, and everything that can go wrong beside them.

Each tenant writes a canary of its own into its prompts. A request's result must be bit for bit what the same
request gives alone (another engine, a fresh tenant, nobody else there); no text, error, log line or number
may hold the canary of another tenant. Requests are streamed, abandoned, out of time, over limits; realms are
closed under others' feet, own guests crash, forge handles and loop; the KV memory is too small for all.

python3 -m realm_build isolation --requests 100000 --processes 2

A long run may be done in parts with other seeds: --record FILE keeps what each found, and prints the sum.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from realm import Generation, PublicPrefix, Realm, RealmError, RealmManager, ResourceLimits

from tests.isolation import forging_guest
from tests.unit.wat_guests import LOOP, TRAP, guest

MODEL = Path(__file__).parents[1] / "vectors" / "model-llama3.gguf"
PORTABLE = ("portable",)
TENANTS, VARIANTS, THREADS = 24, 10, 6
KV_BYTES = 160 << 10  # of the crowd: some eighty pages, for hundreds of different prompts
LIMITS = ResourceLimits(own_guest=True, guest_seconds=0.05, queue_length=8, concurrent_requests=4)
CANARY = re.compile(r"canary-\d\d-[0-9a-f]{8}")
PUBLIC_TEXT = "Everybody may know that this is how all prompts begin. "
MODES = ("granular", "whole", "layers")
# What may happen to a request here, besides its result.
EXPECTED_CODES = {
    "cancelled", "closed", "context-full", "guest-trap", "invalid-argument", "invalid-handle",
    "limit-exceeded", "not-found", "timed-out",
}  # fmt: skip
Result = tuple[Any, ...]


@dataclass(frozen=True)
class Spec:
    """A request that can be repeated."""

    tenant: int
    prompt: str
    mode: str
    max_tokens: int
    seed: int
    stop: tuple[str, ...]

    @property
    def settings(self) -> dict[str, Any]:
        return {"max_tokens": self.max_tokens, "stop": self.stop, "seed": self.seed, "logprobs": True}


def name_of(tenant: int) -> str:
    return f"tenant-{tenant}"


def canary_of(tenant: int) -> str:
    return f"canary-{tenant:02}-{random.Random(tenant).getrandbits(32):08x}"


def make_spec(rng: random.Random, tenant: int) -> Spec:
    """Prompts from a line to several pages; some begin as all do, some as others of the tenant."""
    beginning = PUBLIC_TEXT if rng.random() < 0.3 else ""
    filler = "".join(rng.choice("abcdefgh ") for _ in range(rng.randrange(40)))
    prompt = f"{beginning}{canary_of(tenant)} {canary_of(tenant) * rng.randrange(4)}{filler}"
    stop = (rng.choice("aeiou"),) if rng.random() < 0.2 else ()
    return Spec(tenant, prompt, rng.choice(MODES), rng.randrange(1, 14), rng.getrandbits(40), stop)


def result_of(made: Generation) -> Result:
    return made.text, made.tokens, made.logprobs, made.finish_reason, made.prompt_tokens


class Lone:
    """What requests give when nobody else is there. Results are kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._results: dict[Spec, Result] = {}

    def result(self, spec: Spec) -> Result:
        with self._lock:
            if spec not in self._results:
                with self.realm() as realm:
                    made = realm.generate(spec.prompt, mode=spec.mode, **spec.settings)
                self._results[spec] = result_of(made)
            return self._results[spec]

    def logits(self, ids: list[int]) -> bytes:
        with self._lock, self.realm() as realm:
            return realm.logits(ids).tobytes()

    def score(self, ids: list[int]) -> str:
        with self._lock, self.realm() as realm:
            return repr(realm.score(ids, top_logprobs=2))

    @staticmethod
    def realm() -> Realm:
        return Realm(MODEL, threads=1, cpu_features=PORTABLE)


class Watch(logging.Handler):
    """Everything that is logged while the crowd is at work."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.leaks: list[str] = []
        self.lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1
        text = self.format(record)
        if CANARY.search(text):
            self.leaks.append(f"a log line: {text:.200}")


@dataclass
class Report:
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    kv_bytes_used: int = 0

    @property
    def requests(self) -> int:
        return sum(count for name, count in self.counts.items() if not name.startswith("error "))

    def __add__(self, other: Report) -> Report:
        return Report(
            self.counts + other.counts,
            self.failures + other.failures,
            self.seconds + other.seconds,
            max(self.kv_bytes_used, other.kv_bytes_used),
        )

    def __str__(self) -> str:
        lines = [f"{self.requests} requests in {self.seconds:.1f} s, {len(self.failures)} failures"]
        lines += [f"{count:8} {name}" for name, count in sorted(self.counts.items())]
        return "\n".join(lines + self.failures[:20])


class Crowd:
    """The tenants and their requests, from several threads at once."""

    def __init__(self, requests: int, seed: int) -> None:
        self.lone = Lone()
        self.report = Report()
        self._seed, self._left = seed, requests
        self._lock = threading.Lock()
        rng = random.Random(seed)
        self._specs = [make_spec(rng, i % TENANTS) for i in range(TENANTS * VARIANTS)]
        self._public: list[PublicPrefix] = []
        self._guests = [forging_guest.build(), guest(poll=TRAP), guest(start=TRAP), guest(outcome=TRAP)]
        self._loop = guest(poll=LOOP)

    def run(self) -> Report:
        start = time.monotonic()
        root, watch = logging.getLogger(), Watch()
        level = root.level
        root.addHandler(watch)
        root.setLevel(logging.DEBUG)
        try:
            with RealmManager(
                MODEL, threads=2, limits=LIMITS, kv_bytes=KV_BYTES, cpu_features=PORTABLE
            ) as manager:
                self._work(manager)
                self.report.kv_bytes_used = manager._home.stats()["kv_bytes_used"]
        finally:
            root.removeHandler(watch)
            root.setLevel(level)
        self.report.failures += watch.leaks
        self.report.seconds = time.monotonic() - start
        return self.report

    def _work(self, manager: RealmManager) -> None:
        self.manager = manager
        threads = [threading.Thread(target=self._worker, args=(i,)) for i in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _worker(self, number: int) -> None:
        rng = random.Random(self._seed * 1000 + number)
        names = list(KINDS)
        weights = [KINDS[name][0] for name in names]
        while self._take():
            name = rng.choices(names, weights)[0]
            tenant = rng.randrange(TENANTS)
            try:
                KINDS[name][1](self, rng, tenant)
            except RealmError as problem:
                self._failed(name, tenant, problem)
            except Exception as problem:
                self.fail(f"{name} of tenant {tenant}: {problem!r}")
            with self._lock:
                self.report.counts[name] += 1

    def _take(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0 and len(self.report.failures) < 100

    # ---- checks

    def fail(self, text: str) -> None:
        with self._lock:
            self.report.failures.append(text)

    def check_text(self, tenant: int, where: str, text: str) -> None:
        foreign = [found for found in CANARY.findall(text) if found != canary_of(tenant)]
        if foreign:
            self.fail(f"{where} of tenant {tenant} holds {foreign[0]}")

    def _failed(self, name: str, tenant: int, problem: RealmError) -> None:
        self.check_text(tenant, f"an error in {name}", f"{problem} {problem!r} {vars(problem)}")
        limit = getattr(problem, "limit", None)
        with self._lock:
            self.report.counts[f"error {problem.code}{f' ({limit})' if limit else ''}"] += 1
        if problem.code not in EXPECTED_CODES:
            self.fail(f"{name} of tenant {tenant}: {problem}")

    def check_result(self, spec: Spec, made: Generation) -> None:
        self.check_text(spec.tenant, "the text", made.text)
        if result_of(made) != self.lone.result(spec):
            self.fail(f"{spec} gave {result_of(made)}, alone {self.lone.result(spec)}")
        with self._lock:
            self.report.counts["error none"] += 1

    # ---- requests

    def realm(self, tenant: int) -> Realm:
        return self.manager.get_or_create(name_of(tenant))

    def spec(self, rng: random.Random, tenant: int) -> Spec:
        """One of the tenant's usual requests, or one that was never made before."""
        if rng.random() < 0.1:
            return make_spec(rng, tenant)
        return self._specs[tenant + TENANTS * rng.randrange(VARIANTS)]

    def generate(self, rng: random.Random, tenant: int) -> None:
        spec = self.spec(rng, tenant)
        self.check_result(spec, self.realm(tenant).generate(spec.prompt, mode=spec.mode, **spec.settings))

    def stream(self, rng: random.Random, tenant: int) -> None:
        spec = self.spec(rng, tenant)
        stream = self.realm(tenant).stream(spec.prompt, mode=spec.mode, **spec.settings)
        for piece in stream:
            self.check_text(tenant, "a piece", piece)
        self.check_result(spec, stream.result)

    def abandon(self, rng: random.Random, tenant: int) -> None:
        spec = self.spec(rng, tenant)
        with self.realm(tenant).stream(spec.prompt, mode=spec.mode, **spec.settings) as stream:
            for _ in range(rng.randrange(3)):
                next(stream, None)

    def hurry(self, rng: random.Random, tenant: int) -> None:
        """May be done in time, or not."""
        spec = self.spec(rng, tenant)
        deadline = rng.choice((1e-5, 1e-4, 1e-3, 1e-2))
        made = self.realm(tenant).generate(spec.prompt, mode=spec.mode, deadline=deadline, **spec.settings)
        self.check_result(spec, made)

    def logits(self, rng: random.Random, tenant: int) -> None:
        ids = self.realm(tenant).tokenize(self.spec(rng, tenant).prompt)[:20]
        if self.realm(tenant).logits(ids).tobytes() != self.lone.logits(ids):
            self.fail(f"the logits of tenant {tenant} depend on who else is there")

    def score(self, rng: random.Random, tenant: int) -> None:
        ids = self.realm(tenant).tokenize(self.spec(rng, tenant).prompt)[:40]
        if repr(self.realm(tenant).score(ids, top_logprobs=2)) != self.lone.score(ids):
            self.fail(f"the scores of tenant {tenant} depend on who else is there")

    def overflow(self, rng: random.Random, tenant: int) -> None:
        prompt = canary_of(tenant) * 40
        self.realm(tenant).generate(prompt, max_tokens=200, ignore_end=True)

    def misuse(self, rng: random.Random, tenant: int) -> None:
        self.realm(tenant).generate(canary_of(tenant), temperature=-1.0)

    def pinch(self, rng: random.Random, tenant: int) -> None:
        """A limit that changes in the middle: what the tenant runs may meet it, nobody else's."""
        realm = self.realm(tenant)
        realm.set_limits(replace(LIMITS, kv_tokens=8))
        try:
            realm.generate(canary_of(tenant), max_tokens=4)
        finally:
            realm.set_limits(LIMITS)

    def leave(self, rng: random.Random, tenant: int) -> None:
        """Closes the realm, whoever is using it."""
        self.manager.close(name_of(tenant))

    def own_guest(self, rng: random.Random, tenant: int) -> None:
        """It traps somewhere, or names handles it was not given."""
        self.realm(tenant)
        with self.manager.load_guest(name_of(tenant), rng.choice(self._guests)) as loaded:
            extra = rng.randbytes(4) + canary_of(tenant).encode()
            made = loaded.run(canary_of(tenant), model=self.manager.model, extra=extra)
            self.check_text(tenant, "a guest's answer", made.extra.decode("utf-8", "replace") + made.text)

    def loop(self, rng: random.Random, tenant: int) -> None:
        self.realm(tenant)
        with self.manager.load_guest(name_of(tenant), self._loop) as loaded:
            loaded.run(canary_of(tenant), model=self.manager.model)

    def publish(self, rng: random.Random, tenant: int) -> None:
        with self._lock:
            publishing = len(self._public) < 3 and rng.random() < 0.6
            taken = None if publishing or not self._public else self._public.pop()
        if publishing:
            made = self.manager.model.publish_prefix(PUBLIC_TEXT)
            with self._lock:
                self._public.append(made)
        elif taken is not None:
            self.manager.model.unpublish(taken)

    def numbers(self, rng: random.Random, tenant: int) -> None:
        said = f"{self.manager.stats()} {self.realm(tenant).stats()}"
        if CANARY.search(said):
            self.fail("the numbers hold a canary")


KINDS: dict[str, tuple[float, Callable[[Crowd, random.Random, int], None]]] = {
    "generate": (60, Crowd.generate),
    "stream": (14, Crowd.stream),
    "abandon": (8, Crowd.abandon),
    "hurry": (5, Crowd.hurry),
    "logits": (2, Crowd.logits),
    "score": (2, Crowd.score),
    "overflow": (2, Crowd.overflow),
    "misuse": (1, Crowd.misuse),
    "pinch": (1, Crowd.pinch),
    "leave": (1, Crowd.leave),
    "own guest": (3, Crowd.own_guest),
    "loop": (0.1, Crowd.loop),
    "publish": (1, Crowd.publish),
    "numbers": (1, Crowd.numbers),
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Mixed requests of many tenants; nothing may leak.")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, help="a JSON file of the parts of a longer run")
    parser.add_argument("--processes", type=int, default=1, help="side by side, each with the next seed")
    options = parser.parse_args(arguments)
    if options.processes > 1:
        return side_by_side(options)
    report = Crowd(options.requests, options.seed).run()
    print(report, flush=True)
    if options.record is not None:
        print(f"\nall parts: {sum(add_part(options.record, options.seed, report), Report())}")
    return 1 if report.failures else 0


def side_by_side(options: argparse.Namespace) -> int:
    """A part of the requests for each process; their sum is printed, and kept where it is asked for."""
    shares = [options.requests // options.processes] * options.processes
    shares[0] += options.requests % options.processes
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.json" for number in range(options.processes)]
        running = []
        for number, (share, file) in enumerate(zip(shares, files, strict=True)):
            words = ["--requests", share, "--seed", options.seed + number, "--record", file]
            command = [sys.executable, "-m", "tests.isolation.canaries", *map(str, words)]
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        statuses = [process.wait() for process in running]
        found = {seed: part for file in files if file.exists() for seed, part in read_parts(file).items()}
    if options.record is not None:
        found = (read_parts(options.record) if options.record.exists() else {}) | found
        options.record.write_text(json.dumps(found, indent=1))
    print(f"all parts: {sum(map(report_of, found.values()), Report())}")
    return 1 if any(statuses) else 0


def read_parts(path: Path) -> dict[str, Any]:
    parts: dict[str, Any] = json.loads(path.read_text())
    return parts


def report_of(part: dict[str, Any]) -> Report:
    return Report(Counter(part["counts"]), part["failures"], part["seconds"], part["kv_bytes_used"])


def add_part(path: Path, seed: int, report: Report) -> list[Report]:
    """Appends what a part found; a part that is done again with its seed takes the old one's place."""
    parts = read_parts(path) if path.exists() else {}
    parts[str(seed)] = {"requests": report.requests, **vars(report)}
    path.write_text(json.dumps(parts, indent=1))
    return [report_of(part) for part in parts.values()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
