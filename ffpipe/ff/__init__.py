"""The Forward-Forward algorithm in torch: what a layer, the head and the source of minibatches compute. No Ray here."""
