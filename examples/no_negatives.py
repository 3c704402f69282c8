"""Train without negatives: each layer has a linear head of its own that tells the classes.

python examples/no_negatives.py
"""

import ffpipe

layer = {"kind": "dense", "options": {"width": 200}, "objective": "class-head"}
fields = {
    "training.blocks": [layer, layer, layer],
    "training.negatives": "none",
    "training.labels": "none",
    "training.head": False,
    "training.optimizer.kind": "Adam",
    "training.optimizer.learning_rate": 0.002,
    "training.schedule": "cosine",
    "training.goodness_from": 0,  # the first block whose scores are in the sum
    "training.epochs": 15,
    "execution.engine": "local",
}
config = ffpipe.override(ffpipe.recipe("digits"), fields)
result = ffpipe.train(config)
for name, error in result.summary["evaluations"][-1]["errors"].items():
    print(f"test error by {name}: {error:.2%}")  # the last block, the sum of all, and each block by itself

# The same blocks end to end by backpropagation, as a yardstick.
yardstick = ffpipe.train(ffpipe.override(config, {"training.method": "backprop", "execution.stages": 1}))
print(f"test error by backpropagation: {yardstick.test_errors['last']:.2%}")
