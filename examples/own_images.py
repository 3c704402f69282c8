"""Train on a folder that has a folder of pictures for each class; the names of the folders are those of the classes.

python examples/own_images.py [FOLDER]

Without a folder the script draws one: discs, squares and bars.
"""

import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

import ffpipe


def draw(folder, each=40):
    for name in ("disc", "square", "bar"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            picture = Image.new("L", (16, 16))
            x, y, size = random.randint(0, 6), random.randint(0, 6), random.randint(6, 9)
            pen, box = ImageDraw.Draw(picture), (x, y, x + size, y + (2 if name == "bar" else size))
            (pen.ellipse if name == "disc" else pen.rectangle)(box, fill=random.randint(128, 255))
            picture.save(folder / name / f"{number}.png")
    return folder


folder = Path(sys.argv[1]) if len(sys.argv) > 1 else draw(Path("shapes"))
data = {"source": "folder", "train": [str(folder)], "validation": -1, "test_count": -1}  # -1: a tenth of the pictures
fields = {**{f"training.data.{name}": value for name, value in data.items()}, "training.batch_size": 16}
config = ffpipe.override(ffpipe.recipe("digits-cnn"), {**fields, "training.epochs": 8, "execution.engine": "local"})
result = ffpipe.train(config)

errors = ffpipe.evaluate(result.run_dir, "test")
print(f"{errors.others['last']:.2%} of {errors.examples} test pictures are taken for another class")
pictures = [next(each.glob("*.*")) for each in sorted(folder.iterdir()) if each.is_dir()]
for prediction in ffpipe.predict(result.run_dir, pictures):
    print(f"{prediction.path}: {prediction.name}")
