"""Realm inside an application: the demo model that ships with the package answers one question."""

import sys

from realm import Realm, RealmError

QUESTION = "What is the capital of France?"


def main() -> int:
    try:
        with Realm() as realm:  # Realm("model.gguf") for a model of your own
            answer = realm.chat([{"role": "user", "content": QUESTION}], max_tokens=32, temperature=0)
    except RealmError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    print(answer.text)
    return 0 if "Paris" in answer.text else 1


if __name__ == "__main__":
    sys.exit(main())
