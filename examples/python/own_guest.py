"""An application's own guest: guest_src/examples/pick.c picks the likeliest of several answers.

python examples/python/own_guest.py [model.gguf]
"""

import struct
import sys
from pathlib import Path

from realm import Realm, Runtime, demo_model_path

MODULE = Path(__file__).resolve().parents[2] / "build" / "guest" / "pick.wasm"  # python3 -m realm_build build
QUESTION = "What is the capital of France?"
BEGINNING = "The capital of France is"
ANSWERS = [" Berlin", " Paris", " Rome", " Madrid"]


def pack(answers: list[str]) -> bytes:
    """Each answer after its length: what pick.c reads from the request's `extra`."""
    texts = [answer.encode() for answer in answers]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
    with Realm(path) as realm, Runtime() as runtime:
        prompt = realm.render_chat([{"role": "user", "content": QUESTION}]) + BEGINNING
        model = runtime.load_model(path)  # the same file: it is not loaded again
        guest = runtime.load_wasm(MODULE)
        result = guest.run(prompt, model=model, extra=pack(ANSWERS), parse_special=True)
    winner, *scores = struct.unpack(f"<I{len(ANSWERS)}f", result.extra)
    for answer, score in zip(ANSWERS, scores, strict=True):
        print(f"{score:9.3f} {answer}")
    print(f"likeliest:{ANSWERS[winner]}")


if __name__ == "__main__":
    main()
