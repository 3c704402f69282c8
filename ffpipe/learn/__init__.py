"""The arithmetic of a network: what it computes and how it learns, one minibatch at a time. Stages, chunks and Ray are
not known here."""
