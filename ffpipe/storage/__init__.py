"""Files of a run as they lie on a disk or in an object store: tensors, snapshots, manifests."""
