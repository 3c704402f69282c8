"""One Ray actor a stage. The only package that imports Ray."""
