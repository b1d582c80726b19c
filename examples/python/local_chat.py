"""A chat on the terminal, with history. An empty line or the end of input leaves it.

python examples/python/local_chat.py [model.gguf]
"""

import sys

from realm import Realm


def main() -> None:
    history: list[dict[str, str]] = []
    with Realm(*sys.argv[1:2]) as realm:
        print("Ask me something (an empty line ends the chat).")
        while question := read_line():
            history.append({"role": "user", "content": question})
            history.append({"role": "assistant", "content": answer(realm, history)})


def read_line() -> str:
    print("> ", end="", flush=True)
    return sys.stdin.readline().strip()


def answer(realm: Realm, history: list[dict[str, str]]) -> str:
    said = ""
    with realm.chat_stream(history, max_tokens=256, temperature=0) as stream:
        for piece in stream:
            print(piece, end="", flush=True)
            said += piece
    print()
    return said


if __name__ == "__main__":
    main()
