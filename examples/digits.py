"""Train on handwritten digits from Python, print the loss of each layer, and ask the network about test images.

python examples/digits.py
"""

import pyarrow.parquet as pq
import torch

import ffpipe

# The engine "local" computes in this process; "ray", the default, in one process a stage. The weights are the same.
fields = {"training.epochs": 20, "training.readout": "softmax", "execution.engine": "local"}
config = ffpipe.override(ffpipe.recipe("digits"), fields)
result = ffpipe.train(config)
print(f"run folder: {result.run_dir}")
print(f"test error: {result.test_error_softmax:.2%}")

# One row for each layer and log interval; layer -1 is the linear read-out.
rows = pq.read_table(result.run_dir / "metrics.parquet").to_pylist()
layers = sorted({row["layer"] for row in rows})
for layer in layers:
    losses = [row["loss"] for row in rows if row["layer"] == layer]
    shown = losses[:: max(1, len(losses) // 8)]
    print(f"loss of {'the read-out' if layer < 0 else f'layer {layer}'}:", " ".join(f"{loss:.3g}" for loss in shown))

network = ffpipe.load(result.run_dir)  # a torch.nn.Module
test = ffpipe.load_splits(config.training.data).test
images, labels = torch.from_numpy(test.images(range(10))), test.labels(range(10))
with torch.no_grad():
    scores = network(images)  # (10 images, 10 classes)
print("answers:", scores.argmax(1).tolist())
print("labels: ", labels.tolist())
