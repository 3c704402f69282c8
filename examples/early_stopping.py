"""A callback that follows a run: a line an epoch, and an end where the validation error falls no further.

python examples/early_stopping.py
"""

import ffpipe


class EarlyStopping(ffpipe.Callback):
    """An end of a run after `patience` evaluations in a row that were no better than the best one before."""

    def __init__(self, patience):
        self.patience, self.best, self.worse = patience, 1.0, 0
        self.losses = {}

    def on_start(self, run):
        self.run = run

    def on_row(self, row):
        self.losses[row.layer] = row.loss

    def on_evaluation(self, evaluation):
        error = evaluation.readouts["softmax"]
        losses = ", ".join(f"{self.losses[layer]:.3g}" for layer in range(len(self.run.blocks)))
        print(f"epoch {evaluation.step // self.run.steps_per_epoch}: losses {losses}; {evaluation.split} {error:.2%}")
        self.worse = 0 if error < self.best else self.worse + 1
        self.best = min(error, self.best)
        if self.worse == self.patience:
            self.run.stop()  # saves, as Ctrl-C does; `ffpipe resume` would go on


stopping = EarlyStopping(patience=2)
fields = {"execution.engine": "local", "execution.evaluate_every": 1, "training.readout": "softmax"}
try:
    ffpipe.train(ffpipe.override(ffpipe.recipe("digits"), fields), callbacks=[stopping])
except ffpipe.Interrupted:
    print(f"stopped early; the weights of the last step are in {stopping.run.run_dir}")
print(f"test error: {ffpipe.evaluate(stopping.run.run_dir).softmax:.2%}")
