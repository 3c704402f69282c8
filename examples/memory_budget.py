"""Train within a memory budget: where a network does not fit, one layer at a time is in memory.

python examples/memory_budget.py [BUDGET]
"""

import json
import subprocess
import sys
from pathlib import Path
from time import strftime

budget = sys.argv[1] if len(sys.argv) > 1 else "400MiB"
network = ["digits", "--training.dims", "64", *["1000"] * 8, "--training.negatives", "random"]
network += ["--training.readout", "softmax", "--train-limit", "200", "--epochs", "1", "--engine", "local"]


def ffpipe(*arguments):
    print("$ ffpipe", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "ffpipe", *arguments], check=True)


ffpipe("plan", *network)  # all layers in one process
ffpipe("plan", *network, "--memory-budget", budget)  # chosen for it: the layerwise engine
folder = Path("runs", strftime("budget-%Y%m%d-%H%M%S"))
ffpipe("train", *network, "--memory-budget", budget, "--run-dir", str(folder))

summary = json.loads((folder / "summary.json").read_text())
print(f"engine {summary['engine']}: a peak of {max(summary['peak_rss_bytes']) >> 20} MiB, the budget is {budget}")
