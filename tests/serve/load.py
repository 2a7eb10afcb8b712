"""Run by the tests as a process of its own: sends likes as fast as it can and prints each one acknowledged.

python -m tests.serve.load WHERE USER THREADS
"""

import itertools
import sys
import threading

from tastemaker.serve.events import Said
from tastemaker.serve.store import Store


def main(where: str, user: str, threads: int) -> None:
    store, out = Store(where, patience=20), threading.Lock()

    def client(number: int) -> None:
        for i in itertools.count():
            key = f"{user} {number} {i}"
            receipt = store.add(Said(user, f"p{i % 6}", 1), key=key)
            with out:
                print(receipt.seq, key, sep="\t", flush=True)

    for number in range(threads):
        threading.Thread(target=client, args=(number,)).start()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
