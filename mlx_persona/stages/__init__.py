"""One module per stage: each wires data, model, objective and loop."""
