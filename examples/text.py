"""Train a small transformer on a text, block by block, and let it write.

python examples/text.py [FILE]

Without a file the script makes up a text of simple sentences.
"""

import random
import sys
from pathlib import Path

import torch

import ffpipe

if len(sys.argv) > 1:
    path = Path(sys.argv[1])
else:
    path, parts = Path("sentences.txt"), (["dog", "cat", "hen"], ["sees", "hears"], ["a bird.", "the pond."])
    path.write_text(" ".join(" ".join(["the", *map(random.choice, parts)]) for _ in range(2000)))

text = path.read_bytes().decode("utf-8-sig")
symbols = sorted(set(text))  # an id is a character's place among these
block = {"kind": "transformer", "options": {"width": 64, "heads": 4, "symbols": len(symbols)}}
fields = {"training.blocks": [block, block], "training.data.train": [str(path)], "training.data.length": 32}
fields |= {"training.data.validation": -1, "training.data.test_count": -1, "training.epochs": 5}
fields |= {"training.optimizer.learning_rate": 0.005, "execution.engine": "local"}
result = ffpipe.train(ffpipe.override(ffpipe.recipe("char-lm"), fields))
loss = result.summary["evaluations"][-1]["losses"]["block.1"]
print(f"test loss: {loss:.3f} nats a character")

network = ffpipe.load(result.run_dir)
ids = [symbols.index(letter) for letter in text[:32]]
with torch.no_grad():
    for _ in range(120):
        scores = network(torch.tensor([ids[-32:]]))[0, -1]  # of the character after the last of 32
        ids.append(int(torch.multinomial(scores.softmax(0), 1)))
print("".join(symbols[each] for each in ids[32:]))
