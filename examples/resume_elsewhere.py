"""A run that is broken off and resumed elsewhere: its weights are those of an undisturbed run, to the bit.

python examples/resume_elsewhere.py
"""

import ffpipe


class StopAt(ffpipe.Callback):
    """An end of the run at the first evaluation, as Ctrl-C would make."""

    def on_start(self, run):
        self.run = run

    def on_evaluation(self, evaluation):
        print(f"stop at step {evaluation.step} of {self.run.steps}")
        self.run.stop()


digits = ffpipe.override(ffpipe.recipe("digits"), {"training.epochs": 10})
whole = ffpipe.train(ffpipe.override(digits, {"execution.engine": "layerwise", "execution.stages": 3}))

stop = StopAt()
try:  # two stages, one after the other in this process
    ffpipe.train(ffpipe.override(digits, {"execution.engine": "local", "execution.stages": 2}), callbacks=[stop])
except ffpipe.Interrupted as interrupted:
    print(interrupted)
# Three stages at once, each in a process of its own. On the command line: ffpipe resume RUN --engine ray --stages 3
resumed = ffpipe.resume(stop.run.run_dir, {"execution.engine": "ray", "execution.stages": 3})

print(f"never interrupted: {whole.weights_sha256}")
print(f"resumed elsewhere: {resumed.weights_sha256}")
